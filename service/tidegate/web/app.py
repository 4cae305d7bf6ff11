"""The Flask app: the API's parts, and what happens before and after every request."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import structlog
from flask import Request, Response, current_app, g, request
from flask.json.provider import DefaultJSONProvider
from flask_openapi import Info, OpenAPI, Server
from structlog.contextvars import bind_contextvars, clear_contextvars
from werkzeug.exceptions import BadRequest, HTTPException

from tidegate import __version__
from tidegate.web import errors
from tidegate.web.api import EXTENSION, Api, LongPollSlots, api
from tidegate.web.auth import authenticate
from tidegate.web.auth_throttle import AuthThrottle
from tidegate.web.client_address import client_address, find_client_address
from tidegate.web.discovery_cache import DiscoveryCache
from tidegate.web.errors import ProblemView
from tidegate.web.long_polls import LongPolls
from tidegate.web.metrics import ServerMetrics
from tidegate.web.openapi import SECURITY_SCHEMES
from tidegate.web.routes import audit, discovery, freezes, health, rollouts, services, tokens
from tidegate.wiring import Wiring

MAX_LONG_POLLS = 24  # requests that may wait for events at a time; fewer than the server's threads
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOGGED_PATH_NAMES = frozenset({"rollout", "environment", "service"})  # of a path: what a line of the log is about
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
log = structlog.get_logger("tidegate.web")


class StrictJson(DefaultJSONProvider):
    """JSON in UTF-8 that every reader takes for the same: no name twice in an object, no NaN."""

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """Raises `ValueError` with what is wrong."""
        text = s if isinstance(s, str) else s.decode()
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, **kwargs)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return members


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


class ApiRequest(Request):
    """A POST or PUT without a body counts as one with `{}`, so that `curl -X POST …/pause` works."""

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        """As Flask's; raises its 400 also for what the server that we run in makes of a body with broken chunks."""
        broken = "the body cannot be read: it is cut off, or its chunks are broken"
        try:
            data = super().get_data(cache, as_text, parse_form_data)  # type: ignore[call-overload]
        except HTTPException:
            raise
        except Exception as error:  # each server has its own; all of them are about what the client sent
            raise BadRequest(broken) from error
        if not as_text and len(data) < (self.content_length or 0):
            raise BadRequest(broken)
        return data

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        """Raises Flask's 400 with what is wrong, or its 415."""
        if e is None:
            return super().on_json_loading_failed(e)
        raise BadRequest(f"the body is not as JSON has to be: {e}") from e

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """As Flask's; raises its 400 for what is no JSON and 415 for another content type."""
        if not self.content_type and not self.get_data():
            return {}
        try:
            return super().get_json(force=force, silent=silent, cache=cache)
        except RecursionError:
            return self.on_json_loading_failed(ValueError("nested too deeply"))


def _nothing() -> None:
    """Nobody to wake: the engine is another process and looks by itself."""


def create_app(
    wiring: Wiring,
    wake: Callable[[], None] = _nothing,
    *,
    long_poll_slots: LongPollSlots | None = None,
    engine_within_seconds: float = 0.0,
) -> OpenAPI:
    """The WSGI app.

    `wake` is called after every new rollout and signal. `long_poll_slots` bounds and ends the long polls. The server is
    ready only while an engine sent a heartbeat within `engine_within_seconds`; 0: no engine is needed.
    """
    app = OpenAPI(
        "tidegate",
        info=Info(title="Tidegate", version=__version__, description="Moves a service between releases without downtime."),
        servers=[Server(url="/")],
        security_schemes=SECURITY_SCHEMES,
        validation_error_model=ProblemView,
        validation_error_callback=errors.invalid,
        doc_ui=False,
        static_folder=None,
    )
    app.openapi_version = "3.1.0"
    app.request_class = ApiRequest
    app.json = StrictJson(app)
    app.config["MAX_CONTENT_LENGTH"] = wiring.settings.web.max_body_bytes
    throttle, slots = AuthThrottle(wiring.clock), long_poll_slots or LongPollSlots(MAX_LONG_POLLS)
    polls = LongPolls(wiring.store, slots.stopping)
    app.extensions[EXTENSION] = Api(wiring, wake, slots, throttle, DiscoveryCache(), polls, engine_within_seconds)
    app.extensions[health.METRICS] = ServerMetrics(wiring.store, wiring.environments, throttle, wiring.clock)
    app.before_request(_begin)
    app.before_request(_authenticate)
    app.before_request(_require_object)
    app.before_request(_require_single_values)
    app.after_request(_end)
    errors.register(app)
    for part in (services.bp, rollouts.bp, freezes.bp, audit.bp, tokens.bp, discovery.bp, health.bp):
        app.register_api(part)
    return app


# -- around every request -------------------------------------------------------------------------------------------------


def _begin() -> None:
    """A request id: the caller's, where it is harmless in a log, or a new one; and what the request is about."""
    g.begun = time.monotonic()
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    clear_contextvars()
    trusted = api().wiring.settings.web.trusted_proxies
    g.source = find_client_address(request.remote_addr or "unknown", request.headers.get("X-Forwarded-For", ""), trusted)
    about = {name: value for name, value in (request.view_args or {}).items() if name in LOGGED_PATH_NAMES}
    bind_contextvars(request_id=g.request_id, source=g.source, **about)


def _authenticate() -> None:
    """Everything but `/healthz` and its like is behind a token. What has no route goes on to its 404."""
    if health.is_public():
        return
    g.principal = authenticate(
        api().store, api().now(), api().auth_throttle, request.headers.get("Authorization"), client_address()
    )
    bind_contextvars(principal=g.principal.name)


def _require_object() -> None:
    """flask-openapi reads JSON silently, and a string as JSON once more: here both get their true answer."""
    if request.url_rule is None or request.method not in ("POST", "PUT"):
        return
    if not isinstance(request.get_json(), dict):
        detail = "the body must be a JSON object"
        raise errors.ApiProblem(
            errors.INVALID_REQUEST, detail, [{"in": "body", "pointer": "", "path": "", "detail": detail}]
        )


def _require_single_values() -> None:
    """No parameter is a list: of one that is given twice, one value would be used and the others passed over in silence."""
    given = {name: len(values) for name, values in request.args.lists() if len(values) > 1}
    if request.url_rule is None or not given:
        return
    mistakes = [(name, f"given {often} times; give it once") for name, often in given.items()]
    places = [{"in": "query", "pointer": f"/{name}", "path": name, "detail": text} for name, text in mistakes]
    raise errors.ApiProblem(errors.INVALID_REQUEST, "; ".join(f"{name}: {text}" for name, text in mistakes), places)


def _end(response: Response) -> Response:
    """Headers, metrics and one line in the log."""
    response.headers.update(HEADERS)
    response.headers["X-Request-ID"] = g.get("request_id", "")
    seconds = time.monotonic() - g.get("begun", time.monotonic())
    current_app.extensions[health.METRICS].count(response, seconds)
    fields = {
        "method": request.method,
        "route": request.url_rule.rule if request.url_rule else None,
        "path": request.path,
        "status": response.status_code,
        "seconds": round(seconds, 4),
    }
    quiet = health.is_probe() and response.status_code < 400  # probes and scrapes would fill the log
    (log.debug if quiet else log.info)("request", **fields)
    return response
