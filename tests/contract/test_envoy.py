"""Envoy as a router, on the real one: its files, its addresses, and what is refused."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from processes import free_port
from support.backends import accepts
from support.envoy import envoy_router, kill
from support.wait import eventually
from tidegate.core.routing import Backend
from tidegate.drivers.routers.envoy import apply
from tidegate.drivers.routers.envoy.admin import EnvoyAdmin
from tidegate.drivers.routers.envoy.config import EnvoyFiles
from tidegate.drivers.routers.envoy.driver import EnvoyOptions, EnvoyRouter
from tidegate.errors import RouterError
from tidegate.testing.router_contract import RouterContract, ids, member


@pytest.fixture
def other() -> Backend:
    return Backend("other", f"127.0.0.1:{free_port()}")


class TestEnvoyRouter(RouterContract):
    @pytest.fixture
    def router(self, envoy: EnvoyRouter) -> EnvoyRouter:
        return envoy

    @pytest.fixture
    def backend(self, shop: Backend) -> Backend:
        return shop

    @pytest.fixture
    def other(self, other: Backend) -> Backend:
        return other


def listens(backend: Backend) -> bool:
    """Whether somebody accepts connections there."""
    return accepts(backend.listen)


def files(home: Path) -> dict[str, tuple[int, str]]:
    """Everything that Tidegate wrote for Envoy: a file that was put in place again is another one."""
    return {path.name: (path.stat().st_ino, path.read_text()) for path in (home / "envoy").glob("*.json")}


# -- the files are the truth -----------------------------------------------------------------------------------------------


def test_a_killed_envoy_comes_back_with_its_route(envoy: EnvoyRouter, shop: Backend, other: Backend) -> None:
    envoy.write(shop, (member(0), replace(member(1), weight=7)), 3)
    envoy.write(other, (member(5),), 1)
    before, pid = envoy.read(shop), envoy.pid
    kill(envoy)
    assert envoy.read(shop) == replace(before, restarted=True)
    assert envoy.read(shop) == before
    assert envoy.pid != pid
    assert ids(envoy.read(other).members) == ids([member(5)])
    assert listens(shop)
    assert listens(other)


def test_a_backend_written_after_envoy_was_killed_leaves_the_other_its_members(
    envoy: EnvoyRouter, shop: Backend, other: Backend
) -> None:
    envoy.write(shop, (member(0), member(1)), 1)
    kill(envoy)
    envoy.write(other, (member(5),), 1)
    kill(envoy)
    assert ids(envoy.read(shop).members) == ids([member(0), member(1)])
    assert ids(envoy.read(other).members) == ids([member(5)])


def test_a_lost_memory_leaves_the_other_its_members(envoy: EnvoyRouter, home: Path, shop: Backend, other: Backend) -> None:
    envoy.write(shop, (member(0), member(1)), 1)
    (home / "envoy" / "state.json").unlink()
    envoy.write(other, (member(5),), 1)
    kill(envoy)
    assert ids(envoy.read(shop).members) == ids([member(0), member(1)])
    assert listens(shop)


def test_writing_the_same_again_touches_no_file(envoy: EnvoyRouter, home: Path, shop: Backend) -> None:
    envoy.write(shop, (member(0), member(1)), 1)
    before = files(home)
    envoy.write(shop, (member(1), member(0)), 1)
    assert files(home) == before


def test_a_file_that_somebody_put_back_is_mended_by_the_next_write(envoy: EnvoyRouter, home: Path, shop: Backend) -> None:
    file = home / "envoy" / "endpoints-shop.json"
    envoy.write(shop, (member(0),), 1)
    before = file.read_text()
    envoy.write(shop, (member(1),), 1)
    file.write_text(before)
    assert envoy.read(shop).draining == {member(0).instance: None}, "a restart would send requests to it"
    envoy.write(shop, (member(1),), 1)
    kill(envoy)
    assert ids(envoy.read(shop).members) == ids([member(1)])
    assert envoy.read(shop).draining == {}


def test_a_file_that_is_spoilt_is_said_so(envoy: EnvoyRouter, home: Path, shop: Backend) -> None:
    envoy.write(shop, (member(0),), 1)
    (home / "envoy" / "endpoints-shop.json").write_text("[")
    for act in (lambda: envoy.read(shop), lambda: envoy.write(shop, (member(0),), 1)):
        with pytest.raises(RouterError, match=r"endpoints-shop\.json.*Remove it") as refused:
            act()
        assert not refused.value.retryable


def test_a_new_service_restarts_nothing(envoy: EnvoyRouter, shop: Backend, other: Backend) -> None:
    envoy.write(shop, (member(0),), 1)
    pid = envoy.pid
    envoy.write(other, (member(5),), 1)
    envoy.write(replace(shop, listen=f"127.0.0.1:{free_port()}"), (member(0),), 1)
    assert envoy.pid == pid


def test_an_instance_with_the_address_of_one_that_left(envoy: EnvoyRouter, shop: Backend) -> None:
    envoy.write(shop, (member(0), member(1)), 1)
    heir = replace(member(2, "v2-2"), address=member(0).address)
    envoy.write(shop, (heir, member(1)), 1)
    assert set(envoy.read(shop).members) == {heir, member(1)}
    assert envoy.read(shop).draining == {}


def test_an_address_of_version_6(envoy: EnvoyRouter, shop: Backend) -> None:
    six = replace(member(1), address="[0:0:0:0:0:0:0:1]:30001")
    envoy.write(shop, (six,), 1)
    envoy.write(shop, (replace(six, address="127.0.0.1:30001"),), 1)
    envoy.write(shop, (six,), 1)
    assert [each.address for each in envoy.read(shop).members] == ["[::1]:30001"]


def test_a_member_leaves_when_every_thread_has_answered(home: Path, shop: Backend) -> None:
    with envoy_router(home, threads=4) as router:
        router.write(shop, (member(0), member(1)), 1)
        before = at_barrier(home)
        assert len(before) == 4
        router.write(shop, (member(1),), 1)
        assert router.read(shop).draining == {}
        assert all(now > then for now, then in zip(at_barrier(home), before, strict=True))


def at_barrier(home: Path) -> list[int]:
    """How many connections each thread took there."""
    text = EnvoyAdmin(EnvoyFiles(home / "envoy")).ask("/stats?filter=tidegate_barrier.worker_.*cx_total")
    return [int(line.rpartition(" ")[2]) for line in sorted(text.split("\n")) if line]


# -- addresses -------------------------------------------------------------------------------------------------------------


def test_another_listen_moves_the_listener(envoy: EnvoyRouter, shop: Backend, other: Backend) -> None:
    envoy.write(other, (member(5),), 1)
    envoy.write(shop, (member(0), member(1)), 1)
    moved = replace(shop, listen=f"127.0.0.1:{free_port()}")
    envoy.write(moved, (member(0), member(1)), 1)
    assert listens(moved)
    eventually("the old address is closed", lambda: not listens(shop))
    assert ids(envoy.read(moved).members) == ids([member(0), member(1)])
    assert ids(envoy.read(other).members) == ids([member(5)])
    assert listens(other)


@pytest.mark.parametrize("pattern", ["{}", "*:{}"])
def test_every_address_of_its_own_port(envoy: EnvoyRouter, shop: Backend, pattern: str) -> None:
    envoy.write(shop, (member(0),), 1)
    everywhere = replace(shop, listen=pattern.format(shop.listen.rpartition(":")[2]))
    envoy.write(everywhere, (member(0),), 1)
    assert listens(replace(shop, listen=shop.listen.replace("127.0.0.1", "127.0.0.2")))
    assert listens(shop)


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody else has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_taken_listen_address(envoy: EnvoyRouter, taken: str) -> None:
    with pytest.raises(RouterError, match="Choose another `listen`") as refused:
        envoy.write(Backend("shop", taken), (member(0),), 1)
    assert not refused.value.retryable


@pytest.mark.parametrize("seen", [True, False], ids=["before", "a moment later"])
def test_another_listen_that_is_taken_leaves_the_old_one(
    envoy: EnvoyRouter, shop: Backend, other: Backend, taken: str, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    envoy.write(shop, (member(0),), 1)
    if not seen:
        monkeypatch.setattr(apply, "require_free", lambda *_, **__: None)
    with pytest.raises(RouterError, match=r"cannot listen|rejected the listener") as refused:
        envoy.write(replace(shop, listen=taken), (member(0),), 1)
    assert not refused.value.retryable
    assert listens(shop)
    assert ids(envoy.read(shop).members) == ids([member(0)])
    envoy.write(other, (member(5),), 1)
    assert listens(other)
    kill(envoy)
    assert ids(envoy.read(shop).members) == ids([member(0)])
    assert listens(shop)


def test_an_address_that_was_taken_while_envoy_was_gone(envoy: EnvoyRouter, shop: Backend, other: Backend) -> None:
    envoy.write(shop, (member(0),), 1)
    envoy.write(other, (member(5),), 1)
    kill(envoy)
    eventually("the address is closed", lambda: not listens(shop))
    host, _, port = shop.listen.rpartition(":")
    with socket.create_server((host, int(port))):
        with pytest.raises(RouterError, match="no active listener for shop"):
            envoy.read(shop)
        with pytest.raises(RouterError, match="Choose another `listen`"):
            envoy.write(shop, (member(0),), 1)
        envoy.write(other, (member(6),), 1)
        assert ids(envoy.read(other).members) == ids([member(6)]), "the other service goes on"
        envoy.write(replace(other, listen=f"127.0.0.1:{free_port()}"), (member(6),), 1)
    envoy.write(shop, (member(1),), 1)
    assert ids(envoy.read(shop).members) == ids([member(1)])
    assert listens(shop)


def test_the_exporter_shows_nothing_but_its_counters(home: Path) -> None:
    port = free_port()
    with envoy_router(home, port) as router:
        router.write(Backend("shop", f"127.0.0.1:{free_port()}"), (member(0),), 1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            assert answer.status == 200
        for path in ("/", "/stats", "/quitquitquit", "/metrics/", "/metrics/../quitquitquit"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", path)
            assert connection.getresponse().status == 404, path
            connection.close()


# -- what is refused, before anything is changed ---------------------------------------------------------------------------


BAD = (
    replace(member(1), address="shop.example:80"),
    replace(member(2), address="127.0.0.1:0"),
    replace(member(3), address="127.0.0.1"),
    replace(member(4), release="v1.5"),
    replace(member(5), instance="a b"),
    replace(member(6), weight=0),
    replace(member(7), weight=257),
)


def test_bad_members_are_refused_all_at_once(envoy: EnvoyRouter, home: Path, shop: Backend) -> None:
    envoy.write(shop, (member(0),), 1)
    before = files(home)
    with pytest.raises(RouterError) as refused:
        envoy.write(shop, (member(0), *BAD), 2)
    assert not refused.value.retryable
    for each in BAD:
        assert f"{each.release}.{each.ordinal}.{each.instance}" in refused.value.message
    assert files(home) == before
    assert ids(envoy.read(shop).members) == ids([member(0)])


def test_only_a_lacking_address_may_come_yet(envoy: EnvoyRouter, shop: Backend) -> None:
    lacking = replace(member(1), address="")
    with pytest.raises(RouterError, match=r"v1-1\.1\.000000000001 has no address yet") as refused:
        envoy.write(shop, (lacking,), 1)
    assert refused.value.retryable
    with pytest.raises(RouterError) as refused:
        envoy.write(shop, (lacking, BAD[0]), 1)
    assert not refused.value.retryable


def test_two_members_with_one_address_are_not_believed(envoy: EnvoyRouter, shop: Backend) -> None:
    with pytest.raises(RouterError, match="have the address") as refused:
        envoy.write(shop, (member(0), replace(member(1), address=member(0).address)), 1)
    assert refused.value.retryable


def test_a_backend_without_listen(envoy: EnvoyRouter) -> None:
    with pytest.raises(RouterError, match=r"x-tidegate\.listen"):
        envoy.write(Backend("shop"), (member(0),), 1)


def test_an_empty_route_answers_503(envoy: EnvoyRouter, shop: Backend) -> None:
    envoy.write(shop, (), 1)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://{shop.listen}/", timeout=60)


def test_what_is_remembered_by_another_version(envoy: EnvoyRouter, home: Path, shop: Backend) -> None:
    envoy.write(shop, (member(0),), 7)
    file = home / "envoy" / "state.json"
    kept = json.loads(file.read_text())
    kept["shop"] = {**kept["shop"], "colour": "blue"}
    file.write_text(json.dumps(kept))
    assert envoy.read(shop).fence == 7
    with pytest.raises(RouterError, match="fence"):
        envoy.write(shop, (member(1),), 6)


@pytest.mark.parametrize("options", [{"mode": "adopted"}, {"exporter": "nowhere"}, {"threads": 0}])
def test_options_that_are_none(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EnvoyOptions.model_validate(options)


def test_a_program_that_is_no_envoy(home: Path, shop: Backend) -> None:
    router = EnvoyRouter(EnvoyOptions(directory=home / "envoy", binary="true"), "test")
    with pytest.raises(RouterError, match=r"is not Envoy; Tidegate requires Envoy 1\.40 or later") as refused:
        router.write(shop, (member(0),), 1)
    assert not refused.value.retryable
    router = EnvoyRouter(EnvoyOptions(directory=home / "envoy", binary="no-such-envoy"), "test")
    with pytest.raises(RouterError, match="Program no-such-envoy not found: install"):
        router.read(shop)
    assert [(each.status, each.result) for each in router.check()] == [("wrong", "program no-such-envoy not found")]


def test_what_check_says(envoy: EnvoyRouter, shop: Backend) -> None:
    (said,) = envoy.check()
    assert (said.status, said.result) == ("ok", "not running yet; the first rollout starts it")
    envoy.write(shop, (member(0),), 1)
    (said,) = envoy.check()
    assert said.status == "ok"
    assert said.result.startswith("1.")
