"""An HTTP client with one time limit for a whole request, however slowly the response arrives.

The timeouts of requests and urllib3 apply to each read of the socket, so a response of one byte per second never times out.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from urllib.parse import urlsplit


class DeadlineSocket(socket.socket):
    """A socket whose reads fail after a deadline (monotonic time)."""

    deadline = math.inf

    def recv_into(self, *arguments: object) -> int:
        self.settimeout(_remaining_seconds(self.deadline))
        return super().recv_into(*arguments)  # type: ignore[arg-type]


class DeadlineTlsSocket(ssl.SSLSocket):
    """The same, with TLS."""

    deadline = math.inf

    def recv_into(self, *arguments: object) -> int:
        self.settimeout(_remaining_seconds(self.deadline))
        return super().recv_into(*arguments)  # type: ignore[arg-type]


def _remaining_seconds(deadline: float) -> float | None:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return None if math.isinf(remaining) else remaining


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response. `complete`: False if the body was cut at the requested size."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    complete: bool


class DeadlineHttpClient:
    """A connection to the host of `url`, opened by the first GET. Not thread-safe.

    `verify`: whether the certificate of an `https` server must be valid. `server_name`: the name that such a server is
    asked for; empty: the host of the URL. `unix_socket`: connect to this socket instead of the host.
    """

    def __init__(self, url: str, *, verify: bool = True, server_name: str = "", unix_socket: Path | None = None) -> None:
        place = urlsplit(url)
        self._verify, self._server_name, self._unix_socket = verify, server_name, unix_socket
        self._secure = place.scheme == "https"
        self._host = place.hostname or ""
        self._port = place.port or (443 if self._secure else 80)
        self._connection: HTTPConnection | None = None
        self._socket: DeadlineSocket | DeadlineTlsSocket | None = None

    @property
    def usable(self) -> bool:
        """Whether the connection is open and the server has not closed it while it was idle."""
        return self._socket is not None and not select.select([self._socket], [], [], 0)[0]

    def get(self, path: str, timeout_seconds: float, max_bytes: int, headers: Mapping[str, str]) -> HttpResponse:
        """GET `path`. The connection stays open if both sides allow it; after an error it is closed. With `max_bytes` 0 the
        body is not waited for.

        Raises `OSError` (`TimeoutError` among them) and `HTTPException`.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            if not self.usable:
                self._open(deadline)
            assert self._connection is not None
            assert self._socket is not None
            self._socket.deadline = deadline
            self._socket.settimeout(_remaining_seconds(deadline))
            self._connection.request("GET", path, headers={"user-agent": "tidegate", **headers})
            return self._answer(self._connection.getresponse(), max_bytes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next GET opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._socket = None

    def _open(self, deadline: float) -> None:
        self.close()
        plain = self._connect(_remaining_seconds(deadline))
        connected: DeadlineSocket | DeadlineTlsSocket = DeadlineSocket(
            plain.family, plain.type, plain.proto, plain.detach()
        )
        connected.settimeout(_remaining_seconds(deadline))
        if self._secure:
            context = ssl.create_default_context() if self._verify else _unverified_context()
            context.sslsocket_class = DeadlineTlsSocket
            wrapped = context.wrap_socket(connected, server_hostname=self._server_name or self._host)
            assert isinstance(wrapped, DeadlineTlsSocket)
            connected = wrapped
        self._connection = HTTPConnection(self._host, self._port)
        self._connection.sock = self._socket = connected

    def _connect(self, timeout_seconds: float | None) -> socket.socket:
        if self._unix_socket is None:
            plain = socket.create_connection((self._host, self._port), timeout=timeout_seconds)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return plain
        local = socket.socket(socket.AF_UNIX)
        try:
            local.settimeout(timeout_seconds)
            local.connect(str(self._unix_socket))
        except BaseException:
            local.close()
            raise
        return local

    def _answer(self, response: HTTPResponse, max_bytes: int) -> HttpResponse:
        body = response.read(max_bytes + 1) if max_bytes else b""
        if max_bytes and response.length and len(body) <= max_bytes:
            raise IncompleteRead(body, response.length)
        complete = len(body) <= max_bytes and (max_bytes > 0 or response.length == 0)
        result = HttpResponse(
            response.status, {name.lower(): value for name, value in response.getheaders()}, body[:max_bytes], complete
        )
        if not complete or response.will_close:
            self.close()
        return result


def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def describe_error(error: OSError | HTTPException, timeout_seconds: float) -> str:
    """What is wrong, to be appended to the name of the request."""
    if isinstance(error, TimeoutError):
        return f"timed out after {timeout_seconds:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "failed: connection refused"
    if isinstance(error, IncompleteRead):
        return "failed: incomplete response"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "failed: connection closed without a response"
    if isinstance(error, HTTPException):
        return "failed: the response is not HTTP"
    return f"failed: {error.strerror or error}"
