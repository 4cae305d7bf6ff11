"""Real parts for several exams: HAProxy, owned and standing there; Envoy; applications, and traffic for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends, backends, loads
from support.envoy import envoy_router
from support.haproxy import ExternalHAProxy, external_haproxies, owned_router, short_folder
from support.prerequisites import program
from tidegate.core.routing import Backend
from tidegate.drivers.routers.envoy.driver import EnvoyRouter
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from traffic import Load


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short name."""
    with short_folder() as folder:
        yield folder


@pytest.fixture
def owned(home: Path) -> Iterator[HAProxyRouter]:
    """A router with a HAProxy of its own."""
    with owned_router(home) as router:
        yield router


@pytest.fixture
def standing(home: Path) -> Iterator[Callable[..., ExternalHAProxy]]:
    """Makes a HAProxy that somebody else runs."""
    with external_haproxies(home) as make:
        yield make


@pytest.fixture
def envoy(home: Path) -> Iterator[EnvoyRouter]:
    """A router with an Envoy of its own."""
    with envoy_router(home) as router:
        yield router


@pytest.fixture
def shop() -> Backend:
    """A backend at a free address."""
    return Backend("shop", f"127.0.0.1:{free_port()}")


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Backends]:
    """Applications that die at once when they are told to stop."""
    program("gcc")
    with backends(tmp_path / "counters") as made:
        yield made


@pytest.fixture
def load() -> Iterator[Callable[..., Load]]:
    """Makes traffic."""
    with loads() as make:
        yield make
