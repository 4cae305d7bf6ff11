"""nginx as a router, on the real one: owned and adopted; its file, and what is refused."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from processes import free_port
from support.nginx import ExternalNginx, external_nginxes, get, open_folder, owned_router, workers
from support.prerequisites import missing
from support.wait import eventually
from tidegate.core.routing import Backend, BackendOptions, BackendProtocol, Traffic
from tidegate.drivers.routers.nginx import installation
from tidegate.drivers.routers.nginx.driver import NginxOptions, NginxRouter
from tidegate.errors import RouterError
from tidegate.testing.router_contract import RouterContract, ids, member


@pytest.fixture
def home() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def owned(home: Path) -> Iterator[NginxRouter]:
    with owned_router(home) as router:
        yield router


@pytest.fixture
def other() -> Backend:
    return Backend("other", f"127.0.0.1:{free_port()}")


class TestOwnedNginx(RouterContract):
    @pytest.fixture
    def router(self, owned: NginxRouter) -> NginxRouter:
        return owned

    @pytest.fixture
    def backend(self, shop: Backend) -> Backend:
        return shop

    @pytest.fixture
    def other(self, other: Backend) -> Backend:
        return other


@pytest.fixture
def standing(home: Path) -> Iterator[Callable[..., ExternalNginx]]:
    with external_nginxes(home) as make:
        yield make


class TestAdoptedNginx(RouterContract):
    @pytest.fixture
    def router(self, standing: Callable[..., ExternalNginx]) -> NginxRouter:
        return standing().router

    @pytest.fixture
    def backend(self) -> Backend:
        return Backend("shop")

    @pytest.fixture
    def other(self) -> Backend:
        return Backend("other")


# -- what is refused, before anything is changed ---------------------------------------------------------------------------

BAD = (
    replace(member(1), address="shop.example:80"),
    replace(member(2), address="127.0.0.1:0"),
    replace(member(3), address="127.0.0.1:80 down"),
    replace(member(5), release="v1.5"),
    replace(member(6), instance="a b"),
    replace(member(7), release="v1;\n server x"),
)


def test_bad_members_are_refused_all_at_once(owned: NginxRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, (member(0),), 1)
    before = (home / "nginx" / "nginx.conf").read_text()
    with pytest.raises(RouterError) as refused:
        owned.write(shop, (member(0), *BAD), 1)
    assert not refused.value.retryable
    for each in BAD:
        assert f"{each.release}.{each.ordinal}.{each.instance}" in refused.value.message
    assert (home / "nginx" / "nginx.conf").read_text() == before
    assert ids(owned.read(shop).members) == ids([member(0)])


def test_only_a_lacking_address_may_come_yet(owned: NginxRouter, shop: Backend) -> None:
    lacking = replace(member(1), address="")
    with pytest.raises(RouterError, match=r"v1-1\.1\.000000000001 has no address yet") as refused:
        owned.write(shop, (lacking,), 1)
    assert refused.value.retryable
    with pytest.raises(RouterError) as refused:
        owned.write(shop, (lacking, BAD[0]), 1)
    assert not refused.value.retryable


def test_two_at_one_address_could_not_be_told_apart(owned: NginxRouter, shop: Backend) -> None:
    with pytest.raises(RouterError, match="several members have the address"):
        owned.write(shop, (member(0), replace(member(1), address=member(0).address)), 1)


@pytest.mark.parametrize("address", ["[::1]:30001", "[0:0:0:0:0:0:0:1]:30001"])
def test_an_address_of_version_6(owned: NginxRouter, shop: Backend, address: str) -> None:
    owned.write(shop, (replace(member(1), address=address),), 1)
    assert [each.address for each in owned.read(shop).members] == ["[::1]:30001"]


@pytest.mark.parametrize("first", [True, False])
def test_a_taken_listen_address_leaves_the_old_one(owned: NginxRouter, home: Path, shop: Backend, first: bool) -> None:
    if not first:
        owned.write(shop, (member(0),), 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RouterError, match="Choose another `listen`") as refused:
            owned.write(replace(shop, listen=f"127.0.0.1:{taken.getsockname()[1]}"), (member(1),), 1)
    assert not refused.value.retryable
    assert ids(owned.read(shop).members) == (set() if first else ids([member(0)]))


def test_an_address_of_this_nginx_is_refused(owned: NginxRouter, shop: Backend, other: Backend) -> None:
    owned.write(shop, (member(0),), 1)
    port = shop.listen.rpartition(":")[2]
    for taken in (replace(other, listen=shop.listen), replace(shop, listen=port), replace(shop, listen=f"*:{port}")):
        with pytest.raises(
            RouterError, match=r"nginx cannot listen on .* listens on .* for shop\. Choose another `listen`"
        ):
            owned.write(taken, (member(0),), 1)


def test_another_listen_moves_the_service(owned: NginxRouter, shop: Backend) -> None:
    owned.write(shop, (), 1)
    moved = replace(shop, listen=f"127.0.0.1:{free_port()}")
    owned.write(moved, (), 1)
    assert get(moved.listen, "/") == 503
    assert get(shop.listen, "/") is None


def test_what_nginx_itself_does_not_take_is_put_back(
    owned: NginxRouter, home: Path, shop: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned.write(shop, (member(0),), 1)
    before = (home / "nginx" / "nginx.conf").read_text()
    monkeypatch.setattr(installation, "require_free", lambda *_: None)  # as if it were taken a moment later
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RouterError, match=r"keeps serving the old one: bind\(\) to .* in use") as refused:
            owned.write(replace(shop, listen=f"127.0.0.1:{taken.getsockname()[1]}"), (member(1),), 1)
        assert not refused.value.retryable
    assert (home / "nginx" / "nginx.conf").read_text() == before
    assert ids(owned.read(shop).members) == ids([member(0)])
    owned.write(shop, (member(1),), 1)
    assert ids(owned.read(shop).members) == ids([member(1)])


def test_what_does_not_go_with_their_file_is_refused_before_it_is_there(standing: Callable[..., ExternalNginx]) -> None:
    there = standing()
    there.router.write(Backend("shop"), (member(0),), 1)
    before = there.include.read_text()
    theirs = there.text.replace("http {", "http {\n upstream cart { server 127.0.0.1:9; }")
    there.config.write_text(theirs)
    with pytest.raises(RouterError, match='nothing was changed: duplicate upstream "cart"') as refused:
        there.router.write(Backend("cart"), (member(1),), 1)
    assert not refused.value.retryable
    assert there.include.read_text() == before
    assert there.config.read_text() == theirs
    assert sorted(path.name for path in there.home.glob(".*")) == [], "no drafts are left"
    assert ids(there.router.read(Backend("shop")).members) == ids([member(0)])


def test_a_file_that_is_not_included(standing: Callable[..., ExternalNginx]) -> None:
    there = standing()
    there.config.write_text(there.text.replace("include", "# include"))
    with pytest.raises(RouterError, match=r"add `include .*tidegate\.conf;` to its http section"):
        there.router.write(Backend("shop"), (member(0),), 1)


def test_a_path_beside_their_file_may_be_a_short_one(standing: Callable[..., ExternalNginx]) -> None:
    there = standing(include="tidegate.conf")
    there.router.write(Backend("shop"), (member(0),), 1)
    assert ids(there.router.read(Backend("shop")).members) == ids([member(0)])


def test_nginx_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(f"http {{ include {tmp_path}/tidegate.conf; }}")
    places = {"config": tmp_path / "nginx.conf", "include": tmp_path / "tidegate.conf", "pid": tmp_path / "none"}
    router = NginxRouter(NginxOptions(mode="adopted", directory=tmp_path / "kept", **places), "test")
    for act in (lambda: router.read(Backend("shop")), lambda: router.write(Backend("shop"), (member(0),), 1)):
        with pytest.raises(RouterError, match="nginx is not running") as refused:
            act()
        assert refused.value.retryable
    assert router.check()[0].status == "wrong"


def test_a_worker_that_may_not_be_looked_into_is_no_empty_route(
    owned: NginxRouter, shop: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned.write(shop, (member(0),), 1)

    def denied(_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "readlink", denied)
    with pytest.raises(RouterError, match="SYS_PTRACE") as refused:
        owned.read(shop)
    assert not refused.value.retryable


def test_a_folder_that_the_workers_cannot_enter(home: Path, shop: Backend) -> None:
    if os.geteuid() != 0:
        missing("the right to start nginx as another user (root)")
    home.chmod(0o700)
    with owned_router(home) as router, pytest.raises(RouterError, match=r"user www-data cannot enter .*chmod o\+x"):
        router.write(shop, (member(0),), 1)


def test_what_is_refused_when_it_is_requested(owned: NginxRouter, shop: Backend) -> None:
    h2c = BackendOptions(protocol=BackendProtocol.H2C)
    assert owned.unsupported(shop) == {}
    assert owned.unsupported(Backend("shop", options=h2c)).keys() == {"listen", "protocol"}


def test_a_backend_without_listen(owned: NginxRouter) -> None:
    with pytest.raises(RouterError, match=r"x-tidegate\.listen"):
        owned.write(Backend("shop"), (member(0),), 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "adopted"}, "requires config"),
        ({"include": "/etc/nginx/tidegate.conf"}, "require mode adopted"),
        ({"pid": "/run/nginx.pid"}, "require mode adopted"),
        ({"directory": "/var/lib/tide gate"}, "must be an absolute path of"),
        ({"log": "requests.log"}, "must be an absolute path of"),
        ({"status": "8406"}, "status"),
        ({"user": "www-data; daemon off"}, "user"),
        ({"balance": {"shop": "ip_hash"}}, "balance requires mode adopted"),
        (
            {"mode": "adopted", "config": "/n", "include": "/t", "max_header_bytes": 8192},
            "max_header_bytes: only mode owned",
        ),
        ({"balance": {"shop": "ip_hash; } server {"}}, "balance"),
    ],
)
def test_options_that_cannot_be(options: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        NginxOptions(**options)


# -- changed settings ------------------------------------------------------------------------------------------------------


def test_a_changed_setting_takes_effect_at_the_first_read(owned: NginxRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, (member(0),), 1)
    status = f"127.0.0.1:{free_port()}"
    with owned_router(home, status=status, log=home / "requests.log", close_gap=False) as changed:
        assert ids(changed.read(shop).members) == ids([member(0)])
        assert get(status, "/") == 503
        assert get(shop.listen, "/") == 502
        eventually("the request is counted", lambda: changed.read(shop).traffic == Traffic(1, 1, 0))
        assert "keepalive_timeout 0" not in (home / "nginx" / "nginx.conf").read_text()
        before = workers(home)
        changed.read(shop)
        changed.write(shop, (member(0),), 1)
        assert workers(home) == before, "once"


def test_a_setting_that_nginx_rejects_leaves_the_old_ones(owned: NginxRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, (member(0),), 1)
    before = (home / "nginx" / "nginx.conf").read_text()
    with owned_router(home, log=home / "none" / "requests.log") as changed:
        for _ in range(2):
            with pytest.raises(RouterError, match=r"rejected the configuration; nothing was changed: .*none/requests\.log"):
                changed.read(shop)
        assert (home / "nginx" / "nginx.conf").read_text() == before
        (home / "none").mkdir()
        assert ids(changed.read(shop).members) == ids([member(0)])
        assert "none/requests.log" in (home / "nginx" / "nginx.conf").read_text()


# -- what `tidegate check` says --------------------------------------------------------------------------------------------


def test_check_of_an_owned_one(owned: NginxRouter, home: Path, shop: Backend) -> None:
    assert [(each.status, each.result) for each in owned.check()] == [
        ("ok", "not running yet; the first rollout starts it")
    ]
    owned.write(shop, (member(0),), 1)
    (one,) = owned.check()
    assert one.status == "ok"
    assert re.fullmatch(rf"1\.[\d.]+, process {owned.pid}, generation \d+", one.result)
    with owned_router(home / "none", binary="no-such-nginx") as none:
        assert [(each.status, each.result) for each in none.check()] == [("wrong", "program no-such-nginx not found")]
        with pytest.raises(RouterError, match="Install nginx"):
            none.read(shop)


def test_check_of_an_adopted_one(standing: Callable[..., ExternalNginx]) -> None:
    there = standing(more="keepalive_timeout 65;")
    assert [(each.status, each.result) for each in there.router.check() if each.status != "ok"] == [
        ("warning", "each route change closes idle client connections")
    ]
    for limit, status in (("", "warning"), ("worker_shutdown_timeout 10s;", "wrong")):
        there.config.write_text(there.text.replace("worker_shutdown_timeout 1h;", limit))
        assert status in {each.status for each in there.router.check() if "worker" in each.result}
    there.config.write_text(there.text.replace("include", "# include"))
    assert "does not include" in there.router.check()[0].result
