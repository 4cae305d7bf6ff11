"""Response times by release from HAProxy's log: a real HAProxy and Prometheus, with nothing instrumented."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from processes import free_port
from support.backends import Backends, accepts, backends
from support.haproxy import owned_router, reload, short_folder
from support.prerequisites import missing, program
from support.prometheus import metrics_of, running_prometheus
from support.request_logs import exported_counts
from support.wait import eventually, exit_status, pause
from tidegate.analysis.queries import RESPONSE_SECONDS, Series
from tidegate.clock import Window
from tidegate.core.response_counts import BUCKET_BOUNDS_MS
from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.haproxy import runtime_api
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.drivers.routers.haproxy.options import HAProxyOptions
from tidegate.drivers.routers.haproxy.request_log import HAProxyRequestLog, PipeSource, StreamSource
from tidegate.engine.request_logs import check_histogram
from tidegate.ports import CheckStatus, Diagnosis

ROOT = Path(__file__).parents[2]
SMALL_PIPE = 4096  # bytes: the least that the kernel gives


@dataclass
class LatencySetup:
    """A HAProxy with a log, and what it routes to."""

    router: HAProxyRouter
    backends: Backends
    shop: Backend
    pipe: Path

    def route(self, *members: Member) -> None:
        self.router.write(self.shop, members, 1)

    def ask(self, times: int, milliseconds: float = 0.01) -> None:
        ask(self.shop.listen, times, milliseconds)

    def ask_at_once(self, clients: int, times: int, milliseconds: float = 0.01) -> None:
        """By so many clients."""
        with ThreadPoolExecutor(clients) as pool:
            for each in [pool.submit(self.ask, times, milliseconds) for _ in range(clients)]:
                each.result()

    @property
    def log(self) -> HAProxyRequestLog:
        assert self.router.request_log is not None
        return self.router.request_log

    def dropped(self) -> int:
        """Lines that the present process could not write."""
        info = runtime_api.process_info(partial(runtime_api.send_command, self.pipe.with_name("admin.sock")))
        return int(info["DroppedLogs"])

    def counted(self, member: Member) -> int:
        """Its responses, as of now."""
        self.log.poll(time.time())
        found = self.log.counts().times.get(("shop", name(member)))
        return found.cumulative[-1] if found else 0

    def await_counted(self, member: Member, wanted: int) -> None:
        """HAProxy writes the line of a request after its client has the answer."""
        eventually(f"{wanted} requests are counted", lambda: self.counted(member) == wanted)


def ask(listen: str, times: int, milliseconds: float = 0.01) -> None:
    """So many requests on one connection, each of which takes so long."""
    host, _, port = listen.rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port))) as line:
        for _ in range(times):
            line.request("GET", f"/?ms={milliseconds}")
            answer = line.getresponse()
            answer.read()
            assert answer.status == 200


@pytest.fixture
def there() -> Iterator[LatencySetup]:
    with short_folder() as home, owned_router(home) as router, backends(home / "backends") as started:
        yield LatencySetup(router, started, Backend("shop", f"127.0.0.1:{free_port()}"), home / "haproxy" / "requests.pipe")


def name(member: Member) -> str:
    return f"{member.release}.{member.ordinal}.{member.instance}"


def test_the_histogram_has_each_request_in_the_bucket_of_its_time(there: LatencySetup, tmp_path: Path) -> None:
    old, new = there.backends.start("v1-1"), there.backends.start("v2-4")
    there.route(old, new)
    query = f'{RESPONSE_SECONDS}{{server=~"v2-4.*"}}'
    with (
        exported_counts(there.router) as counts,
        running_prometheus(tmp_path, {"tidegate": counts.address}) as url,
    ):
        there.ask(140)
        there.route(new)
        there.ask_at_once(60, 1, milliseconds=2500)  # all on the new one; a busy machine makes no other as slow as that
        counts.await_timed(name(old), 70)
        slow = 60 - there.dropped()
        counts.await_timed(name(new), 70 + slow)
        assert counts.timed() == {name(old): 70, name(new): 70 + slow}, "as many as were sent"

        def newest() -> dict[str, float]:
            found: tuple[Series, ...] = metrics_of(url).fetch(query, Window(time.time() - 60, time.time()))
            return {series.labels["le"]: series.samples[-1][1] for series in found}

        values = eventually("Prometheus has them all", lambda: (now := newest()).get("+Inf") == 70.0 + slow and now)
    assert len(values) == len(BUCKET_BOUNDS_MS) + 1
    assert slow > 50
    assert (values["2"], values["+Inf"]) == (70.0, 70.0 + slow)
    bounds = sorted(values, key=lambda bound: float(bound.replace("+Inf", "inf")))
    numbers = [values[bound] for bound in bounds]
    assert numbers == sorted(numbers), "cumulative"


def test_a_reader_that_hangs_misses_nothing_also_across_a_reload(there: LatencySetup) -> None:
    """A request that ends on the old process is in the log as well."""
    member = there.backends.start("v1-1")
    there.route(member)
    assert there.counted(member) == 0
    there.ask_at_once(4, 2000)
    dropped = there.dropped()
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(there.ask, 1, 3000.0)
        eventually("the long request has begun", lambda: there.backends.in_flight(member))
        reload(there.router)
        there.ask(400)
        late.result()
    assert dropped < 80, "1 % where threads are suspended"
    expected = 8401 - dropped
    assert eventually("all are counted", lambda: (now := there.counted(member)) >= expected and now) == expected


def test_nobody_waits_for_a_reader_and_what_is_dropped_is_counted(there: LatencySetup) -> None:
    member = there.backends.start("v1-1")
    there.route(member)
    assert there.counted(member) == 0
    descriptor = os.open(there.pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, SMALL_PIPE)
    os.close(descriptor)
    there.ask(500)
    what = "each request is counted or dropped; the line of the last one may come after its answer"
    read = eventually(what, lambda: (now := there.counted(member)) + there.dropped() == 500 and now)
    assert 0 < read < 500
    (found,) = [each for each in there.router.check() if each.status is CheckStatus.WARNING]
    assert f"log lines of {500 - read} of 5" in found.result
    there.ask(20)
    there.await_counted(member, read + 20)


def test_one_of_two_engines_counts_and_the_other_takes_over(there: LatencySetup) -> None:
    before, after = there.backends.start("v1-1"), there.backends.start("v2-2")
    there.route(before)
    other = HAProxyRequestLog(PipeSource(there.pipe))
    assert there.log.poll(0.0)
    assert not other.poll(0.0)
    there.ask(30)
    there.route(after)
    there.log.close()
    assert other.poll(0.0)

    def counted(member: Member) -> int:
        other.poll(0.0)
        found = other.counts().times.get(("shop", name(member)))
        return found.cumulative[-1] if found else 0

    there.ask(20)
    assert eventually("all are counted", lambda: (now := counted(after)) >= 20 and now) == 20
    assert counted(before) <= 1, "what was written before belongs to nobody; the last line may come after its answer"
    other.close()


def test_check_says_what_keeps_the_response_times_from_prometheus(tmp_path: Path) -> None:
    program("prometheus")
    with short_folder() as home:
        router = HAProxyRouter(HAProxyOptions(directory=home / "haproxy"), "demo")
        with (
            exported_counts(router) as counts,
            running_prometheus(tmp_path, {"tidegate": counts.address}) as url,
        ):

            def found(environment: str, log: str = "") -> Diagnosis:
                asked = router if not log else HAProxyRouter(HAProxyOptions(directory=home / "haproxy", log=log), "demo")
                return check_histogram(asked, metrics_of(url), environment, time.time())

            eventually("the histogram is scraped", lambda: found("demo").status is CheckStatus.OK)
            not_scraped, switched_off = found("other"), found("demo", log="off")
    source = SimpleNamespace(fetch=lambda query, window: (Series({}, ((window.end, 0.0),)),))
    assert "no engine counts the log" in check_histogram(router, source, "demo", 0.0).result
    assert "does not scrape the engine" in not_scraped.result
    assert "`engine.metrics_listen`" in not_scraped.fix
    assert "remove `log`" in switched_off.fix
    assert {not_scraped.status, switched_off.status} == {CheckStatus.WARNING}


ADOPTED = """\
global
    chroot /var/lib/haproxy
    user haproxy
    group haproxy
defaults
    mode http
    timeout connect 2s
    timeout client 9s
    timeout server 9s
backend shop
    server v1-1.0.0123456789ab {server}
LINES
    bind {listen}
    default_backend shop
"""


def test_the_lines_for_an_adopted_haproxy_are_right() -> None:
    """With what Debian's own file begins with: a user, and a folder that it is locked into. The reader hangs for 6 s."""
    if os.geteuid() != 0:
        missing("the right to start HAProxy as another user (root)")
    (lines,) = re.findall(r"```\n(ring .*?)\n```", (ROOT / "docs" / "latency.md").read_text(), re.S)
    relay, reader, listen = (f"127.0.0.1:{free_port()}" for _ in range(3))
    server = ("shop", "v1-1.0.0123456789ab")
    log = HAProxyRequestLog(StreamSource(reader))

    def counted() -> int:
        log.poll(time.time())
        found = log.counts().times.get(server)
        return found.cumulative[-1] if found else 0

    with short_folder() as home, backends(home / "backends") as there:
        text = ADOPTED.format(server=there.start("v1-1").address, listen=listen).replace("LINES", lines)
        (home / "haproxy.cfg").write_text(text.replace("127.0.0.1:3905", relay).replace("127.0.0.1:3904", reader))
        haproxy = subprocess.Popen([program("haproxy"), "-f", str(home / "haproxy.cfg")])
        try:
            assert log.poll(time.time())
            assert not HAProxyRequestLog(StreamSource(reader)).poll(time.time()), "another engine receives it"
            eventually("HAProxy answers", lambda: accepts(listen), process=haproxy)
            eventually("the reader gets lines", lambda: ask(listen, 1) or counted())
            pause(1.0, "no line that was sent before comes later")
            before = counted()
            ask(listen, 1000)
            pause(6.0, "the reader reads nothing for longer than HAProxy waits by default")
            ask(listen, 300)
            assert eventually("all are counted", lambda: (now := counted()) >= before + 1300 and now) == before + 1300
        finally:
            haproxy.terminate()
            exit_status(haproxy)
            log.close()


@pytest.mark.parametrize(
    ("mode", "log", "said"),
    [
        ("adopted", "log.sock", r"absolute path of a Unix socket \(at most 97 characters\), host:port, or 'off'"),
        (
            "adopted",
            "/tmp/log.sock server x",
            r"absolute path of a Unix socket \(at most 97 characters\), host:port, or 'off'",
        ),
        ("adopted", "127.0.0.1", r"absolute path of a Unix socket \(at most 97 characters\), host:port, or 'off'"),
        ("owned", "/tmp/log.sock", "must be 'off' or left out in mode owned"),
    ],
)
def test_logs_that_lead_nowhere_are_refused(mode: str, log: str, said: str) -> None:
    places = {"socket": Path("/s"), "config": Path("/c")} if mode == "adopted" else {}
    with pytest.raises(ValidationError, match=said):
        HAProxyOptions.model_validate({"mode": mode, "log": log, **places})


def test_without_a_log_there_is_nothing_to_count() -> None:
    assert HAProxyRouter(HAProxyOptions(log="off"), "test").request_log is None
