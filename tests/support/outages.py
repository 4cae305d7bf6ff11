"""What can go away under a rollout for some seconds. Each is a block at whose end it is back."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass

import psycopg

from processes import answers, wait_for
from support import haproxy
from support.disk import again_and_again, full, read_only
from support.frozen_process import frozen
from support.outage_setup import OutageSetup
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.drivers.routers.haproxy.options import HAProxyOptions

MAX_WRITES = 300  # of a megabyte: more than the disk has
HALF = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{"status":"success","data":{"resu'


@dataclass(frozen=True)
class Outage:
    """`pattern` is found in what a person is told: the rollout's events, /readyz meanwhile, the log; empty, there is
    nothing to tell. `still`: nothing is known meanwhile, so no traffic is moved and no container stopped. `takes`: requests
    that come meanwhile are lost, by whatever is gone. `judged`: the rollout has checks. `seconds`: at least so long; and
    until the story says what is found by `until`, for a call under way may last. `unnoticed`: when nobody asks for it."""

    name: str
    begin: Callable[[OutageSetup], AbstractContextManager[None]]
    pattern: str
    still: bool = True
    takes: bool = False
    judged: bool = True
    seconds: float = 2.5  # less than a bake
    until: str = ""
    unnoticed: tuple[str, ...] = ()


@contextmanager
def docker_stopped(world: OutageSetup) -> Iterator[None]:
    engine = world.engines["near"]
    engine.stop()
    try:
        yield
    finally:
        engine.start()


@contextmanager
def cable_cut(world: OutageSetup) -> Iterator[None]:
    assert world.machine is not None
    with world.machine.cut():
        yield


@contextmanager
def machine_muted(world: OutageSetup) -> Iterator[None]:
    assert world.machine is not None
    with world.machine.muted():
        yield


# -- databases --------------------------------------------------------------------------------------------------------


@contextmanager
def postgres_stopped(world: OutageSetup) -> Iterator[None]:
    assert world.server is not None
    world.server.stop()
    try:
        yield
    finally:
        world.server.start()


@contextmanager
def postgres_frozen(world: OutageSetup) -> Iterator[None]:
    """All its processes: each connection has one."""
    assert world.server is not None
    pids = world.server.processes()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def postgres_read_only(world: OutageSetup) -> Iterator[None]:
    assert world.server is not None
    world.server.run("ALTER SYSTEM SET default_transaction_read_only = on")
    world.server.run("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        world.server.run("ALTER SYSTEM RESET default_transaction_read_only")
        world.server.run("SELECT pg_reload_conf()")


@contextmanager
def postgres_full(world: OutageSetup) -> Iterator[None]:
    """Until not even its log of writes has room: it ends then, and who made room starts it again."""
    server = world.server
    assert server is not None

    def use_up() -> None:
        with suppress(psycopg.Error), server.connected() as connection:
            fill_log(connection)

    with closing(server.connected()) as connection, full(world.disk):  # with a full disk it may take no new connection
        fill_log(connection)
        with again_and_again(use_up):  # it comes up again by itself, with some of its log to use
            yield
    server.stop()
    server.start()


def fill_log(connection: psycopg.Connection) -> None:
    """Of writes. The first write to need a new file of it is refused, the next one ends the server."""
    for size in (1_000_000, 10_000):
        with suppress(psycopg.Error):
            for _ in range(MAX_WRITES):
                connection.execute("SELECT pg_logical_emit_message(true, 'filler', repeat('x', %s))", [size])


@contextmanager
def sqlite_full(world: OutageSetup) -> Iterator[None]:
    """Its log of writes, too, has to grow for the next one."""
    with closing(sqlite3.connect(world.disk / "tidegate.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with full(world.disk):
        yield


@contextmanager
def sqlite_read_only(world: OutageSetup) -> Iterator[None]:
    with read_only(world.disk / "tidegate.db", world.disk / "tidegate.db-wal"):
        yield


# -- clock ------------------------------------------------------------------------------------------------------------


def clock_jumps(seconds: int, *, database: bool = False) -> Callable[[OutageSetup], AbstractContextManager[None]]:
    """It stays where it is then."""

    @contextmanager
    def jump(world: OutageSetup) -> Iterator[None]:
        (world.database_clock if database else world.clock).jump(seconds)
        yield

    return jump


# -- Prometheus and the proxy -----------------------------------------------------------------------------------------


@contextmanager
def prometheus_down(world: OutageSetup) -> Iterator[None]:
    world.stage.kill("prometheus")
    try:
        yield
    finally:
        world.stage.restart_part("prometheus")
    wait_for("Prometheus", answers(f"http://127.0.0.1:{world.stage.state.ports['prometheus']}/-/ready"))


@contextmanager
def prometheus_frozen(world: OutageSetup) -> Iterator[None]:
    with frozen(world.stage.state.pids["prometheus"]):
        yield


@contextmanager
def prometheus_half(world: OutageSetup) -> Iterator[None]:
    """In its place something that begins each answer and ends it in the middle."""
    with prometheus_down(world), _half_answers(world.stage.state.ports["prometheus"]):
        yield


@contextmanager
def _half_answers(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port), reuse_port=False) as listening:
        thread = threading.Thread(target=_answer_half, args=(listening,))
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _answer_half(listening: socket.socket) -> None:
    while True:
        try:
            line, _ = listening.accept()
        except OSError:
            return
        with line:
            line.recv(65536)
            line.sendall(HALF)


@contextmanager
def haproxy_killed(world: OutageSetup) -> Iterator[None]:
    """Tidegate starts it again by itself, meanwhile."""
    haproxy.kill(HAProxyRouter(HAProxyOptions(directory=world.stage.home / "haproxy"), world.stage.environment))
    yield
    wait_for("the service", world.answers())


NEAR_UNREACHABLE = r"driver_error: Cannot .* on Docker host near: "
FAR_UNREACHABLE = r"driver_error: Cannot .* on Docker host far: "
REACHABLE_AGAIN = r"(.|\n)*recovered: "
NOT_READY = r"/readyz: database: "
UNKNOWN = r"verdict: .*Prometheus"
JUMPED = r"warning: .*clock"

#: With PostgreSQL and two machines.
MANY = (
    Outage("Docker stopped", docker_stopped, NEAR_UNREACHABLE + REACHABLE_AGAIN, until=NEAR_UNREACHABLE),
    Outage("Docker stopped for longer than the deadline", docker_stopped, NEAR_UNREACHABLE + REACHABLE_AGAIN, seconds=25.0),
    Outage(
        "a machine cut off",
        cable_cut,
        FAR_UNREACHABLE + REACHABLE_AGAIN,
        takes=True,
        until=FAR_UNREACHABLE,
        unnoticed=("rollback",),
    ),
    Outage(
        "a machine that is not heard",
        machine_muted,
        FAR_UNREACHABLE + REACHABLE_AGAIN,
        takes=True,
        until=FAR_UNREACHABLE,
        unnoticed=("rollback",),
    ),
    Outage("PostgreSQL stopped", postgres_stopped, NOT_READY),
    Outage("PostgreSQL frozen", postgres_frozen, r"/readyz: no answer"),
    Outage("PostgreSQL read-only", postgres_read_only, NOT_READY + ".*read-only"),
    Outage("PostgreSQL's disk full", postgres_full, NOT_READY, still=False),
    Outage("Prometheus down", prometheus_down, UNKNOWN, still=False, until=UNKNOWN, unnoticed=("rollback",)),
    Outage("Prometheus frozen", prometheus_frozen, UNKNOWN, still=False, until=UNKNOWN, unnoticed=("rollback",)),
    Outage("Prometheus answers half", prometheus_half, UNKNOWN, still=False, until=UNKNOWN, unnoticed=("rollback",)),
    Outage(
        "HAProxy killed", haproxy_killed, r"warning: The proxy was down and has been restarted", still=False, takes=True
    ),
    Outage("engine's clock +1 h", clock_jumps(3600), JUMPED, still=False, judged=False),
    Outage("engine's clock -1 h", clock_jumps(-3600), JUMPED, still=False, judged=False),
    Outage("PostgreSQL's clock +1 h", clock_jumps(3600, database=True), "", still=False),
    Outage("PostgreSQL's clock -1 h", clock_jumps(-3600, database=True), "", still=False),
)
#: With SQLite and one machine.
ONE = (
    Outage(
        "Docker and its containers stopped",
        docker_stopped,
        NEAR_UNREACHABLE + REACHABLE_AGAIN,
        until=NEAR_UNREACHABLE,
        still=False,
        takes=True,
    ),
    Outage("SQLite read-only", sqlite_read_only, NOT_READY),
    Outage("SQLite's disk full", sqlite_full, NOT_READY),
    Outage("all clocks +1 h", clock_jumps(3600), JUMPED, still=False, judged=False),
    Outage("all clocks -1 h", clock_jumps(-3600), JUMPED, still=False, judged=False),
)
