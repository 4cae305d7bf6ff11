"""Envoy for tests: one that Tidegate owns, and a crash at any of Tidegate's steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.backends import free_port
from support.haproxy import ended, until
from support.need import missing
from tidegate.drivers.routers import envoy_admin
from tidegate.drivers.routers.envoy import EnvoyOptions, EnvoyRouter
from tidegate.drivers.routers.envoy_process import program


@contextmanager
def envoy_router(home: Path, exporter: int = 0, threads: int = 2) -> Iterator[EnvoyRouter]:
    """A router that starts its own Envoy; ended at the end."""
    if program("envoy") is None:
        missing("envoy")
    exporter = exporter or free_port()
    options = EnvoyOptions(directory=home / "envoy", exporter=f"127.0.0.1:{exporter}", threads=threads)
    router = EnvoyRouter(options, "test")
    try:
        yield router
    finally:
        pid = router.pid
        router.stop_process()
        if pid is not None:
            until(lambda: ended(pid))


def kill(router: EnvoyRouter) -> None:
    """SIGKILL."""
    pid = router.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: ended(pid))


@contextmanager
def before_step(number: int, then: Callable[[], object]) -> Iterator[list[object]]:
    """Do something just before the n-th of the steps that reach outside: a question to Envoy, a file put in place.

    Gives a list of what it returned: empty when there was no such step.
    """
    places = ((envoy_admin.Line, "connect"), (Path, "rename"))
    originals = [getattr(owner, name) for owner, name in places]
    left, returned = number, list[object]()

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                restore()
                returned.append(then())
            return step(*arguments)

        return run

    def restore() -> None:
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, original)

    for (owner, name), original in zip(places, originals, strict=True):
        setattr(owner, name, counted(original))
    try:
        yield returned
    finally:
        restore()


def killed_before_step(number: int, act: Callable[[], None]) -> bool:
    """Act in a process that is gone, as by SIGKILL, just before its n-th step. False: it had no such step."""
    child = os.fork()
    if child == 0:
        try:
            with before_step(number, lambda: os._exit(9)):
                act()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), "it failed instead"
    return code == 9
