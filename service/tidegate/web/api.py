"""What every route handler uses: the application context, JSON responses, ETags and idempotency keys."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from flask import Response, current_app, g, request
from pydantic import BaseModel

from tidegate.core.records import Idempotency
from tidegate.errors import UnknownService, VersionConflict
from tidegate.ports import Drivers
from tidegate.settings import Settings
from tidegate.store_port import Store
from tidegate.web.auth import Principal
from tidegate.web.auth_throttle import AuthThrottle
from tidegate.web.discovery_cache import DiscoveryCache
from tidegate.web.errors import TOO_MANY_WAITING, ApiProblem
from tidegate.web.log_followers import LogFollowers
from tidegate.web.long_polls import LongPolls
from tidegate.wiring import Wiring

EXTENSION = "tidegate"


class LongPollSlots:
    """Limits how many requests wait for events at a time, so that threads remain for all other requests."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots = threading.BoundedSemaphore(limit)
        self.stopping = threading.Event()  # set when the server stops: no request waits any longer

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Hold one slot while the context is open. Raises `ApiProblem` when all slots are taken."""
        if not self._slots.acquire(blocking=False):
            detail = f"All {self._limit} long-poll slots are in use. Retry after 1 s, or send wait=0."
            raise ApiProblem(TOO_MANY_WAITING, detail, headers={"Retry-After": "1"})
        try:
            yield
        finally:
            self._slots.release()


@dataclass(frozen=True)
class Api:
    """What route handlers need. `wake` makes an engine in this process look for work immediately."""

    wiring: Wiring
    wake: Callable[[], None]
    long_poll_slots: LongPollSlots
    auth_throttle: AuthThrottle
    discovery_cache: DiscoveryCache
    long_polls: LongPolls
    log_followers: LogFollowers
    engine_within_seconds: float = 0.0  # ready only with a heartbeat this recent; 0: no check

    @property
    def store(self) -> Store:
        """The database."""
        return self.wiring.store

    @property
    def settings(self) -> Settings:
        """The server's settings."""
        return self.wiring.settings

    def now(self) -> float:
        """Seconds since the epoch."""
        return self.wiring.clock()

    def drivers(self, environment: str) -> Drivers:
        """The drivers of an environment. Raises `UnknownService`, listing the known ones."""
        drivers = self.wiring.environments.get(environment)
        if drivers is None:
            known = ", ".join(sorted(self.wiring.environments)) or "none"
            raise UnknownService(f"no environment {environment}; known: {known}")
        return drivers


def api() -> Api:
    """The context of the current app."""
    return cast(Api, current_app.extensions[EXTENSION])


def principal() -> Principal:
    """The authenticated principal of the current request."""
    return cast(Principal, g.principal)


# -- responses ----------------------------------------------------------------------------------------------------------


def respond(view: BaseModel, status: int = 200, *, version: int | None = None, location: str = "") -> Response:
    """The view as a JSON response; `version` becomes the ETag."""
    return json_response(json_text(view), status, version=version, location=location)


def json_text(view: BaseModel) -> str:
    """The view as ASCII JSON, because some clients do not assume UTF-8. Infinity becomes null."""
    return view.model_dump_json(by_alias=True, ensure_ascii=True)


def json_response(text: str, status: int, *, version: int | None = None, location: str = "") -> Response:
    """A response with JSON text that is ready to send."""
    response = Response(text, status, content_type="application/json")
    if version is not None:
        response.set_etag(str(version))
    if location:
        response.headers["Location"] = location
    return response


def require_version(current: int, subject: str) -> int | None:
    """The version that `If-Match` requires, or None without one. Raises `VersionConflict` unless it is `current`."""
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    if not request.if_match.contains(str(current)):
        raise VersionConflict(
            f'{subject} is at version "{current}", but If-Match is {request.headers["If-Match"]}. Read it again and retry.'
        )
    return current


def names_one_version() -> bool:
    """Whether `If-Match` names exactly one version. `*` and a list would match whatever there is by now."""
    return not request.if_match.star_tag and len(request.if_match.as_set()) == 1


# -- idempotent requests --------------------------------------------------------------------------------------------------


def idempotency_key(key: str) -> Idempotency:
    """The client's key, scoped to its token, method and path, with a hash of the body."""
    body = json.dumps(request.get_json(), sort_keys=True)
    scope = f"{principal().token.id} {request.method} {request.path}"
    return Idempotency(scope, key, hashlib.sha256(body.encode()).hexdigest())


def mark_replayed(response: Response) -> Response:
    """Mark a response as the repetition of an earlier one."""
    response.headers["Idempotency-Replayed"] = "true"
    return response
