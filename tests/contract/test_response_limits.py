"""Responses without an end from a real server: huge after decompression, with too many series, one byte at a time."""

from __future__ import annotations

import gzip
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.http_server import HttpSite, page, serving
from support.wait import at_most
from tidegate.analysis.verdict import Reason
from tidegate.clock import Window
from tidegate.drivers.ci.jenkins.client import JenkinsClient
from tidegate.drivers.ci.jenkins.options import JenkinsOptions
from tidegate.drivers.http.documents import HttpDocuments
from tidegate.drivers.http_client import MAX_RESPONSE_BYTES
from tidegate.drivers.metrics.prometheus.decode import MAX_SAMPLES, MAX_SERIES
from tidegate.drivers.metrics.prometheus.driver import PrometheusMetrics, PrometheusOptions
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.drivers.platforms.docker.options import DockerHostOptions, DockerOptions
from tidegate.errors import CIError, DocumentError, DriverError, MetricsError, PlatformError

Client = Callable[[str, float], object]  # from the address and the time limit
NOW = Window(1_700_000_000.0, 1_700_000_060.0)
BOMB = gzip.compress(b'{"status": "success", "data": "' + b" " * 128_000_000 + b'"}', 6)  # 128 MB of 124 KB
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BYTE_SECONDS = 0.02  # between two bytes of a response without an end
MAX_PEAK = 100_000_000  # while 64 MiB may be read from Docker, 16 from the others


def prometheus(address: str, seconds: float) -> object:
    options = PrometheusOptions.model_validate({"url": f"http://{address}", "timeout_seconds": seconds})
    return PrometheusMetrics(options, "demo").fetch("up", NOW)


@pytest.fixture
def jenkins(tmp_path: Path) -> Client:
    token = tmp_path / "token"
    token.write_text("secret\n")
    return lambda address, seconds: JenkinsClient(
        JenkinsOptions(url=f"http://{address}", user="tidegate", token_file=token, timeout_seconds=seconds)
    ).get("job/a/1/", "number")


def documents(address: str, seconds: float) -> object:
    return HttpDocuments().fetch(address, "/openapi.json", seconds)


def docker(address: str, seconds: float) -> object:
    host = DockerHostOptions(name="there", url=f"tcp://{address}")
    platform = DockerPlatform(DockerOptions(hosts=(host,), timeout_seconds=seconds), "demo")
    try:
        return platform.instances("demo/shop")
    finally:
        platform.close()


@pytest.fixture(params=["prometheus", "jenkins", "documents", "docker"])
def client(request: pytest.FixtureRequest, jenkins: Client) -> Client:
    clients: dict[str, Client] = {"prometheus": prometheus, "jenkins": jenkins, "documents": documents, "docker": docker}
    return clients[request.param]


def test_a_gzip_bomb_is_an_error_and_takes_little_memory(client: Client) -> None:
    with serving(lambda _: page(200, BOMB, "Content-Encoding: gzip", "Content-Type: application/json")) as site:
        tracemalloc.start()
        try:
            with pytest.raises(DriverError):
                client(site.address, 60.0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < MAX_PEAK


def test_what_prometheus_and_jenkins_sent_too_much_of_is_named(jenkins: Client) -> None:
    with serving(lambda _: page(200, BOMB, "Content-Encoding: gzip", "Content-Type: application/json")) as site:
        with pytest.raises(MetricsError) as query:
            prometheus(site.address, 60.0)
        with pytest.raises(CIError, match="more than 16,777,216 bytes after decompression"):
            jenkins(site.address, 60.0)
    assert query.value.reason == Reason.BAD_QUERY
    assert f"more than {MAX_RESPONSE_BYTES:,} bytes after decompression. Narrow the query" in query.value.message
    assert len(site.asked) == 2, "what is too large now is so at the next try"


def dripping(ended: threading.Event, start: bytes) -> Iterator[bytes]:
    """Bytes that come often enough for every timeout of a single read."""
    yield start
    while not ended.wait(BYTE_SECONDS):
        yield b" "


@pytest.mark.parametrize("start", [HEAD + b"Content-Length: 99999\r\n\r\n", HEAD + b"X-Slow: "], ids=["body", "headers"])
@pytest.mark.parametrize("name", ["prometheus", "jenkins", "documents"])
def test_a_response_of_one_byte_at_a_time_ends_in_time(name: str, start: bytes, jenkins: Client) -> None:
    ask, ended = {"prometheus": prometheus, "jenkins": jenkins, "documents": documents}[name], threading.Event()
    with serving(lambda _: dripping(ended, start)) as site, at_most(60, "giving up"):
        try:
            with pytest.raises(DriverError, match=r"did not answer in time|timed out after"):
                ask(site.address, 0.5)
        finally:
            ended.set()


def series(count: int, samples: int) -> HttpSite | Any:
    rows = [{"metric": {"n": str(number)}, "values": [[1_700_000_001, "1"]] * samples} for number in range(count)]
    body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": rows}}, separators=(",", ":"))
    return serving(lambda _: page(200, body.encode(), "Content-Type: application/json"))


@pytest.mark.parametrize(
    ("count", "samples", "said"),
    [
        (MAX_SERIES + 1, 1, "returns 10,001 series; at most 10,000 are allowed. Narrow the query"),
        (51, MAX_SAMPLES // 50, "returns 510,000 samples; at most 500,000 are allowed. Narrow the query"),
    ],
)
def test_series_and_samples_are_counted(count: int, samples: int, said: str) -> None:
    with series(count, samples) as site, pytest.raises(MetricsError) as refused:
        prometheus(site.address, 60.0)
    assert refused.value.reason == Reason.BAD_QUERY
    assert not refused.value.retryable
    assert said in refused.value.message


def test_a_large_answer_within_the_limits_is_read() -> None:
    with series(1000, 100) as site:
        found = prometheus(site.address, 60.0)
    assert isinstance(found, tuple)
    assert len(found) == 1000


@pytest.mark.parametrize("kind", [DocumentError, PlatformError])
def test_errors_are_of_the_driver(kind: type[DriverError]) -> None:
    ask = documents if kind is DocumentError else docker
    with serving(lambda _: page(200, BOMB, "Content-Encoding: gzip")) as site, pytest.raises(kind):
        ask(site.address, 60.0)
