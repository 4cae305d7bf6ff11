"""`tidegate serve`: gunicorn with one threaded worker process, which can also run the engine.

The gunicorn master only supervises the worker and replaces it when it dies. Everything is built after the fork, so that
the two share no connection, thread or lock.
"""

from __future__ import annotations

import gc
import os
import resource
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

SPARE_THREADS = 8  # threads that long polls never take
ENGINE_SECONDS = 30.0  # maximum age of the heartbeat of an engine in this process
STOP_SECONDS = 30  # how long shutdown waits for running requests and ticks
RESTART_SECONDS = 1.0  # delay before a failed engine is restarted
HEARTBEAT_SECONDS = 60  # a worker silent for longer is replaced
MAX_CONNECTIONS = 1000  # of clients; beyond them, those that wait for their client make room
FILES = 8192  # that the process may open if it is allowed to: more than connections, also of an engine
log = structlog.get_logger("tidegate.web")


@dataclass(frozen=True)
class ServerProcess:
    """What the worker process runs. `stop` requests the end and returns at once, also from a signal handler; `close` waits
    for the end."""

    app: Flask
    stop: Callable[[], None]
    close: Callable[[], None]


def run(settings: Settings, engine: str | None = None) -> None:
    """Serve the API until SIGTERM, then exit the process. With an engine name, also run an engine of that name.

    Raises `Refused` when the address is in use or another engine runs, `StoreError` when the database fails.
    """
    log_setup.configure(settings.log.level, settings.log.format)
    _preflight(settings, engine)
    serve(lambda: build(settings, engine), settings.listen, settings.web)


def _preflight(settings: Settings, engine: str | None) -> None:
    """Check before the fork what would fail after it, so that the command reports one clear error."""
    wiring = wires.build(settings)
    try:
        with ExitStack() as stack:
            if engine is not None:
                stack.enter_context(wires.sole_engine(wiring))
            wiring.store.prepare()
    finally:
        wiring.close()


def long_poll_slots(threads: int) -> int:
    """The number of long-poll slots for a server with `threads` threads; always less than `threads`."""
    return max(1, threads - SPARE_THREADS) if threads > SPARE_THREADS else max(1, threads // 2)


def build(settings: Settings, engine: str | None) -> ServerProcess:
    """The app, with an engine in a background thread if `engine` is its name."""
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
        stack.enter_context(wires.make_build_watcher(wiring))
        stack.enter_context(wires.make_pruner(wiring))
        stack.enter_context(wires.make_image_pruner(wiring))
        stack.enter_context(wires.make_request_logs(wiring))
    except BaseException:
        stack.close()
        raise
    owner = f"{engine}-{uuid.uuid4().hex[:8]}"  # unique, so that a replaced process does not share its leases
    worker = wires.make_engine(wiring, owner)
    ending = threading.Event()

    def run_engine() -> None:
        try:
            worker.run()
        finally:
            if not ending.wait(RESTART_SECONDS):
                log.error("engine stopped unexpectedly; restarting the server process")
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run_engine, name="engine")

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
    """Sends gunicorn's log lines through the root logger."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class _Worker(SlowClientWorker):
    """Stops long polls and the engine on SIGTERM, before it waits for running requests."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.app.stop()
        super().handle_exit(sig, frame)

    def is_parent_alive(self) -> bool:
        """Shut down if the master was killed: kept-alive connections would hold the address until the graceful timeout."""
        alive = bool(super().is_parent_alive())
        if not alive:
            self.handle_exit(signal.SIGTERM, None)
        return alive


class _Master(Arbiter):
    """Ignores the signals that reload or add workers: there is always exactly one."""

    SIGNALS = (signal.SIGQUIT, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    IGNORED = (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH)

    def init_signals(self) -> None:
        super().init_signals()
        for number in self.IGNORED:
            signal.signal(number, signal.SIG_IGN)


class _Application(BaseApplication):
    """The gunicorn settings and the app of the worker process."""

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
        """Request the end, in the worker process."""
        if self._served is not None:
            self._served.stop()

    def close(self, *_: object) -> None:
        """Stop and wait for the end, in the worker process before it exits."""
        if self._served is not None:
            self._served.stop()
            self._served.close()

    def run(self) -> None:
        _Master(self).run()


def serve(build: Callable[[], ServerProcess], listen: str, web: WebSettings) -> None:
    """Serve `host:port` until SIGTERM or SIGINT, then exit the process. `build` is called in the worker process.

    Raises `Refused` when the address is in use or the certificate cannot be loaded.
    """
    _require_free_address(listen)
    options: dict[str, object] = {
        "bind": listen,
        "workers": 1,
        "worker_connections": min(MAX_CONNECTIONS, _raise_file_limit() // 2),
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
    gc.freeze()  # no collection visits the modules, so that both processes share their memory and end at once
    application.run()


def _raise_file_limit() -> int:
    """Allow the process to open `FILES` files, as far as its hard limit permits; return how many it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return FILES if soft == resource.RLIM_INFINITY else soft


def _tls(web: WebSettings) -> dict[str, object]:
    """gunicorn's TLS options. It loads both files for every connection, so that a renewed certificate needs no restart, and
    would report an invalid file only then; this checks them at startup."""
    if web.certificate is None or web.key is None:
        return {}
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(web.certificate, web.key)
    except (OSError, ssl.SSLError) as error:
        reason = f"Cannot load the TLS certificate {web.certificate} and key {web.key}: {error}."
        raise Refused(f"{reason} Set web.certificate to a PEM chain and web.key to its private key.") from error
    return {"certfile": str(web.certificate), "keyfile": str(web.key), "ssl_context": _modern}


def _modern(_: Any, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """gunicorn's TLS context, restricted to TLS 1.2 and later."""
    context = make()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _require_free_address(listen: str) -> None:
    """Fail at once if the address is in use; gunicorn would retry for 5 s and then only log it."""
    host, _, port = listen.rpartition(":")
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        with socket.socket(addresses[0][0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(addresses[0][4])
    except (OSError, ValueError) as error:
        raise Refused(f"Cannot listen on {listen}: {error}. Free the address, or set `listen` to another one.") from error
