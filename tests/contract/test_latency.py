"""Response times by release from HAProxy's log lines: a real HAProxy, mtail and Prometheus, with nothing instrumented."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
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
from support.haproxy import ended, owned_router, short_folder, until
from support.need import missing, program
from support.prometheus import running_prometheus
from tidegate.core.judge.questions import RESPONSE_SECONDS, servers
from tidegate.core.judge.verdict import Window
from tidegate.core.routing import Backend, Member
from tidegate.drivers.metrics.prometheus import PrometheusMetrics, PrometheusOptions
from tidegate.drivers.routers.haproxy import HAProxyOptions, HAProxyRouter

ROOT = Path(__file__).parents[2]
ARRIVAL_SECONDS = 10.0
LINE = f'{RESPONSE_SECONDS}{{proxy="shop",server="'


class Mtail:
    """mtail as the demo starts it, in the folder where HAProxy's `log` leads; or with another address of the log."""

    def __init__(self, home: Path, log: str = "") -> None:
        program("mtail")
        self._home, self._log, self.port = home, log, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Returns when it answers."""
        (self._home / "log.sock").unlink(missing_ok=True)
        command = parts.mtail_command(self._home, self.port)
        if self._log:
            command = [word.replace(f"unix://{self._home}/log.sock", self._log) for word in command]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(parts.answers(f"http://127.0.0.1:{self.port}/metrics"))
        return self.process

    def stop(self) -> None:
        """End it, also where it is held."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(10)

    def requests(self) -> dict[str, int]:
        """How many it has seen, by server."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith(LINE) and 'le="+Inf"' in line]
        return {line.removeprefix(LINE).partition('"')[0]: int(line.rpartition(" ")[2]) for line in lines}

    def has_seen(self, requests: int) -> bool:
        """In all."""
        return sum(self.requests().values()) == requests


@dataclass
class Scene:
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
def scene(home: Path) -> Iterator[Scene]:
    mtail = Mtail(home)
    with owned_router(home, log=str(home / "log.sock")) as router, backends(home / "backends") as there:
        try:
            yield Scene(router, mtail, there, Backend("shop", f"127.0.0.1:{free_port()}", ""))
        finally:
            mtail.stop()


@pytest.fixture
def there() -> Iterator[Scene]:
    with short_folder() as home, scene(home) as made:
        yield made


def name(member: Member) -> str:
    return f"{member.release}.{member.ordinal}.{member.instance}"


def test_slow_requests_are_in_the_buckets_of_their_server(there: Scene, tmp_path: Path) -> None:
    there.mtail.start()
    old, new = there.backends.start("v1-1"), there.backends.start("v2-4")
    with running_prometheus(tmp_path, {"haproxy-log": f"127.0.0.1:{there.mtail.port}"}) as url:
        there.route(old, new)
        there.ask(140)
        there.route(new)
        there.ask_at_once(60, 1, milliseconds=2500)  # all on the new one; a busy machine makes no other as slow as that
        until(lambda: there.mtail.requests() == {name(old): 70, name(new): 130}, ARRIVAL_SECONDS)
        time.sleep(1.0)  # several scrapes
        metrics = PrometheusMetrics(PrometheusOptions(url=url), "test")
        window = Window(time.time() - 60, time.time())
        found = metrics.fetch(servers((RESPONSE_SECONDS,), "shop", ("v2-4",)), window)
    assert {each.labels["server"] for each in found} == {name(new)}
    newest = {each.labels["le"]: each.samples[-1][1] for each in found}
    assert len(newest) == 24
    assert (newest["2"], newest["+Inf"]) == (70.0, 130.0)
    bounds = sorted(newest, key=lambda bound: float(bound.replace("+Inf", "inf")))
    counts = [newest[bound] for bound in bounds]
    assert counts == sorted(counts), "cumulative"


def test_lines_arrive_as_fast_as_requests_come(there: Scene) -> None:
    there.mtail.start()
    there.route(there.backends.start("v1-1"))
    there.ask(1)
    until(lambda: there.mtail.has_seen(1), ARRIVAL_SECONDS)
    there.ask_at_once(4, 1500)
    until(lambda: there.mtail.has_seen(6001), 2.0)  # with mtail's own poll interval it takes 11 s


def test_with_nobody_there_haproxy_rests_and_answers(there: Scene) -> None:
    there.route(there.backends.start("v1-1"))
    there.ask(200)
    before = processor_seconds(there.worker)
    time.sleep(2.0)
    assert processor_seconds(there.worker) - before < 0.2
    there.mtail.start()
    time.sleep(2.5)  # HAProxy asks once in a second
    there.ask(100)
    until(lambda: sum(there.mtail.requests().values()) >= 100, ARRIVAL_SECONDS)


def test_a_reader_that_hangs_holds_nobody_up(there: Scene) -> None:
    process = there.mtail.start()
    there.route(there.backends.start("v1-1"))
    process.send_signal(signal.SIGSTOP)
    there.ask_at_once(4, 2500)  # more than is kept between the two
    old, pid = there.worker, there.router.pid
    assert pid is not None
    os.kill(pid, signal.SIGUSR2)
    until(lambda: ended(old), 15.0)
    process.send_signal(signal.SIGCONT)
    there.ask(1)


def test_the_reader_may_be_started_anew(there: Scene) -> None:
    there.mtail.start()
    there.route(there.backends.start("v1-1"))
    there.ask(50)
    until(lambda: there.mtail.has_seen(50), ARRIVAL_SECONDS)
    there.mtail.stop()
    there.mtail.start()
    time.sleep(2.5)
    there.ask(70)
    until(lambda: sum(there.mtail.requests().values()) >= 70, ARRIVAL_SECONDS)


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
            until(parts.answers(f"http://{listen}/"))
            time.sleep(2.5)
            before = mtail.requests().get("v1-1.0.0123456789ab", 0)
            ask(listen, 300)
            until(lambda: mtail.requests()["v1-1.0.0123456789ab"] == before + 300, ARRIVAL_SECONDS)
        finally:
            haproxy.terminate()
            haproxy.wait(10)
            mtail.stop()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("log.sock", "absolute path of a unix socket, or host:port"),
        ("/tmp/log.sock server x", "absolute path of a unix socket, or host:port"),
        ('/tmp/"', "absolute path of a unix socket, or host:port"),
        ("127.0.0.1", "absolute path of a unix socket, or host:port"),
    ],
)
def test_logs_that_lead_nowhere_are_refused(log: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HAProxyOptions(log=log)


def test_an_adopted_haproxy_logs_as_its_own_file_says() -> None:
    with pytest.raises(ValidationError, match="log is for mode owned"):
        HAProxyOptions(mode="adopted", socket=Path("/s"), config=Path("/c"), log="/tmp/log.sock")


def processor_seconds(pid: int) -> float:
    """What a process has used until now."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
