"""An HTTP/1.1 instance that remembers the requests that it received and becomes unhealthy on demand."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO

from tidegate.core.routing import Member

HEALTH_PATH = "/health"


@dataclass(frozen=True)
class ReceivedRequest:
    """The head of one request. `headers` has names in lower case; repeated ones are joined as RFC 9110 allows."""

    method: str
    path: str
    headers: dict[str, str]


class SampleInstance:
    """Answers every request with 200 and its release, and `/health` with 200 too.

    `/reset` ends the connection without a response, `/silence` never answers. `requests` are those received, without the
    health checks. Use it as a context manager.
    """

    def __init__(self, number: int = 0, release: str = "v1-1", host: str = "127.0.0.1") -> None:
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = self._listen(host, 0)
        self._host, self._port = host, self._listener.getsockname()[1]
        address = f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"
        self.member = Member(f"{number:012x}", release, number, address)
        self.requests: list[ReceivedRequest] = []
        self._open: list[socket.socket] = []
        self._sick = self._hanging = False
        self._lock = threading.Lock()
        self._start()

    def _listen(self, host: str, port: int) -> socket.socket:
        return socket.create_server((host, port), family=self._family, backlog=64)

    def __enter__(self) -> SampleInstance:
        return self

    def __exit__(self, failed: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.refuse_connections()

    def become_sick(self) -> None:
        """Answer the health path with 503, and all other requests as before."""
        self._sick = True

    def hang(self) -> None:
        """Accept connections and requests, and answer none."""
        self._hanging = True

    def refuse_connections(self) -> None:
        """Close the listening socket and all connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)
        with self._lock:
            connections, self._open = self._open, []
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def recover(self) -> None:
        """Answer as at the beginning, at the same address."""
        self.refuse_connections()
        self._sick = self._hanging = False
        self._listener = self._listen(self._host, self._port)
        self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            stream = connection.makefile("rb")
            while (request := self._read_request(stream)) is not None and self._answer(connection, request):
                pass
            if not self._hanging and (request is None or request.path != "/silence"):
                connection.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _read_request(stream: BinaryIO) -> ReceivedRequest | None:
        words = stream.readline().decode("latin-1").split()
        if len(words) < 2:
            return None
        headers: dict[str, str] = {}
        while line := stream.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        stream.read(int(headers.get("content-length", "0")))
        return ReceivedRequest(words[0], words[1], headers)

    def _answer(self, connection: socket.socket, request: ReceivedRequest) -> bool:
        """Whether the connection can take another request."""
        checked = request.path == HEALTH_PATH
        if not checked:
            self.requests.append(request)
        if self._hanging or request.path in ("/silence", "/reset"):
            return False
        status, body = (b"503 Sick" if checked and self._sick else b"200 OK"), b"" if request.method == "HEAD" else b"ok"
        head = b"HTTP/1.1 %s\r\nX-Version: %s\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % (status, self.member.release.encode(), len(body)) + body)
        return True
