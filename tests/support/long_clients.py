"""Clients that keep their connections open: slow uploads, WebSockets, event streams, large uploads.

Each reconnects whenever its connection ends, as browsers do. A drain may close them when their time is over, so that what
is lost here is not counted as lost; what they did is counted, to show that they were there.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from websocket import WebSocketException

from tidegate.testing.websocket import WebSocket

TIMEOUT_SECONDS = 60.0
RECONNECT_SECONDS = 0.5
SLOW_BODY_BYTES = 1000  # of which one is sent at a time
SLOW_PAUSE_SECONDS = 2.0
WEBSOCKET_PAUSE_SECONDS = 0.5
UPLOAD_BYTES = 1 << 20
ERRORS = (OSError, http.client.HTTPException, WebSocketException, AssertionError)


class LongClients:
    """While it is entered, `numbers` clients of each kind (a method of this class) are connected to each address."""

    def __init__(self, addresses: Sequence[str], numbers: Mapping[str, int]) -> None:
        self._stopping = threading.Event()
        self.counts: Counter[str] = Counter()  # by kind: bytes of slow bodies, messages, events, uploads
        self._threads = [
            threading.Thread(target=self._run, args=(getattr(self, kind), kind, address), daemon=True)
            for kind, number in numbers.items()
            for address in addresses
            for _ in range(number)
        ]

    def __enter__(self) -> LongClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)

    def _run(self, client: Callable[[str, str], None], kind: str, address: str) -> None:
        while not self._stopping.is_set():
            try:
                client(address, kind)
            except ERRORS:
                self._stopping.wait(RECONNECT_SECONDS)

    def slow_uploads(self, address: str, kind: str) -> None:
        """A request whose body arrives byte by byte."""
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(f"POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: {SLOW_BODY_BYTES}\r\n\r\n".encode())
            for _ in range(SLOW_BODY_BYTES):
                if self._stopping.wait(SLOW_PAUSE_SECONDS):
                    return
                connection.sendall(b"x")
                self.counts[kind] += 1

    def websockets(self, address: str, kind: str) -> None:
        """Messages that are echoed."""
        with WebSocket(address, "/ws", TIMEOUT_SECONDS) as connection:
            while not self._stopping.wait(WEBSOCKET_PAUSE_SECONDS):
                assert connection.echo(b"a message") == b"a message"
                self.counts[kind] += 1

    def event_streams(self, address: str, kind: str) -> None:
        """Events of the server, as long as it sends them."""
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/events")
            response = connection.getresponse()
            while not self._stopping.is_set() and response.readline():
                self.counts[kind] += 1
        finally:
            connection.close()

    def uploads(self, address: str, kind: str) -> None:
        """One large request after the other."""
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        try:
            while not self._stopping.wait(WEBSOCKET_PAUSE_SECONDS):
                connection.request("POST", "/", body=bytes(UPLOAD_BYTES))
                if connection.getresponse().read():
                    self.counts[kind] += 1
        finally:
            connection.close()
