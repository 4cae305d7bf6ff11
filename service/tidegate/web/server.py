"""`tidegate serve`: gunicorn with one process and threads, and the engine in that process where it is wanted.

gunicorn's master only watches over the process that does the work. Everything is built after the fork, so that no
connection, thread or lock is shared between the two; a process that died is replaced, and looks at the world anew.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import structlog
from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from tidegate import wiring as wires
from tidegate.errors import Refused
from tidegate.settings import Settings, WebSettings
from tidegate.web import log_setup
from tidegate.web.api import LongPollSlots
from tidegate.web.app import create_app
from tidegate.web.slow_clients import SlowClientWorker

SPARE_THREADS = 8  # that never wait for events, or long polls would starve the rest
ENGINE_SECONDS = 30.0  # not ready when the engine in this process was not heard for so long
STOP_SECONDS = 30  # for requests and ticks under way, then they are killed
RESTART_SECONDS = 1.0  # an engine that fails at once is not started again at once
HEARTBEAT_SECONDS = 60  # a process that gives no sign of life so long is replaced
log = structlog.get_logger("tidegate.web")


@dataclass(frozen=True)
class ServerProcess:
    """What the working process runs. `stop` asks it to end and returns at once, also from a signal handler; `close` waits
    until it has ended."""

    app: Flask
    stop: Callable[[], None]
    close: Callable[[], None]


def run(settings: Settings, engine: str | None = None) -> None:
    """Answer the API until SIGTERM; with an engine of this name, drive the rollouts too. Ends the process.

    Raises `Refused` when the address cannot be had or another engine runs, `StoreError` when the database does not work.
    """
    log_setup.configure(settings.log.level, settings.log.format)
    _preflight(settings, engine)
    serve(lambda: build(settings, engine), settings.listen, settings.web)


def _preflight(settings: Settings, engine: str | None) -> None:
    """Find out before the fork what would fail after it, so that the person is told in one sentence."""
    wiring = wires.build(settings)
    try:
        with ExitStack() as stack:
            if engine is not None:
                stack.enter_context(wires.sole_engine(wiring))
            wiring.store.prepare()
    finally:
        wiring.close()


def long_poll_slots(threads: int) -> int:
    """How many requests may wait for events at a time, of so many threads: always fewer."""
    return max(1, threads - SPARE_THREADS) if threads > SPARE_THREADS else max(1, threads // 2)


def build(settings: Settings, engine: str | None) -> ServerProcess:
    """The app, and the engine in a thread beside it."""
    wiring = wires.build(settings)
    slots = LongPollSlots(long_poll_slots(settings.web.threads))
    stack = ExitStack()
    stack.callback(wiring.close)
    if engine is None:
        app = create_app(wiring, long_poll_slots=slots, engine_within_seconds=settings.web.engine_within_seconds)
        return ServerProcess(app, slots.stopping.set, stack.close)
    try:
        stack.enter_context(wires.sole_engine(wiring))
        stack.enter_context(wires.make_outbox(wiring))
        stack.enter_context(wires.make_pruner(wiring))
    except BaseException:
        stack.close()
        raise
    worker = wires.make_engine(
        wiring, f"{engine}-{uuid.uuid4().hex[:8]}"
    )  # a process that replaces another has its own name
    ending = threading.Event()

    def drive() -> None:
        try:
            worker.run()
        finally:
            if not ending.wait(RESTART_SECONDS):
                log.error("the engine ended by itself; this process ends too, and is replaced")
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=drive, name="engine")

    def stop() -> None:
        ending.set()
        slots.stopping.set()
        worker.stop()

    stack.callback(thread.join)
    stack.callback(stop)
    thread.start()
    within = settings.web.engine_within_seconds or ENGINE_SECONDS
    return ServerProcess(
        create_app(wiring, worker.wake, long_poll_slots=slots, engine_within_seconds=within), stop, stack.close
    )


# -- gunicorn -----------------------------------------------------------------------------------------------------------


class _Log(Logger):
    """gunicorn's own lines go the way of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class _Worker(SlowClientWorker):
    """Ends long polls and the engine as soon as it is asked to end, not only once the last request is answered."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.app.stop()
        super().handle_exit(sig, frame)

    def is_parent_alive(self) -> bool:
        """A master that was killed said nothing: end as if it had, or clients that go on asking keep the address from the
        next one for half a minute."""
        there = bool(super().is_parent_alive())
        if not there:
            self.handle_exit(signal.SIGTERM, None)
        return there


class _Master(Arbiter):
    """One process is all there may be, so the signals that reload or add processes are ignored."""

    SIGNALS = (signal.SIGQUIT, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    IGNORED = (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH)

    def init_signals(self) -> None:
        super().init_signals()
        for number in self.IGNORED:
            signal.signal(number, signal.SIG_IGN)


class _Application(BaseApplication):
    """Settings of gunicorn, and what the working process serves."""

    def __init__(self, build: Callable[[], ServerProcess], options: dict[str, object]) -> None:
        self._build, self._options = build, options
        self._served: ServerProcess | None = None
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        self._served = self._build()
        return self._served.app

    def stop(self) -> None:
        """In the working process: ask what is served to end."""
        if self._served is not None:
            self._served.stop()

    def close(self, *_: object) -> None:
        """In the working process, before it ends."""
        if self._served is not None:
            self._served.stop()
            self._served.close()

    def run(self) -> None:
        _Master(self).run()


def serve(build: Callable[[], ServerProcess], listen: str, web: WebSettings) -> None:
    """Serve `host:port` until SIGTERM or SIGINT; `build` is called in the working process. Ends the process.

    Raises `Refused` when the address cannot be had, or the certificate cannot be used.
    """
    _require_free_address(listen)
    options: dict[str, object] = {
        "bind": listen,
        "workers": 1,
        "threads": web.threads,
        **_tls(web),
        "worker_class": _Worker,
        "logger_class": _Log,
        "timeout": HEARTBEAT_SECONDS,
        "graceful_timeout": STOP_SECONDS,
        "control_socket_disable": True,
        "proc_name": "tidegate",
    }
    application = _Application(build, options)
    application.cfg.set("worker_exit", lambda _, worker: application.close())
    application.run()


def _tls(web: WebSettings) -> dict[str, object]:
    """gunicorn reads both files anew for each connection, so that a renewed certificate needs no restart. It would also say
    only to each client that it cannot use them: here a sentence at once."""
    if web.certificate is None or web.key is None:
        return {}
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(web.certificate, web.key)
    except (OSError, ssl.SSLError) as error:
        what = f"cannot serve TLS with {web.certificate} and {web.key}: {error}"
        raise Refused(f"{what}; set `web.certificate` and `web.key` to a chain and its key in PEM") from error
    return {"certfile": str(web.certificate), "keyfile": str(web.key), "ssl_context": _modern}


def _modern(_: Any, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """What gunicorn makes, without the versions that are broken."""
    context = make()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _require_free_address(listen: str) -> None:
    """gunicorn tries a taken address for five seconds and then ends with a line in its log: here a sentence at once."""
    host, _, port = listen.rpartition(":")
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        with socket.socket(addresses[0][0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(addresses[0][4])
    except (OSError, ValueError) as error:
        raise Refused(f"cannot listen on {listen}: {error}; free it, or set `listen` to another address") from error
