"""Who asks, and what they may do: bearer tokens with scopes.

A token is `tg_` and 256 random bits; the store has its SHA-256 only. That is enough: what cannot be guessed needs no slow
hash.
"""

from __future__ import annotations

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
from tidegate.ports import Store
from tidegate.web.auth_throttle import AuthThrottle
from tidegate.web.errors import TOO_MANY_FAILURES, UNAUTHENTICATED, ApiProblem

#: Each of the others includes `read`; `admin` includes all.
SCOPES = ("read", "deploy", "promote", "rollback", "force", "freeze", "vouch", "admin")
PREFIX = "tg_"
SECRET_BYTES = 32
_BEARER = re.compile(r"Bearer +(tg_[A-Za-z0-9_-]{43})", re.IGNORECASE)


def new_token(
    name: str, scopes: Sequence[str], services: Sequence[str], now: Time, expires: Time | None = None
) -> tuple[str, Token]:
    """A secret, shown once and stored nowhere, and the token to store. Raises `InvalidSpec` with every mistake."""
    known = ", ".join(SCOPES)
    mistakes = [errors.Problem("scopes", f"unknown: {scope}; known: {known}") for scope in scopes if scope not in SCOPES]
    if not name.strip():
        mistakes.append(errors.Problem("name", "is needed: it stands in every rollout as who asked for it"))
    if not scopes:
        mistakes.append(errors.Problem("scopes", f"at least one is needed: {known}"))
    if not services or not all(services):
        mistakes.append(errors.Problem("services", "globs over environment/service are needed; * means all"))
    if expires is not None and expires <= now:
        mistakes.append(errors.Problem("expires", "must lie in the future"))
    if mistakes:
        raise InvalidSpec(mistakes)
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    wanted = tuple(scope for scope in SCOPES if scope in scopes)
    return secret, Token(secrets.token_hex(4), name.strip(), token_digest(secret), wanted, tuple(services), now, expires)


def token_digest(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    token: Token

    @property
    def name(self) -> str:
        """What stands in events and rollouts."""
        return self.token.name

    def may(self, scope: str, service: str) -> bool:
        """Whether this is allowed on `environment/service`."""
        return self._has(scope) and any(fnmatchcase(service, glob) for glob in self.token.services)

    def may_in(self, scope: str, environment: str) -> bool:
        """Whether this is allowed on any service of the environment."""
        globs = (service.partition("/")[0] for service in self.token.services)
        return self._has(scope) and any(fnmatchcase(environment, glob) for glob in globs)

    def _has(self, scope: str) -> bool:
        return "admin" in self.token.scopes or scope in self.token.scopes or (scope == "read" and bool(self.token.scopes))

    def require(self, scope: str, service: str) -> None:
        """Raises `NotAllowed`, naming what is missing."""
        if not self._has(scope):
            scopes = ", ".join(self.token.scopes) or "none"
            raise NotAllowed(f"the token {self.name} lacks the scope {scope} for {service}; it has: {scopes}")
        if not self.may(scope, service):
            globs = ", ".join(self.token.services)
            raise NotAllowed(f"the token {self.name} has the scope {scope}, but not for {service}; only for: {globs}")

    def require_admin(self) -> None:
        """For tokens, which concern all services: one bound to some of them could otherwise make itself a wider one."""
        if "admin" not in self.token.scopes:
            scopes = ", ".join(self.token.scopes) or "none"
            raise NotAllowed(f"the token {self.name} lacks the scope admin; it has: {scopes}")
        if "*" not in self.token.services:
            raise NotAllowed(
                f"the token {self.name} is for {', '.join(self.token.services)} only; tokens are for all services"
            )


def authenticate(store: Store, now: Time, throttle: AuthThrottle, header: str | None, address: str) -> Principal:
    """The principal behind an `Authorization` header. Raises `ApiProblem`: 401, or 429 after many failures.

    A right token that was in use before is let in also after many failures of others at the same address: behind one proxy
    all look alike.
    """
    sent = None if header is None else _BEARER.fullmatch(header.strip())
    digest = "" if sent is None else token_digest(sent.group(1))
    wait = throttle.wait_seconds(address)
    if wait and not throttle.is_known_valid(digest):
        raise _throttled(address, wait)
    if header is None:
        raise _unauthenticated("send the header Authorization: Bearer tg_…", throttle, address, "")
    if sent is None:
        raise _unauthenticated(
            "the header Authorization is not of the form Bearer tg_…", throttle, address, "invalid_request"
        )
    token = store.token(digest)
    if token is None or not hmac.compare_digest(token.digest, digest):
        raise _unauthenticated("the token is unknown; it may have been dropped", throttle, address, "invalid_token")
    if token.expires is not None and now >= token.expires:
        raise _unauthenticated(f"the token {token.name} has expired", throttle, address, "invalid_token")
    throttle.remember_valid(digest)
    return Principal(token)


def _unauthenticated(detail: str, throttle: AuthThrottle, address: str, code: str) -> ApiProblem:
    wait = throttle.count(address)
    if wait:
        return _throttled(address, wait)
    challenge = 'Bearer realm="tidegate"' + (f', error="{code}"' if code else "")
    return ApiProblem(UNAUTHENTICATED, detail, headers={"WWW-Authenticate": challenge})


def _throttled(address: str, wait: float) -> ApiProblem:
    text = f"too many failed attempts from {address}; try again in {math.ceil(wait)} s"
    return ApiProblem(TOO_MANY_FAILURES, text, headers={"Retry-After": str(math.ceil(wait))})
