"""The ready-made checks on a real HAProxy, scraped by a real Prometheus: counts against what the application counted."""

from __future__ import annotations

import http.client
import http.server
import itertools
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.judging import NEW, OLD, rollout_of, server_of
from support.need import program
from support.prometheus import SCRAPE_SECONDS, free_port, running_prometheus
from tidegate.core.judge.judging import judge
from tidegate.core.judge.questions import questions
from tidegate.core.judge.verdict import Finding, Outcome, Reason, Verdict, Window
from tidegate.drivers.metrics.prometheus import PrometheusMetrics, PrometheusOptions


class Application:
    """Answers after a while, each n-th time with 500; counts what it did."""

    def __init__(self, seconds: float, fails_each: int = 0) -> None:
        self.requests = self.failed = 0
        lock, numbers, application = threading.Lock(), itertools.count(1), self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 0.3  # an idle connection ends the thread, so that closing does not wait

            def do_GET(self) -> None:
                time.sleep(seconds)
                with lock:
                    bad = bool(fails_each) and next(numbers) % fails_each == 0
                    application.requests += 1
                    application.failed += bad
                self.send_response(500 if bad else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """The proxy hangs up on idle connections."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def application(seconds: float, fails_each: int = 0) -> Iterator[Application]:
    served = Application(seconds, fails_each)
    try:
        yield served
    finally:
        served.close()


CONFIG = """
global
  stats socket {socket} mode 600 level admin
defaults
  mode http
  timeout connect 1s
  retries 0
  timeout client 5s
  timeout server 5s
frontend fe
  bind 127.0.0.1:{port}
  default_backend shop
frontend exporter
  bind 127.0.0.1:{exporter}
  http-request use-service prometheus-exporter if {{ path /metrics }}
backend shop
  balance roundrobin
  server {old} 127.0.0.1:{old_port}
"""


class Proxy:
    """A HAProxy with one server of the old release."""

    def __init__(self, directory: Path, old_port: int) -> None:
        self.port, exporter, self._socket = free_port(), free_port(), directory / "admin.sock"
        self.exporter = f"127.0.0.1:{exporter}"
        config = directory / "haproxy.cfg"
        config.write_text(
            CONFIG.format(socket=self._socket, port=self.port, exporter=exporter, old=server_of(OLD), old_port=old_port)
        )
        self.process = subprocess.Popen([program("haproxy"), "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://{self.exporter}/metrics", timeout=1):
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("haproxy does not serve")

    def say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            return connection.makefile("rb").read().decode().strip()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=10)


@pytest.fixture
def old() -> Iterator[Application]:
    with application(0.005) as served:
        yield served


@pytest.fixture
def proxy(tmp_path: Path, old: Application) -> Iterator[Proxy]:
    running = Proxy(tmp_path, old.port)
    yield running
    running.close()


@pytest.fixture
def metrics(tmp_path: Path, proxy: Proxy) -> Iterator[PrometheusMetrics]:
    with running_prometheus(tmp_path, {"haproxy": proxy.exporter}) as url:
        yield PrometheusMetrics(PrometheusOptions(url=url), "demo")


def send(port: int, requests: int) -> None:
    """GETs over eight kept connections."""

    def some(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        for _ in range(number):
            connection.request("GET", "/")
            connection.getresponse().read()
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(some, [requests // 8] * 8))


def scraped(metrics: PrometheusMetrics, server: str) -> None:
    """Wait until Prometheus has scraped twice from now on, with this server in it."""
    start, deadline = time.time(), time.monotonic() + 15
    while time.monotonic() < deadline:
        query = f'haproxy_server_http_responses_total{{server="{server}",code="2xx"}}'
        found = metrics.fetch(query, Window(start, time.time()))
        if found and len(found[0].samples) >= 2:
            return
        time.sleep(SCRAPE_SECONDS / 4)
    raise AssertionError(f"{server} is not scraped")


def judged(metrics: PrometheusMetrics, window: Window, *checks: str) -> tuple[Verdict, dict[str, Finding]]:
    rollout = rollout_of(*checks)
    answers = {each: metrics.fetch(each.query, each.window) for each in questions(rollout, window)}
    verdict = judge(rollout, window, True, answers, window.end)
    return verdict, {each.check: each for each in verdict.findings}


def test_a_new_server_is_counted_from_its_first_request(metrics: PrometheusMetrics, proxy: Proxy, old: Application) -> None:
    send(proxy.port, 80)
    scraped(metrics, server_of(OLD))
    before = old.requests
    start = time.time()
    with application(0.040, fails_each=5) as new:
        assert "registered" in proxy.say(f"add server shop/{server_of(NEW)} 127.0.0.1:{new.port}")
        proxy.say(f"enable server shop/{server_of(NEW)}")
        send(proxy.port, 400)
        scraped(metrics, server_of(NEW))
        proxy.say(f"set server shop/{server_of(NEW)} state maint")
        verdict, found = judged(metrics, Window(start, time.time()), "errors", "latency")
        assert new.requests >= 150
    errors = found["errors"]
    assert (errors.candidate_count, errors.baseline_count) == (new.requests, old.requests - before)
    assert errors.candidate == pytest.approx(new.failed / new.requests)
    assert (errors.baseline, errors.outcome, errors.reason) == (0.0, Outcome.FAIL, Reason.WORSE)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.sentence.startswith("FAIL: errors: 20 % of")
    latency = found["latency"]
    assert latency.candidate == pytest.approx(0.042, abs=0.008), "HAProxy itself shows less than half of it"
    assert latency.baseline is not None
    assert latency.baseline < 0.020


def test_a_server_that_was_deleted_still_counts_and_one_that_refuses_fails(
    metrics: PrometheusMetrics, proxy: Proxy, old: Application
) -> None:
    scraped(metrics, server_of(OLD))
    start = time.time()
    closed = free_port()
    proxy.say(f"add server shop/{server_of(NEW)} 127.0.0.1:{closed}")
    proxy.say(f"enable server shop/{server_of(NEW)}")
    send(proxy.port, 64)
    scraped(metrics, server_of(NEW))
    proxy.say(f"set server shop/{server_of(NEW)} state maint")
    assert "deleted" in proxy.say(f"del server shop/{server_of(NEW)}")
    scraped(metrics, server_of(OLD))
    verdict, found = judged(metrics, Window(start, time.time()), "errors")
    assert found["errors"].candidate == 1.0
    assert (found["errors"].candidate_count or 0) >= 8
    assert verdict.outcome is Outcome.FAIL
