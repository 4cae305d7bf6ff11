"""A small world that several engine processes share: it lives in a process of its own, and says who has to stop when.

    shared_drivers.py URL ADDRESS OWNER LEASE_SECONDS

runs a real engine on it, with a real store, until SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import cache
from multiprocessing.managers import BaseManager
from typing import Any

from support.fake_drivers import FakeDocuments, FakeEnvironment, FakePlatform, FakeRouter, a_service, settle_old
from tidegate.engine.worker import Worker, WorkerOptions
from tidegate.ports import Drivers
from tidegate.store.store import SqlStore
from tidegate.web import log_setup

KEY = b"of the tests"


class SharedDrivers:
    """What is called from other processes. `arm` names a moment; the first engine that comes to it is told to stop."""

    def __init__(self) -> None:
        self._world = FakeEnvironment(time.time)
        self._parts = {"platform": FakePlatform(self._world), "router": FakeRouter(self._world)}
        self._armed: tuple[str, str] | None = None
        self._stopped: int | None = None

    def call(self, part: str, verb: str, arguments: tuple[Any, ...]) -> Any:
        """One verb of a driver."""
        return getattr(self._parts[part], verb)(*arguments)

    def settle(self, url: str, names: list[str]) -> None:
        """Services of these names whose first releases serve; before any engine runs."""
        with closing(SqlStore(url)) as store:
            for name in names:
                settle_old(store, self._world, a_service(name), time.time)

    def arm(self, when: str, verb: str) -> None:
        """The next engine that is `before` or `after` this verb stops there."""
        self._armed, self._stopped = (when, verb), None

    def reached(self, pid: int, when: str, verb: str) -> bool:
        """Whether the engine of this process has to stop now."""
        if self._armed != (when, verb):
            return False
        self._armed, self._stopped = None, pid
        return True

    def stopped(self) -> int | None:
        """The process that stopped."""
        return self._stopped

    def running(self, service: str) -> list[str]:
        """The releases of what exists of this service."""
        return sorted(each.release for each in self._world.present() if each.host == service)

    def serving(self, backend: str) -> list[str]:
        """The releases of the proxy's members."""
        return self._world.serving(backend)


class DriversManager(BaseManager):
    """Where the world lives."""


@cache
def present() -> SharedDrivers:
    """The one of this process."""
    return SharedDrivers()


DriversManager.register("present", present)


class StoppingProxy:
    """A port or a store; its process stops itself at the moment that is armed."""

    def __init__(self, world: Any, verb: Callable[[str], Callable[..., Any]]) -> None:
        self._world, self._verb = world, verb

    def __getattr__(self, name: str) -> Any:
        verb = self._verb(name)

        def call(*arguments: Any, **named: Any) -> Any:
            self._stop("before", name)
            answer = verb(*arguments, **named)
            self._stop("after", name)
            return answer

        return call

    def _stop(self, when: str, verb: str) -> None:
        if self._world.reached(os.getpid(), when, verb):
            # To this thread, which then goes no further: a signal to the process may be taken by another thread first, and
            # this one would stop a little later, for example in a transaction whose lock keeps the other engine out.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def remote(world: Any, part: str) -> Any:
    """A driver whose verbs are done in the world's process."""
    return StoppingProxy(world, lambda verb: lambda *arguments: world.call(part, verb, arguments))


def main(url: str, address: str, owner: str, lease: str) -> None:
    """Drive what is due."""
    log_setup.configure("info", "json")
    manager = DriversManager(address, KEY)
    manager.connect()
    world: Any = manager.present()
    parts = Drivers(remote(world, "platform"), remote(world, "router"), None, FakeDocuments(FakeEnvironment(time.time)))
    with closing(SqlStore(url)) as store:
        stopping: Any = StoppingProxy(world, lambda verb: getattr(store, verb))
        worker = Worker(stopping, {"demo": parts}, WorkerOptions(float(lease), 2, 0.05), time.time, owner)
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        worker.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
