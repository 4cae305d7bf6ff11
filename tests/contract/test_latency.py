"""Response times by release from HAProxy's log lines: a real HAProxy, mtail and Prometheus, with nothing instrumented."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from pydantic import ValidationError

import parts
from processes import free_port
from support.backends import Backends, backends
from support.frozen_process import frozen
from support.haproxy import ended, owned_router, short_folder
from support.prerequisites import missing, program
from support.prometheus import metrics_of, running_prometheus
from support.wait import eventually, exit_status
from tidegate.analysis.queries import RESPONSE_SECONDS, server_selector
from tidegate.clock import Window
from tidegate.core.routing import Backend, Member
from tidegate.drivers.routers.haproxy.driver import HAProxyOptions, HAProxyRouter

ROOT = Path(__file__).parents[2]
OWN_POLL = "250ms"  # what mtail has without the option
BACKLOG = 200  # lines
LINE = f'{RESPONSE_SECONDS}{{proxy="shop",server="'


class Mtail:
    """mtail as the demo starts it, in the folder where HAProxy's `log` leads; or with another address of the log."""

    def __init__(self, home: Path, log: str = "") -> None:
        program("mtail")
        self._home, self._log, self.port = home, log, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, poll: str = "5ms") -> subprocess.Popen[bytes]:
        """Returns when it answers."""
        (self._home / "log.sock").unlink(missing_ok=True)
        command = [word.replace("poll_interval=5ms", f"poll_interval={poll}") for word in self._command()]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        eventually("mtail answers", parts.answers(f"http://127.0.0.1:{self.port}/metrics"), process=self.process)
        return self.process

    def _command(self) -> list[str]:
        words, own = parts.mtail_command(self._home, self.port), f"unix://{self._home}/log.sock"
        assert "--poll_interval=5ms" in words
        return [word.replace(own, self._log) for word in words] if self._log else words

    def stop(self) -> None:
        """End it, also where it is held."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            exit_status(process)

    def requests(self) -> dict[str, int]:
        """How many it has seen, by server."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith(LINE) and 'le="+Inf"' in line]
        return {line.removeprefix(LINE).partition('"')[0]: int(line.rpartition(" ")[2]) for line in lines}

    def await_requests(self, server: str, number: int) -> None:
        """Until it has seen so many of a server."""
        eventually(f"{number} lines of {server} are read", lambda: self.requests().get(server, 0) >= number)


@dataclass
class LatencySetup:
    """A HAProxy with a log, what it routes to, and who reads the log once it is started."""

    router: HAProxyRouter
    mtail: Mtail
    backends: Backends
    shop: Backend

    def route(self, *members: Member) -> None:
        self.router.write(self.shop, members, 1)

    def ask(self, times: int, milliseconds: float = 0.01) -> None:
        ask(self.shop.listen, times, milliseconds)

    def ask_at_once(self, clients: int, times: int, milliseconds: float = 0.01) -> None:
        """By so many clients."""
        with ThreadPoolExecutor(clients) as pool:
            for each in [pool.submit(self.ask, times, milliseconds) for _ in range(clients)]:
                each.result()

    def route_and_be_read(self, release: str) -> Member:
        """Route to a new server; return it when its lines are read: HAProxy asks for a reader once in a second."""
        member = self.backends.start(release)
        self.route(member)
        eventually("the reader gets lines", lambda: self.ask(1) or self.mtail.requests().get(name(member)))
        return member

    @property
    def worker(self) -> int:
        (found,) = self.router.workers()
        return found


def ask(listen: str, times: int, milliseconds: float = 0.01) -> None:
    """So many requests on one connection, each of which takes so long."""
    host, _, port = listen.rpartition(":")
    line = http.client.HTTPConnection(host, int(port))
    for _ in range(times):
        line.request("GET", f"/?ms={milliseconds}")
        answer = line.getresponse()
        answer.read()
        assert answer.status == 200
    line.close()


@contextmanager
def scene(home: Path) -> Iterator[LatencySetup]:
    mtail = Mtail(home)
    with owned_router(home, log=str(home / "log.sock")) as router, backends(home / "backends") as there:
        try:
            yield LatencySetup(router, mtail, there, Backend("shop", f"127.0.0.1:{free_port()}", ""))
        finally:
            mtail.stop()


@pytest.fixture
def there() -> Iterator[LatencySetup]:
    with short_folder() as home, scene(home) as made:
        yield made


def name(member: Member) -> str:
    return f"{member.release}.{member.ordinal}.{member.instance}"


def test_slow_requests_are_in_the_buckets_of_their_server(there: LatencySetup, tmp_path: Path) -> None:
    there.mtail.start()
    old, new = there.backends.start("v1-1"), there.backends.start("v2-4")
    with running_prometheus(tmp_path, {"haproxy-log": f"127.0.0.1:{there.mtail.port}"}) as url:
        there.route(old, new)
        there.ask(140)
        there.route(new)
        there.ask_at_once(60, 1, milliseconds=2500)  # all on the new one; a busy machine makes no other as slow as that
        there.mtail.await_requests(name(old), 70)
        there.mtail.await_requests(name(new), 130)
        assert there.mtail.requests() == {name(old): 70, name(new): 130}
        query, begun = server_selector((RESPONSE_SECONDS,), "shop", ("v2-4",)), time.time()

        def newest() -> dict[tuple[str, str], float]:
            found = metrics_of(url).fetch(query, Window(begun - 60, time.time()))
            return {(series.labels["server"], series.labels["le"]): series.samples[-1][1] for series in found}

        eventually("Prometheus has them all", lambda: newest().get((name(new), "+Inf")) == 130.0)
        found = newest()
    assert {server for server, _ in found} == {name(new)}
    values = {bound: value for (_, bound), value in found.items()}
    assert len(values) == 24
    assert (values["2"], values["+Inf"]) == (70.0, 130.0)
    bounds = sorted(values, key=lambda bound: float(bound.replace("+Inf", "inf")))
    counts = [values[bound] for bound in bounds]
    assert counts == sorted(counts), "cumulative"


def backlog_seconds(there: LatencySetup, release: str, poll: str) -> float:
    """How long it takes mtail to read the lines that came while it was held.

    They are few and long: HAProxy gives up a reader that takes nothing for 5 s.
    """
    process = there.mtail.start(poll)
    server = name(there.route_and_be_read(release + "x" * 250))
    with frozen(process.pid):
        there.ask(BACKLOG)
    begun = time.monotonic()
    there.mtail.await_requests(server, BACKLOG)
    seconds = time.monotonic() - begun
    there.mtail.stop()
    return seconds


def test_lines_are_read_faster_than_with_mtails_own_poll_interval(there: LatencySetup) -> None:
    """A poll reads 4096 bytes: with mtail's own interval the backlog takes 3 s on any machine."""
    as_the_demo, own = backlog_seconds(there, "v1-1", "5ms"), backlog_seconds(there, "v2-2", OWN_POLL)
    assert as_the_demo < own / 2


def test_with_nobody_there_haproxy_rests_and_answers(there: LatencySetup) -> None:
    there.route(there.backends.start("v1-1"))
    there.ask(200)
    before = processor_seconds(there.worker)
    with busy() as other:
        eventually("a busy process has had two seconds", lambda: processor_seconds(other) >= 2.0)
    assert processor_seconds(there.worker) - before < 0.2, "a tenth of what a process gets that never rests"
    there.mtail.start()
    server = name(there.route_and_be_read("v2-2"))
    there.ask(100)
    there.mtail.await_requests(server, 100)


def test_a_reader_that_hangs_holds_nobody_up(there: LatencySetup) -> None:
    process = there.mtail.start()
    there.route(there.backends.start("v1-1"))
    process.send_signal(signal.SIGSTOP)
    there.ask_at_once(4, 2500)  # more than is kept between the two
    old, pid = there.worker, there.router.pid
    assert pid is not None
    os.kill(pid, signal.SIGUSR2)
    eventually("the old worker has ended", lambda: ended(old))
    process.send_signal(signal.SIGCONT)
    there.ask(1)


def test_the_reader_may_be_started_anew(there: LatencySetup) -> None:
    for release, number in (("v1-1", 50), ("v2-2", 70)):
        there.mtail.start()
        server = name(there.route_and_be_read(release))
        there.ask(number)
        there.mtail.await_requests(server, number)
        there.mtail.stop()


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
    """Beside what Debian's own file begins with: a user, and a folder that it is locked into."""
    if os.geteuid() != 0:
        missing("the right to start HAProxy as another user (root)")
    (lines,) = re.findall(r"```\n(ring .*?)\n```", (ROOT / "docs" / "latency.md").read_text(), re.S)
    relay, reader, listen = (f"127.0.0.1:{free_port()}" for _ in range(3))
    with short_folder() as home, backends(home / "backends") as there:
        text = ADOPTED.format(server=there.start("v1-1").address, listen=listen).replace("LINES", lines)
        (home / "haproxy.cfg").write_text(text.replace("127.0.0.1:3905", relay).replace("127.0.0.1:3904", reader))
        mtail = Mtail(home, f"tcp://{reader}")
        haproxy = subprocess.Popen([program("haproxy"), "-f", str(home / "haproxy.cfg")])
        try:
            mtail.start()
            eventually("HAProxy answers", parts.answers(f"http://{listen}/"), process=haproxy)
            server = "v1-1.0.0123456789ab"
            eventually("the reader gets lines", lambda: ask(listen, 1) or mtail.requests().get(server))
            before = mtail.requests()[server]
            ask(listen, 300)
            mtail.await_requests(server, before + 300)
        finally:
            haproxy.terminate()
            exit_status(haproxy)
            mtail.stop()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("log.sock", r"absolute path of a Unix socket \(at most 97 characters\), or host:port"),
        ("/tmp/log.sock server x", r"absolute path of a Unix socket \(at most 97 characters\), or host:port"),
        ('/tmp/"', r"absolute path of a Unix socket \(at most 97 characters\), or host:port"),
        ("127.0.0.1", r"absolute path of a Unix socket \(at most 97 characters\), or host:port"),
    ],
)
def test_logs_that_lead_nowhere_are_refused(log: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HAProxyOptions(log=log)


def test_an_adopted_haproxy_logs_as_its_own_file_says() -> None:
    with pytest.raises(ValidationError, match="log requires mode owned"):
        HAProxyOptions(mode="adopted", socket=Path("/s"), config=Path("/c"), log="/tmp/log.sock")


@contextmanager
def busy() -> Iterator[int]:
    """A process that never rests; gives its id."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield process.pid
    finally:
        process.kill()
        exit_status(process)


def processor_seconds(pid: int) -> float:
    """What a process has used until now."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
