"""A running API for tests: the real app behind a real HTTP server, the store on SQLite, the drivers a small world."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests
from werkzeug.serving import WSGIRequestHandler, make_server

from support.fake_drivers import FakeEnvironment
from support.wait import eventually
from tidegate.analysis.verdict import Finding, Outcome, Reason, Verdict
from tidegate.clock import Window
from tidegate.core.model import Event, Rollout
from tidegate.core.phases import Phase
from tidegate.engine.worker import Worker, WorkerOptions
from tidegate.settings import Settings
from tidegate.store.store import SqlStore
from tidegate.web.api import LongPollSlots
from tidegate.web.app import create_app
from tidegate.web.auth import new_token
from tidegate.wiring import Wiring

COMPOSE = """\
services:
  shop:
    image: shop:${VERSION}
    expose: ["8080"]
    environment: {DB_URL: secret-value}
    deploy: {replicas: 3, update_config: {parallelism: 1}}
    x-tidegate: {listen: 8001, health: {path: /health}, OPTIONS}
"""
SHOP = "/v1/services/demo/shop"


def compose(options: str = "drain_timeout: 1s") -> str:
    """The shop's Compose file, with these under `x-tidegate`."""
    return COMPOSE.replace("OPTIONS", options)


class QuietRequestHandler(WSGIRequestHandler):
    """Without a line for each request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing."""


class ApiServer:
    """An app behind an HTTP server, whose address stays the same when it is stopped and started again."""

    def __init__(self, app: Any, waiting: LongPollSlots, host: str = "127.0.0.1") -> None:
        self._app, self._waiting, self._host = app, waiting, host
        self._port = 0
        self.asked: list[str] = []  # each request as it came, with its query
        self.start()

    def _noted(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}")
        return self._app(environ, start_response)

    @property
    def url(self) -> str:
        """Where it listens, or did."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> None:
        """On a free port, and on the same one ever after."""
        self._waiting.stopping.clear()
        self._server = make_server(self._host, self._port, self._noted, threaded=True, request_handler=QuietRequestHandler)
        self._server.daemon_threads = False
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        """Connections are refused from now on; those who wait for events get their answer."""
        self._waiting.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass
class RunningApi:
    """The server, and what stands behind it."""

    server: ApiServer
    wiring: Wiring
    world: FakeEnvironment
    waiting: LongPollSlots
    woken: list[float]
    token: str = ""
    session: requests.Session = field(default_factory=requests.Session)
    keys: int = 0
    worker: Worker | None = None  # the engine, while it runs

    def wake(self) -> None:
        """What the API does after a new rollout or signal, as in a server with an engine."""
        self.woken.append(time.time())
        if self.worker is not None:
            self.worker.wake()

    @property
    def url(self) -> str:
        """Where the API is."""
        return self.server.url

    def call(self, method: str, path: str, body: object = None, **options: Any) -> requests.Response:
        """A request with the admin's token; `token=""` sends none."""
        token = options.pop("token", self.token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers.update(options.pop("headers", {}))
        if body is not None:
            options["json"] = body
        return self.session.request(method, self.url + path, headers=headers, timeout=60, **options)

    def post(self, path: str, body: object = None, key: str = "", **headers: str) -> requests.Response:
        """A POST with a key of its own, unless one is given."""
        self.keys += 1
        sent = {
            "Idempotency-Key": key or f"key-{self.keys}",
            **{name.replace("_", "-"): each for name, each in headers.items()},
        }
        return self.call("POST", path, {} if body is None else body, headers=sent)

    def deploy(self, version: str = "v1", options: str = "drain_timeout: 1s", **more: Any) -> dict[str, Any]:
        """A new rollout of the shop, which must be accepted."""
        body = {"compose": compose(options), "variables": {"VERSION": version}}
        answer = self.post(f"{SHOP}/rollouts", body, **more)
        assert answer.status_code == 202, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def token_for(self, *scopes: str, services: tuple[str, ...] = ("*",), expires: float | None = None) -> str:
        """The secret of a new token."""
        now = self.wiring.clock()
        secret, token = new_token("-".join(scopes), scopes, services, min(now, (expires or now + 1) - 1), expires)
        self.wiring.store.add_token(token)
        return secret

    # -- what an engine would do --------------------------------------------------------------------------------------

    def save(self, rollout_id: str, *phases: Phase, **changes: Any) -> Rollout:
        """Claim it, lead it through these phases with these changes, give it back."""
        store = self.wiring.store
        claim = store.claim("test", 30.0)
        assert claim is not None
        assert claim.rollout == rollout_id
        rollout, _ = store.load(rollout_id)
        for phase in phases or (rollout.phase,):
            event = Event(phase.value, f"now {phase.value}", self.wiring.clock())
            rollout = store.save(replace(rollout, phase=phase, **changes), [event], claim.fence)
        store.release(claim, self.wiring.clock() if rollout.phase.live else None)
        return rollout

    def finish(self, version: str, *phases: Phase) -> dict[str, Any]:
        """A whole rollout; succeeded unless told otherwise."""
        rollout = self.deploy(version)
        self.save(rollout["id"], *(phases or (Phase.RUNNING, Phase.SUCCEEDED)))
        return rollout

    @contextmanager
    def engine(self, worker: Worker | None = None, drift_interval_seconds: float | None = None) -> Iterator[Worker]:
        """The real engine on the small world, or another one, until the end of the block."""
        options = WorkerOptions(
            lease_seconds=60.0, threads=1, poll_seconds=0.1, drift_interval_seconds=drift_interval_seconds
        )
        worker = worker or Worker(self.wiring.store, self.wiring.environments, options, self.wiring.clock, "test")
        thread = threading.Thread(target=worker.run)
        thread.start()
        self.worker = worker
        try:
            yield worker
        finally:
            self.worker = None
            worker.stop()
            thread.join()

    def until(self, rollout: str, *phases: str) -> dict[str, Any]:
        """Follow by long polls, as a client does, until it is in one of these phases."""
        after, observed = 0, dict[str, Any]()

        def ended() -> dict[str, Any] | None:
            nonlocal after, observed
            observed = self.call("GET", f"/v1/rollouts/{rollout}").json()
            if observed["phase"] in phases:
                return observed
            after = self.call("GET", f"/v1/rollouts/{rollout}/events?after={after}&wait=2").json()["last"]
            return None

        try:
            found = eventually(f"{rollout} is {' or '.join(phases)}", ended)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {observed['phase']}: {observed['reason']}") from None
        assert found is not None
        return found


def verdict(outcome: Outcome, at: float) -> Verdict:
    """Of a whole step, with an infinite limit, which JSON has no word for."""
    finding = Finding("errors", outcome, Reason.WORSE, "2 % of 100", 0.01, 0.02, limit=float("inf"))
    return Verdict(outcome, at, Window(at - 5, at), (finding,), f"judged {outcome}", final=True)


@contextmanager
def running(
    folder: Path,
    *,
    metrics: bool = True,
    long_polls: int = 4,
    settings: Settings | None = None,
    host: str = "127.0.0.1",
) -> Iterator[RunningApi]:
    """The API on a free port."""
    store = SqlStore(f"sqlite:///{folder}/tidegate.db")
    store.migrate()
    world = FakeEnvironment(time.time)
    wiring = Wiring(settings or Settings(), store, {"demo": world.parts(metrics=metrics), "live": world.parts()}, time.time)
    waiting, woken = LongPollSlots(long_polls), list[float]()
    app = create_app(wiring, lambda: made.wake(), long_poll_slots=waiting)
    made = RunningApi(ApiServer(app, waiting, host), wiring, world, waiting, woken)
    made.token = made.token_for("admin")
    try:
        yield made
    finally:
        made.session.close()
        made.server.stop()
        wiring.close()
