"""An owned HAProxy that is reloaded: settings take effect, counters continue, and nobody waits for old clients."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends
from support.haproxy import kill, owned_router, reload
from support.wait import eventually
from tidegate.core.container import Health
from tidegate.core.routing import Backend, BackendOptions, BackendProtocol, Timeouts, split_listen
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.testing.router_client_contract import get
from tidegate.testing.router_contract import ids, member
from tidegate.testing.sample_instance import HEALTH_PATH, SampleInstance
from tidegate.testing.websocket import WebSocket

OPTIONS = BackendOptions(
    Health(path="/it's?a=1%20", host="shop.example", headers=(("X-Key", 'a "b" 100% #'),), expect=((200, 204), (301, 301))),
    Timeouts(12.5, 7.0, 3.0),
)


def configuration(home: Path) -> str:
    """The file of the owned HAProxy."""
    return (home / "haproxy" / "haproxy.cfg").read_text()


@pytest.mark.parametrize("setting", [{"log": "off"}, {"max_header_bytes": 65536}, {"hard_stop_after_seconds": 60}])
@pytest.mark.parametrize("by", ["a read", "a write"])
def test_a_changed_setting_takes_effect(home: Path, shop: Backend, setting: dict[str, object], by: str) -> None:
    exporter = f"127.0.0.1:{free_port()}"
    with owned_router(home, exporter=exporter) as before:
        before.write(shop, (member(0),), 1)
        workers = before.workers()
        with owned_router(home, exporter=exporter, **setting) as after:
            after.read(shop) if by == "a read" else after.write(shop, (member(0),), 1)
            assert not set(after.workers()) & set(workers), "it was reloaded"
            workers = after.workers()
            after.read(shop)
            after.write(shop, (member(1),), 1)
            assert after.workers() == workers, "once"
            assert ids(after.read(shop).members) == ids([member(1)])


def test_options_of_a_backend_take_effect_and_outlive_the_proxy(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, (member(0),), 1)
    workers = owned.workers()
    owned.write(replace(shop, options=OPTIONS), (member(0),), 1)
    assert owned.workers() != workers
    wanted = (
        "timeout server 12500ms",
        "timeout client 12500ms",
        "timeout http-keep-alive 7000ms",
        "timeout http-request 3000ms",
        "http-check expect status 200-204,301-301",
        "hdr Host 'shop.example'",
    )
    other = Backend("other", f"127.0.0.1:{free_port()}")
    for act in (lambda: None, lambda: kill(owned), lambda: owned.write(other, (), 1)):
        act()
        assert ids(owned.read(shop).members) == ids([member(0)])
        assert [line for line in wanted if line not in configuration(home)] == []


def test_a_health_check_is_sent_as_it_is_defined(owned: HAProxyRouter, shop: Backend) -> None:
    with SampleInstance(1) as instance:
        owned.write(replace(shop, options=OPTIONS), (instance.member,), 1)
        request = eventually("it is checked", lambda: instance.requests and instance.requests[0])
        assert (request.method, request.path) == ("GET", OPTIONS.health.path)
        assert (request.headers["host"], request.headers["x-key"]) == ("shop.example", 'a "b" 100% #')
    for host in ("127.0.0.1", "::1"):
        with SampleInstance(2, host=host) as instance:
            health = Health(path="/other")
            owned.write(replace(shop, options=BackendOptions(health)), (instance.member,), 1)
            request = eventually("it is checked", lambda instance=instance: instance.requests and instance.requests[0])
            assert request.headers["host"] == instance.member.address


def test_a_reload_for_one_service_leaves_the_counters_of_another(owned: HAProxyRouter, shop: Backend) -> None:
    with SampleInstance(1) as one, SampleInstance(2, "v2-2") as two:
        owned.write(shop, (one.member, two.member), 1)
        assert {get(shop.listen) for _ in range(6)} == {200}
        assert get(shop.listen, "/reset") == 502
        before = eventually("all are counted", lambda: _counted(owned, shop, 7))
        for _ in range(2):
            owned.write(Backend(f"other-{free_port()}", f"127.0.0.1:{free_port()}"), (), 1)
            assert owned.read(shop).traffic == before.traffic
            assert owned.read(shop).by_release == before.by_release
        owned.write(shop, (two.member,), 1)
        assert {get(shop.listen) for _ in range(3)} == {200}
        after = eventually("all are counted", lambda: _counted(owned, shop, 10))
        assert after.traffic.lost == before.traffic.lost == 1
        assert after.by_release["v1-1"] == before.by_release["v1-1"]
        assert after.by_release["v2-2"].requests == before.by_release["v2-2"].requests + 3


def _counted(router: HAProxyRouter, backend: Backend, requests: int):  # type: ignore[no-untyped-def]
    seen = router.read(backend)
    return seen if seen.traffic is not None and seen.traffic.requests == requests else None


@contextmanager
def slow_upload(listen: str) -> Iterator[socket.socket]:
    """A client that has sent the first byte of its body."""
    with socket.create_connection(("127.0.0.1", split_listen(listen)[1]), timeout=60) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000\r\n\r\nx")
        yield client


def test_slow_clients_of_one_service_hold_up_no_other_through_three_reloads(
    owned: HAProxyRouter, shop: Backend, apps: Backends
) -> None:
    """Ten uploads and a WebSocket stay open on an instance of one service, in three old processes."""
    other = Backend("other", f"127.0.0.1:{free_port()}")
    slow, ours, theirs = apps.start("v1-1"), apps.start("v2-2"), apps.start("v1-1")
    owned.write(shop, (slow,), 1)
    owned.write(other, (theirs,), 1)
    with ExitStack() as clients:
        spoken = clients.enter_context(WebSocket(shop.listen, "/ws"))
        for number in range(10):
            clients.enter_context(slow_upload(shop.listen))
            if number % 4 == 1:
                eventually("it has arrived", lambda: sum(filter(None, owned.read(shop).busy.values())) > 0)
                reload(owned)
        new = apps.start("v2-2")
        owned.write(other, (new,), 1)
        eventually("nobody drains", lambda: not owned.read(other).draining)
        apps.kill(theirs)
        owned.write(shop, (ours,), 1)
        seen = eventually("all are counted", lambda: (s := owned.read(shop)).draining == {slow.instance: 11} and s)
        assert seen.tunnels == {slow.instance: 1}
        assert spoken.echo(b"still") == b"still"
        apps.kill(slow)
        eventually("nobody drains", lambda: not owned.read(shop).draining)


def test_an_instance_that_is_down_and_leaves_takes_no_new_requests(owned: HAProxyRouter, shop: Backend) -> None:
    """HAProxy shows it as down, whether it is drained or not."""
    checked = replace(shop, options=BackendOptions(Health(path=HEALTH_PATH)))
    with SampleInstance(1) as good, SampleInstance(2) as bad, SampleInstance(3) as slow:
        owned.write(checked, (good.member, bad.member, slow.member), 1)
        bad.become_sick()
        eventually("it is down", lambda: owned.read(checked).down == ids([bad.member]))
        owned.write(checked, (good.member,), 1)
        seen = owned.read(checked)
        assert (ids(seen.members), seen.down, seen.draining) == (ids([good.member]), frozenset(), {})


def test_a_protocol_that_changes_reaches_all_servers(owned: HAProxyRouter, home: Path, shop: Backend) -> None:
    owned.write(shop, (member(0),), 1)
    owned.write(replace(shop, options=BackendOptions(protocol=BackendProtocol.H2C)), (member(0), member(1)), 1)
    lines = [line for line in configuration(home).splitlines() if line.strip().startswith("server v")]
    assert len(lines) == 4
    assert all("proto h2" in line for line in lines)
