"""Envoy as a router, when Tidegate or Envoy dies in the middle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends
from support.crash_points import every_step, some_steps
from support.envoy import before_step, kill, killed_before_step
from support.wait import eventually
from tidegate.core.routing import Backend, Preview
from tidegate.drivers.routers.envoy.admin import DRAINING, TAKES_NEW, EnvoyAdmin, merge_hosts
from tidegate.drivers.routers.envoy.config import EnvoyFiles
from tidegate.drivers.routers.envoy.driver import EnvoyRouter
from tidegate.drivers.routers.envoy.endpoints import read_endpoints
from tidegate.drivers.routers.members import server_name
from tidegate.errors import RouterError
from tidegate.testing.router_contract import ids, member
from tidegate.testing.router_traffic_contract import remove_and_drain
from traffic import Load

BEFORE = (member(0), member(1), member(2))
AFTER = (replace(member(1), address="127.0.0.1:30901", weight=5), member(3, "v2-2"), member(4, "v2-2"))


def nobody_is_forgotten(router: EnvoyRouter, backend: Backend, home: Path) -> None:
    """Who is sent requests, or would be after a restart, is told to be a member, or draining at least."""
    seen, files = router.read(backend), EnvoyFiles(home / "envoy")
    assert seen.members
    hosts = merge_hosts(EnvoyAdmin(files).clusters(backend.name))
    serving = {host.member.instance for host in hosts.values() if host.takes_new and host.member}
    draining = {host.member.instance for host in hosts.values() if host.state == DRAINING and host.member}
    would_serve = {
        name.rpartition(".")[2]
        for name, each in read_endpoints(files.endpoints(backend.name)).items()
        if each.state == TAKES_NEW
    }
    assert serving <= ids(seen.members)
    assert draining <= set(seen.draining)
    assert would_serve <= ids(seen.members) | set(seen.draining)


def test_killed_at_any_step_of_a_write(envoy: EnvoyRouter, home: Path, shop: Backend) -> None:
    """Envoy goes on, and then is killed, too."""
    for step in every_step():
        envoy.write(shop, BEFORE, 1)
        if not killed_before_step(step, lambda: envoy.write(shop, AFTER, 2)):
            break
        nobody_is_forgotten(envoy, shop, home)
        kill(envoy)
        nobody_is_forgotten(envoy, shop, home)
        envoy.write(shop, AFTER, 2)
        assert set(envoy.read(shop).members) == set(AFTER)
        assert set(read_endpoints(EnvoyFiles(home / "envoy").endpoints("shop"))) == {server_name(each) for each in AFTER}
        assert envoy.read(shop).draining == {}
        (home / "envoy" / "state.json").unlink()  # the fence begins anew
    assert step > 12, "there are more steps than that"


@pytest.mark.parametrize(("first", "change"), list(enumerate(("another backend", "another listen"))))
def test_killed_at_any_step_of_a_change_of_listeners(
    envoy: EnvoyRouter, home: Path, shop: Backend, first: int, change: str
) -> None:
    for step in some_steps(first):
        envoy.write(shop, BEFORE, 1)
        changed = {
            "another backend": Backend(f"other-{step}", f"127.0.0.1:{free_port()}"),
            "another listen": Backend("shop", f"127.0.0.1:{free_port()}", preview=Preview(header=f"X-Preview: {step}")),
        }[change]
        if not killed_before_step(step, lambda to=changed: envoy.write(to, AFTER, 1)):
            break
        nobody_is_forgotten(envoy, shop, home)
        if step % 2:
            kill(envoy)
            nobody_is_forgotten(envoy, shop, home)
        envoy.write(changed, AFTER, 1)
        assert set(envoy.read(changed).members) == set(AFTER)
        if change == "another backend":
            assert set(envoy.read(shop).members) == set(BEFORE)
        else:
            admin = EnvoyAdmin(EnvoyFiles(home / "envoy"))
            assert {name for name in admin.active_listeners() if name.startswith("shop@")} == {f"shop@{changed.listen}"}
    assert step > 12, "there are more steps than that"


def raised(act: Callable[[], None]) -> RouterError | None:
    """With what it was refused."""
    try:
        act()
    except RouterError as error:
        return error
    return None


def test_envoy_killed_at_any_step_of_a_write(envoy: EnvoyRouter, shop: Backend) -> None:
    for step in every_step():
        envoy.write(shop, BEFORE, 1)
        with before_step(step, lambda: kill(envoy)) as killed:
            refused = raised(lambda: envoy.write(shop, AFTER, 1))
            assert refused is None or refused.retryable
        if not killed:
            break
        assert ids(envoy.read(shop).members) in (ids(BEFORE), ids(AFTER))
        envoy.write(shop, AFTER, 1)
        assert set(envoy.read(shop).members) == set(AFTER)
        eventually("nobody drains", lambda: not envoy.read(shop).draining)
    assert step > 12, "there are more steps than that"


def test_tidegate_killed_at_any_step_of_a_switch_loses_no_request(
    envoy: EnvoyRouter, shop: Backend, apps: Backends, load: Callable[..., Load]
) -> None:
    """Who is said to be gone is killed at once, after each crash."""
    serving = apps.start("v1-1")
    envoy.write(shop, (serving,), 1)
    traffic = load(shop.listen, get_ka=150, get=50, post_ka=50, slow_gets=2, slow_get_ms=300)
    eventually("50 requests are answered", lambda: traffic.counts.requests > 50)
    for step in some_steps(2):
        old, serving = serving, apps.start(f"v2-{step}")
        crashed = killed_before_step(step, lambda new=serving: envoy.write(shop, (new,), 1))
        seen = envoy.read(shop)
        if old.instance not in {*ids(seen.members), *seen.draining}:
            apps.kill(old)
        remove_and_drain(envoy, shop, [serving], old)
        if old.instance in apps.running:
            apps.kill(old)
        if not crashed:
            break
    counts = traffic.finish()
    assert step > 12, "there are more steps than that"
    assert counts.by_outcome == {"ok": counts.requests}
    assert counts.posts_sent == apps.posts()
