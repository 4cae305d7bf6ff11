"""nginx as a router, and the clients of a service: forwarded headers, limits, protocols, on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.nginx import open_folder, owned_router
from tidegate.core.routing import Backend
from tidegate.ports import Router
from tidegate.testing.router_client_contract import MakeRouter, RouterClientContract


@pytest.fixture
def home() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


class TestOwnedNginxClients(RouterClientContract):
    checks_health = False
    speaks_h2c = False

    @pytest.fixture
    def make_router(self, home: Path) -> Iterator[MakeRouter]:
        with ExitStack() as stack:

            def make(**options: Any) -> Router:
                return stack.enter_context(owned_router(home, **options))

            yield make

    @pytest.fixture
    def backend(self, shop: Backend) -> Backend:
        return shop
