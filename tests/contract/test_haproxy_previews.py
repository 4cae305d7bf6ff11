"""HAProxy's previews: the rule of a frontend, told by the running process; and the weights in a file of somebody else."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from processes import free_port
from support.haproxy import ExternalHAProxy, kill, reload
from tidegate.core.routing import Backend, Preview
from tidegate.drivers.routers.haproxy import frontends
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.drivers.routers.members import header_problems
from tidegate.errors import RouterError
from tidegate.testing.router_contract import ids, member

BLUE, GREEN = (Preview(header=f"X-Shop-Preview: {colour}") for colour in ("blue", "green"))


@pytest.fixture
def shop() -> Backend:
    return Backend("shop", f"127.0.0.1:{free_port()}", preview=BLUE)


def previewed(backend: Backend) -> Backend:
    """The place of its preview."""
    assert backend.preview_backend is not None
    return backend.preview_backend


def rules(home: Path) -> list[str]:
    """What leads to a preview in the file of an owned one."""
    return re.findall(r"^ +use_backend (.*_preview if .*)$", (home / "haproxy" / "haproxy.cfg").read_text(), re.M)


def fill(router: HAProxyRouter, shop: Backend) -> None:
    """A member on the route, one on the preview."""
    router.write(shop, (member(0),), 1)
    router.write(previewed(shop), (member(5, "v2-2"),), 1)


def filled(router: HAProxyRouter, shop: Backend) -> bool:
    """Whether they are there."""
    return [ids(router.read(each).members) for each in (shop, previewed(shop))] == [ids([member(0)]), ids([member(5)])]


# -- names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["", "X-Shop-Preview: blue", "x:a", "X: Token_1.2~3+4/5=6:7@8-9", "X-Is: a_is_b_if_c_on_8001"]
)
@pytest.mark.parametrize("listen", ["8001", "127.0.0.1:8001", "[::1]:8001", "[::]:8001", "[2001:db8::a]:8001"])
@pytest.mark.parametrize("name", ["shop", "shop_preview"])
def test_a_frontends_name_tells_what_it_does(name: str, listen: str, header: str) -> None:
    backend = Backend(name, listen, preview=Preview(header=header))
    told = frontends.backend_behind(frontends.frontend_name(backend))
    assert header_problems(backend) == []
    assert told is not None
    assert (told.name, told.listen) == (name, listen)
    assert frontends.preview_condition(told) == frontends.preview_condition(backend)
    assert frontends.frontend_name(told) == frontends.frontend_name(backend)
    assert re.fullmatch(r"[A-Za-z0-9_.:-]+", frontends.frontend_name(backend)), "what HAProxy allows in a name"


@pytest.mark.parametrize("name", ["tidegate_exporter", "shop", "shop_preview", "shop_on_", "shop_on_8001_if_x"])
def test_other_names(name: str) -> None:
    assert frontends.backend_behind(name) is None


# -- owned ----------------------------------------------------------------------------------------------------------------


def test_a_killed_haproxy_comes_back_with_its_preview(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    fill(owned, shop)
    kill(owned)
    assert filled(owned, shop)
    assert rules(home) == ["shop_preview if { req.hdr(x-shop-preview) -m str blue }"]


def test_a_lost_memory_keeps_rules_and_previews(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    fill(owned, shop)
    before = rules(home)
    (home / "haproxy" / "state.json").unlink()
    owned.write(Backend("other", f"127.0.0.1:{free_port()}"), (member(9),), 1)
    assert rules(home) == before
    reload(owned)
    assert filled(owned, shop)


def test_a_route_is_switched_without_a_reload(owned: HAProxyRouter, shop: Backend) -> None:
    fill(owned, shop)
    before = owned.workers()
    owned.write(shop, (member(1),), 1)
    owned.write(previewed(shop), (), 1)
    owned.write(replace(shop, preview=Preview(header="x-shop-preview:blue")), (member(1),), 1)
    assert owned.workers() == before


def test_another_header_is_another_rule(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    fill(owned, shop)
    before = owned.workers()
    owned.write(replace(shop, preview=GREEN), (member(0),), 1)
    assert rules(home) == ["shop_preview if { req.hdr(x-shop-preview) -m str green }"]
    assert owned.workers() != before
    assert filled(owned, shop)
    owned.write(replace(shop, preview=None), (member(0),), 1)
    assert rules(home) == []
    reload(owned)
    assert filled(owned, shop), "who is on the preview stays known"


def test_a_listen_of_the_preview_comes_and_goes(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    fill(owned, shop)
    text, file = f"bind {(listen := f'127.0.0.1:{free_port()}')} ", home / "haproxy" / "haproxy.cfg"
    both = replace(shop, preview=replace(BLUE, listen=listen))
    fill(owned, both)
    assert text in file.read_text()
    fill(owned, shop)
    assert text not in file.read_text()
    before = owned.workers()
    fill(owned, shop)
    assert owned.workers() == before
    assert filled(owned, shop)


def test_a_preview_that_is_reached_nowhere(owned: HAProxyRouter) -> None:
    with pytest.raises(RouterError, match="`listen` or `header`"):
        owned.write(Backend("shop_preview"), (member(0),), 1)


# -- adopted --------------------------------------------------------------------------------------------------------------


def test_an_adopted_file_without_the_rule_is_told_what_to_add(standing: Callable[..., ExternalHAProxy]) -> None:
    there = standing()
    text = there.config.read_text()
    there.config.write_text(re.sub(r" +use_backend.*\n", "", text))
    before = there.config.read_text()
    with pytest.raises(RouterError) as refused:
        there.router.write(Backend("shop", preview=GREEN), (member(0),), 1)
    assert "add `backend shop_preview`" in refused.value.message
    assert "`use_backend shop_preview if { req.hdr(x-shop-preview) -m str green }`" in refused.value.message
    assert not refused.value.retryable
    assert there.config.read_text() == before
    there.config.write_text(text.replace("shop_preview if", "%[req.hdr(x-shop-preview),map(/etc/previews)] if"))
    there.router.write(Backend("shop", preview=GREEN), (member(0),), 1)


def test_an_adopted_file_without_the_previews_backend(standing: Callable[..., ExternalHAProxy]) -> None:
    there = standing()
    there.config.write_text(there.config.read_text().replace("backend shop_preview", "backend show_preview"))
    with pytest.raises(RouterError, match=r"has no `backend shop_preview`\. Add it"):
        there.router.write(Backend("shop_preview", parent="shop"), (member(0),), 1)


def test_an_adopted_backend_that_does_not_heed_weights(standing: Callable[..., ExternalHAProxy]) -> None:
    there = standing(balance="first")
    even = (replace(member(0), weight=7), replace(member(1), weight=7))
    there.router.write(Backend("shop"), even, 1)
    with pytest.raises(RouterError, match=r"balance first.*ignores weights") as refused:
        there.router.write(Backend("shop"), (even[0], replace(even[1], weight=8)), 1)
    assert not refused.value.retryable
    assert set(there.router.read(Backend("shop")).members) == set(even)


def test_a_default_weight_of_an_adopted_file_is_not_that_of_the_members(standing: Callable[..., ExternalHAProxy]) -> None:
    there = standing(servers="    default-server weight 50")
    members = (member(0), replace(member(1), weight=3))
    there.router.write(Backend("shop"), members, 1)
    there.reload()
    assert set(there.router.read(Backend("shop")).members) == set(members)
