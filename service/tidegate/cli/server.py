"""The work of `tidegate serve`, `engine`, `db`, `prune` and `check`. Importing it takes a second, so it happens late."""

from __future__ import annotations

import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from tidegate import wiring as wires
from tidegate.analysis.bake_length import bake_warnings, needs_counters, observe_traffic, traffic_query
from tidegate.clock import Time
from tidegate.core.build import Build
from tidegate.core.model import Service
from tidegate.errors import MetricsError, Refused
from tidegate.ports import CheckStatus, Diagnosis, Drivers, MetricsSource
from tidegate.settings import load
from tidegate.store_port import Store
from tidegate.web import log_setup, server

BACKGROUND = (  # what an engine does next to the rollouts
    wires.make_outbox,
    wires.make_build_watcher,
    wires.make_pruner,
    wires.make_image_pruner,
    wires.make_request_logs,
)


@contextmanager
def open_wiring(settings: Path | None, *, daemon: bool = False) -> Iterator[wires.Wiring]:
    """Build all parts from the settings and close them afterwards. Logs go to standard error, output to standard output.

    A `daemon` logs as the settings say. A command prints what it did, so it logs only warnings, as text.
    """
    loaded = load(settings, os.environ)
    if daemon:
        log_setup.configure(loaded.log.level, loaded.log.format)
    else:
        log_setup.configure("warning", "console")
    wiring = wires.build(loaded)
    try:
        yield wiring
    finally:
        wiring.close()


def owner() -> str:
    """A unique name for this process as a holder of leases: host, process ID and a random part."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def serve(settings: Path | None, with_engine: bool) -> None:
    """Run the API server, with an engine if asked to, until SIGTERM."""
    server.run(load(settings, os.environ), owner() if with_engine else None)


def run_engine(settings: Path | None) -> None:
    """Run an engine until SIGTERM."""
    with open_wiring(settings, daemon=True) as wiring, wires.sole_engine(wiring):
        wiring.store.prepare()
        worker = wires.make_engine(wiring, owner())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        with ExitStack() as stack:
            stack.enter_context(serve_metrics(wiring))
            for make in (
                wires.make_outbox,
                wires.make_build_watcher,
                wires.make_pruner,
                wires.make_image_pruner,
                wires.make_request_logs,
            ):
                stack.enter_context(make(wiring))
            worker.run()


class MetricsServer(ThreadingMixIn, WSGIServer):
    """An HTTP server with a thread for each connection. Of more than `max_connections` the oldest ends, so that clients
    that send nothing take neither the threads of the engine nor its metrics from others."""

    daemon_threads = True
    max_connections = 32

    def __init__(self, host: str, port: int) -> None:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        self._lock, self._open = threading.Lock(), dict[Any, None]()  # oldest first
        super().__init__((str(address[0]), port), _QuietHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        with self._lock:
            if len(self._open) >= self.max_connections:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with suppress(OSError):  # it has just ended
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left during its response is no error."""

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not logged."""


@contextmanager
def serve_metrics(wiring: wires.Wiring) -> Iterator[None]:
    """Serve the engine's metrics on `engine.metrics_listen`, if set. Raise `Refused` when the address is not available."""
    listen = wiring.settings.engine.metrics_listen
    if not listen:
        yield
        return
    host, _, port = listen.rpartition(":")
    try:
        http = MetricsServer(host.strip("[]"), int(port))
    except OSError as error:
        raise Refused(
            f"Cannot serve metrics on {listen}: {error}. Free the address, or change `engine.metrics_listen`."
        ) from error
    http.set_app(make_wsgi_app(wiring.engine_metrics.registry))
    thread = threading.Thread(target=http.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def raise_fences(wiring: wires.Wiring) -> None:
    """Raise the fencing tokens above those the proxies have seen. Raise `Refused` while an engine uses the SQLite file."""
    with wires.sole_engine(wiring):
        wiring.store.prepare()
        wiring.store.raise_fences()


def prune(wiring: wires.Wiring, *, dry_run: bool) -> tuple[int, int, int]:
    """Delete data older than the retention; return the numbers of samples, rollouts and releases.

    With `dry_run` nothing is deleted, and the number of releases is not known.
    """
    wiring.store.prepare()
    pruner = wires.make_pruner(wiring)
    if not dry_run:
        return pruner.prune()
    counts = wiring.store.prune(pruner.retention(), dry_run=True)
    return counts.samples, counts.rollouts, counts.releases


def run_checks(wiring: wires.Wiring) -> Iterator[tuple[str, Diagnosis]]:
    """Check every configured part; yield where it is configured and its diagnosis.

    What cannot exist before the first rollout of an environment is a warning until then.
    """
    database = wiring.store.check()
    works = all(diagnosis.status is not CheckStatus.WRONG for diagnosis in database)
    fresh = any(diagnosis.needs_rollout for diagnosis in database)
    services = [row.service for row in wiring.store.services() if row.live or row.rollout] if works else []
    deployed = {service.environment for service in services}
    builds = _live_builds(wiring.store) if works else {}
    for diagnosis in database:
        yield "server", _expected_before_rollout(diagnosis)
    if works:
        yield "server", check_engines(wiring)
    for name, parts in wiring.environments.items():
        before_rollout = fresh or (works and name not in deployed)
        for diagnosis in _environment_checks(wiring, name, parts, builds.get(name, ())):
            yield name, _expected_before_rollout(diagnosis) if before_rollout else diagnosis
        for service in services:
            if service.environment == name and parts.metrics is not None:
                yield from ((name, diagnosis) for diagnosis in check_bake(service, parts.metrics, wiring.clock()))


def _environment_checks(wiring: wires.Wiring, name: str, parts: Drivers, builds: Sequence[Build]) -> Iterator[Diagnosis]:
    yield check_host_access(wiring, name)
    yield from parts.platform.check()
    if name in wiring.detected_routers:
        yield wiring.detected_routers[name]
    yield from parts.router.check()
    if parts.metrics is None:
        yield Diagnosis("metrics", CheckStatus.OK, "not configured; services with checks are refused")
    else:
        diagnoses = tuple(parts.metrics.check())
        yield from diagnoses
        if all(diagnosis.status is not CheckStatus.WRONG for diagnosis in diagnoses[:1]):  # the source answers
            yield wires.check_histogram(wiring, name)
    if parts.ci is not None:
        yield from parts.ci.check(builds)


def _live_builds(store: Store) -> dict[str, list[Build]]:
    """The builds of live rollouts, by environment."""
    builds: dict[str, list[Build]] = {}
    for row in store.services():
        build = store.load(row.rollout)[0].build if row.rollout is not None else None
        if build is not None and build not in builds.setdefault(row.service.environment, []):
            builds[row.service.environment].append(build)
    return builds


def _expected_before_rollout(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis before the first rollout: a warning if what it checks cannot exist yet."""
    if diagnosis.status is not CheckStatus.WRONG or not diagnosis.needs_rollout:
        return diagnosis
    return replace(diagnosis, status=CheckStatus.WARNING, result=f"{diagnosis.result}; expected before the first rollout")


def check_bake(service: Service, metrics: MetricsSource, now: Time) -> Iterator[Diagnosis]:
    """Warnings when the bake of a live service is too short for its scrapes and its traffic; none while that is unknown."""
    if service.backend is None or not needs_counters(service.checks):
        return
    try:
        traffic = observe_traffic(metrics.fetch(*traffic_query(service.backend.name, now)))
    except MetricsError:
        return  # the check of the metrics source says why
    for text in bake_warnings(service, traffic) if traffic is not None else ():
        yield Diagnosis(f"bake of {service.name}", CheckStatus.WARNING, text, "change it in the Compose file")


def check_engines(wiring: wires.Wiring) -> Diagnosis:
    """The latest heartbeat, and whether rollouts are driven. No engine is a warning: none runs before the first start."""
    engines = wiring.store.engines()
    if not engines:
        text = "no engine is running, so rollouts will not progress"
        return Diagnosis("engine", CheckStatus.WARNING, text, "start `tidegate engine`")
    latest, age = engines[0], max(0.0, wiring.clock() - engines[0].heartbeat_at)
    if age > server.ENGINE_SECONDS:
        text = f"last heartbeat from {latest.owner} was {age:.0f} s ago; it did not shut down cleanly"
        return Diagnosis("engine", CheckStatus.WRONG, text, "check its log and start `tidegate engine`")
    if problem := wiring.store.stats().find_overdue(wiring.clock()):
        return Diagnosis("engine", CheckStatus.WRONG, problem, "see its log, and `tidegate services` for what is slow")
    text = f"{latest.owner}, Tidegate {latest.version}, last heartbeat {age:.0f} s ago"
    return Diagnosis("engine", CheckStatus.OK, text)


def check_host_access(wiring: wires.Wiring, name: str) -> Diagnosis:
    """Whether Compose files are restricted. Unrestricted is the default, so it is a warning."""
    environment = wiring.settings.environments.get(name)
    if environment is None or environment.allow is None:
        text = "Compose files may mount any host path and volume, add any capability and listen on any address"
        return Diagnosis("host access", CheckStatus.WARNING, text, f"set [environments.{name}.allow] to restrict them")
    return Diagnosis("host access", CheckStatus.OK, f"restricted to what [environments.{name}.allow] lists")
