"""HAProxy as a router, with traffic: what is lost (nothing), and long-lived connections."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from processes import free_port
from support.backends import Backends
from support.haproxy import ExternalHAProxy, kill
from support.wait import eventually
from tidegate.core.routing import Backend, Preview
from tidegate.drivers.routers.haproxy import sessions
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.testing.router_traffic_contract import RouterTrafficContract
from tidegate.testing.websocket import WebSocket
from traffic import Load

SHOP = Backend("shop")


class TestOwnedHAProxyTraffic(RouterTrafficContract):
    """With reloads in the middle."""

    @pytest.fixture
    def router(self, owned: HAProxyRouter) -> HAProxyRouter:
        return owned

    @pytest.fixture
    def backend(self, shop: Backend) -> Backend:
        return shop

    @pytest.fixture
    def kill_proxy(self, owned: HAProxyRouter) -> Callable[[], None]:
        return lambda: kill(owned)

    @pytest.fixture
    def preview(self) -> Preview:
        return Preview(f"127.0.0.1:{free_port()}", "X-Shop-Preview: blue")

    @pytest.fixture
    def disturb(self, owned: HAProxyRouter) -> Callable[[int], None]:
        def act(number: int) -> None:
            if number in (5, 10, 15):
                os.kill(eventually("the master's process id is known", lambda: owned.pid), signal.SIGUSR2)

        return act


class TestAdoptedHAProxyTraffic(RouterTrafficContract):
    @pytest.fixture
    def there(self, standing: Callable[..., ExternalHAProxy]) -> ExternalHAProxy:
        return standing()

    @pytest.fixture
    def router(self, there: ExternalHAProxy) -> HAProxyRouter:
        return there.router

    @pytest.fixture
    def backend(self) -> Backend:
        return SHOP

    @pytest.fixture
    def address(self, there: ExternalHAProxy) -> str:
        return f"127.0.0.1:{there.port}"

    @pytest.fixture
    def preview(self) -> Preview:
        return Preview(header="X-Shop-Preview: blue")

    @pytest.fixture(params=["header"])
    def way(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def kill_proxy(self, there: ExternalHAProxy) -> Callable[[], None]:
        return there.kill


def test_websockets_are_told_from_requests(
    owned: HAProxyRouter, shop: Backend, apps: Backends, load: Callable[..., Load], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = apps.start("v1-1"), apps.start("v2-2")
    owned.write(shop, (old,), 1)
    with WebSocket(shop.listen, "/ws") as one, WebSocket(shop.listen, "/ws") as other:
        assert one.echo(b"1") == b"1"
        traffic = load(shop.listen, slow_gets=3, slow_get_ms=5000, slow_posts=2, slow_post_ms=5000)
        eventually("seven are in flight", lambda: owned.read(shop).busy.get(old.instance) == 7)
        assert owned.read(shop).tunnels == {}, "nobody drains: not looked for"
        owned.write(shop, (new,), 1)
        seen = owned.read(shop)
        assert (seen.draining, seen.tunnels[old.instance]) == ({old.instance: 7}, 2)
        monkeypatch.setattr(sessions, "MAX_BYTES", 1000)
        assert owned.read(shop).tunnels == {}, "too many to look through"
        monkeypatch.undo()
        eventually("the requests are over", lambda: owned.read(shop).draining == {old.instance: 2})
        assert other.echo(b"2") == b"2"
    eventually("the WebSockets are closed", lambda: not any(owned.read(shop).draining.values()))
    counts = traffic.finish()
    assert counts.by_outcome == {"ok": counts.requests}
