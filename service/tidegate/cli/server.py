"""What the server's own commands work with. Importing it takes a second: only who needs it does."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import start_http_server

from tidegate import wiring as wires
from tidegate.errors import Refused
from tidegate.ports import Diagnosis
from tidegate.settings import load
from tidegate.web import log_setup, server


@contextmanager
def open_wiring(settings: Path | None) -> Iterator[wires.Wiring]:
    """Everything built from the settings; closed afterwards. Logs go to standard error, only answers to standard output."""
    loaded = load(settings, os.environ)
    log_setup.configure(loaded.log.level, loaded.log.format)
    wiring = wires.build(loaded)
    try:
        yield wiring
    finally:
        wiring.close()


def owner() -> str:
    """A name for this process as the holder of leases: host, process and a random part, so that it is never reused."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def serve(settings: Path | None, with_engine: bool) -> None:
    """Answer the API, until SIGTERM."""
    server.run(load(settings, os.environ), owner() if with_engine else None)


def run_engine(settings: Path | None) -> None:
    """Drive the rollouts, until SIGTERM."""
    with open_wiring(settings) as wiring, wires.sole_engine(wiring):
        wiring.store.prepare()
        worker = wires.make_engine(wiring, owner())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        with serve_metrics(wiring), wires.make_outbox(wiring), wires.make_pruner(wiring):
            worker.run()


@contextmanager
def serve_metrics(wiring: wires.Wiring) -> Iterator[None]:
    """The engine's metrics over HTTP, where the settings give them an address. Raises `Refused` when it cannot be had."""
    listen = wiring.settings.engine.metrics_listen
    if not listen:
        yield
        return
    host, _, port = listen.rpartition(":")
    try:
        http, thread = start_http_server(int(port), host, wiring.meter.registry)
    except OSError as error:
        raise Refused(f"cannot listen on {listen}: {error}; free it, or set `engine.metrics_listen` to another") from error
    try:
        yield
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def raise_fences(wiring: wires.Wiring) -> None:
    """Fences go on above all that proxies have seen. Raises `Refused` while an engine works on the file."""
    with wires.sole_engine(wiring):
        wiring.store.prepare()
        wiring.store.raise_fences()


def prune(wiring: wires.Wiring, *, dry_run: bool) -> tuple[int, int, int]:
    """How many samples, rollouts and releases are forgotten now; `dry_run`: would be, releases not counted."""
    wiring.store.prepare()
    pruner = wires.make_pruner(wiring)
    if not dry_run:
        return pruner.prune()
    counts = wiring.store.prune(pruner.retention(), dry_run=True)
    return counts.samples, counts.rollouts, counts.releases


def run_checks(wiring: wires.Wiring) -> Iterator[tuple[str, tuple[Diagnosis, ...]]]:
    """Each configured part with what it says of itself."""
    database = tuple(wiring.store.check())
    yield "server", database
    if all(line.ok for line in database):
        yield "server", (check_engines(wiring),)
    for name, parts in wiring.environments.items():
        yield name, (check_host_access(wiring, name), *parts.platform.check())
        yield name, (*([wiring.chosen[name]] if name in wiring.chosen else []), *parts.router.check())
        if parts.metrics is None:
            yield name, (Diagnosis("metrics", True, "none configured: services with checks are refused"),)
        else:
            yield name, tuple(parts.metrics.check())
        if parts.ci is not None:
            yield name, tuple(parts.ci.check())


def check_engines(wiring: wires.Wiring) -> Diagnosis:
    """No mistake before the first start, but something to know."""
    engines = wiring.store.engines()
    if not engines:
        return Diagnosis("engine", True, "warning: none is heard, so no rollout goes on; start `tidegate engine`")
    last, silent = engines[0], max(0.0, wiring.clock() - engines[0].heartbeat_at)
    if silent > server.ENGINE_SECONDS:
        what = f"{last.owner} was heard last {silent:.0f} s ago, and did not end as it should"
        return Diagnosis("engine", False, what, "look at its log, and start `tidegate engine`")
    return Diagnosis("engine", True, f"{last.owner}, Tidegate {last.version}, heard {silent:.0f} s ago")


def check_host_access(wiring: wires.Wiring, name: str) -> Diagnosis:
    """No mistake where nothing is said, but something to know."""
    environment = wiring.settings.environments.get(name)
    if environment is None or environment.allow is None:
        what = f"warning: Compose files may mount all of the hosts and add any right; set [environments.{name}.allow]"
        return Diagnosis("allowed", True, what)
    return Diagnosis("allowed", True, "what reaches beyond a container is refused, but for what [allow] names")
