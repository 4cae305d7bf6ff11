"""The contract of every router with the clients of a service, and with instances that become unhealthy: on the wire.

A driver's test subclasses `RouterClientContract` and gives these fixtures:

- `make_router`: makes the router under test with these settings of `drivers.routers.options.RouterOptions`;
- `backend`: a backend that it can serve at `backend.listen`.

Set the attributes of the class for what a proxy cannot do.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace

import pytest

from tidegate.core.container import Health
from tidegate.core.routing import Backend, BackendOptions, BackendProtocol, Member, Preview, Timeouts, split_listen
from tidegate.errors import RouterError
from tidegate.ports import Router
from tidegate.testing.h2c import BODY, H2CInstance, request_with_trailers
from tidegate.testing.sample_instance import HEALTH_PATH, ReceivedRequest, SampleInstance
from tidegate.testing.wait import wait_until

CLIENT = "203.0.113.7"  # an address that no machine has
FORWARDED = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port")
CLAIMED = {
    "X-Forwarded-For": CLIENT,
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "shop.example",
    "X-Forwarded-Port": "443",
}
SECONDS = 30.0  # shorter than a proxy's usual timeouts of a minute, which must not be the ones in effect
PROXY_V1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 5000 443\r\n"
PROXY_V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    + struct.pack(">H", 12)
    + socket.inet_aton(CLIENT)
    + socket.inet_aton("198.51.100.1")
    + struct.pack(">HH", 5000, 443)
)
MakeRouter = Callable[..., Router]


def connect(listen: str) -> socket.socket:
    """A connection to a `listen` address."""
    host, port = split_listen(listen)
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return socket.create_connection((local, port), timeout=SECONDS)


def send_raw(listen: str, lines: list[str], before: bytes = b"") -> int:
    """Send the lines of a request's head; the status of the response, 0 if the connection ended without one."""
    with closing(connect(listen)) as connection, suppress(ConnectionError):
        connection.sendall(before + "".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        words = connection.makefile("rb").readline().split()
        return int(words[1]) if len(words) > 1 else 0
    return 0


def get(
    listen: str, path: str = "/", method: str = "GET", before: bytes = b"", headers: Mapping[str, str] | None = None
) -> int:
    """The status of a request; 0 without a response."""
    lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
    length = ["Content-Length: 0"] if method == "POST" else []
    return send_raw(listen, [f"{method} {path} HTTP/1.1", "Host: front.example", *length, *lines], before)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class RouterClientContract:
    """Subclass it, give the fixtures that the module's docstring names, and say what the proxy cannot do."""

    checks_health = True  # the proxy itself finds instances that become unhealthy
    speaks_h2c = True  # HTTP/2 in clear text to instances

    @pytest.fixture
    def make_router(self) -> MakeRouter:
        raise NotImplementedError

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    @pytest.fixture
    def instance(self) -> Iterator[SampleInstance]:
        """One that answers."""
        with SampleInstance() as made:
            yield made

    # -- who the client is -------------------------------------------------------------------------------------------------

    @staticmethod
    def forwarded(instance: SampleInstance) -> dict[str, str]:
        """What the instance learnt about the client with its last request."""
        received: ReceivedRequest = instance.requests[-1]
        return {name: received.headers.get(name, "") for name in FORWARDED}

    def test_forged_addresses_are_replaced(
        self, make_router: MakeRouter, backend: Backend, instance: SampleInstance
    ) -> None:
        make_router().write(backend, (instance.member,), 1)
        own = ("127.0.0.1", "http", "front.example", str(split_listen(backend.listen)[1]))
        for headers in (None, CLAIMED):
            assert get(backend.listen, headers=headers) == 200
            assert self.forwarded(instance) == dict(zip(FORWARDED, own, strict=True))

    def test_trusted_proxies_name_their_client(
        self, make_router: MakeRouter, backend: Backend, instance: SampleInstance
    ) -> None:
        make_router(trusted_proxies=["127.0.0.0/8", "2001:db8::/32"]).write(backend, (instance.member,), 1)
        assert get(backend.listen, headers=CLAIMED) == 200
        passed = (f"{CLIENT}, 127.0.0.1", "https", "shop.example", "443")
        assert self.forwarded(instance) == dict(zip(FORWARDED, passed, strict=True))
        assert get(backend.listen) == 200
        own = ("127.0.0.1", "http", "front.example", str(split_listen(backend.listen)[1]))
        assert self.forwarded(instance) == dict(zip(FORWARDED, own, strict=True)), "it named none"

    def test_the_proxy_protocol_names_the_client(
        self, make_router: MakeRouter, backend: Backend, instance: SampleInstance
    ) -> None:
        make_router(accept_proxy_protocol=True).write(backend, (instance.member,), 1)
        for header in (PROXY_V1, PROXY_V2):
            assert get(backend.listen, before=header, headers={"X-Forwarded-For": "192.0.2.1"}) == 200
            assert self.forwarded(instance)["x-forwarded-for"] == CLIENT
        received = len(instance.requests)
        assert get(backend.listen) in (0, 400), "a connection without the header is refused"
        assert len(instance.requests) == received

    # -- limits ------------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("number", [1, 200])
    def test_headers_up_to_the_limit_pass(
        self, make_router: MakeRouter, backend: Backend, instance: SampleInstance, number: int
    ) -> None:
        make_router(max_header_bytes=64 * 1024).write(backend, (instance.member,), 1)
        value = "a" * ((64 * 1024 - 100) // number - len("X-Part-000: \r\n"))
        parts = {f"X-Part-{part:03d}": value for part in range(number)}
        assert get(backend.listen, headers=parts) == 200
        received = instance.requests[-1].headers
        assert [received.get(name.lower()) for name in parts] == [value] * number

    def test_headers_above_the_limit_are_refused(
        self, make_router: MakeRouter, backend: Backend, instance: SampleInstance
    ) -> None:
        make_router().write(backend, (instance.member,), 1)
        assert get(backend.listen, headers={"Cookie": "a" * 15_000}) == 200
        assert get(backend.listen, headers={"Cookie": "a" * 63_000}) in (400, 431)
        assert len(instance.requests) == 1

    @pytest.fixture
    def short(self, backend: Backend) -> Backend:
        """The backend with timeouts of a second."""
        return replace(backend, options=BackendOptions(timeouts=Timeouts(1.0, 1.0, 1.0)))

    def test_a_silent_instance_times_out(self, make_router: MakeRouter, short: Backend, instance: SampleInstance) -> None:
        make_router().write(short, (instance.member,), 1)
        assert get(short.listen, "/silence") == 504
        assert get(short.listen) == 200

    def test_an_idle_connection_is_closed(self, make_router: MakeRouter, short: Backend, instance: SampleInstance) -> None:
        make_router().write(short, (instance.member,), 1)
        with closing(connect(short.listen)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n")
            assert connection.recv(15).startswith(b"HTTP/1.1 200")
            while connection.recv(65536):
                pass

    def test_slow_headers_time_out(self, make_router: MakeRouter, short: Backend, instance: SampleInstance) -> None:
        make_router().write(short, (instance.member,), 1)
        with closing(connect(short.listen)) as connection, suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: front.example\r\nX-Slow: ")
            assert connection.recv(65536).startswith((b"HTTP/1.1 408", b"HTTP/1.0 408")) or not connection.recv(1)
        assert instance.requests == []

    # -- addresses and protocols -------------------------------------------------------------------------------------------

    @pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
    @pytest.mark.parametrize("host", ["[::1]", "[::]"])
    def test_ipv6_addresses(self, make_router: MakeRouter, backend: Backend, host: str) -> None:
        port = split_listen(backend.listen)[1]
        six = replace(backend, listen=f"{host}:{port}", preview=Preview(header="X-Shop-Preview: blue"))
        preview = six.preview_backend
        assert preview is not None
        router = make_router()
        with SampleInstance(1, host="::1") as instance, SampleInstance(2, "v2-2", host="::1") as blue:
            router.write(six, (instance.member,), 1)
            router.write(preview, (blue.member,), 1)
            for address in (six.listen, *([f"127.0.0.1:{port}"] if host == "[::]" else [])):
                assert get(address) == 200
                assert get(address, headers={"X-Shop-Preview": "blue"}) == 200
            assert len(instance.requests) == len(blue.requests) == (2 if host == "[::]" else 1)
            assert [member.address for member in router.read(six).members] == [instance.member.address]

    @pytest.mark.parametrize("name", ["Shop_v1.web", "9.shop-_on_"])
    def test_names_with_capitals_underscores_and_dots(self, make_router: MakeRouter, backend: Backend, name: str) -> None:
        shop = replace(backend, name=name, preview=Preview(header="X-Shop-Preview: blue"))
        preview, router = shop.preview_backend, make_router()
        assert preview is not None
        with SampleInstance(1) as instance, SampleInstance(2, "v2-2") as blue, SampleInstance(3, "v3-3") as other:
            router.write(shop, (instance.member,), 1)
            router.write(preview, (blue.member,), 1)
            router.write(replace(backend, name=f"{name}_on_a", listen=f"127.0.0.1:{_free_port()}"), (other.member,), 1)
            router.write(preview, (blue.member, other.member), 1)
            router.write(preview, (blue.member,), 1)
            assert get(shop.listen) == 200
            assert get(shop.listen, headers={"X-Shop-Preview": "blue"}) == 200
            assert [len(each.requests) for each in (instance, blue, other)] == [1, 1, 0]
            assert [member.address for member in router.read(shop).members] == [instance.member.address]

    def test_an_instance_that_speaks_http2_only(self, make_router: MakeRouter, backend: Backend) -> None:
        h2c = replace(backend, options=BackendOptions(protocol=BackendProtocol.H2C))
        router = make_router()
        with H2CInstance() as instance:
            if not self.speaks_h2c:
                with pytest.raises(RouterError, match="h2c") as refused:
                    router.write(h2c, (instance.member,), 1)
                assert not refused.value.retryable
                return
            router.write(h2c, (instance.member,), 1)
            assert get(h2c.listen) == 200, "a client of HTTP/1.1"
            assert request_with_trailers(h2c.listen) == (BODY, 2), "one of HTTP/2, as gRPC has them"

    # -- unhealthy instances -----------------------------------------------------------------------------------------------

    @pytest.fixture
    def checked(self, backend: Backend) -> Backend:
        """The backend whose instances are checked by a request."""
        if not self.checks_health:
            pytest.skip("this proxy has no health checks")
        return replace(backend, options=BackendOptions(health=Health(path=HEALTH_PATH)))

    @staticmethod
    def receivers(listen: str, *instances: SampleInstance) -> set[str]:
        """Which instances receive 20 requests, all of which are answered."""
        before = [len(instance.requests) for instance in instances]
        assert [get(listen) for _ in range(20)] == [200] * 20
        received = zip(instances, before, strict=True)
        return {instance.member.instance for instance, count in received if len(instance.requests) > count}

    @pytest.mark.parametrize("fault", ["become_sick", "hang", "refuse_connections"])
    def test_an_unhealthy_instance_takes_no_new_requests(
        self, make_router: MakeRouter, checked: Backend, fault: str
    ) -> None:
        router = make_router()
        with SampleInstance(1) as good, SampleInstance(2) as bad:
            members = (good.member, bad.member)
            router.write(checked, members, 1)
            assert self.receivers(checked.listen, good, bad) == self.ids(*members), "a new one takes requests at once"
            assert router.read(checked).down == frozenset()
            getattr(bad, fault)()
            wait_until(lambda: router.read(checked).down == self.ids(bad.member), observed=lambda: router.read(checked))
            assert self.receivers(checked.listen, good, bad) == self.ids(good.member)
            assert {member.instance for member in router.read(checked).members} == self.ids(*members), "it is a member"
            bad.recover()
            wait_until(lambda: not router.read(checked).down)
            assert self.receivers(checked.listen, good, bad) == self.ids(*members)

    def test_all_unhealthy_instances_keep_their_requests(self, make_router: MakeRouter, checked: Backend) -> None:
        router = make_router()
        with SampleInstance(1) as one, SampleInstance(2) as other:
            router.write(checked, (one.member, other.member), 1)
            both = self.ids(one.member, other.member)
            one.become_sick()
            other.become_sick()
            wait_until(lambda: router.read(checked).down == both, observed=lambda: router.read(checked))
            assert self.receivers(checked.listen, one, other) == both
            one.recover()
            wait_until(lambda: router.read(checked).down == self.ids(other.member), observed=lambda: router.read(checked))
            assert self.receivers(checked.listen, one, other) == self.ids(one.member)

    def test_an_instance_that_accepts_no_connections_is_found_without_a_path(
        self, make_router: MakeRouter, checked: Backend
    ) -> None:
        router, plain = make_router(), replace(checked, options=BackendOptions())
        with SampleInstance(1) as good, SampleInstance(2) as bad:
            router.write(plain, (good.member, bad.member), 1)
            bad.refuse_connections()
            wait_until(lambda: router.read(plain).down == self.ids(bad.member), observed=lambda: router.read(plain))
            assert self.receivers(plain.listen, good) == self.ids(good.member)

    @staticmethod
    def ids(*members: Member) -> frozenset[str]:
        """The instances of members."""
        return frozenset(member.instance for member in members)

    def test_a_post_is_sent_once(self, make_router: MakeRouter, backend: Backend) -> None:
        router = make_router()
        with SampleInstance(1) as one, SampleInstance(2) as other:
            router.write(backend, (one.member, other.member), 1)
            assert get(backend.listen, "/reset", "POST") in (0, 502, 503)
            assert len(one.requests) + len(other.requests) == 1
