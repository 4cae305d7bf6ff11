"""A real Prometheus of the test's own, and an exporter whose every scrape the test decides."""

from __future__ import annotations

import http.server
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.need import program

SCRAPE_SECONDS = 0.2


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Exporter:
    """Serves a text that the test sets; knows how often it was read."""

    def __init__(self) -> None:
        self.text = ""
        self.down = False
        self.reads = 0
        self._changed = threading.Condition()
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with exporter._changed:
                    exporter.reads += 1
                    body, down = exporter.text.encode(), exporter.down
                    exporter._changed.notify_all()
                self.send_response(503 if down else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
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

    def publish(self, text: str, *, times: int = 1) -> None:
        """Show this text, and come back when Prometheus has stored it at least so often.

        The scrapes of a target come one after the other: that another one begins means that the one before is stored.
        """
        with self._changed:
            self.text = text
            wanted = self.reads + times + 1
            assert self._changed.wait_for(lambda: self.reads >= wanted, timeout=10), "Prometheus stopped scraping"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _config(targets: dict[str, str]) -> str:
    jobs = "".join(
        f"  - job_name: {job}\n    static_configs:\n      - targets: ['{address}']\n" for job, address in targets.items()
    )
    return f"global:\n  scrape_interval: {int(SCRAPE_SECONDS * 1000)}ms\n  scrape_timeout: 150ms\nscrape_configs:\n{jobs}"


@contextmanager
def running_prometheus(directory: Path, targets: dict[str, str]) -> Iterator[str]:
    """Prometheus with its data in `directory`, scraping {job: host:port}; gives its address."""
    port = free_port()
    (directory / "prometheus.yml").write_text(_config(targets))
    command = [
        program("prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    url = f"http://127.0.0.1:{port}"
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _await_ready(url, process, directory / "log")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _await_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, f"prometheus ended: {log.read_text()}"
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"prometheus is not ready: {log.read_text()}")


class Canned:
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

    def __enter__(self) -> Canned:
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
