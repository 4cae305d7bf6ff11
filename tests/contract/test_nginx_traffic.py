"""nginx as a router, with traffic: what is lost (nothing), and what would be cut without `close_gap`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends
from support.nginx import external_nginxes, generations, kill, open_folder, owned_router, reload
from support.wait import eventually
from tidegate.core.routing import Backend, Preview
from tidegate.drivers.routers.nginx.driver import NginxRouter
from tidegate.testing.router_traffic_contract import RouterTrafficContract, remove_and_drain, send_request
from tidegate.testing.websocket import WebSocket
from traffic import Load


@pytest.fixture
def home() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def owned(home: Path) -> Iterator[NginxRouter]:
    with owned_router(home) as router:
        yield router


class TestOwnedNginxTraffic(RouterTrafficContract):
    """With reloads in the middle. Only connections of old workers are known to be requests."""

    tells_in_flight = False

    @pytest.fixture
    def router(self, owned: NginxRouter) -> NginxRouter:
        return owned

    @pytest.fixture
    def backend(self, shop: Backend) -> Backend:
        return shop

    @pytest.fixture
    def apps(self, apps: Backends) -> Backends:
        return apps

    @pytest.fixture
    def load(self, load: Callable[..., Load]) -> Callable[..., Load]:
        return load

    @pytest.fixture
    def kill_proxy(self, owned: NginxRouter, home: Path) -> Callable[[], None]:
        return lambda: kill(owned, home)

    @pytest.fixture
    def preview(self) -> Preview:
        return Preview(f"127.0.0.1:{free_port()}", "X-Shop-Preview: blue")

    @pytest.fixture
    def client(self) -> str:
        """The one that loses most; with the other one the adopted one is tried."""
        return "naive"

    @pytest.fixture
    def disturb(self, owned: NginxRouter, home: Path) -> Callable[[int], None]:
        return lambda number: reload(owned, home) if number % 7 == 5 else None


def test_an_adopted_one_loses_nothing_either(home: Path, apps: Backends, load: Callable[..., Load]) -> None:
    with external_nginxes(home) as make:
        there, shop = make(), Backend("shop")
        serving = [apps.start("v1-1") for _ in range(2)]
        there.router.write(shop, serving, 1)
        rates = {"get_ka": 100, "get": 50, "post_ka": 50, "post": 20, "slow_posts": 3, "slow_post_ms": 200}
        traffic = load(f"127.0.0.1:{there.port}", client="checking", **rates)
        eventually("traffic flows", lambda: traffic.counts.requests > 100)
        for number in range(5):
            old = serving.pop(0)
            serving.append(apps.start(f"v2-{number}"))
            remove_and_drain(there.router, shop, serving, old)
            apps.kill(old)
            there.reload()
        seen = traffic.finish()
    assert seen.by_outcome == {"ok": seen.requests}
    assert seen.posts_sent == apps.posts()


def test_without_close_gap_idle_clients_are_cut_and_nothing_else(
    home: Path, shop: Backend, apps: Backends, load: Callable[..., Load]
) -> None:
    """The control: without it the contract fails. What is lost was never executed, and the client cannot know that."""
    with owned_router(home, close_gap=False) as router:
        serving = [apps.start("v1-1") for _ in range(2)]
        router.write(shop, serving, 1)
        traffic = load(shop.listen, get_ka=150, get=50, post_ka=50, post=20)
        eventually("traffic flows", lambda: traffic.counts.requests > 100)
        for number in range(4):
            old = serving.pop(0)
            serving.append(apps.start(f"v2-{number}"))
            remove_and_drain(router, shop, serving, old)
            apps.kill(old)
        seen = traffic.finish()
    assert seen.lost > 10
    assert set(seen.by_outcome) <= {"ok", "eof_reused", "reset"}
    assert apps.posts() <= seen.posts_sent


def test_an_instance_that_vanished_is_left_out_by_asking_another_one(
    owned: NginxRouter, shop: Backend, apps: Backends, load: Callable[..., Load]
) -> None:
    there = apps.start("v1-1")
    gone = replace(there, instance="a" * 12, address=f"127.0.0.1:{free_port()}")
    owned.write(shop, (there, gone), 1)
    traffic = load(shop.listen, get=60, post_ka=60)
    eventually("traffic flows", lambda: traffic.counts.requests > 100)
    seen = traffic.finish()
    assert seen.by_outcome == {"ok": seen.requests}
    assert seen.posts_sent == apps.posts()


def test_what_was_sent_is_not_sent_again(
    owned: NginxRouter, shop: Backend, apps: Backends, load: Callable[..., Load]
) -> None:
    """Where one dies with requests on it, its clients are told so."""
    dies, stays = apps.start("v1-1"), apps.start("v1-1")
    owned.write(shop, (dies, stays), 1)
    traffic = load(shop.listen, slow_gets=6, slow_get_ms=3000)
    eventually("requests are in flight on the one that dies", lambda: apps.in_flight(dies) > 0)
    apps.kill(dies)
    seen = traffic.finish()
    assert seen.lost >= 1
    assert set(seen.by_outcome) <= {"ok", "status_5xx"}


def test_a_killed_master_leaves_workers_that_are_known_and_replaced(
    owned: NginxRouter, home: Path, shop: Backend, apps: Backends, load: Callable[..., Load]
) -> None:
    """A connection that is held open keeps an old worker, so that it cannot end before the test has looked at it."""
    old, new = apps.start("v1-1"), apps.start("v2-2")
    owned.write(shop, (old,), 1)
    traffic = load(shop.listen, slow_gets=2, slow_get_ms=1500)
    with WebSocket(shop.listen, "/ws") as held:
        eventually("slow requests are in flight", lambda: apps.in_flight(old) >= 2)
        kill(owned, home, workers_too=False)
        owned.write(shop, (new,), 1)
        assert old.instance in owned.read(shop).draining
        assert held.echo(b"still there") == b"still there"
    eventually("the old worker has ended", lambda: owned.read(shop).draining == {})
    assert send_request(shop.listen) == (200, "v2-2")
    assert traffic.finish().by_outcome.keys() <= {"ok", "refused"}, "what was in flight was answered"


def send_slowly(stack: ExitStack, listen: str) -> socket.socket:
    """A client that sends the first byte of a body, and no more."""
    host, _, port = listen.rpartition(":")
    client = stack.enter_context(closing(socket.create_connection((host, int(port)))))
    client.sendall(b"POST /?ms=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\na")
    return client


def test_slow_clients_of_one_service_delay_no_drain_of_another(
    owned: NginxRouter, home: Path, shop: Backend, apps: Backends
) -> None:
    """Neither do old workers stay unknown: what they still have is known by instance, once no request may go anywhere."""
    other = Backend("other", f"127.0.0.1:{free_port()}")
    slow, old = apps.start("v1-1"), apps.start("v1-1")
    owned.write(other, (slow,), 1)
    owned.write(shop, (old,), 1)
    with ExitStack() as stack:
        stack.enter_context(WebSocket(other.listen, "/ws")).echo(b"open")
        senders = [send_slowly(stack, other.listen) for _ in range(5)]
        for _ in range(5):
            host, _, port = other.listen.rpartition(":")
            waiting = stack.enter_context(closing(socket.create_connection((host, int(port)))))
            waiting.sendall(b"GET /?ms=600000 HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually("the requests that are complete are there", lambda: apps.in_flight(slow) == 5)
        for number in range(3):
            replaced, old = old, apps.start(f"v2-{number}")
            owned.write(shop, (old,), 1)
            eventually("the old one is drained", lambda: owned.read(shop).draining == {})
            apps.kill(replaced)
        assert any(worker.leaving for worker in generations(home).workers(owned.pid)), "old workers are left"
        owned.write(other, (old,), 1)
        assert owned.read(other).draining == {slow.instance: None}, "the bodies that are being sent may still go to it"
        for sender in senders:
            sender.close()
        eventually("its requests are known", lambda: owned.read(other).draining == {slow.instance: 6})
        assert owned.read(other).tunnels == {slow.instance: 1}
    eventually("all clients are gone", lambda: owned.read(other).draining == {})


def test_old_workers_end_with_their_time(home: Path, shop: Backend, apps: Backends) -> None:
    with owned_router(home, shutdown_timeout_seconds=1.0) as router:
        old, new = apps.start("v1-1"), apps.start("v2-2")
        router.write(shop, (old,), 1)
        with WebSocket(shop.listen, "/ws") as held:
            assert held.echo(b"before") == b"before"
            router.write(shop, (new,), 1)
            eventually("the old worker has ended", lambda: router.read(shop).draining == {})
