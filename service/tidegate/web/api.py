"""What every handler is given, and the manners that all share: pages, ETags, repeated requests."""

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
from tidegate.ports import Drivers, Store
from tidegate.settings import Settings
from tidegate.web.auth import Principal
from tidegate.web.auth_throttle import AuthThrottle
from tidegate.web.discovery_cache import DiscoveryCache
from tidegate.web.errors import TOO_MANY_WAITING, ApiProblem
from tidegate.web.long_polls import LongPolls
from tidegate.wiring import Wiring

EXTENSION = "tidegate"


class LongPollSlots:
    """The requests that wait for events: fewer than there are threads, or the rest of the API would starve."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots = threading.BoundedSemaphore(limit)
        self.stopping = threading.Event()  # set when the server ends: nobody waits any longer

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Take one of the slots. Raises `ApiProblem` when all are taken."""
        if not self._slots.acquire(blocking=False):
            text = f"{self._limit} requests wait for events already; ask again shortly, or with wait=0"
            raise ApiProblem(TOO_MANY_WAITING, text, headers={"Retry-After": "1"})
        try:
            yield
        finally:
            self._slots.release()


@dataclass(frozen=True)
class Api:
    """Everything that handlers need. `wake` makes an engine in this process look at once."""

    wiring: Wiring
    wake: Callable[[], None]
    long_poll_slots: LongPollSlots
    auth_throttle: AuthThrottle
    discovery_cache: DiscoveryCache
    long_polls: LongPolls
    engine_within_seconds: float = 0.0  # ready only while an engine was heard in this time; 0: none is expected

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
    """Of the present app."""
    return cast(Api, current_app.extensions[EXTENSION])


def principal() -> Principal:
    """Who asks."""
    return cast(Principal, g.principal)


# -- answers ------------------------------------------------------------------------------------------------------------


def respond(view: BaseModel, status: int = 200, *, version: int | None = None, location: str = "") -> Response:
    """The view as JSON; `version` becomes the ETag."""
    return json_response(json_text(view), status, version=version, location=location)


def json_text(view: BaseModel) -> str:
    """In ASCII, which every client reads alike: some guess another encoding than JSON's own. Infinity becomes null."""
    return view.model_dump_json(by_alias=True, ensure_ascii=True)


def json_response(text: str, status: int, *, version: int | None = None, location: str = "") -> Response:
    """JSON as it is."""
    response = Response(text, status, content_type="application/json")
    if version is not None:
        response.set_etag(str(version))
    if location:
        response.headers["Location"] = location
    return response


def require_version(present: int, what: str) -> int | None:
    """The version that `If-Match` asks for, None without one. Raises `VersionConflict` when it is not the present one."""
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    if not request.if_match.contains(str(present)):
        raise VersionConflict(f'{what} is at version "{present}", not {request.headers["If-Match"]}; read it again')
    return present


# -- repeated requests ----------------------------------------------------------------------------------------------------


def idempotency_key(key: str) -> Idempotency:
    """The client's key with what it was sent for: who, which method and path, which body."""
    body = json.dumps(request.get_json(), sort_keys=True)
    scope = f"{principal().token.id} {request.method} {request.path}"
    return Idempotency(scope, key, hashlib.sha256(body.encode()).hexdigest())


def mark_replayed(response: Response) -> Response:
    """The mark of an answer that was given before."""
    response.headers["Idempotency-Replayed"] = "true"
    return response
