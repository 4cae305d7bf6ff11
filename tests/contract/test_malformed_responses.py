"""Every driver against a server that answers anything: its own error, and in time."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from support.store_fixtures import a_release, a_rollout, a_service
from support.wait import at_most
from tidegate.clock import Window
from tidegate.core.build import Build
from tidegate.core.event_kinds import EventKind
from tidegate.core.hooks import Hook, Job
from tidegate.core.model import Event, Instance, InstanceState
from tidegate.core.routing import Backend
from tidegate.drivers.ci.jenkins.driver import JenkinsCI
from tidegate.drivers.ci.jenkins.options import JenkinsOptions
from tidegate.drivers.http.documents import HttpDocuments
from tidegate.drivers.metrics.prometheus.driver import PrometheusMetrics, PrometheusOptions
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.drivers.platforms.docker.options import DockerHostOptions, DockerOptions
from tidegate.drivers.routers.envoy import config
from tidegate.drivers.routers.envoy.admin import EnvoyAdmin
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.drivers.routers.haproxy.options import HAProxyOptions
from tidegate.errors import CIError, DocumentError, DriverError, MetricsError, PlatformError, RouterError
from tidegate.ports import Notice

BOUNDED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class MalformedServer:
    """A server that sends the same bytes to whoever connects, on a port and on a unix socket."""

    def __init__(self, folder: Path) -> None:
        self.answer: Callable[[bytes], bytes] = lambda _: b""
        self.path = folder / "admin.sock"
        unix, tcp = socket.socket(socket.AF_UNIX), socket.socket()
        unix.bind(str(self.path))
        tcp.bind(("127.0.0.1", 0))
        self.port: int = tcp.getsockname()[1]
        self._listeners = [unix, tcp]
        for listener in self._listeners:
            listener.listen(64)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(listener.accept()[0],), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, suppress(OSError):
            line.settimeout(60)
            asked = line.recv(65536)
            line.sendall(self.answer(asked))
            line.shutdown(socket.SHUT_WR)
            line.recv(65536)

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


@pytest.fixture(scope="module")
def garbage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MalformedServer]:
    made = MalformedServer(tmp_path_factory.mktemp("garbage"))
    yield made
    made.close()


PATIENT = settings(BOUNDED, max_examples=8)  # these ask again when a source seems to be down


@contextmanager
def expected(kind: type[DriverError]) -> Iterator[None]:
    """This error or none at all, and not after minutes."""
    with at_most(120, "an answer to garbage"), suppress(kind):
        yield


def http(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def filled(words: list[str]) -> st.SearchStrategy[Any]:
    """JSON with the words that a driver looks for as keys, and anything at all behind them."""
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(words)
    plain |= st.sampled_from([10**400, "running", "LIVE", "success", "1", "v1", "1.40", [["x", "y"]]])
    return st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(words), inner, max_size=5),
        max_leaves=25,
    )


def answers(words: list[str]) -> st.SearchStrategy[bytes]:
    """What a server of HTTP could send: right JSON of the wrong kind, half of it, another status, no HTTP."""
    documents = filled(words).map(lambda found: json.dumps(found).encode())
    status = st.sampled_from(
        ["200 OK", "200 OK", "200 OK", "204 No Content", "302 Found", "404 Not Found", "500 Oops", "999 ?"]
    )
    whole = st.builds(http, documents | st.binary(max_size=60), status)
    cut = st.builds(lambda found, at: found[:-at], whole, st.integers(1, 60))
    return whole | whole | cut | st.binary(max_size=100)


DEEP = http(b"[" * 100_000 + b"]" * 100_000)
HUGE = http(b"9" * 50_000)
ENDLESS = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"


PROMETHEUS = [
    "status", "data", "resultType", "result", "metric", "value", "values", "histogram", "warnings", "error",
    "errorType",
]  # fmt: skip


@PATIENT
@example(DEEP)
@example(HUGE)
@example(ENDLESS)
@example(CHUNKS)
@example(
    http(
        json.dumps({"status": "success", "data": {"resultType": "vector", "result": [{"metric": [], "value": 5}]}}).encode()
    )
)
@example(http(b'{"status":"success","data":{"resultType":"scalar","result":[1' + b"0" * 400 + b',"1"]}}'))
@given(answers(PROMETHEUS))
def test_prometheus(garbage: MalformedServer, answer: bytes) -> None:
    garbage.answer = lambda _: answer
    metrics = PrometheusMetrics(PrometheusOptions(url=f"http://127.0.0.1:{garbage.port}", timeout_seconds=0.3), "demo")
    with expected(MetricsError):
        metrics.fetch("up", Window(1.0, 2.0))
    assert metrics.check()


JENKINS = [
    "id", "description", "actions", "executions", "settled", "input", "parameters", "name", "items", "task", "url",
    "_class",
]  # fmt: skip


@PATIENT
@example(DEEP)
@example(HUGE)
@example(ENDLESS)
@example(CHUNKS)
@example(
    http(json.dumps({"description": 5, "actions": [{"executions": [{"id": "Tidegate-abc-1-0", "input": 7}]}]}).encode())
)
@given(answers(JENKINS))
def test_jenkins(garbage: MalformedServer, tmp_path_factory: pytest.TempPathFactory, answer: bytes) -> None:
    garbage.answer = lambda _: answer
    file = tmp_path_factory.getbasetemp() / "jenkins-token"
    file.write_text("11fake")
    options = {"url": f"http://127.0.0.1:{garbage.port}", "user": "x", "token_file": file, "timeout_seconds": 0.3}
    ci = JenkinsCI(JenkinsOptions.model_validate({**options, "stop_obsolete": True}), "demo")
    notice = Notice(a_rollout(a_service(), 1), Event(EventKind.CREATED, "x", 1.0), "http://x/")
    with expected(CIError):
        ci.report(Build("job", 7), notice)
    assert ci.check()


DOCKER = [
    "Id", "State", "Labels", "Status", "Names", "NetworkSettings", "Networks", "IPAddress", "ApiVersion", "Ports",
    "Health", "Log", "HostConfig", "RestartCount", "Config", "RepoDigests", "tidegate.release", "tidegate.ordinal",
    "tidegate.port", "tidegate.probe", "tidegate.environment", "tidegate.service", "message", "StatusCode",
]  # fmt: skip
RELEASE = a_release(a_service(), 1)
JOB = Job("abc", "demo/shop", "before_traffic", RELEASE, Hook(("true",)), {})
LEFT = Instance("abc", "v1-1", 0, "", InstanceState.READY, 0, "local", "")


@BOUNDED
@example(DEEP)
@example(HUGE)
@example(ENDLESS)
@example(CHUNKS)
@example(http(b"[5]"))
@example(http(b'[{"Id": 5}]'))
@example(http(b'{"Id": {}}'))
@example(
    http(b'[{"Id":"a","State":"running","Labels":{"tidegate.release":"v1-1","tidegate.ordinal":"0","tidegate.port":"x"}}]')
)
@given(answers(DOCKER))
def test_docker(garbage: MalformedServer, answer: bytes) -> None:
    version = http(b'{"ApiVersion": "1.41"}')
    garbage.answer = lambda asked: version if b"/version" in asked.split(b"\r\n")[0] else answer
    host = DockerHostOptions(name="local", url=f"unix://{garbage.path}")
    platform = DockerPlatform(DockerOptions(hosts=(host,), timeout_seconds=1.0, pull_seconds=1.0), "demo")
    try:
        for call in (
            lambda: platform.instances("demo/shop"),
            lambda: platform.pin(RELEASE),
            lambda: platform.start(RELEASE, [0]),
            lambda: platform.run_job(JOB),
            lambda: platform.stop_job(JOB),
            lambda: platform.remove_jobs("demo/shop", "abc"),
            lambda: platform.tail_logs(LEFT, 5),
        ):
            with expected(PlatformError):
                call()
        platform.stop([LEFT], 1.0)
        assert platform.check()
        garbage.answer = lambda _: answer
        with expected(PlatformError), closing(DockerPlatform(DockerOptions(hosts=(host,)), "demo")) as another:
            another.instances("demo/shop")
    finally:
        platform.close()


BACKEND = Backend("shop", "127.0.0.1:8001")
CSV = "# pxname,svname,qcur,scur,status,weight,uweight,addr,type,hrsp_5xx,stot,req_tot,econ,eresp,cli_abrt,srv_abrt,"
CELLS = st.sampled_from(
    ["shop", "v1-1.0.abc", "UP", "MAINT", "1", "-1", "x", "", "BACKEND", "4", "2", "1.2.3.4:80", "9" * 30]
)
LINES = st.lists(st.lists(CELLS, max_size=18).map(",".join), max_size=4).map(lambda rows: "\n".join([CSV, *rows]))
WORDS = st.sampled_from(
    ["Pid: x", "Pid: 5", "Version: 2", "Uptime_sec: z", "1", "> ", "\n> ", "Proxy is disabled.", "No such"]
)
SAID = (
    LINES.map(str.encode)
    | st.lists(WORDS, max_size=5).map(lambda found: "\n".join(found).encode())
    | st.binary(max_size=80)
)


@PATIENT
@example(b"")
@example(b"\n> " * 50)
@example(b"Pid: x\n\n> ")
@given(SAID)
def test_haproxy(garbage: MalformedServer, tmp_path_factory: pytest.TempPathFactory, answer: bytes) -> None:
    config = tmp_path_factory.getbasetemp() / "haproxy.cfg"
    config.write_text("backend shop\n    balance roundrobin\n")
    garbage.answer = lambda _: answer + b"\n\n> "
    router = HAProxyRouter(
        HAProxyOptions.model_validate(
            {"mode": "adopted", "directory": config.parent, "socket": garbage.path, "config": config}
        ),
        "demo",
    )
    with expected(RouterError):
        router.read(BACKEND)
    assert router.check()


@BOUNDED
@example(DEEP)
@example(HUGE)
@example(ENDLESS)
@example(CHUNKS)
@given(answers(["openapi", "paths", "get"]))
def test_documents(garbage: MalformedServer, answer: bytes) -> None:
    garbage.answer = lambda _: answer
    with expected(DocumentError):
        HttpDocuments().fetch(f"127.0.0.1:{garbage.port}", "/openapi.json", 2.0)


ENVOY = [
    "cluster_statuses", "name", "host_statuses", "address", "socket_address", "port_value", "stats", "value",
    "health_status", "eds_health_status", "weight", "hostname", "listener_statuses", "configs", "error_state",
    "failed_configuration",
]  # fmt: skip


@BOUNDED
@example(DEEP)
@example(HUGE)
@example(ENDLESS)
@example(CHUNKS)
@example(http(b"\xff"))
@example(http(b'{"cluster_statuses": [{"name": "shop~1", "host_statuses": [{"address": 5}]}]}'))
@given(answers(ENVOY))
def test_envoy(garbage: MalformedServer, answer: bytes) -> None:
    garbage.answer = lambda _: answer
    admin = EnvoyAdmin(config.EnvoyFiles(garbage.path.parent))
    for call in (
        lambda: admin.clusters("shop"),
        admin.active_listeners,
        lambda: admin.accepted_version("eds"),
        lambda: admin.rejected_updates("eds"),
        lambda: admin.rejection_reason("shop"),
    ):
        with expected(RouterError):
            call()
