"""Envoy for tests: one that Tidegate owns, and a crash at any of Tidegate's steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.backends import free_port
from support.crash_points import CrashPoints
from support.haproxy import ended
from support.prerequisites import missing
from support.wait import eventually
from tidegate.drivers.http_client import DeadlineHttpClient
from tidegate.drivers.routers.envoy.driver import EnvoyOptions, EnvoyRouter
from tidegate.drivers.routers.envoy.process import find_program


@contextmanager
def envoy_router(home: Path, exporter: int = 0, **more: Any) -> Iterator[EnvoyRouter]:
    """A router that starts its own Envoy, with more of its options; ended at the end."""
    if find_program("envoy") is None:
        missing("envoy")
    exporter = exporter or free_port()
    options = EnvoyOptions(directory=home / "envoy", exporter=f"127.0.0.1:{exporter}", **more)
    router = EnvoyRouter(options, "test")
    try:
        yield router
    finally:
        pid = router.pid
        router.stop_process()
        if pid is not None:
            eventually("Envoy has ended", lambda: ended(pid))


def kill(router: EnvoyRouter) -> None:
    """SIGKILL."""
    pid = router.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually("Envoy has ended", lambda: ended(pid))


#: Questions to Envoy, files put in place.
STEPS = CrashPoints(((DeadlineHttpClient, "_open"), (Path, "rename")))
before_step, killed_before_step = STEPS.before, STEPS.killed_before
