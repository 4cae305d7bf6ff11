"""HAProxy towards the clients of a service, and with instances that become unhealthy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.haproxy import owned_router
from tidegate.core.routing import Backend
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.testing.router_client_contract import RouterClientContract


class TestHAProxyClients(RouterClientContract):
    @pytest.fixture
    def make_router(self, home: Path) -> Iterator[Callable[..., HAProxyRouter]]:
        with ExitStack() as stack:
            yield lambda **options: stack.enter_context(owned_router(home, **options))

    @pytest.fixture
    def backend(self, shop: Backend) -> Backend:
        return shop
