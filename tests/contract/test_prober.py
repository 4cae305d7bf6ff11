"""The prober through a real HAProxy and against real servers: what it counts, and how gently."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from processes import free_port
from support.backends import Backends, backends
from support.haproxy import owned_router, reload, short_folder
from support.http_server import page, serving
from support.prerequisites import program
from support.wait import eventually, pause
from tidegate.core.probes import MIN_INTERVAL_SECONDS, Probe, ProbeCounts, ProbeResult, ProbeStats, public_url
from tidegate.core.routing import Backend
from tidegate.drivers.http.probe import HttpProbeClient
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.engine.prober import ABANDONED_SECONDS, MAX_FAILURES, MAX_RELEASES, MAX_ROLLOUTS, Prober, add_result
from tidegate.ports import ProbeClient


@pytest.fixture
def prober() -> Iterator[Prober]:
    made = Prober(HttpProbeClient, time.time)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def owned() -> Iterator[HAProxyRouter]:
    with short_folder() as home, owned_router(home) as router:
        yield router


@pytest.fixture
def shop() -> Backend:
    return Backend("shop", f"127.0.0.1:{free_port()}")


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Backends]:
    program("gcc")
    with backends(tmp_path / "counters") as made:
        yield made


def probe(listen: str, path: str = "/", **changes: object) -> Probe:
    values = {"interval_seconds": 0.1, "timeout_seconds": 60.0, "slow_seconds": 60.0, "header": "X-Version", **changes}
    return Probe(public_url(listen, path), **values)  # type: ignore[arg-type]


def counts(prober: Prober, rollout: str = "r1") -> ProbeStats:
    found = prober.counts(rollout)
    assert found is not None
    return found


def seen(prober: Prober) -> int:
    return counts(prober).total.requests


# -- through HAProxy --------------------------------------------------------------------------------------------------


def test_a_switch_and_a_reload_lose_neither_kind_of_request(
    prober: Prober, owned: HAProxyRouter, shop: Backend, apps: Backends
) -> None:
    old, new = apps.start("v1"), apps.start("v2")
    owned.write(shop, (old,), 1)
    prober.begin("r1", probe(shop.listen))
    eventually("four probes of v1", lambda: counts(prober).by_release.get("v1", ProbeCounts()).requests >= 4)
    owned.write(shop, (old, new), 1)
    owned.write(shop, (new,), 1)
    reload(owned)
    eventually("six probes of v2", lambda: counts(prober).by_release.get("v2", ProbeCounts()).requests >= 6)
    found = counts(prober)
    assert (found.total.failed, found.total.slow, found.failures) == (0, 0, ())
    assert sum(each.requests for each in found.by_release.values()) == found.total.requests
    assert set(found.by_release) == {"v1", "v2"}


def test_a_killed_server_is_counted_with_the_reason(
    prober: Prober, owned: HAProxyRouter, shop: Backend, apps: Backends
) -> None:
    only = apps.start("v1")
    owned.write(shop, (only,), 1)
    prober.begin("r1", probe(shop.listen))
    eventually("two probes", lambda: seen(prober) >= 2)
    assert counts(prober).total.failed == 0
    begun = time.time()
    apps.kill(only)
    eventually("three failed probes", lambda: counts(prober).total.failed >= 3)
    found = counts(prober)
    assert found.failures[-1].reason == "answered 503"
    assert all(begun - 1 < failure.at <= time.time() for failure in found.failures)
    assert found.by_release["v1"].failed == 0, "HAProxy's own answer names no release"


def test_slow_answers_are_counted_and_errors_are_failures_of_the_release(
    prober: Prober, owned: HAProxyRouter, shop: Backend, apps: Backends
) -> None:
    slow = apps.start("v1", SERVICE_MS="300")
    owned.write(shop, (slow,), 1)
    prober.begin("r1", probe(shop.listen, slow_seconds=0.1))
    eventually("two slow probes", lambda: counts(prober).total.slow >= 2)
    assert counts(prober).total.failed == 0
    bad = apps.start("v2", ERROR_RATIO="1")
    owned.write(shop, (bad,), 1)
    eventually("two failed probes of v2", lambda: counts(prober).by_release.get("v2", ProbeCounts()).failed >= 2)
    assert counts(prober).failures[0].reason == "answered 500"
    assert counts(prober).by_release["v1"].slow >= 2


# -- against servers of our own ---------------------------------------------------------------------------------------


def test_every_other_request_is_on_a_kept_connection(prober: Prober) -> None:
    with serving(lambda path: page(200)) as site:
        prober.begin("r1", probe(site.address, "/health?deep=1"))
        eventually("eight probes", lambda: seen(prober) >= 8)
        prober.close()
        asked, connections = len(site.asked), site.connections
    assert set(site.asked) == {"/health?deep=1"}
    assert asked // 2 <= connections <= asked // 2 + 2, f"{asked} requests on {connections} connections"


def test_a_kept_connection_that_is_closed_while_idle_is_no_failure(prober: Prober) -> None:
    with serving(lambda path: page(204), hangs_up=True) as site:
        prober.begin("r1", probe(site.address))
        eventually("six probes", lambda: seen(prober) >= 6)
        assert counts(prober).total.failed == 0
        assert site.connections >= 6


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (page(404), "answered 404"),
        ([b""], "failed: connection closed without a response"),
        ([b"SSH-2.0-server\r\n"], "failed: the response is not HTTP"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], "failed: incomplete response"),
    ],
    ids=str,
)
def test_what_is_no_answer_has_failed(prober: Prober, answer: list[bytes], reason: str) -> None:
    with serving(lambda path: answer) as site:
        prober.begin("r1", probe(site.address))
        eventually("three failed probes", lambda: counts(prober).total.failed >= 3)
        assert counts(prober).total.requests == counts(prober).total.failed
        assert {failure.reason for failure in counts(prober).failures} == {reason}


def test_a_redirect_is_an_answer_and_is_not_followed(prober: Prober) -> None:
    with serving(lambda path: page(302, b"", "Location: /elsewhere")) as site:
        prober.begin("r1", probe(site.address, "/here"))
        eventually("three probes", lambda: seen(prober) >= 3)
        assert counts(prober).total.failed == 0
        assert set(site.asked) == {"/here"}


def test_silence_is_a_failure_after_the_timeout(prober: Prober) -> None:
    over = threading.Event()

    def silent() -> Iterator[bytes]:
        over.wait(300)
        yield b""

    with serving(lambda path: silent()) as site:
        try:
            prober.begin("r1", probe(site.address, timeout_seconds=0.2))
            eventually("two failed probes", lambda: counts(prober).total.failed >= 2)
        finally:
            over.set()
    assert counts(prober).failures[0].reason == "timed out after 0.2 s"


def test_nobody_there(prober: Prober) -> None:
    prober.begin("r1", probe(f"127.0.0.1:{free_port()}"))
    eventually("two failed probes", lambda: counts(prober).total.failed >= 2)
    assert counts(prober).failures[0].reason == "failed: connection refused"


# -- gentle and bounded -----------------------------------------------------------------------------------------------


class Counting(ProbeClient):
    """A visitor of nobody, which takes a while and knows how many are under way at a time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.under_way, self.most, self.visits = seconds, 0, 0, 0
        self.closed = threading.Event()

    def probe(self, *, kept: bool) -> ProbeResult:
        self.under_way += 1
        self.most, self.visits = max(self.most, self.under_way), self.visits + 1
        pause(self.seconds, "the visit takes its time")
        self.under_way -= 1
        return ProbeResult(self.seconds)

    def close(self) -> None:
        self.closed.set()


@contextmanager
def counting(visitor: ProbeClient) -> Iterator[Prober]:
    made = Prober(lambda probe: visitor, time.time)
    try:
        yield made
    finally:
        made.close()


URL = "127.0.0.1:1"


def test_it_never_goes_faster_than_it_may_not_even_to_catch_up() -> None:
    visitor = Counting(0.3)
    with counting(visitor) as prober:
        begun = time.monotonic()
        prober.begin("r1", probe(URL, interval_seconds=0.0))
        eventually("four visits", lambda: visitor.visits >= 4)
        assert time.monotonic() - begun >= 3 * (0.3 + MIN_INTERVAL_SECONDS)


def test_one_at_a_time_for_a_service_also_from_one_rollout_to_the_next() -> None:
    visitor = Counting(0.2)
    with counting(visitor) as prober:
        prober.begin("r1", probe(URL))
        eventually("a visit", lambda: visitor.visits >= 1)
        prober.end("r1")
        assert prober.counts("r1") is None
        prober.begin("r2", probe(URL))
        eventually("r2 is probed", lambda: prober.begin("r2", probe(URL)) or prober.counts("r2") is not None)
        eventually("two probes of r2", lambda: seen_of(prober, "r2") >= 2)
        assert visitor.most == 1


def seen_of(prober: Prober, rollout: str) -> int:
    return counts(prober, rollout).total.requests


def test_it_stops_with_the_rollout() -> None:
    visitor = Counting()
    with counting(visitor) as prober:
        prober.begin("r1", probe(URL))
        eventually("two visits", lambda: visitor.visits >= 2)
        prober.end("r1")
        prober.end("r1")
        assert visitor.closed.wait(60)
        visits = visitor.visits
        pause(0.3, "there is no further visit")
        assert visitor.visits == visits


def test_one_that_nobody_speaks_of_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("tidegate.engine.prober.time", clock)
    visitor = Counting()
    with counting(visitor) as prober:
        prober.begin("r1", probe(URL))
        for _ in range(5):
            clock.now += ABANDONED_SECONDS / 2
            visits = visitor.visits
            prober.begin("r1", probe(URL))
            eventually("it is probed further", lambda before=visits: visitor.visits > before + 1)
        assert not visitor.closed.is_set(), "spoken of all the time"
        clock.now += ABANDONED_SECONDS
        eventually("it is given up", lambda: prober.counts("r1") is None)
        prober.begin("r1", probe(URL))
        assert prober.counts("r1") is not None, "and begun again when it is"


def test_no_more_than_so_many_rollouts() -> None:
    with counting(Counting()) as prober:
        for number in range(MAX_ROLLOUTS + 1):
            prober.begin(f"r{number}", probe(f"127.0.0.1:{number + 1}"))
        assert prober.counts(f"r{MAX_ROLLOUTS - 1}") is not None
        assert prober.counts(f"r{MAX_ROLLOUTS}") is None
        prober.end("r0")
        more = probe("127.0.0.1:99")
        eventually("there is room again", lambda: prober.begin("more", more) or prober.counts("more") is not None)


def test_a_mistake_of_ours_never_reaches_the_engine_and_is_not_repeated() -> None:
    made: list[Probe] = []

    def broken(probe: Probe) -> ProbeClient:
        made.append(probe)
        raise RuntimeError("no such visitor")

    with closing(Prober(broken, time.time)) as prober:
        for _ in range(3):
            prober.begin("r1", probe(URL))
            eventually("the visitor is made", lambda: made)
            pause(0.1, "no second one is made")
        assert counts(prober).total == ProbeCounts()
        assert len(made) == 1
        prober.end("r1")
        assert prober.counts("r1") is None


def test_another_engine_counts_anew() -> None:
    with counting(Counting()) as first, counting(Counting()) as second:
        first.begin("r1", probe(URL))
        eventually("two probes", lambda: seen(first) >= 2)
        second.begin("r1", probe(URL, interval_seconds=3600.0))
        assert second.counts("r2") is None
        assert counts(second).since > counts(first).since
        assert seen(second) <= 1


# -- counting ---------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_bounded() -> None:
    found, asked = ProbeStats(0.0), Probe("http://shop/", slow_seconds=1.0)
    for number in range(100):
        found = add_result(found, asked, ProbeResult(2.0, "answered 500", f"v{number}" + "x" * 500), float(number))
    assert found.total == ProbeCounts(100, 100, 0), "what failed is not slow, too"
    assert [failure.at for failure in found.failures] == [float(number) for number in range(MAX_FAILURES)]
    assert len(found.by_release) == MAX_RELEASES
    assert max(map(len, found.by_release)) == 100


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("8001", "http://127.0.0.1:8001/health"),
        ("*:8001", "http://127.0.0.1:8001/health"),
        ("0.0.0.0:8001", "http://127.0.0.1:8001/health"),
        ("10.0.0.5:80", "http://10.0.0.5:80/health"),
        ("[::1]:80", "http://[::1]:80/health"),
        ("[::]:80", "http://[::1]:80/health"),
    ],
)
def test_the_public_address(listen: str, url: str) -> None:
    assert public_url(listen, "/health") == url


def test_neither_link_local_addresses_nor_the_api_are_probed() -> None:
    """By whatever name: the connection shows where it leads."""
    with serving(lambda _: page(200)) as site:
        port = int(site.address.rpartition(":")[2])
        for host, api_port, error in (
            ("127.0.0.1", 0, ""),
            ("127.0.0.1", port + 1, ""),
            ("localhost", port, "failed: this is Tidegate's API, which is never probed"),
        ):
            client = HttpProbeClient(Probe(f"http://{host}:{port}/", timeout_seconds=60.0), api_port)
            with closing(client):
                assert [client.probe(kept=kept).error for kept in (True, False)] == [error, error]
        assert len(site.asked) == 4, "nothing was sent to the API"
    shown = SimpleNamespace(getpeername=lambda: ("::ffff:169.254.169.254", 80, 0, 0), getsockname=lambda: ("::1", 9))
    assert HttpProbeClient(Probe("http://metadata/"))._refuse(cast(socket.socket, shown)) == (
        "169.254.169.254 is a link-local address, which is never probed"
    )
