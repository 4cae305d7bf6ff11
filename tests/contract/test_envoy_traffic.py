"""Envoy as a router, with traffic: what is lost (nothing), and what is counted."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace

import pytest

from processes import free_port
from support.backends import Backends
from support.envoy import before_step, kill
from support.scripted_server import ScriptedServer
from support.wait import eventually
from tidegate.core.routing import Backend, Preview, Traffic
from tidegate.drivers.routers.envoy.driver import EnvoyRouter
from tidegate.testing.router_contract import ids, member
from tidegate.testing.router_traffic_contract import RouterTrafficContract
from tidegate.testing.websocket import WebSocket
from traffic import Load


class TestEnvoyTraffic(RouterTrafficContract):
    switches = 15

    @pytest.fixture
    def router(self, envoy: EnvoyRouter) -> EnvoyRouter:
        return envoy

    @pytest.fixture
    def backend(self, shop: Backend) -> Backend:
        return shop

    @pytest.fixture
    def kill_proxy(self, envoy: EnvoyRouter) -> Callable[[], None]:
        return lambda: kill(envoy)

    @pytest.fixture
    def preview(self) -> Preview:
        return Preview(f"127.0.0.1:{free_port()}", "X-Shop-Preview: blue")


# -- nothing is lost -------------------------------------------------------------------------------------------------------


def test_a_request_that_waits_for_a_connection_is_in_flight(envoy: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    """Its member listens and does not accept; so nothing is on it, and yet it may get a request at any moment."""
    new = apps.start("v2-2")
    with ExitStack() as held:
        full = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        client = held.enter_context(closing(http.client.HTTPConnection(*shop.listen.split(":"))))
        for filler in [held.enter_context(socket.socket()) for _ in range(4)]:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        old = replace(member(9), address=f"127.0.0.1:{full.getsockname()[1]}")
        envoy.write(shop, (old,), 1)
        client.request("GET", "/")
        eventually("it is in flight", lambda: envoy.read(shop).busy == {old.instance: 1})
        envoy.write(shop, (new,), 1)
        assert envoy.read(shop).draining == {old.instance: 1}
    eventually("nothing is in flight", lambda: envoy.read(shop).draining == {old.instance: 0})


def test_a_whole_release_is_replaced_back_and_forth(
    envoy: EnvoyRouter, shop: Backend, apps: Backends, load: Callable[..., Load]
) -> None:
    old, new = [apps.start("v1-1") for _ in range(2)], [apps.start("v2-2") for _ in range(2)]
    envoy.write(shop, old, 1)
    traffic = load(shop.listen, get_ka=200, get=100, post_ka=50)
    eventually("100 requests are answered", lambda: traffic.counts.requests > 100)
    for number in range(30):
        envoy.write(shop, (new, old)[number % 2], 1)
    seen = traffic.finish()
    assert seen.by_outcome == {"ok": seen.requests}
    assert seen.posts_sent == apps.posts()
    eventually("all are counted", lambda: envoy.read(shop).traffic == Traffic(seen.requests, 0, 0))


def test_every_change_is_done_at_once_also_in_a_row(
    envoy: EnvoyRouter, shop: Backend, apps: Backends, load: Callable[..., Load]
) -> None:
    """With a request on each that lasts, both stay known, and a switch is a change of their states alone."""
    one, two = apps.start("v1-1"), apps.start("v2-2")
    envoy.write(shop, (one, two), 1)
    traffic = load(shop.listen, slow_gets=6, slow_get_ms=2500)
    eventually("two are on each", lambda: all(number >= 2 for number in envoy.read(shop).busy.values()))
    for _ in range(10):
        for each in (one, two):
            envoy.write(shop, (each,), 1)
            assert {get(shop, "/")[1] for _ in range(4)} == {each.release}
    assert set(traffic.finish().by_outcome) == {"ok"}


@pytest.mark.parametrize("then", ["before", "after"])
def test_envoy_killed_in_the_middle_of_a_switch(envoy: EnvoyRouter, shop: Backend, apps: Backends, then: str) -> None:
    old, new = apps.start("v1-1"), apps.start("v2-2")
    envoy.write(shop, (old,), 1)
    if then == "before":
        kill(envoy)
    with before_step(12, lambda: kill(envoy)) as killed, suppress(Exception):
        envoy.write(shop, (new,), 1)
    assert killed
    assert ids(envoy.read(shop).members) in (ids([old]), ids([new]))
    assert get(shop, "/")[0] == 200
    envoy.write(shop, (new,), 1)
    assert ids(envoy.read(shop).members) == ids([new])
    assert get(shop, "/") == (200, "v2-2")


def test_another_listen_cuts_nobody(envoy: EnvoyRouter, shop: Backend, apps: Backends, load: Callable[..., Load]) -> None:
    serving = [apps.start("v1-1")]
    envoy.write(shop, serving, 1)
    traffic = load(shop.listen, client="naive", slow_gets=4, slow_get_ms=800, get_ka=50)
    eventually("four are in flight", lambda: envoy.read(shop).busy[serving[0].instance] >= 4)
    both = replace(shop, listen=shop.listen.replace("127.0.0.1", "*"))
    envoy.write(both, serving, 1)
    eventually("100 requests are answered", lambda: traffic.counts.requests > 100)
    assert set(traffic.finish().by_outcome) == {"ok"}


# -- what reaches whom -----------------------------------------------------------------------------------------------------


def get(backend: Backend, path: str, **headers: str) -> tuple[int | None, str | None]:
    """The status, None when the answer broke off, and who answered."""
    connection = http.client.HTTPConnection(*backend.listen.split(":"), timeout=60)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("X-Version")
    except (http.client.HTTPException, OSError):
        return None, None
    finally:
        connection.close()


def test_a_preview_by_its_header_alone_that_is_written_first(envoy: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    main = replace(shop, preview=Preview(header="X-Preview: 1"))
    preview = main.preview_backend
    assert preview is not None
    new = apps.start("v2-2")
    envoy.write(preview, (new,), 1)
    envoy.write(main, (), 1)
    assert get(main, "/")[0] == 503
    assert get(main, "/", X_Preview="1") == (200, "v2-2")


def test_a_tunnel_is_told_from_a_request(envoy: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    old, new = apps.start("v1-1"), apps.start("v2-2")
    envoy.write(shop, (old,), 1)
    with WebSocket(shop.listen, "/ws") as spoken:
        assert spoken.echo(b"one") == b"one"
        assert envoy.read(shop).tunnels == {old.instance: 1}
        envoy.write(shop, (new,), 1)
        seen = envoy.read(shop)
        assert (seen.draining, seen.tunnels) == ({old.instance: 1}, {old.instance: 1})
    eventually("nothing is in flight", lambda: envoy.read(shop).draining == {old.instance: 0})
    assert envoy.read(shop).tunnels == {}
    eventually("it is counted", lambda: envoy.read(shop).traffic == Traffic(1, 0, 0))


# -- what is counted -------------------------------------------------------------------------------------------------------


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    made = ScriptedServer()
    yield made
    made.stop()


APPLICATIONS = {"/500": 500, "/502": 502, "/503": 503, "/504": 504}
MADE_UP = {"/reset": 503, "/nothing": 503, "/nonsense": 502, "/cut": None}


def test_answers_that_envoy_made_up_are_lost_and_those_of_the_application_are_errors(
    envoy: EnvoyRouter, shop: Backend, scripted: ScriptedServer
) -> None:
    one = replace(member(0), address=scripted.address)
    envoy.write(shop, (one,), 1)
    for path, status in {**APPLICATIONS, **MADE_UP, "/200": 200, "/404": 404}.items():
        assert get(shop, path)[0] == status, path
    assert len(scripted.heads) == 10, "what was sent is never sent again"
    eventually("all are counted", lambda: envoy.read(shop).traffic == Traffic(10, 4, 4))
    assert envoy.read(shop).by_release == {"v1-1": Traffic(10, 4, 4)}

    envoy.write(shop, (replace(member(1, "v2-2"), address=f"127.0.0.1:{free_port()}"),), 1)
    assert get(shop, "/200")[0] == 503, "refused"
    envoy.write(shop, (), 1)
    assert get(shop, "/200")[0] == 503, "nobody there"
    eventually("all are counted", lambda: envoy.read(shop).traffic == Traffic(12, 6, 4))
    assert envoy.read(shop).by_release == {"v1-1": Traffic(10, 4, 4), "v2-2": Traffic(1, 1, 0)}

    kill(envoy)
    assert envoy.read(shop).traffic in (None, Traffic(0, 0, 0)), "another process counts anew"


def test_a_member_that_refuses_is_passed_over(envoy: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    envoy.write(shop, (apps.start("v1-1"), replace(member(9), address=f"127.0.0.1:{free_port()}")), 1)
    assert [get(shop, "/")[0] for _ in range(20)] == [200] * 20
    eventually("all are counted", lambda: envoy.read(shop).traffic == Traffic(20, 0, 0))


def test_a_client_that_goes_away_is_nobodys_fault(envoy: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    there = apps.start("v1-1")
    envoy.write(shop, (there,), 1)
    host, _, port = shop.listen.rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"GET /?ms=60000 HTTP/1.1\r\nHost: shop\r\n\r\n")
        eventually("it is in flight", lambda: envoy.read(shop).busy[there.instance] == 1)
    eventually("it is over", lambda: envoy.read(shop).busy[there.instance] == 0)
    assert get(shop, "/")[0] == 200
    eventually("it is counted", lambda: envoy.read(shop).traffic == Traffic(1, 0, 0))


def test_a_client_cannot_tell_envoy_what_to_do(envoy: EnvoyRouter, shop: Backend, scripted: ScriptedServer) -> None:
    envoy.write(shop, (replace(member(0), address=scripted.address),), 1)
    orders = {"X_Envoy_Retry_On": "5xx", "X_Envoy_Max_Retries": "5", "X_Envoy_Upstream_Rq_Timeout_Ms": "1"}
    assert get(shop, "/500", **orders)[0] == 500
    (head,) = scripted.heads
    assert b"x-envoy" not in head.lower()
