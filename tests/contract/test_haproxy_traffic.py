"""HAProxy as a router, with traffic: what is lost (nothing), and what is counted."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends, backends, loads
from support.haproxy import Standing, kill, killed_before_step, owned_router, short_folder, standing_ones
from support.need import program
from tidegate.core.routing import Backend, Preview
from tidegate.drivers.routers.haproxy import HAProxyRouter
from tidegate.testing.router_contract import member
from tidegate.testing.router_traffic_contract import RouterTrafficContract, until
from traffic import Load

SHOP = Backend("shop")


@pytest.fixture
def owned() -> Iterator[HAProxyRouter]:
    with short_folder() as home, owned_router(home) as router:
        yield router


@pytest.fixture
def standing() -> Iterator[Callable[..., Standing]]:
    with short_folder() as home, standing_ones(home) as make:
        yield make


@pytest.fixture
def shop() -> Backend:
    return Backend("shop", f"127.0.0.1:{free_port()}")


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Backends]:
    program("gcc")
    with backends(tmp_path / "counters") as made:
        yield made


@pytest.fixture
def load() -> Iterator[Callable[..., Load]]:
    with loads() as make:
        yield make


class TestOwned(RouterTrafficContract):
    """With reloads in the middle."""

    @pytest.fixture
    def router(self, owned: HAProxyRouter) -> HAProxyRouter:
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
    def kill_proxy(self, owned: HAProxyRouter) -> Callable[[], None]:
        return lambda: kill(owned)

    @pytest.fixture
    def preview(self) -> Preview:
        return Preview(f"127.0.0.1:{free_port()}", "X-Shop-Preview: blue")

    @pytest.fixture
    def disturb(self, owned: HAProxyRouter) -> Callable[[int], None]:
        return lambda number: os.kill(owned.pid or 0, signal.SIGUSR2) if number in (5, 10, 15) else None


class TestAdopted(RouterTrafficContract):
    @pytest.fixture
    def there(self, standing: Callable[..., Standing]) -> Standing:
        return standing()

    @pytest.fixture
    def router(self, there: Standing) -> HAProxyRouter:
        return there.router

    @pytest.fixture
    def backend(self) -> Backend:
        return SHOP

    @pytest.fixture
    def address(self, there: Standing) -> str:
        return f"127.0.0.1:{there.port}"

    @pytest.fixture
    def apps(self, apps: Backends) -> Backends:
        return apps

    @pytest.fixture
    def load(self, load: Callable[..., Load]) -> Callable[..., Load]:
        return load

    @pytest.fixture
    def preview(self) -> Preview:
        return Preview(header="X-Shop-Preview: blue")

    @pytest.fixture(params=["header"])
    def way(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def kill_proxy(self, there: Standing) -> Callable[[], None]:
        return there.kill


def test_counters_tell_lost_requests_from_the_applications_errors(
    owned: HAProxyRouter, shop: Backend, apps: Backends, load: Callable[..., Load]
) -> None:
    good, bad = apps.start("v1-1"), apps.start("v2-2", ERROR_RATIO="1")
    owned.write(shop, (good, bad), 1)
    traffic = load(shop.listen, get=40)
    until(lambda: traffic.counts.errors > 20)
    errors = traffic.finish()
    seen = owned.read(shop).traffic
    assert seen is not None
    assert (seen.requests, seen.lost, seen.errors) == (errors.requests, 0, errors.errors)

    owned.write(shop, (), 1)
    traffic = load(shop.listen, get=40)
    until(lambda: traffic.counts.lost > 20)
    refused = traffic.finish()
    after = owned.read(shop).traffic
    assert after is not None
    assert after.lost == refused.lost
    assert after.errors == errors.errors


class Scripted:
    """A server whose answer is told by the path; `/502` is an answer of its own, the words are answers that go wrong."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                self._answer(line, line.recv(65536).split()[1].decode())

    def _answer(self, line: socket.socket, path: str) -> None:
        head = b"HTTP/1.1 %s X\r\nConnection: close\r\nContent-Length: 10\r\n\r\n"
        if path == "/silence":
            self._open.append(line)  # until the proxy gives it up
            return
        if path == "/reset":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif path == "/nonsense":
            line.sendall(b"what?\r\n\r\n")
        elif path == "/cut":
            line.sendall(head % b"200" + b"half")
        elif path != "/nothing":
            line.sendall(head % path[1:].encode() + b"0123456789")
        line.close()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for line in self._open:
            line.close()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.stop()


def get(port: int, path: str) -> int | None:
    """The status; None when the answer broke off."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (http.client.HTTPException, OSError):
        return None
    finally:
        connection.close()


APPLICATIONS = {"/500": 500, "/502": 502, "/503": 503, "/504": 504}
MADE_UP = {"/reset": 502, "/nothing": 502, "/nonsense": 502, "/silence": 504, "/cut": None}


def counted(router: HAProxyRouter) -> tuple[int, int, int]:
    """Requests, lost, errors."""
    seen = router.read(SHOP).traffic
    assert seen is not None
    return seen.requests, seen.lost, seen.errors


def test_answers_that_haproxy_made_up_are_lost_and_those_of_the_application_are_errors(
    standing: Callable[..., Standing], scripted: Scripted
) -> None:
    there = standing(timeout="300ms")
    failing, gone, good = (replace(member(number), address=scripted.address) for number in range(3))
    there.router.write(SHOP, (failing,), 1)
    for path, status in ({"/200": 200, "/404": 404} | APPLICATIONS | MADE_UP).items():
        assert get(there.port, path) == status
    assert counted(there.router) == (11, 5, 4)

    there.router.write(SHOP, (replace(gone, address=f"127.0.0.1:{free_port()}"),), 1)
    assert there.router.read(SHOP).draining == {}, "the failing one was deleted, and its counters with it"
    assert counted(there.router) == (11, 5, 4)
    assert get(there.port, "/200") == 503, "refused"
    assert counted(there.router) == (12, 6, 4)

    there.router.write(SHOP, (), 1)
    assert get(there.port, "/200") == 503, "no server"
    assert counted(there.router) == (13, 7, 4)

    there.router.write(SHOP, (failing, good), 1)
    for path in (*APPLICATIONS, *MADE_UP):
        get(there.port, path)
    assert counted(there.router) == (22, 12, 8), "a name that came again"
    there.router.write(SHOP, (good,), 1)
    there.router.write(SHOP, (good,), 1)
    assert counted(there.router) == (22, 12, 8)

    there.reload()
    assert counted(there.router) == (0, 0, 0), "another process counts anew"
    get(there.port, "/reset")
    assert counted(there.router) == (1, 1, 0), "what the process before counted is no part of it"
    get(there.port, "/503")
    there.router.write(SHOP, (failing,), 1)
    assert counted(there.router) == (2, 1, 1)


def test_errors_are_kept_when_tidegate_is_killed_around_the_deletion(
    standing: Callable[..., Standing], scripted: Scripted
) -> None:
    there = standing()
    failing, good = (replace(member(number), address=scripted.address) for number in range(2))
    for step in range(1, 100):
        there.router.write(SHOP, (failing,), 1)
        before = counted(there.router)
        assert get(there.port, "/500") == 500
        after = (before[0] + 1, before[1], before[2] + 1)
        crashed = killed_before_step(step, lambda: there.router.write(SHOP, (good,), 1))
        assert counted(there.router) == after
        there.router.write(SHOP, (good,), 1)
        assert counted(there.router) == after
        if not crashed:
            break
    assert step > 15, "there are more steps than that"
