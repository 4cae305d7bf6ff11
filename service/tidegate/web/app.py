"""The Flask app: blueprints, request parsing, and the steps before and after every request."""

from __future__ import annotations

import json
import re
import socket
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import structlog
from flask import Request, Response, current_app, g, request
from flask.json.provider import DefaultJSONProvider
from flask_openapi import OpenAPI
from structlog.contextvars import bind_contextvars, clear_contextvars
from werkzeug.exceptions import BadRequest, HTTPException

from tidegate.settings import Settings
from tidegate.web import errors
from tidegate.web.api import EXTENSION, Api, LongPollSlots, api
from tidegate.web.auth import authenticate
from tidegate.web.auth_throttle import AuthThrottle
from tidegate.web.client_address import client_address, find_client_address, is_allowed_host
from tidegate.web.discovery_cache import DiscoveryCache
from tidegate.web.errors import ProblemView
from tidegate.web.log_followers import LogFollowers
from tidegate.web.long_polls import LongPolls
from tidegate.web.metrics import ServerMetrics
from tidegate.web.routes import (
    adoption,
    audit,
    discovery,
    environments,
    freezes,
    health,
    logs,
    me,
    plans,
    quarantine,
    rollouts,
    services,
    tokens,
)
from tidegate.web.slow_clients import TooManySlowBodies
from tidegate.wiring import Wiring

MAX_LONG_POLLS = 24  # concurrent requests that wait for events; less than the server's threads
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOGGED_PATH_NAMES = frozenset({"rollout", "environment", "service"})  # path parameters that become log fields
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
ROUTES = (
    services,
    adoption,
    plans,
    rollouts,
    environments,
    freezes,
    quarantine,
    logs,
    audit,
    tokens,
    me,
    discovery,
    health,
)
log = structlog.get_logger("tidegate.web")


class StrictJson(DefaultJSONProvider):
    """JSON in UTF-8 without duplicate keys, NaN or Infinity, which parsers interpret differently."""

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """The parsed value. Raises `ValueError`."""
        text = s if isinstance(s, str) else s.decode()
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, **kwargs)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(name for name in names if names.count(name) > 1)!r}")
    return members


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


class ApiRequest(Request):
    """A POST or PUT without a body is read as `{}`, so that `curl -X POST …/pause` works."""

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        """The body. Raises `BadRequest` when it is incomplete or its chunked encoding is invalid, `ApiProblem` when it is
        late and others are, too."""
        incomplete = "Cannot read the request body: it is incomplete, or its chunked encoding is invalid."
        try:
            data = super().get_data(cache, as_text, parse_form_data)  # type: ignore[call-overload]
        except HTTPException:
            raise
        except TooManySlowBodies as error:
            detail = "Too many clients send their request bodies slowly. Retry in a second."
            raise errors.ApiProblem(errors.TOO_MANY_SLOW, detail, headers={"Retry-After": "1"}) from error
        except Exception as error:  # each WSGI server raises its own class for an invalid body
            raise BadRequest(incomplete) from error
        if not as_text and len(data) < (self.content_length or 0):
            raise BadRequest(incomplete)
        return data

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        """Raises `BadRequest` with the parser's message, or Flask's 415 for another content type."""
        if e is None:
            return super().on_json_loading_failed(e)
        raise BadRequest(f"The body is not valid JSON: {e}.") from e

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """The parsed body. Raises `BadRequest` for invalid JSON, Flask's 415 for another content type."""
        if not self.content_type and not self.get_data():
            return {}
        try:
            return super().get_json(force=force, silent=silent, cache=cache)
        except RecursionError:
            return self.on_json_loading_failed(ValueError("nested too deeply"))


def _nothing() -> None:
    """No engine runs in this process; engines elsewhere poll the database."""


def create_app(
    wiring: Wiring,
    wake: Callable[[], None] = _nothing,
    *,
    long_poll_slots: LongPollSlots | None = None,
    engine_within_seconds: float = 0.0,
) -> OpenAPI:
    """The WSGI app.

    `wake` is called after every new rollout and signal. `long_poll_slots` limits the long polls and ends them at shutdown.
    The server is ready only while an engine's last heartbeat is at most `engine_within_seconds` old; 0 disables the check.
    """
    app = OpenAPI(
        "tidegate",
        validation_error_model=ProblemView,
        validation_error_callback=errors.invalid,
        doc_ui=False,
        static_folder=None,
    )
    app.request_class = ApiRequest
    app.json = StrictJson(app)
    app.config["MAX_CONTENT_LENGTH"] = wiring.settings.web.max_body_bytes
    throttle = AuthThrottle(wiring.clock, wiring.store.tokens)
    slots = long_poll_slots or LongPollSlots(MAX_LONG_POLLS)
    polls = LongPolls(wiring.store, slots.stopping)
    app.extensions[EXTENSION] = Api(
        wiring, wake, slots, throttle, DiscoveryCache(), polls, LogFollowers(), engine_within_seconds
    )
    app.extensions[health.METRICS] = ServerMetrics(wiring.store, wiring.environments, throttle, wiring.clock)
    app.before_request(_begin)
    app.before_request(partial(_require_allowed_host, _known_hosts(wiring.settings)))
    app.before_request(_authenticate)
    app.before_request(_require_object)
    app.before_request(_require_single_values)
    app.after_request(_end)
    errors.register(app)
    for part in ROUTES:
        app.register_api(part.bp)
    return app


# -- around every request -------------------------------------------------------------------------------------------------


def _begin() -> None:
    """Set the request ID (the caller's if it is safe to log, else a new one), the client address and the log fields."""
    g.started = time.monotonic()
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    clear_contextvars()
    trusted = api().wiring.settings.web.trusted_proxies
    g.source = find_client_address(request.remote_addr or "unknown", request.headers.get("X-Forwarded-For", ""), trusted)
    path_fields = {name: value for name, value in (request.view_args or {}).items() if name in LOGGED_PATH_NAMES}
    bind_contextvars(request_id=g.request_id, source=g.source, **path_fields)


def _known_hosts(settings: Settings) -> tuple[str, ...]:
    """The names by which clients may reach this server."""
    public = urlsplit(settings.address).hostname or ""
    listen = settings.listen.rpartition(":")[0].strip("[]")
    return tuple(filter(None, (*settings.web.allowed_hosts, listen, public, socket.gethostname())))


def _require_allowed_host(known: tuple[str, ...]) -> None:
    """Reject a request whose `Host` is another site's, before anything else is read from it."""
    if not is_allowed_host(request.host, known):
        detail = f"This server is not {request.host}. Set `address` to its public URL, or add it to `web.allowed_hosts`."
        raise errors.ApiProblem(errors.UNKNOWN_HOST, detail)


def _authenticate() -> None:
    """Require a token for every route except the public ones. A path without a route is left to its 404."""
    if health.is_public():
        return
    g.principal = authenticate(
        api().store, api().now(), api().auth_throttle, request.headers.get("Authorization"), client_address()
    )
    bind_contextvars(principal=g.principal.name)


def _require_object() -> None:
    """Reject a body that is not a JSON object: flask-openapi ignores parse errors and parses a JSON string twice."""
    if request.url_rule is None or request.method not in ("POST", "PUT"):
        return
    if not isinstance(request.get_json(), dict):
        detail = "The body must be a JSON object."
        raise errors.ApiProblem(
            errors.INVALID_REQUEST, detail, [{"in": "body", "pointer": "", "path": "", "detail": detail}]
        )


def _require_single_values() -> None:
    """Reject a query parameter that is sent twice: no parameter is a list, so other values would be ignored."""
    repeated = {name: len(values) for name, values in request.args.lists() if len(values) > 1}
    if request.url_rule is None or not repeated:
        return
    mistakes = [(name, f"sent {count} times; send it once") for name, count in repeated.items()]
    places = [{"in": "query", "pointer": f"/{name}", "path": name, "detail": text} for name, text in mistakes]
    raise errors.ApiProblem(errors.INVALID_REQUEST, "; ".join(f"{name}: {text}" for name, text in mistakes), places)


def _end(response: Response) -> Response:
    """Add the security headers, count the request and log it."""
    response.headers.update(HEADERS)
    response.headers["X-Request-ID"] = g.get("request_id", "")
    seconds = time.monotonic() - g.get("started", time.monotonic())
    current_app.extensions[health.METRICS].count(response, seconds)
    fields = {
        "method": request.method,
        "route": request.url_rule.rule if request.url_rule else None,
        "path": request.path,
        "status": response.status_code,
        "seconds": round(seconds, 4),
    }
    quiet = health.is_probe() and response.status_code < 400  # probes and scrapes would flood the log
    (log.debug if quiet else log.info)("request", **fields)
    return response
