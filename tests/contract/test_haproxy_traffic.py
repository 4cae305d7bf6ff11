"""HAProxy as a router, with traffic: what is lost (nothing), and what is counted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.backends import Backends, backends, free_port
from support.haproxy import owned_router, short_folder, until
from support.need import program
from tidegate.core.model import Backend, Member
from tidegate.drivers.routers.haproxy import HAProxyRouter
from traffic import Load


@pytest.fixture
def owned() -> Iterator[HAProxyRouter]:
    with short_folder() as home, owned_router(home) as router:
        yield router


@pytest.fixture
def shop() -> Backend:
    return Backend("shop", f"127.0.0.1:{free_port()}")


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Backends]:
    program("gcc")
    with backends(tmp_path / "counters") as made:
        yield made


def test_draining_shows_requests_in_flight(owned: HAProxyRouter, shop: Backend, apps: Backends) -> None:
    old, new = apps.start("v1-1"), apps.start("v2-2")
    owned.write(shop, (old,), 1)
    load = Load(shop.listen, slow_gets=3, slow_get_ms=1500)
    until(lambda: owned.read(shop).busy.get(old.instance) == 3)
    owned.write(shop, (new,), 1)
    assert owned.read(shop).draining == {old.instance: 3}
    until(lambda: owned.read(shop).draining == {old.instance: 0})
    owned.write(shop, (new,), 1)
    assert owned.read(shop).draining == {}
    assert set(load.finish().by_outcome) == {"ok"}


def test_counters_tell_lost_requests_from_the_applications_errors(
    owned: HAProxyRouter, shop: Backend, apps: Backends
) -> None:
    good, bad = apps.start("v1-1"), apps.start("v2-2", ERROR_RATIO="1")
    owned.write(shop, (good, bad), 1)
    load = Load(shop.listen, get=40)
    until(lambda: load.counts.errors > 20)
    errors = load.finish()
    seen = owned.read(shop).traffic
    assert seen is not None
    assert (seen.requests, seen.lost, seen.errors) == (errors.requests, 0, errors.errors)

    owned.write(shop, (), 1)
    load = Load(shop.listen, get=40)
    until(lambda: load.counts.lost > 20)
    refused = load.finish()
    after = owned.read(shop).traffic
    assert after is not None
    assert after.lost == refused.lost
    assert after.errors == errors.errors


def switch(router: HAProxyRouter, backend: Backend, apps: Backends, serving: list[Member], release: str) -> None:
    """Replace the oldest; kill it with SIGKILL the moment the router says that nothing can reach it."""
    old = serving.pop(0)
    serving.append(apps.start(release))
    router.write(backend, serving, 1)
    while old.instance in (draining := router.read(backend).draining):
        if draining[old.instance] == 0:
            router.write(backend, serving, 1)
        time.sleep(0.005)
    apps.kill(old)


@pytest.mark.parametrize("client", ["naive", "checking"])
def test_nothing_is_lost_over_switches_and_reloads(
    owned: HAProxyRouter, shop: Backend, apps: Backends, client: str
) -> None:
    serving = [apps.start("v1-1") for _ in range(3)]
    owned.write(shop, serving, 1)
    rates = {"get_ka": 120, "get": 60, "post_ka": 40, "post": 20, "slow_gets": 3, "slow_posts": 3}
    load = Load(shop.listen, client=client, slow_get_ms=600, slow_post_ms=800, **rates)
    until(lambda: load.counts.requests > 100)
    for number in range(20):
        switch(owned, shop, apps, serving, f"v2-{number}")
        if number in (5, 10, 15):
            os.kill(owned.pid or 0, signal.SIGUSR2)
    seen = load.finish()
    assert seen.by_outcome == {"ok": seen.requests}
    assert seen.posts_sent == apps.posts()


def test_the_load_generator_sees_what_a_careless_switch_loses(owned: HAProxyRouter, shop: Backend, apps: Backends) -> None:
    """The control: without the drain, the same traffic is cut, so that the test above could fail."""
    serving = [apps.start("v1-1") for _ in range(2)]
    owned.write(shop, serving, 1)
    load = Load(shop.listen, slow_gets=8, slow_get_ms=500)
    until(lambda: load.counts.requests > 20)
    old = serving.pop(0)
    serving.append(apps.start("v2-2"))
    owned.write(shop, serving, 1)
    apps.kill(old)
    seen = load.finish()
    assert seen.lost > 0
    assert seen.requests > seen.lost
