"""HAProxy as a router, on the real one: owned and adopted; its file, and what is refused."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from processes import free_port
from support.backends import accepts
from support.haproxy import ExternalHAProxy, kill, reload
from support.wait import eventually
from tidegate.core.routing import Backend
from tidegate.drivers.routers.haproxy import installation
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.drivers.routers.haproxy.options import HAProxyOptions
from tidegate.errors import RouterError
from tidegate.testing.router_contract import RouterContract, ids, member


@pytest.fixture
def other() -> Backend:
    return Backend("other", f"127.0.0.1:{free_port()}")


class TestOwnedHAProxy(RouterContract):
    @pytest.fixture
    def router(self, owned: HAProxyRouter) -> HAProxyRouter:
        return owned

    @pytest.fixture
    def backend(self, shop: Backend) -> Backend:
        return shop

    @pytest.fixture
    def other(self, other: Backend) -> Backend:
        return other


class TestAdoptedHAProxy(RouterContract):
    @pytest.fixture
    def router(self, standing: Callable[..., ExternalHAProxy]) -> HAProxyRouter:
        return standing().router

    @pytest.fixture
    def backend(self) -> Backend:
        return Backend("shop")

    @pytest.fixture
    def other(self) -> Backend:
        return Backend("other")


# -- the file is the truth ------------------------------------------------------------------------------------------------


def test_a_killed_haproxy_comes_back_with_its_route(owned: HAProxyRouter, shop: Backend) -> None:
    owned.write(shop, (member(0), member(1)), 3)
    pid = owned.pid
    kill(owned)
    found = owned.read(shop)
    assert (ids(found.members), found.restarted) == (ids([member(0), member(1)]), True)
    assert owned.pid != pid
    assert not owned.read(shop).restarted


def test_a_reload_keeps_the_route(owned: HAProxyRouter, shop: Backend) -> None:
    owned.write(shop, (member(0), member(1)), 1)
    owned.write(shop, (member(1), member(2)), 1)
    reload(owned)
    assert ids(owned.read(shop).members) == ids([member(1), member(2)])


def test_an_adopted_file_keeps_the_route_and_everything_else(standing: Callable[..., ExternalHAProxy]) -> None:
    there = standing(servers="    # encoded long ago: caf\udce9")
    before = there.config.read_bytes().splitlines()
    there.router.write(Backend("shop"), (member(0), member(1)), 1)
    there.reload()
    assert ids(there.router.read(Backend("shop")).members) == ids([member(0), member(1)])
    after = there.config.read_bytes().splitlines()
    assert [line for line in before if line.strip() and line not in after] == []


def test_a_backend_written_after_haproxy_was_killed_leaves_the_other_its_servers(
    owned: HAProxyRouter, shop: Backend, other: Backend
) -> None:
    owned.write(shop, (member(0), member(1)), 1)
    kill(owned)
    owned.write(other, (member(5),), 1)
    kill(owned)
    assert ids(owned.read(shop).members) == ids([member(0), member(1)])
    assert ids(owned.read(other).members) == ids([member(5)])
    assert listens(shop)
    assert listens(other)


def test_a_lost_memory_leaves_the_other_its_servers(
    owned: HAProxyRouter, home: Path, shop: Backend, other: Backend
) -> None:
    owned.write(shop, (member(0), member(1)), 1)
    (home / "haproxy" / "state.json").unlink()
    owned.write(other, (member(5),), 1)
    reload(owned)
    assert ids(owned.read(shop).members) == ids([member(0), member(1)])


def test_a_file_that_somebody_put_back_is_mended_by_the_next_write(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    file = home / "haproxy" / "haproxy.cfg"
    owned.write(shop, (member(0),), 1)
    before = file.read_text()
    owned.write(shop, (member(1),), 1)
    file.write_text(before)
    owned.write(shop, (member(1),), 1)
    reload(owned)
    assert ids(owned.read(shop).members) == ids([member(1)])


def test_another_listen_moves_the_frontend(owned: HAProxyRouter, shop: Backend, other: Backend) -> None:
    owned.write(other, (member(5),), 1)
    owned.write(shop, (member(0), member(1)), 1)
    moved = replace(shop, listen=f"127.0.0.1:{free_port()}")
    owned.write(moved, (member(0), member(1)), 1)
    assert listens(moved)
    eventually("the old address is closed", lambda: not listens(shop))
    assert ids(owned.read(moved).members) == ids([member(0), member(1)])
    assert ids(owned.read(other).members) == ids([member(5)])


@pytest.mark.parametrize("pattern", ["{}", "*:{}"])
def test_every_address_of_its_own_port(owned: HAProxyRouter, shop: Backend, pattern: str) -> None:
    owned.write(shop, (member(0),), 1)
    everywhere = replace(shop, listen=pattern.format(shop.listen.rpartition(":")[2]))
    owned.write(everywhere, (member(0),), 1)
    assert listens(replace(shop, listen=shop.listen.replace("127.0.0.1", "127.0.0.2")))


def test_what_is_remembered_by_another_version(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, (member(0),), 7)
    file = home / "haproxy" / "state.json"
    kept = json.loads(file.read_text())
    kept["shop"] = {**kept["shop"], "deleted": {"v1-1.0.a": 1.5}, "colour": "blue"}
    del kept["shop"]["known"]
    file.write_text(json.dumps(kept))
    assert owned.read(shop).fence == 7
    with pytest.raises(RouterError, match="fence"):
        owned.write(shop, (member(1),), 6)
    owned.write(shop, (member(1),), 8)
    assert ids(owned.read(shop).members) == ids([member(1)])


def test_a_memory_that_cannot_be_read_is_said_so(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, (member(0),), 1)
    (home / "haproxy" / "state.json").write_text("[1]")
    with pytest.raises(RouterError, match=r"Cannot read .*state\.json.*remove it") as refused:
        owned.read(shop)
    assert not refused.value.retryable


def listens(backend: Backend) -> bool:
    """Whether somebody accepts connections there."""
    return accepts(backend.listen)


# -- what is refused, before anything is changed ---------------------------------------------------------------------------


def test_a_taken_listen_address(owned: HAProxyRouter) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RouterError, match="Choose another `listen`") as refused:
            owned.write(Backend("shop", f"127.0.0.1:{taken.getsockname()[1]}"), (member(0),), 1)
    assert not refused.value.retryable


def test_another_listen_that_is_taken_leaves_the_old_one(owned: HAProxyRouter, shop: Backend) -> None:
    owned.write(shop, (member(0),), 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RouterError, match="Choose another `listen`"):
            owned.write(replace(shop, listen=f"127.0.0.1:{taken.getsockname()[1]}"), (member(0),), 1)
    reload(owned)
    assert listens(shop)
    assert ids(owned.read(shop).members) == ids([member(0)])


def test_a_part_of_the_address_is_taken(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, (member(0),), 1)
    pid, port = owned.workers(), shop.listen.rpartition(":")[2]
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", int(port)))
        taken.listen()
        with pytest.raises(RouterError, match="Choose another `listen`"):
            owned.write(replace(shop, listen=port), (member(0),), 1)
    assert owned.workers() == pid, "it was not reloaded"


def test_a_configuration_that_haproxy_cannot_take_is_taken_back(
    owned: HAProxyRouter, home: Path, shop: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned.write(shop, (member(0),), 1)
    before = (home / "haproxy" / "haproxy.cfg").read_text()
    monkeypatch.setattr(installation, "require_free", lambda *_, **__: None)  # as if it were taken a moment later
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RouterError, match=r"failed to load .* keeps serving the old one") as refused:
            owned.write(replace(shop, listen=f"127.0.0.1:{taken.getsockname()[1]}"), (member(1),), 1)
        assert not refused.value.retryable
        assert (home / "haproxy" / "haproxy.cfg").read_text() == before
        assert listens(shop)
        assert ids(owned.read(shop).members) == ids([member(0)])
    owned.write(shop, (member(1),), 1)
    assert ids(owned.read(shop).members) == ids([member(1)])


BAD = (
    replace(member(1), address="shop.example:80"),
    replace(member(2), address="127.0.0.1:0"),
    replace(member(3), address="127.0.0.1:80 weight 0"),
    replace(member(4), address="127.0.0.1"),
    replace(member(5), release="v1.5"),
    replace(member(6), instance="a b"),
    replace(member(7), release="v1\n    server x"),
    replace(member(8), weight=0),
)


def test_bad_members_are_refused_all_at_once(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, (member(0),), 1)
    before = (home / "haproxy" / "haproxy.cfg").read_text()
    with pytest.raises(RouterError) as refused:
        owned.write(shop, (member(0), *BAD), 1)
    assert not refused.value.retryable
    for each in BAD:
        assert f"{each.release}.{each.ordinal}.{each.instance}" in refused.value.message
    assert (home / "haproxy" / "haproxy.cfg").read_text() == before
    reload(owned)
    assert ids(owned.read(shop).members) == ids([member(0)])


def test_only_a_lacking_address_may_come_yet(owned: HAProxyRouter, shop: Backend) -> None:
    lacking = replace(member(1), address="")
    with pytest.raises(RouterError, match=r"v1-1\.1\.000000000001 has no address yet") as refused:
        owned.write(shop, (lacking,), 1)
    assert refused.value.retryable
    with pytest.raises(RouterError) as refused:
        owned.write(shop, (lacking, BAD[0]), 1)
    assert not refused.value.retryable


@pytest.mark.parametrize("address", ["[::1]:30001", "[0:0:0:0:0:0:0:1]:30001"])
def test_an_address_of_version_6(owned: HAProxyRouter, shop: Backend, address: str) -> None:
    six = replace(member(1), address=address)
    owned.write(shop, (six,), 1)
    owned.write(shop, (replace(six, address="127.0.0.1:30001"),), 1)
    owned.write(shop, (six,), 1)
    assert [each.address for each in owned.read(shop).members] == ["[::1]:30001"]
    reload(owned)
    assert ids(owned.read(shop).members) == ids([six])


def test_a_backend_without_listen(owned: HAProxyRouter) -> None:
    with pytest.raises(RouterError, match=r"x-tidegate\.listen"):
        owned.write(Backend("shop"), (member(0),), 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"servers": "    server old 127.0.0.1:9"}, "servers of its own"),
        ({"balance": "source"}, "balance source"),
        ({"level": "user"}, "level admin"),
    ],
)
def test_a_configuration_that_cannot_be_kept_true(
    standing: Callable[..., ExternalHAProxy], options: dict[str, str], said: str
) -> None:
    there = standing(**options)
    before = there.config.read_text()
    with pytest.raises(RouterError, match=said) as refused:
        there.router.write(Backend("shop"), (member(0),), 1)
    assert not refused.value.retryable
    assert there.config.read_text() == before


def test_a_backend_that_is_not_there(standing: Callable[..., ExternalHAProxy]) -> None:
    there = standing()
    with pytest.raises(RouterError, match="no `backend shoe`"):
        there.router.write(Backend("shoe"), (member(0),), 1)


def test_nobody_answers(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text("backend shop\n    balance roundrobin\n")
    options = HAProxyOptions(mode="adopted", socket=tmp_path / "none", config=config, directory=tmp_path / "fences")
    with pytest.raises(RouterError) as refused:
        HAProxyRouter(options, "test").read(Backend("shop"))
    assert refused.value.retryable


def test_options_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="requires socket"):
        HAProxyOptions(mode="adopted")
    with pytest.raises(ValidationError, match="require mode adopted"):
        HAProxyOptions(mode="owned", socket=tmp_path)


def test_an_empty_route_answers_503(owned: HAProxyRouter, shop: Backend) -> None:
    owned.write(shop, (), 1)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://{shop.listen}/", timeout=60)
