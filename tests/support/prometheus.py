"""A real Prometheus of the test's own, and an exporter whose every scrape the test decides."""

from __future__ import annotations

import http.server
import json
import signal
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from processes import free_port
from support.measurements import rollout_of
from support.prerequisites import program
from support.wait import eventually, exit_status
from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.measurement import Measurement
from tidegate.analysis.verdict import Finding, Reason, Verdict
from tidegate.clock import Window
from tidegate.core.decisions import Analyze
from tidegate.core.model import Check, Instance, ObservedState, Policy
from tidegate.core.records import Claim
from tidegate.core.routing import Backend, RouterState
from tidegate.drivers.metrics.prometheus.driver import PrometheusMetrics, PrometheusOptions
from tidegate.engine import effects
from tidegate.engine.rollout_cache import RolloutCache
from tidegate.engine.tick_context import TickContext
from tidegate.ports import Drivers

SCRAPE_SECONDS = 0.2
SCRAPE_OFFSET_SECONDS = 0.01  # a scrape's time stamp may be some milliseconds later than its begin
REMOTE_SECONDS = 3  # that a Prometheus waits for one that it reads from


class Exporter:
    """Serves a text that the test sets, or makes anew for each reader; knows how often it was read."""

    def __init__(self) -> None:
        self.text: str | Callable[[], str] = ""
        self.down = False
        self.reads = 0
        self._lock = threading.Lock()
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with exporter._lock:
                    exporter.reads += 1
                    text, down = exporter.text, exporter.down
                    body = (text if isinstance(text, str) else text()).encode()
                self.send_response(503 if down else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(ConnectionError):  # whoever asked was stopped
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def address(self) -> str:
        """Where Prometheus reads it."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def publish(self, text: str, url: str, *, times: int = 1) -> None:
        """Show this text, and return when the Prometheus at `url` has stored it at least so often."""
        with self._lock:
            self.text = text
        metrics, since = metrics_of(url), time.time() + SCRAPE_OFFSET_SECONDS

        def scrapes() -> list[float]:
            found = metrics.fetch(f'up{{instance="{self.address}"}}', Window(since - 1, time.time()))
            return [at for series in found for at, up in series.samples if at > since and up]

        what = f"Prometheus has scraped {self.address} {times} times"
        eventually(what, lambda: len(scrapes()) >= times, poll_seconds=SCRAPE_SECONDS / 4)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Prometheus:
    """A server with its data in `directory`, scraping {job: host:port}. It keeps its address when it is started again.

    `external`: labels that it sets on what others read from it. `remote`: addresses of servers that it reads from.
    `instances`: addresses with the labels that they get, all in the job `instances`.
    """

    def __init__(
        self,
        directory: Path,
        targets: Mapping[str, str],
        *,
        external: Mapping[str, str] | None = None,
        remote: Sequence[str] = (),
        instances: Sequence[tuple[str, Mapping[str, str]]] = (),
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config, self._log, self._data = directory / "prometheus.yml", directory / "log", directory / "data"
        self._config.write_text(_config(targets, instances, external or {}, remote))
        self._targets = len(targets) + len(instances)
        self._process: subprocess.Popen[bytes] | None = None

    def fill(self, samples: Iterable[str]) -> None:
        """Put samples of the past (`name{labels} value seconds`, by name) among its data, before it is started."""
        file = self._data.with_suffix(".om")
        file.write_text("\n".join([*samples, "# EOF\n"]))
        command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(file), str(self._data)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Returns when it answers."""
        command = [
            program("prometheus"),
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._data}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        _await_ready(self.url, self._process, self._log)

    def reaches(self) -> None:
        """Returns when each target was scraped once; it waits 5 s before the first scrape."""
        metrics, begun = metrics_of(self.url), time.time()

        def targets() -> int:
            return len(metrics.fetch("up", Window(begun - 60, time.time())))

        what = "Prometheus has scraped every target"
        eventually(what, lambda: targets() >= self._targets, poll_seconds=SCRAPE_SECONDS / 4)

    def stop(self) -> None:
        """End it; its data stay."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            exit_status(process)
        finally:
            process.kill()

    @contextmanager
    def held(self) -> Iterator[None]:
        """It accepts connections, and answers nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            tasks = Path(f"/proc/{self._process.pid}/task")
            eventually("every thread is stopped", lambda: all(_is_stopped(thread) for thread in tasks.iterdir()))
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _config(
    targets: Mapping[str, str],
    instances: Sequence[tuple[str, Mapping[str, str]]],
    external: Mapping[str, str],
    remote: Sequence[str],
) -> str:
    """YAML; JSON is a part of it."""
    jobs = {job: [{"targets": [address]}] for job, address in targets.items()}
    if instances:
        jobs["instances"] = [{"targets": [address], "labels": labels} for address, labels in instances]
    scraped = [{"job_name": job, "static_configs": configs} for job, configs in jobs.items()]
    every = {"scrape_interval": f"{int(SCRAPE_SECONDS * 1000)}ms", "external_labels": external}
    every["scrape_timeout"] = every["scrape_interval"]
    read = [{"url": f"{url}/api/v1/read", "read_recent": True, "remote_timeout": f"{REMOTE_SECONDS}s"} for url in remote]
    return json.dumps({"global": every, "scrape_configs": scraped, "remote_read": read})


@contextmanager
def started(*servers: Prometheus) -> Iterator[None]:
    """All of them, when all their targets are scraped; ended at the end."""
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.reaches()
        yield
    finally:
        for server in reversed(servers):
            server.stop()


@contextmanager
def running_prometheus(directory: Path, targets: Mapping[str, str]) -> Iterator[str]:
    """Prometheus with its data in `directory`, scraping {job: host:port}; gives its address."""
    with started(server := Prometheus(directory, targets)):
        yield server.url


def _await_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=60):
                return True
        except OSError:
            return False

    try:
        eventually("Prometheus is ready", ready, process=process)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()}") from None


class CannedPrometheus:
    """A fake Prometheus for what the real one cannot be made to say: answers each request with the next recorded shape."""

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        """Each answer is (status, content type, body); the last one is repeated."""
        self.requests: list[tuple[str, dict[str, list[str]]]] = []
        fake, left = self, list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = left.pop(0) if len(left) > 1 else left[0]
                fake.requests.append((self.path, {name: self.headers.get_all(name) or [] for name in self.headers}))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> CannedPrometheus:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"


# -- judged by a real one ----------------------------------------------------------------------------------------------

INTERVAL_SECONDS = 0.5


def metrics_of(url: str, timeout_seconds: float = 30.0) -> PrometheusMetrics:
    """The driver, as an environment has it."""
    return PrometheusMetrics(PrometheusOptions(url=url, timeout_seconds=timeout_seconds), "demo")


def has_counted(found: Finding) -> bool:
    """Whether a check has counted both releases, though perhaps in too few intervals for a PASS."""
    return found.reason in (Reason.OK, Reason.WORSE, Reason.UNCLEAR) or "intervals of" in found.message


class AnalysisHarness:
    """A step that is judged as the engine does it. Its proxy has a name that no other test has.

    The warm-up is 0 unless asked for otherwise, so that the findings count every request.
    """

    def __init__(self, metrics: PrometheusMetrics, *checks: Check, warmup_seconds: float = 0.0, **policy: Any) -> None:
        self.metrics, self.ahead = metrics, 0.0  # how many seconds the engine's clock is ahead
        self.up = "up"  # of the targets that are waited for
        self.proxy = f"shop-{uuid.uuid4().hex[:8]}"
        settings = Policy(**{"interval_seconds": INTERVAL_SECONDS, "warmup_seconds": warmup_seconds, **policy})
        self.rollout = replace(rollout_of(*checks, policy=settings), backend=Backend(self.proxy), traffic_confirmed_at=None)
        self.instances: tuple[Instance, ...] = ()
        self.saved: list[Measurement] = []
        self.verdicts: list[Verdict] = []
        self._cache = RolloutCache()

    def begin(self) -> None:
        """The new release is routed now.

        Returns after a scrape that began later: one under way would read what a test shows next, with a time before this.
        """
        now = time.time()
        self.rollout = replace(self.rollout, traffic_confirmed_at=now, step_ready_at=now)
        self.scraped()

    def measurements(self, _: str) -> Sequence[Measurement]:
        """What the engine asks of the store."""
        return tuple(self.saved)

    def take_over(self) -> None:
        """Another engine goes on: it knows the saved looks only."""
        self._cache = RolloutCache()

    def measure(self, *, final: bool = True) -> dict[str, Finding]:
        """One look now, by the engine's own function; the findings by check."""
        parts: Any = Drivers(platform=None, router=None, metrics=self.metrics, documents=None)  # type: ignore[arg-type]
        store: Any = self
        context = TickContext(
            Claim("r1", 1, 0.0, "e"), store, parts, lambda: time.time() + self.ahead, self._cache, lambda: None
        )
        verdict, look, analysis = effects.analyze(
            context, self.rollout, ObservedState(self.instances, RouterState()), Analyze(final, "")
        )
        self._cache.analysis = analysis
        self.saved.append(look)
        self.verdicts.append(verdict)
        return {finding.check: finding for finding in verdict.findings}

    def settled(self, *, final: bool = True) -> dict[str, Finding]:
        """A look when all that was shown before is in intervals that are over."""
        self.scraped()
        self.scraped(self.rollout.policy.interval_seconds)
        return self.measure(final=final)

    def scraped(self, seconds: float = 0.0, *, well: bool = True) -> None:
        """Wait until every target was scraped (`well`: and answered), in a scrape that began so many seconds from now."""
        after = time.time() + seconds + SCRAPE_OFFSET_SECONDS

        def scraped() -> bool:
            found = self.metrics.fetch(self.up, Window(after - 60, time.time()))
            return bool(found) and all(any(at > after and up >= well for at, up in series.samples) for series in found)

        eventually("Prometheus has scraped every target", scraped, poll_seconds=SCRAPE_SECONDS / 4)

    @property
    def outcome(self) -> str:
        """Of the last look."""
        return self.verdicts[-1].outcome

    def replayed(self) -> list[Verdict]:
        """The verdicts made again from the saved looks."""
        analysis = CanaryAnalysis(self.rollout, self.rollout.traffic_confirmed_at or 0.0)
        return [analysis.add(look) for look in self.saved]
