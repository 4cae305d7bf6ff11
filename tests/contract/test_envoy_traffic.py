"""Envoy as a router, with traffic: what is lost (nothing), and what is counted."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from processes import free_port
from support.backends import Backends, backends
from support.envoy import before_step, envoy_router, kill
from support.haproxy import short_folder, until
from support.need import program
from tidegate.core.routing import Backend, Member, Preview, Traffic
from tidegate.drivers.routers.envoy import EnvoyRouter
from tidegate.testing.router_contract import ids, member
from traffic import Load


@pytest.fixture
def home() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def owned(home: Path) -> Iterator[EnvoyRouter]:
    with envoy_router(home) as router:
        yield router


@pytest.fixture
def shop() -> Backend:
    return Backend("shop", f"127.0.0.1:{free_port()}")


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Backends]:
    program("gcc")
    with backends(tmp_path / "counters") as made:
        yield made


# -- nothing is lost -------------------------------------------------------------------------------------------------------


def switch(router: EnvoyRouter, backend: Backend, apps: Backends, serving: list[Member], release: str) -> None:
    """Replace the oldest; kill it with SIGKILL the moment the router says that nothing can reach it."""
    old = serving.pop(0)
    serving.append(apps.start(release))
    router.write(backend, serving, 1)
    while old.instance in (draining := router.read(backend).draining):
        if draining[old.instance] == 0:
            router.write(backend, serving, 1)
        time.sleep(0.002)
    apps.kill(old)


@pytest.mark.parametrize(("client", "switches"), [("naive", 35), ("checking", 20)])
def test_nothing_is_lost_over_switches(
    owned: EnvoyRouter, shop: Backend, apps: Backends, client: str, switches: int
) -> None:
    serving = [apps.start("v1-1") for _ in range(3)]
    owned.write(shop, serving, 1)
    rates = {"get_ka": 200, "get": 80, "post_ka": 60, "post": 30, "slow_gets": 3, "slow_posts": 3}
    load = Load(shop.listen, client=client, slow_get_ms=200, slow_post_ms=300, **rates)
    until(lambda: load.counts.requests > 100)
    for number in range(switches):
        switch(owned, shop, apps, serving, f"v2-{number}")
    seen = load.finish()
    assert seen.by_outcome == {"ok": seen.requests}
    assert seen.posts_sent == apps.posts()
    counted = owned.read(shop).traffic
    assert counted == Traffic(seen.requests, 0, 0)


def test_the_load_generator_sees_what_a_careless_switch_loses(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    """The control: without the drain, the same traffic is cut, so that the test above could fail."""
    serving = [apps.start("v1-1") for _ in range(2)]
    owned.write(shop, serving, 1)
    load = Load(shop.listen, slow_gets=8, slow_get_ms=500)
    until(lambda: load.counts.requests > 20)
    old = serving.pop(0)
    serving.append(apps.start("v2-2"))
    owned.write(shop, serving, 1)
    apps.kill(old)
    seen = load.finish()
    assert seen.lost > 0
    assert seen.requests > seen.lost


def test_draining_shows_requests_in_flight(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    old, new = apps.start("v1-1"), apps.start("v2-2")
    owned.write(shop, (old,), 1)
    load = Load(shop.listen, slow_gets=3, slow_get_ms=1500)
    until(lambda: owned.read(shop).busy.get(old.instance) == 3)
    owned.write(shop, (new,), 1)
    assert owned.read(shop).draining == {old.instance: 3}
    until(lambda: owned.read(shop).draining == {old.instance: 0})
    owned.write(shop, (new,), 1)
    assert owned.read(shop).draining == {}
    assert set(load.finish().by_outcome) == {"ok"}


def test_a_request_that_waits_for_a_connection_is_in_flight(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    """Its member listens and does not accept; so nothing is on it, and yet it may get a request at any moment."""
    new = apps.start("v2-2")
    with ExitStack() as held:
        full = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        client = held.enter_context(closing(http.client.HTTPConnection(*shop.listen.split(":"))))
        for filler in [held.enter_context(socket.socket()) for _ in range(4)]:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        old = replace(member(9), address=f"127.0.0.1:{full.getsockname()[1]}")
        owned.write(shop, (old,), 1)
        client.request("GET", "/")
        until(lambda: owned.read(shop).busy == {old.instance: 1})
        owned.write(shop, (new,), 1)
        assert owned.read(shop).draining == {old.instance: 1}
    until(lambda: owned.read(shop).draining == {old.instance: 0})


def test_a_whole_release_is_replaced_back_and_forth(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    old, new = [apps.start("v1-1") for _ in range(2)], [apps.start("v2-2") for _ in range(2)]
    owned.write(shop, old, 1)
    load = Load(shop.listen, get_ka=200, get=100, post_ka=50)
    until(lambda: load.counts.requests > 100)
    for number in range(30):
        owned.write(shop, (new, old)[number % 2], 1)
    seen = load.finish()
    assert seen.by_outcome == {"ok": seen.requests}
    assert seen.posts_sent == apps.posts()


def test_every_change_is_done_at_once_also_in_a_row(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    """With a request on each that lasts, both stay known, and a switch is a change of their states alone."""
    one, two = apps.start("v1-1"), apps.start("v2-2")
    owned.write(shop, (one, two), 1)
    load = Load(shop.listen, slow_gets=6, slow_get_ms=4000)
    until(lambda: all(number >= 2 for number in owned.read(shop).busy.values()))
    for _ in range(10):
        for each in (one, two):
            owned.write(shop, (each,), 1)
            assert {get(shop, "/")[1] for _ in range(4)} == {each.release}
    assert set(load.finish().by_outcome) == {"ok"}


def test_requests_are_shared_by_weight(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    light, heavy = apps.start("v1-1"), replace(apps.start("v2-2"), weight=9)
    owned.write(shop, (light, heavy), 1)
    answered = Counter(get(shop, "/")[1] for _ in range(400))
    assert 20 <= answered["v1-1"] <= 60, "a tenth is 40"
    assert answered.total() == 400


@pytest.mark.parametrize("then", ["before", "after"])
def test_envoy_killed_in_the_middle_of_a_switch(owned: EnvoyRouter, shop: Backend, apps: Backends, then: str) -> None:
    old, new = apps.start("v1-1"), apps.start("v2-2")
    owned.write(shop, (old,), 1)
    if then == "before":
        kill(owned)
    with before_step(12, lambda: kill(owned)) as killed, suppress(Exception):
        owned.write(shop, (new,), 1)
    assert killed
    assert ids(owned.read(shop).members) in (ids([old]), ids([new]))
    assert get(shop, "/")[0] == 200
    owned.write(shop, (new,), 1)
    assert ids(owned.read(shop).members) == ids([new])
    assert get(shop, "/") == (200, "v2-2")


def test_another_listen_cuts_nobody(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    serving = [apps.start("v1-1")]
    owned.write(shop, serving, 1)
    load = Load(shop.listen, client="naive", slow_gets=4, slow_get_ms=800, get_ka=50)
    until(lambda: owned.read(shop).busy[serving[0].instance] >= 4)
    both = replace(shop, listen=shop.listen.replace("127.0.0.1", "*"))
    owned.write(both, serving, 1)
    until(lambda: load.counts.requests > 100)
    assert set(load.finish().by_outcome) == {"ok"}


# -- what reaches whom -----------------------------------------------------------------------------------------------------


def get(backend: Backend, path: str, **headers: str) -> tuple[int | None, str | None]:
    """The status, None when the answer broke off, and who answered."""
    connection = http.client.HTTPConnection(*backend.listen.split(":"), timeout=10)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("X-Version")
    except (http.client.HTTPException, OSError):
        return None, None
    finally:
        connection.close()


def test_a_preview_at_its_own_address_and_by_its_header(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    main = replace(shop, preview=Preview(f"127.0.0.1:{free_port()}", "X-Shop-Preview: blue"))
    preview = main.previewed
    assert preview is not None
    old, new = apps.start("v1-1"), apps.start("v2-2")
    owned.write(main, (old,), 1)
    assert get(main, "/", X_Shop_Preview="blue") == (503, None), "nobody gets the wrong release by mistake"
    owned.write(preview, (new,), 1)
    assert get(main, "/") == (200, "v1-1")
    assert get(main, "/", x_shop_preview="blue") == (200, "v2-2")
    assert get(main, "/", X_Shop_Preview="green") == (200, "v1-1")
    assert get(preview, "/") == (200, "v2-2")
    assert ids(owned.read(main).members) == ids([old])
    assert ids(owned.read(preview).members) == ids([new])
    assert owned.read(preview).by_release == {"v2-2": Traffic(2, 0, 0)}
    owned.write(shop, (new,), 1)
    assert get(main, "/", X_Shop_Preview="blue") == (200, "v2-2"), "no preview any more"


def test_a_preview_by_its_header_alone_that_is_written_first(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    main = replace(shop, preview=Preview(header="X-Preview: 1"))
    preview = main.previewed
    assert preview is not None
    new = apps.start("v2-2")
    owned.write(preview, (new,), 1)
    owned.write(main, (), 1)
    assert get(main, "/")[0] == 503
    assert get(main, "/", X_Preview="1") == (200, "v2-2")


def test_a_websocket_goes_on_through_a_switch(owned: EnvoyRouter, shop: Backend, apps: Backends, echo: Echo) -> None:
    old, new = replace(member(9), address=echo.address), apps.start("v2-2")
    owned.write(shop, (old,), 1)
    with closing(upgraded(shop)) as line:
        assert echoed(line, b"one") == b"one"
        assert owned.read(shop).tunnels == {old.instance: 1}
        owned.write(shop, (new,), 1)
        assert owned.read(shop).draining == {old.instance: 1}
        assert get(shop, "/") == (200, "v2-2")
        assert echoed(line, b"two") == b"two"
        assert owned.read(shop).tunnels == {old.instance: 1}
        owned.write(shop, (new,), 1)
        assert owned.read(shop).draining == {old.instance: 1}
    until(lambda: owned.read(shop).draining == {old.instance: 0})
    owned.write(shop, (new,), 1)
    assert owned.read(shop).draining == {}
    assert owned.read(shop).tunnels == {}
    until(lambda: owned.read(shop).traffic == Traffic(2, 0, 0))


class Echo:
    """A server that upgrades each connection, and then says what it hears."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                with line:
                    line.recv(65536)
                    line.sendall(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                    while heard := line.recv(65536):
                        line.sendall(heard)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.stop()


def upgraded(backend: Backend) -> socket.socket:
    """A WebSocket's connection."""
    host, _, port = backend.listen.rpartition(":")
    line = socket.create_connection((host, int(port)), timeout=10)
    line.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert line.recv(65536).startswith(b"HTTP/1.1 101 ")
    return line


def echoed(line: socket.socket, words: bytes) -> bytes:
    """What comes back."""
    line.sendall(words)
    return line.recv(65536)


# -- what is counted -------------------------------------------------------------------------------------------------------


class Scripted:
    """A server whose answer is told by the path; `/502` is an answer of its own, the words are answers that go wrong.

    It also counts what it was asked.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.heads: list[bytes] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        self.heads.append(line.recv(65536))
        path = self.heads[-1].split()[1].decode()
        head = b"HTTP/1.1 %s X\r\nConnection: close\r\nContent-Length: 10\r\n\r\n"
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


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.stop()


APPLICATIONS = {"/500": 500, "/502": 502, "/503": 503, "/504": 504}
MADE_UP = {"/reset": 503, "/nothing": 503, "/nonsense": 502, "/cut": None}


def test_answers_that_envoy_made_up_are_lost_and_those_of_the_application_are_errors(
    owned: EnvoyRouter, shop: Backend, scripted: Scripted
) -> None:
    one = replace(member(0), address=scripted.address)
    owned.write(shop, (one,), 1)
    for path, status in {**APPLICATIONS, **MADE_UP, "/200": 200, "/404": 404}.items():
        assert get(shop, path)[0] == status, path
    assert len(scripted.heads) == 10, "what was sent is never sent again"
    until(lambda: owned.read(shop).traffic == Traffic(10, 4, 4))
    assert owned.read(shop).by_release == {"v1-1": Traffic(10, 4, 4)}

    owned.write(shop, (replace(member(1, "v2-2"), address=f"127.0.0.1:{free_port()}"),), 1)
    assert get(shop, "/200")[0] == 503, "refused"
    owned.write(shop, (), 1)
    assert get(shop, "/200")[0] == 503, "nobody there"
    until(lambda: owned.read(shop).traffic == Traffic(12, 6, 4))
    assert owned.read(shop).by_release == {"v1-1": Traffic(10, 4, 4), "v2-2": Traffic(1, 1, 0)}

    kill(owned)
    assert owned.read(shop).traffic in (None, Traffic(0, 0, 0)), "another process counts anew"


def test_a_member_that_refuses_is_passed_over(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    owned.write(shop, (apps.start("v1-1"), replace(member(9), address=f"127.0.0.1:{free_port()}")), 1)
    assert [get(shop, "/")[0] for _ in range(20)] == [200] * 20
    until(lambda: owned.read(shop).traffic == Traffic(20, 0, 0))


def test_a_client_that_goes_away_is_nobodys_fault(owned: EnvoyRouter, shop: Backend, apps: Backends) -> None:
    there = apps.start("v1-1")
    owned.write(shop, (there,), 1)
    host, _, port = shop.listen.rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"GET /?ms=3000 HTTP/1.1\r\nHost: shop\r\n\r\n")
        until(lambda: owned.read(shop).busy[there.instance] == 1)
    until(lambda: owned.read(shop).busy[there.instance] == 0)
    assert get(shop, "/")[0] == 200
    until(lambda: owned.read(shop).traffic == Traffic(1, 0, 0))


def test_a_client_cannot_tell_envoy_what_to_do(owned: EnvoyRouter, shop: Backend, scripted: Scripted) -> None:
    owned.write(shop, (replace(member(0), address=scripted.address),), 1)
    orders = {"X_Envoy_Retry_On": "5xx", "X_Envoy_Max_Retries": "5", "X_Envoy_Upstream_Rq_Timeout_Ms": "1"}
    assert get(shop, "/500", **orders, X_Forwarded_Proto="https")[0] == 500
    (head,) = scripted.heads
    assert b"x-forwarded-proto: https" in head.lower()
    assert b"x-envoy" not in head.lower()
