"""Envoy towards the clients of a service, and with instances that become unhealthy."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends
from support.envoy import envoy_router
from support.wait import eventually
from tidegate.core.container import Health
from tidegate.core.routing import Backend, BackendOptions, Timeouts
from tidegate.drivers.routers.envoy import endpoints
from tidegate.drivers.routers.envoy.config import EnvoyFiles
from tidegate.drivers.routers.envoy.driver import EnvoyOptions, EnvoyRouter
from tidegate.testing.router_client_contract import RouterClientContract, connect, get
from tidegate.testing.sample_instance import HEALTH_PATH, SampleInstance
from tidegate.testing.websocket import WebSocket


class TestEnvoyClients(RouterClientContract):
    @pytest.fixture
    def make_router(self, home: Path) -> Iterator[Callable[..., EnvoyRouter]]:
        with ExitStack() as stack:
            yield lambda **options: stack.enter_context(envoy_router(home, **options))

    @pytest.fixture
    def backend(self, shop: Backend) -> Backend:
        return shop


# -- changes of a running Envoy --------------------------------------------------------------------------------------------


def test_changed_settings_take_effect_or_need_a_restart(envoy: EnvoyRouter, home: Path, shop: Backend) -> None:
    with SampleInstance() as instance:
        timeouts = BackendOptions(timeouts=Timeouts(headers_seconds=7.0))
        envoy.write(replace(shop, options=timeouts), (instance.member,), 1)
        assert get(shop.listen, headers={"X-Forwarded-For": "192.0.2.1"}) == 200
        assert instance.requests[-1].headers["x-forwarded-for"] == "127.0.0.1"
        exporter, pid = free_port(), envoy.pid
        changed = EnvoyOptions(
            directory=home / "envoy", exporter=f"127.0.0.1:{exporter}", threads=3, trusted_proxies=["127.0.0.0/8"]
        )
        router = EnvoyRouter(changed, "test")
        assert router.read(shop).members == (instance.member,)
        assert router.pid == pid
        eventually(
            "trusted proxies name their client",
            lambda: (
                get(shop.listen, headers={"X-Forwarded-For": "192.0.2.1"}) == 200
                and instance.requests[-1].headers["x-forwarded-for"] == "192.0.2.1, 127.0.0.1"
            ),
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{exporter}/metrics", timeout=60) as response:
            assert response.status == 200
        assert '"request_headers_timeout": "7.000s"' in (home / "envoy" / "listeners.json").read_text()
        running, settings = router.check()
        assert (running.status, settings.status) == ("ok", "warning")
        assert settings.result == "need a restart of Envoy: threads"


def test_changed_health_checks_forget_no_request_in_flight(
    envoy: EnvoyRouter, home: Path, shop: Backend, apps: Backends
) -> None:
    """They are of another cluster of Envoy; the earlier one ends when its last request does."""
    old, new = apps.start("v1-1"), apps.start("v2-2")
    envoy.write(shop, (old,), 1)
    health = Health(path="/", headers=(("X-Probe", "100%"),))
    by_request = replace(shop, options=BackendOptions(health=health, timeouts=Timeouts(headers_seconds=7.0)))
    with WebSocket(shop.listen, "/ws") as spoken:
        envoy.write(by_request, (old,), 1)
        assert envoy.read(shop).busy == {old.instance: 1}
        envoy.write(by_request, (new,), 1)
        assert envoy.read(shop).draining == {old.instance: 1}
        assert spoken.echo(b"one") == b"one"
    eventually("nothing is in flight", lambda: envoy.read(shop).draining == {old.instance: 0})
    envoy.write(by_request, (new,), 1)
    assert envoy.read(shop).draining == {}
    assert len(endpoints.read_resources(EnvoyFiles(home / "envoy").clusters)) == 1


def test_a_slow_health_path_is_not_unhealthy(envoy: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    """Envoy ends a request of a health check with the idle timeout of the instance's connections."""
    health = Health(path="/?ms=2000", timeout_seconds=5.0)
    envoy.write(replace(shop, options=BackendOptions(health=health)), (apps.start("v1-1"),), 1)
    assert envoy.read(shop).down == frozenset(), "it was checked before the write ended"


def test_slow_clients_hold_up_no_drain(envoy: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    """Clients that send no whole request, and idle ones, are on no instance; Envoy has no reload that they could delay."""
    old, new = apps.start("v1-1"), apps.start("v2-2")
    other = Backend("other", f"127.0.0.1:{free_port()}")
    envoy.write(shop, (old,), 1)
    envoy.write(other, (old,), 1)
    with ExitStack() as stack:
        stack.enter_context(WebSocket(other.listen, "/ws"))
        for number in range(10):
            client = stack.enter_context(closing(connect((shop, other)[number % 2].listen)))
            client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nX-Slow: ")
        idle = stack.enter_context(closing(connect(shop.listen)))
        idle.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
        assert idle.recv(15).startswith(b"HTTP/1.1 200")
        for moved in (new, old, new):
            envoy.write(replace(shop, listen=f"127.0.0.1:{free_port()}"), (moved,), 1)
            assert envoy.read(shop).draining == {}


def test_what_was_unhealthy_is_so_after_a_restart(envoy: EnvoyRouter, shop: Backend) -> None:
    checked = replace(shop, options=BackendOptions(health=Health(path=HEALTH_PATH)))
    with SampleInstance(1) as good, SampleInstance(2) as bad:
        envoy.write(checked, (good.member, bad.member), 1)
        bad.become_sick()
        eventually("it is down", lambda: envoy.read(shop).down == {bad.member.instance})
        pid = envoy.pid
        envoy.stop_process()
        eventually("Envoy has ended", lambda: envoy.pid != pid)
        assert envoy.read(shop).down == {bad.member.instance}
        assert [get(shop.listen) for _ in range(10)] == [200] * 10
        assert bad.requests == []
