"""HTTP with one time limit for a whole exchange, however slowly the response arrives, and one limit for its size.

The timeouts of requests and urllib3 apply to each read of the socket, so a response of one byte per second never times out;
and they decompress a response of any size. `DeadlineHttpClient` is a client of its own, `LimitedAdapter` is for libraries
that use requests.
"""

from __future__ import annotations

import functools
import math
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

import requests
import urllib3.connection
import urllib3.connectionpool
from requests.adapters import HTTPAdapter

MAX_RESPONSE_BYTES = 16 * 1_048_576  # of one response to a library, decompressed
CHUNK_BYTES = 65_536


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
    asked for; empty: the host of the URL. `unix_socket`: connect to this socket instead of the host. `refuse`: why a
    connection must not be used, empty if it may; nothing is sent then.
    """

    def __init__(
        self,
        url: str,
        *,
        verify: bool = True,
        server_name: str = "",
        unix_socket: Path | None = None,
        refuse: Callable[[socket.socket], str] = lambda _: "",
    ) -> None:
        place = urlsplit(url)
        self._refuse = refuse
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
            if reason := self._refuse(plain):
                plain.close()
                raise OSError(reason)
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


# -- libraries that use requests ------------------------------------------------------------------------------------------


class ResponseTooLarge(requests.RequestException):
    """A response is larger than allowed, after decompression."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the response has more than {max_bytes:,} bytes after decompression")


def read_limited(response: requests.Response, max_bytes: int) -> None:
    """Read the body of a response that was requested as a stream, as requests does. Raises `ResponseTooLarge`."""
    body = bytearray()
    for chunk in response.iter_content(CHUNK_BYTES):  # urllib3 decompresses no more than this at a time
        body += chunk
        if len(body) > max_bytes:
            response.close()
            raise ResponseTooLarge(max_bytes)
    response._content = bytes(body)  # where requests itself puts it


class LimitedAdapter(HTTPAdapter):
    """An adapter for a session of one thread: an exchange takes at most `seconds`, connecting excluded, and its response
    has at most `max_bytes` after decompression.

    Raises `requests.Timeout` and `ResponseTooLarge`.
    """

    def __init__(self, seconds: float, max_bytes: int = MAX_RESPONSE_BYTES) -> None:
        self._seconds, self._max_bytes = seconds, max_bytes
        self._sockets = WeakSet[socket.socket]()
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Use connections whose sockets this adapter knows."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {
            scheme: type(pool.__name__, (pool,), {"ConnectionCls": functools.partial(kind, self._sockets)})
            for scheme, pool, kind in (
                ("http", urllib3.connectionpool.HTTPConnectionPool, _KnownConnection),
                ("https", urllib3.connectionpool.HTTPSConnectionPool, _KnownTlsConnection),
            )
        }

    def send(self, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request, and read its response within the limits."""
        expired = threading.Event()
        timer = threading.Timer(self._seconds, self._expire, (expired,))
        timer.daemon = True
        timer.start()
        try:
            response = super().send(*arguments, **options)
            read_limited(response, self._max_bytes)
        except requests.RequestException as error:
            if not expired.is_set() or isinstance(error, ResponseTooLarge):
                raise
        finally:
            timer.cancel()
        if expired.is_set():  # also when headers were cut: they look complete
            raise requests.Timeout(f"no complete response within {self._seconds:g} s")
        return response

    def _expire(self, expired: threading.Event) -> None:
        """End the exchange: whoever reads from the connection finds it closed."""
        expired.set()
        for known in tuple(self._sockets):
            try:
                socket.socket.shutdown(known, socket.SHUT_RDWR)
            except OSError:
                self._sockets.discard(known)  # closed long ago


class _KnownConnection(urllib3.connection.HTTPConnection):
    """A connection that adds its socket to a set."""

    def __init__(self, sockets: WeakSet[socket.socket], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._sockets = sockets

    def connect(self) -> None:
        super().connect()
        self._sockets.add(self.sock)


class _KnownTlsConnection(_KnownConnection, urllib3.connection.HTTPSConnection):
    """The same, with TLS."""


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
