"""Authentication by token, and authorization by scopes.

A token is sent as a bearer token, or as the password of HTTP Basic authentication: in no other way can Jenkins send a
credential without showing it to the pipeline. A Basic challenge is never sent, so a browser does not offer to remember it.

A token is `tg_` followed by 256 random bits in base64url. The store holds only its SHA-256: a random secret of that length
needs no slow password hash.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tidegate import errors
from tidegate.clock import Time
from tidegate.core.records import Token
from tidegate.errors import InvalidSpec, NotAllowed
from tidegate.store_port import Store
from tidegate.text import find_invisible
from tidegate.web.auth_throttle import AuthThrottle
from tidegate.web.errors import TOO_MANY_FAILURES, UNAUTHENTICATED, ApiProblem

#: Every other scope includes `read`; `admin` includes all scopes.
SCOPES = ("read", "deploy", "promote", "rollback", "logs", "force", "freeze", "vouch", "admin")
PREFIX = "tg_"
SECRET_BYTES = 32
_TOKEN = re.compile(r"tg_[A-Za-z0-9_-]{43}")
_AUTHORIZATION = re.compile(r"(Bearer|Basic) +(\S{1,1000})", re.IGNORECASE)


def new_token(
    name: str, scopes: Sequence[str], services: Sequence[str], now: Time, expires: Time | None = None
) -> tuple[str, Token]:
    """A secret, which is never stored, and the token to store. Raises `InvalidSpec` with every mistake."""
    known = ", ".join(SCOPES)
    mistakes = [
        errors.Problem("scopes", f"unknown scope {scope}; expected one of: {known}")
        for scope in scopes
        if scope not in SCOPES
    ]
    if not name.strip():
        mistakes.append(errors.Problem("name", "is required: rollouts and the audit log show it as the requester"))
    if invisible := find_invisible(name):
        mistakes.append(errors.Problem("name", f"found the invisible character {invisible}"))
    if not scopes:
        mistakes.append(errors.Problem("scopes", f"at least one is required: {known}"))
    if not services or not all(services):
        mistakes.append(errors.Problem("services", "at least one glob over environment/service is required; * matches all"))
    if expires is not None and expires <= now:
        mistakes.append(errors.Problem("expires", "must be in the future"))
    if mistakes:
        raise InvalidSpec(mistakes)
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    granted = tuple(scope for scope in SCOPES if scope in scopes)
    return secret, Token(secrets.token_hex(4), name.strip(), token_digest(secret), granted, tuple(services), now, expires)


def token_digest(secret: str) -> str:
    """The SHA-256 of a secret in hex, which is what the store holds."""
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of the token that a request was sent with."""

    token: Token

    @property
    def name(self) -> str:
        """The name that events, rollouts and the audit log show."""
        return self.token.name

    def may(self, scope: str, service: str) -> bool:
        """Whether the token has `scope` for `environment/service`."""
        return self._has(scope) and any(fnmatchcase(service, glob) for glob in self.token.services)

    def may_in(self, scope: str, environment: str) -> bool:
        """Whether the token has `scope` for any service of the environment."""
        globs = (service.partition("/")[0] for service in self.token.services)
        return self._has(scope) and any(fnmatchcase(environment, glob) for glob in globs)

    def _has(self, scope: str) -> bool:
        return "admin" in self.token.scopes or scope in self.token.scopes or (scope == "read" and bool(self.token.scopes))

    def require(self, scope: str, service: str) -> None:
        """Raises `NotAllowed` unless the token has `scope` for `environment/service`."""
        if not self._has(scope):
            scopes = ", ".join(self.token.scopes) or "none"
            raise NotAllowed(f"Token {self.name} lacks the scope {scope} for {service}. Its scopes: {scopes}.")
        if not self.may(scope, service):
            globs = ", ".join(self.token.services)
            raise NotAllowed(f"Token {self.name} has the scope {scope}, but not for {service}. Its services: {globs}.")

    def require_admin(self) -> None:
        """Raises `NotAllowed` unless the token has `admin` for all services.

        An admin of some services could otherwise create a token for all of them.
        """
        if "admin" not in self.token.scopes:
            scopes = ", ".join(self.token.scopes) or "none"
            raise NotAllowed(f"Token {self.name} lacks the scope admin. Its scopes: {scopes}.")
        if "*" not in self.token.services:
            raise NotAllowed(
                f"Token {self.name} is limited to {', '.join(self.token.services)}. Managing tokens requires a token for *."
            )


def authenticate(store: Store, now: Time, throttle: AuthThrottle, header: str | None, address: str) -> Principal:
    """The principal of an `Authorization` header. Raises `ApiProblem`: 401, or 429 after many failures.

    A valid token is accepted even while its address is blocked, because clients behind one proxy share an address.
    """
    secret = "" if header is None else _secret(header)
    digest = token_digest(secret) if secret else ""
    wait = throttle.wait_seconds(address)
    if wait and not (digest and throttle.is_valid(digest)):
        raise _throttled(address, wait)
    if header is None:
        raise _unauthenticated("Missing token. Send the header Authorization: Bearer tg_…", throttle, address, "")
    if not secret:
        detail = "Malformed Authorization header. Expected: Bearer tg_…, or Basic with the token as the password."
        raise _unauthenticated(detail, throttle, address, "invalid_request")
    token = store.token(digest)
    if token is None or not hmac.compare_digest(token.digest, digest):
        raise _unauthenticated("Unknown token. It may have been revoked.", throttle, address, "invalid_token")
    if token.expires is not None and now >= token.expires:
        raise _unauthenticated(f"Token {token.name} has expired.", throttle, address, "invalid_token")
    return Principal(token)


def _secret(header: str) -> str:
    """The token in an `Authorization` header; empty if there is none. The user name of Basic authentication is ignored."""
    parts = _AUTHORIZATION.fullmatch(header.strip())
    if parts is None:
        return ""
    secret = parts[2]
    if parts[1].lower() == "basic":
        try:
            secret = base64.b64decode(secret, validate=True).decode("latin-1").partition(":")[2]
        except binascii.Error:
            return ""
    return secret if _TOKEN.fullmatch(secret) else ""


def _unauthenticated(detail: str, throttle: AuthThrottle, address: str, code: str) -> ApiProblem:
    wait = throttle.count(address)
    if wait:
        return _throttled(address, wait)
    challenge = 'Bearer realm="tidegate"' + (f', error="{code}"' if code else "")
    return ApiProblem(UNAUTHENTICATED, detail, headers={"WWW-Authenticate": challenge})


def _throttled(address: str, wait: float) -> ApiProblem:
    detail = f"Too many failed authentication attempts from {address}. Retry in {math.ceil(wait)} s."
    return ApiProblem(TOO_MANY_FAILURES, detail, headers={"Retry-After": str(math.ceil(wait))})
