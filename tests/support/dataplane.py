"""The ways of replacing instances behind a proxy that the data-plane benchmark compares: Tidegate's routers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from processes import free_port
from support.app_counts import sum_app_counts
from support.backends import Backends, backends
from support.dataplane_docker import Containers
from support.wait import eventually
from tidegate.core.routing import Backend, Member
from tidegate.drivers import registry
from tidegate.ports import Router
from tidegate.testing.router_traffic_contract import remove_and_drain
from traffic import Counts, Load

#: Of the kill stress: many short requests, so that some are always on their way.
BRISK = {"get_ka": 600.0, "get": 200.0, "post_ka": 200.0, "post": 100.0, "slow_posts": 16.0, "slow_post_ms": 120.0}


class ReplacementMethod(Protocol):
    """A proxy with instances behind it. `address`: where it takes requests."""

    address: str

    def update(self) -> float | None:
        """Replace every instance, new before old; seconds that the proxy's change took, where that can be told apart."""


def count_posts(folder: Path) -> tuple[int, int]:
    """POSTs executed by all applications that ever ran, and requests in flight when they were told to stop."""
    counts = sum_app_counts(folder)
    return counts.posts, counts.in_flight_at_sigterm


@contextmanager
def router_of(name: str, home: Path) -> Iterator[Router]:
    """A registered router that owns its proxy, with its files in `home` and a free port for each address it wants."""
    driver = registry.load_driver("router", name)
    options: dict[str, Any] = {"directory": home / name}
    for option, field in driver.Options.model_fields.items():
        if re.fullmatch(r"127\.0\.0\.1:\d+", str(field.default)):
            options[option] = f"127.0.0.1:{free_port()}"
    router = driver(driver.Options(**options), "bench")
    try:
        yield router
    finally:
        router.stop_process()


class RoutedContainers:
    """Containers behind one of Tidegate's routers, replaced as the engine does it."""

    def __init__(self, router: Router, containers: Containers, replicas: int) -> None:
        self._router, self._containers, self._replicas = router, containers, replicas
        self._backend = Backend("shop", f"127.0.0.1:{free_port()}")
        self.address = self._backend.listen
        self._serving: list[Member] = []
        self.update()

    def update(self) -> float | None:
        before = self._serving
        self._serving = self._containers.start(self._replicas)
        began = time.perf_counter()
        self._router.write(self._backend, self._serving, 1)
        took = time.perf_counter() - began
        for old in before:
            remove_and_drain(self._router, self._backend, self._serving, old)
        self._containers.stop(before)
        return took


def kill_when_drained(router: Router, folder: Path, kills: int, client: str) -> tuple[Counts, int, float]:
    """One instance after the other is replaced, and killed the moment that the router says it is drained.

    Returns what the clients saw, the POSTs that were executed, and the seconds of a replacement.
    """
    backend = Backend("shop", f"127.0.0.1:{free_port()}")
    with backends(folder) as apps:
        serving = apps.start("v1-0")
        router.write(backend, (serving,), 1)
        load = Load(backend.listen, client=client, **BRISK)
        try:
            eventually("500 requests are answered", lambda: load.counts.requests > 500)
            began = time.perf_counter()
            for number in range(kills):
                serving = _replaced(router, backend, apps, serving, f"v2-{number}")
            took = (time.perf_counter() - began) / kills
        finally:
            seen = load.finish()
        return seen, apps.posts(), took


def _replaced(router: Router, backend: Backend, apps: Backends, old: Member, release: str) -> Member:
    new = apps.start(release)
    router.write(backend, (new,), 1)
    remove_and_drain(router, backend, [new], old)
    apps.kill(old)
    return new
