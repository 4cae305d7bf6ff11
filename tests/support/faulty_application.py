"""What is judged: applications that fail on order, behind a real proxy."""

from __future__ import annotations

import http.client
import http.server
import itertools
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from tidegate.analysis.verdict import Finding


class Application:
    """Answers each n-th request with 500, and each m-th only half; counts what it did."""

    def __init__(self, fails_each: int = 0, breaks_each: int = 0) -> None:
        self.requests = self.failed = self.broken = 0
        self._connections: list[socket.socket] = []
        lock, numbers, application = threading.Lock(), itertools.count(1), self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                application._connections.append(self.connection)

            def do_GET(self) -> None:
                with lock:
                    number = next(numbers)
                    bad = bool(fails_each) and number % fails_each == 0
                    half = bool(breaks_each) and number % breaks_each == 0
                    application.requests += 1
                    application.failed += bad
                    application.broken += half
                self.send_response(500 if bad else 200)
                self.send_header("Content-Length", "10")
                self.end_headers()
                self.wfile.write(b"12345" if half else b"1234567890")
                self.close_connection = half

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
        """Stop serving."""
        self._server.shutdown()
        self._thread.join()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()


@contextmanager
def application(fails_each: int = 0, breaks_each: int = 0) -> Iterator[Application]:
    """Ended at the end."""
    served = Application(fails_each, breaks_each)
    try:
        yield served
    finally:
        served.close()


def send(port: int, requests: int) -> None:
    """GETs over eight kept connections."""

    def some(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(number):
            connection.request("GET", "/")
            try:
                connection.getresponse().read()
            except http.client.HTTPException:
                connection.close()
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(some, [requests // 8] * 8))


def assert_counts_agree(found: Finding, new: Application, old: Application) -> None:
    """The judge counted what the applications did."""
    assert (found.candidate_count, found.baseline_count) == (new.requests, old.requests)
    assert found.candidate == pytest.approx(new.failed / new.requests)
    assert found.baseline == pytest.approx(old.failed / old.requests)
