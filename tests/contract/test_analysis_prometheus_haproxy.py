"""The analysis of a real HAProxy that a real Prometheus scrapes: its counts against what the application counted itself."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import free_port
from support.faulty_application import Application, application, assert_counts_agree, send
from support.measurements import ERRORS, NEW, OLD, server_of
from support.prerequisites import program
from support.prometheus import AnalysisHarness, has_counted, metrics_of, running_prometheus
from support.wait import eventually, exit_status
from tidegate.analysis.verdict import Outcome, Reason

MAX_MEASUREMENTS = 40
CONFIG = """
global
  stats socket {home}/admin.sock mode 600 level admin
defaults
  mode http
  option http-server-close
  timeout connect 30s
  retries 0
  timeout client 60s
  timeout server 60s
frontend fe
  bind 127.0.0.1:{port}
  default_backend {backend}
frontend exporter
  bind 127.0.0.1:{exporter}
  http-request use-service prometheus-exporter if {{ path /metrics }}
backend {backend}
  balance roundrobin
  server {server} 127.0.0.1:{old}
"""


class Proxy:
    """A HAProxy with one server of the old release."""

    def __init__(self, home: Path, backend: str, exporter: int, old: int) -> None:
        self.port, self._home, self._backend, self._exporter = free_port(), home, backend, exporter
        values = {"home": home, "port": self.port, "exporter": exporter, "backend": backend, "server": server_of(OLD)}
        (home / "haproxy.cfg").write_text(CONFIG.format(old=old, **values))
        self.start()

    def start(self) -> None:
        words = [program("haproxy"), "-db", "-f", str(self._home / "haproxy.cfg")]
        self._process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        try:
            eventually("HAProxy serves", self._serves, process=self._process)
        except AssertionError:
            self._process.kill()
            raise

    def _serves(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._exporter}/metrics", timeout=60):
                return True
        except OSError:
            return False

    def add(self, port: int) -> None:
        """A server of the new release."""
        server = f"{self._backend}/{server_of(NEW)}"
        assert "registered" in self._say(f"add server {server} 127.0.0.1:{port}")
        self._say(f"enable server {server}")

    def delete(self) -> None:
        server = f"{self._backend}/{server_of(NEW)}"
        self._say(f"set server {server} state maint")
        eventually("the server is deleted", lambda: "deleted" in self._say(f"del server {server}"))

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._home / "admin.sock"))
            connection.sendall(f"{command}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            return connection.makefile("rb").read().decode().strip()

    def send(self, requests: int) -> None:
        """GETs over eight kept connections."""
        send(self.port, requests)

    def stop(self) -> None:
        self._process.terminate()
        exit_status(self._process)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Prometheus' address, and the port that it scrapes."""
    port = free_port()
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), {"haproxy": f"127.0.0.1:{port}"}) as url:
        yield url, port


@pytest.fixture
def bake(source: tuple[str, int]) -> Iterator[AnalysisHarness]:
    made = AnalysisHarness(metrics_of(source[0]), ERRORS)
    yield made
    assert repr(made.replayed()) == repr(made.verdicts)


@pytest.fixture
def old() -> Iterator[Application]:
    with application() as served:
        yield served


@pytest.fixture
def proxy(tmp_path: Path, source: tuple[str, int], bake: AnalysisHarness, old: Application) -> Iterator[Proxy]:
    """It served 80 requests, which were scraped, before the new release is routed."""
    running = Proxy(tmp_path, bake.proxy, source[1], old.port)
    try:
        running.send(80)
        bake.scraped()
        bake.begin()
        old.requests = 0
        yield running
    finally:
        running.stop()


def send_until_it_fails(bake: AnalysisHarness, proxy: Proxy) -> None:
    """40 requests after each measurement, until the check fails."""
    for _ in range(MAX_MEASUREMENTS):
        if bake.measure(final=False)["errors"].outcome is Outcome.FAIL:
            return
        proxy.send(40)
        bake.scraped()
    raise AssertionError(f"after {MAX_MEASUREMENTS} measurements: {bake.verdicts[-1].message}")


def test_a_new_server_is_counted_from_its_first_request(bake: AnalysisHarness, proxy: Proxy, old: Application) -> None:
    with application(fails_each=5) as new:
        proxy.add(new.port)
        proxy.send(400)
        assert_counts_agree(bake.settled(final=False)["errors"], new, old)
        send_until_it_fails(bake, proxy)
        found = bake.settled()["errors"]
        assert_counts_agree(found, new, old)
    assert (found.reason, bake.outcome) == (Reason.WORSE, "FAIL")
    assert bake.verdicts[-1].message.startswith("FAIL: errors: error rate 20 % (")


def test_a_good_release_passes_and_each_request_of_a_restarted_proxy_counts(
    bake: AnalysisHarness, proxy: Proxy, old: Application
) -> None:
    with application() as new:
        for requests in (200, 120, 40):  # fewer each time: a restart shows by a count that is lower than before
            proxy.add(new.port)
            proxy.send(requests)
            bake.scraped()
            proxy.stop()
            proxy.start()
        proxy.send(8)
        found = bake.settled()["errors"]
        assert_counts_agree(found, new, old)
    assert (has_counted(found), found.candidate) == (True, 0.0)


def test_a_server_that_was_deleted_and_added_again_counts_all_it_did(
    bake: AnalysisHarness, proxy: Proxy, old: Application
) -> None:
    with application() as new:
        for requests in (120, 160, 200):  # more each time: the new counter is higher than the one that was deleted
            proxy.add(new.port)
            proxy.send(requests)
            bake.scraped()
            proxy.delete()
            bake.scraped()
        found = bake.settled()["errors"]
        assert_counts_agree(found, new, old)
    assert has_counted(found)


def test_a_server_that_refuses_fails(bake: AnalysisHarness, proxy: Proxy) -> None:
    proxy.add(free_port())
    send_until_it_fails(bake, proxy)
    assert bake.settled()["errors"].candidate == 1.0
    assert bake.outcome == "FAIL"


def test_an_answer_that_breaks_off_counts_as_two_requests_of_which_one_failed(
    bake: AnalysisHarness, proxy: Proxy, old: Application
) -> None:
    with application(breaks_each=4) as new:
        proxy.add(new.port)
        proxy.send(240)
        found = bake.settled()["errors"]
        assert new.broken >= 20
        assert (found.candidate_count, found.baseline_count) == (new.requests + new.broken, old.requests)
        assert found.candidate == pytest.approx(new.broken / (new.requests + new.broken))
