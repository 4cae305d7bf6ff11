"""Slow clients of one service: no other service, no exporter and no change of a route notices them."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from processes import free_port
from support import envoy, haproxy
from support.wait import eventually
from tidegate.core.routing import Backend, BackendOptions, Timeouts, split_listen
from tidegate.drivers.routers.envoy.driver import EnvoyRouter
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.ports import CheckStatus, Router
from tidegate.testing.router_client_contract import get
from tidegate.testing.router_contract import ids
from tidegate.testing.sample_instance import SampleInstance

LIMIT, CLIENTS = 20, 1000
FILES = 800  # that Envoy may open: fewer than there are slow clients
#: Longer than the test takes to look at the other service, shorter than anybody waits for the end of the attack.
SLOW = BackendOptions(timeouts=Timeouts(headers_seconds=20.0, response_seconds=20.0))


@contextmanager
def slow_clients(listen: str, sent: bytes) -> Iterator[None]:
    """Clients that have sent the beginning of a request, as far as the proxy accepts them."""
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.socket())
            client.settimeout(60)
            client.connect(("127.0.0.1", split_listen(listen)[1]))
            with suppress(OSError):  # the proxy has closed it
                client.sendall(sent)
        yield


@contextmanager
def owned_haproxy(home: Path, exporter: int) -> Iterator[HAProxyRouter]:
    with haproxy.owned_router(home, exporter=f"127.0.0.1:{exporter}", max_connections=LIMIT) as router:
        yield router


@contextmanager
def owned_envoy(home: Path, exporter: int) -> Iterator[EnvoyRouter]:
    """Without a limit, which it has by the number of files that it may open: without files it ends."""
    with envoy.envoy_router(home, exporter) as router:
        yield router


@pytest.mark.parametrize("sent", [b"GET / HT", b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000\r\n\r\nx"])
@pytest.mark.parametrize("make", [owned_haproxy, owned_envoy])
def test_slow_clients_of_one_service_take_nothing_from_another(
    home: Path, shop: Backend, make: Callable[[Path, int], Iterator[Router]], sent: bytes
) -> None:
    other, slow, exporter = Backend("other", f"127.0.0.1:{free_port()}"), replace(shop, options=SLOW), free_port()
    with SampleInstance(1) as theirs, SampleInstance(2) as new, make(home, exporter) as router:
        router.write(slow, (theirs.member,), 1)
        if isinstance(router, EnvoyRouter):
            resource.prlimit(router.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
        router.write(other, (theirs.member,), 1)
        with slow_clients(slow.listen, sent):
            assert [get(other.listen) for _ in range(5)] == [200] * 5
            assert get(f"127.0.0.1:{exporter}", "/metrics") == 200
            router.write(other, (new.member,), 2)
            assert ids(router.read(other).members) == ids([new.member])
            assert [get(other.listen) for _ in range(5)] == [200] * 5
        eventually("the service answers again", lambda: answers(slow.listen))


def answers(listen: str) -> bool:
    with suppress(OSError):
        return get(listen) == 200
    return False


@pytest.mark.parametrize("make", [owned_haproxy, owned_envoy])
def test_a_check_says_when_the_files_are_too_few(
    home: Path, shop: Backend, make: Callable[[Path, int], Iterator[Router]]
) -> None:
    with make(home, free_port()) as router:
        router.write(shop, (), 1)
        assert [one.status for one in router.check()] == [CheckStatus.OK]
        resource.prlimit(router.pid, resource.RLIMIT_NOFILE, (660, 660))
        found = router.check()[-1]
        assert found.status is CheckStatus.WARNING
        assert found.result.startswith("660 open files are enough for 1 connections at each of 1 addresses, not ")
