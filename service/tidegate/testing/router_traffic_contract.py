"""The contract of every router for requests in flight.

A driver's test subclasses `RouterTrafficContract` and gives these fixtures:

- `router`: the router under test, without any route;
- `backend`: a backend that it can serve; and `address`, where clients reach it, unless that is `backend.listen`;
- `kill_proxy`: a function that kills the proxy with SIGKILL, and restarts it if the router does not;
- `preview`: a `Preview` with a header and its own address.

Two more fixtures are the same for all proxies:

- `apps`: real applications (`SampleApplications`);
- `load`: steady traffic (`TrafficLoad`): `load(address, client="naive", get_ka=80, slow_gets=4, …)`. The numbers are
  requests per second, and for `slow_*` clients that send one request of `slow_get_ms` or `slow_post_ms` after another.

Override attributes and fixtures of the class for features that a proxy does not have.
"""

from __future__ import annotations

import http.client
import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Protocol

import pytest

from tidegate.core.routing import Backend, Member, Preview, Traffic
from tidegate.errors import RouterError
from tidegate.ports import Router
from tidegate.testing.router_contract import ids, member
from tidegate.testing.wait import wait_until
from tidegate.testing.websocket import WebSocket

TRAFFIC_MIX = {"get_ka": 120.0, "get": 60.0, "post_ka": 40.0, "post": 20.0, "slow_gets": 3.0, "slow_posts": 3.0}
SLOW = {"slow_get_ms": 600.0, "slow_post_ms": 800.0}


class SampleApplications(Protocol):
    """Applications that exit immediately on SIGTERM. They answer `/` with a header `X-Version: <release>` after the
    milliseconds in `/?ms=…`, and echo WebSocket frames at `/ws`."""

    def start(self, release: str) -> Member:
        """Start an instance of a release and wait until it answers."""

    def kill(self, member: Member) -> None:
        """Kill it with SIGKILL; its requests in flight are lost."""

    def in_flight(self, member: Member) -> int:
        """The number of requests that this instance has received and not yet answered."""

    def posts(self) -> int:
        """POSTs executed by all instances, killed ones included."""


class TrafficCounts(Protocol):
    """Counts of a load generator. `by_outcome`: the number of requests by outcome; `ok` is a success."""

    @property
    def requests(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def posts_sent(self) -> int: ...
    @property
    def by_outcome(self) -> Mapping[str, int]: ...


class TrafficLoad(Protocol):
    """Running traffic without retries. A `naive` client sends on a reused connection without checking whether the server
    has closed it; a `checking` one checks, as most libraries do."""

    @property
    def counts(self) -> TrafficCounts:
        """The counts, at most one second old."""

    def finish(self) -> TrafficCounts:
        """Wait for requests in flight and return the final counts."""


def send_request(address: str, **headers: str) -> tuple[int, str]:
    """(status, release) of a response; the release is empty if the proxy generated it."""
    host, _, port = address.rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
        connection.request("GET", "/?ms=1", headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("X-Version", "")


def remove_and_drain(router: Router, backend: Backend, members: list[Member], old: Member) -> None:
    """Remove a member and wait until the router reports that no request can reach it."""

    def left() -> bool:
        draining = router.read(backend).draining
        if draining.get(old.instance) == 0:
            router.write(backend, members, 1)
        return old.instance not in draining

    router.write(backend, members, 1)
    wait_until(left, observed=lambda: router.read(backend))


def wait_for_traffic(traffic: Traffic | None, requests: int) -> Traffic | None:
    """The counts, once they include so many requests: a proxy may count one after its client has the response."""
    return traffic if traffic is not None and traffic.requests >= requests else None


class RouterTrafficContract:
    """Subclass it, give the fixtures that the module's docstring names, and say what the proxy cannot do."""

    switches = 20  # of the test under load
    tells_in_flight = True  # how many requests are on each member; a proxy that cannot says None for every one
    tells_draining = True  # how many are on each instance that left
    tells_tunnels = True  # how many of them are upgraded connections

    @pytest.fixture
    def router(self) -> Router:
        raise NotImplementedError

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    @pytest.fixture
    def address(self, backend: Backend) -> str:
        return backend.listen

    @pytest.fixture
    def kill_proxy(self) -> Callable[[], None]:
        raise NotImplementedError

    @pytest.fixture
    def preview(self) -> Preview:
        raise NotImplementedError

    @pytest.fixture(params=["naive", "checking"])
    def client(self, request: pytest.FixtureRequest) -> str:
        """Those that lose nothing. A proxy that closes idle connections at a switch says so by leaving `naive` out."""
        return str(request.param)

    @pytest.fixture
    def disturb(self) -> Callable[[int], None]:
        """Called after each switch under load with its number: what else may happen to the proxy, such as a reload."""
        return lambda number: None

    # -- nothing is lost ---------------------------------------------------------------------------------------------------

    def test_nothing_is_lost_over_switches(
        self,
        router: Router,
        backend: Backend,
        address: str,
        apps: SampleApplications,
        load: Callable[..., TrafficLoad],
        client: str,
        disturb: Callable[[int], None],
    ) -> None:
        """GETs and POSTs, connections kept and not, slow ones in flight; an old one is killed when nothing can reach it."""
        serving = [apps.start("v1-1") for _ in range(3)]
        router.write(backend, serving, 1)
        traffic = load(address, client=client, **TRAFFIC_MIX, **SLOW)
        wait_until(lambda: traffic.counts.requests > 100)
        for number in range(self.switches):
            old = serving.pop(0)
            serving.append(apps.start(f"v2-{number}"))
            remove_and_drain(router, backend, serving, old)
            apps.kill(old)
            disturb(number)
        seen = traffic.finish()
        assert seen.by_outcome == {"ok": seen.requests}, dict(seen.by_outcome)
        assert seen.posts_sent == apps.posts()

    def test_the_load_sees_what_a_careless_switch_loses(
        self, router: Router, backend: Backend, address: str, apps: SampleApplications, load: Callable[..., TrafficLoad]
    ) -> None:
        """The control: without the drain the same traffic is cut, so that the test above could fail."""
        serving = [apps.start("v1-1") for _ in range(2)]
        router.write(backend, serving, 1)
        old = serving.pop(0)
        serving.append(apps.start("v2-2"))
        traffic = load(address, slow_posts=8, slow_post_ms=3000)
        wait_until(lambda: apps.in_flight(old) > 0 and apps.in_flight(serving[0]) > 0)
        router.write(backend, serving, 1)
        apps.kill(old)
        seen = traffic.finish()
        assert seen.lost > 0
        assert seen.requests > seen.lost

    def test_one_that_left_finishes_its_requests_and_draining_shows_them(
        self, router: Router, backend: Backend, address: str, apps: SampleApplications, load: Callable[..., TrafficLoad]
    ) -> None:
        old, new = apps.start("v1-1"), apps.start("v2-2")
        router.write(backend, (old,), 1)
        traffic = load(address, slow_gets=3, slow_get_ms=3000)
        three = 3 if self.tells_in_flight else None
        wait_until(lambda: apps.in_flight(old) == 3)
        wait_until(lambda: router.read(backend).busy.get(old.instance) == three)
        router.write(backend, (new,), 1)
        seen_draining = router.read(backend)
        assert seen_draining.draining == {old.instance: 3 if self.tells_draining else None}
        assert not any(seen_draining.tunnels.values()), "they are plain requests"
        remove_and_drain(router, backend, [new], old)
        apps.kill(old)
        seen = traffic.finish()
        assert seen.by_outcome == {"ok": seen.requests}, dict(seen.by_outcome)

    def test_a_websocket_outlives_the_switch_until_it_is_closed(
        self, router: Router, backend: Backend, address: str, apps: SampleApplications
    ) -> None:
        old, new = apps.start("v1-1"), apps.start("v2-2")
        router.write(backend, (old,), 1)
        with WebSocket(address, "/ws") as spoken:
            assert spoken.echo(b"before") == b"before"
            router.write(backend, (new,), 1)
            for number in range(5):
                router.write(backend, (new,), 1)
                seen = router.read(backend)
                assert list(seen.draining) == [old.instance], "it cannot be stopped"
                assert not self.tells_tunnels or seen.tunnels[old.instance] == 1
                assert spoken.echo(b"after %d" % number) == b"after %d" % number
                assert send_request(address) == (200, "v2-2"), "all others are sent to the new one"
        remove_and_drain(router, backend, [new], old)
        apps.kill(old)
        assert send_request(address) == (200, "v2-2")

    # -- what may happen to it ---------------------------------------------------------------------------------------------

    def test_a_killed_proxy_comes_back_with_its_route(
        self,
        router: Router,
        backend: Backend,
        address: str,
        apps: SampleApplications,
        kill_proxy: Callable[[], None],
        preview: Preview,
    ) -> None:
        backend = replace(backend, preview=preview)
        blue = backend.preview_backend
        assert blue is not None
        old, new, weighty = apps.start("v1-1"), apps.start("v2-2"), replace(apps.start("v3-3"), weight=200)
        router.write(backend, (old,), 3)
        router.write(backend, (new, weighty), 4)
        router.write(blue, (old,), 4)
        kill_proxy()
        wait_until(lambda: set(router.read(backend).members) == {new, weighty})
        assert set(router.read(blue).members) == {old}
        wait_until(lambda: {send_request(address) for _ in range(20)} <= {(200, "v2-2"), (200, "v3-3")})
        with pytest.raises(RouterError, match="fence"):
            router.write(backend, (old,), 3)

    def test_a_bad_member_leaves_the_route_serving(
        self, router: Router, backend: Backend, address: str, apps: SampleApplications, load: Callable[..., TrafficLoad]
    ) -> None:
        good = apps.start("v1-1")
        router.write(backend, (good,), 1)
        traffic = load(address, get_ka=60, get=60)
        for bad in ("", "shop.example:80", "127.0.0.1:0", "127.0.0.1:80; drop", "127.0.0.1"):
            with pytest.raises(RouterError):
                router.write(backend, (good, replace(member(1), address=bad)), 1)
        assert ids(router.read(backend).members) == {good.instance}
        wait_until(lambda: traffic.counts.requests > 50)
        seen = traffic.finish()
        assert seen.by_outcome == {"ok": seen.requests}, dict(seen.by_outcome)

    def test_an_empty_route_answers_503(
        self, router: Router, backend: Backend, address: str, apps: SampleApplications
    ) -> None:
        router.write(backend, (), 1)
        assert send_request(address) == (503, "")
        good = apps.start("v1-1")
        router.write(backend, (good,), 1)
        wait_until(lambda: send_request(address) == (200, "v1-1"))
        remove_and_drain(router, backend, [], good)
        assert send_request(address) == (503, "")

    # -- who is sent what --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("light", "heavy"), [(1, 1), (1, 3), (26, 230)])
    def test_weights_share_the_requests(
        self, router: Router, backend: Backend, address: str, apps: SampleApplications, light: int, heavy: int
    ) -> None:
        one, other = apps.start("v1-1"), apps.start("v2-2")
        router.write(backend, (one, other), 1)
        send_request(address)
        router.write(backend, (replace(one, weight=heavy), replace(other, weight=light)), 1)
        number, share = 600, light / (light + heavy)
        found = Counter(send_request(address) for _ in range(number))
        assert set(found) == {(200, "v1-1"), (200, "v2-2")}
        spread = math.sqrt(number * share * (1 - share))
        assert abs(found[200, "v2-2"] - number * share) < 5 * spread, (
            "of independent draws 1 in 1.7 million is that far off"
        )

    @pytest.fixture(params=["header", "listen"])
    def way(self, request: pytest.FixtureRequest) -> str:
        """How a preview can be reached. A proxy that has its own addresses leaves `listen` out."""
        return str(request.param)

    def test_a_preview_is_reached_and_the_route_is_not_touched(
        self,
        router: Router,
        backend: Backend,
        address: str,
        apps: SampleApplications,
        load: Callable[..., TrafficLoad],
        preview: Preview,
        way: str,
    ) -> None:
        backend = replace(backend, preview=preview)
        blue = backend.preview_backend
        assert blue is not None
        old, new = apps.start("v1-1"), apps.start("v2-2")
        router.write(backend, (old,), 1)
        router.write(blue, (new,), 1)
        name, value = preview.header.split(": ")

        def request_preview() -> tuple[int, str]:
            return send_request(address, **{name: value}) if way == "header" else send_request(preview.listen)

        traffic = load(address, get_ka=60, get=60)
        wait_until(lambda: request_preview() == (200, "v2-2"))
        assert {request_preview() for _ in range(50)} == {(200, "v2-2")}
        assert {send_request(address) for _ in range(50)} == {(200, "v1-1")}
        assert {send_request(address, **{name: "green"}) for _ in range(5)} == {(200, "v1-1")}, "another value"
        router.write(blue, (), 1)
        assert request_preview() == (503, ""), "never the route's own"
        seen = traffic.finish()
        assert seen.by_outcome == {"ok": seen.requests}, dict(seen.by_outcome)
        if router.read(backend).traffic is not None:
            number = seen.requests + 55
            counted = wait_until(
                lambda: wait_for_traffic(router.read(backend).traffic, number), observed=lambda: router.read(backend)
            )
            assert (counted.lost, counted.errors) == (0, 0), "the preview's 503 is none of the route's"
            assert counted.requests == number, "requests of the preview are none of the route's"

    def test_a_preview_that_takes_over_and_ends(
        self,
        router: Router,
        backend: Backend,
        address: str,
        apps: SampleApplications,
        load: Callable[..., TrafficLoad],
        preview: Preview,
    ) -> None:
        """As in a blue-green rollout: seen at the preview, then on the route, then the preview is empty and given up."""
        shown, (name, value) = replace(backend, preview=preview), preview.header.split(": ")
        blue = shown.preview_backend
        assert blue is not None
        old, new = apps.start("v1-1"), apps.start("v2-2")
        router.write(backend, (old,), 1)
        traffic = load(address, client="checking", get=80, slow_gets=3, slow_get_ms=300)
        wait_until(lambda: traffic.counts.requests > 20)
        router.write(shown, (old,), 1)
        router.write(blue, (new,), 1)
        wait_until(lambda: send_request(address, **{name: value}) == (200, "v2-2"))
        remove_and_drain(router, shown, [new], old)
        remove_and_drain(router, blue, [], new)
        router.write(backend, (new,), 1)
        assert ids(router.read(backend).members) == {new.instance}
        assert send_request(address) == (200, "v2-2")
        seen = traffic.finish()
        assert seen.by_outcome == {"ok": seen.requests}, dict(seen.by_outcome)
