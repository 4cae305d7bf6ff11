"""HTTP/2 in clear text (RFC 9113), as far as a test of a proxy needs it: one request, or one response with trailers."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from types import TracebackType

from tidegate.core.routing import Member

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4
STATUS_200 = b"\x88"  # of the static table of HPACK
BODY = b"served by h2c"


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header in HPACK's plainest form: not indexed, not compressed."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _frames(connection: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of each frame until the connection ends."""
    stream = connection.makefile("rb")
    while len(head := stream.read(9)) == 9:
        size, kind, flags, number = int.from_bytes(head[:3], "big"), head[3], head[4], int.from_bytes(head[5:], "big")
        yield kind, flags, number, stream.read(size)


def _settle(connection: socket.socket, kind: int, flags: int, payload: bytes) -> None:
    """Acknowledge the other side's settings and pings."""
    if kind in (SETTINGS, PING) and not flags & ACK:
        connection.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))


class H2CInstance:
    """An instance that speaks nothing but HTTP/2 in clear text: every response has a body and trailers, as gRPC's do."""

    def __init__(self, number: int = 0, release: str = "v1-1") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.member = Member(f"{number:012x}", release, number, f"127.0.0.1:{self._listener.getsockname()[1]}")
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> H2CInstance:
        return self

    def __exit__(self, failed: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        with suppress(OSError):
            if connection.recv(len(PREFACE), socket.MSG_WAITALL) != PREFACE:
                connection.shutdown(socket.SHUT_RDWR)
                return
            connection.sendall(_frame(SETTINGS, 0, 0))
            for kind, flags, stream, payload in _frames(connection):
                _settle(connection, kind, flags, payload)
                if kind in (HEADERS, DATA) and flags & END_STREAM:
                    connection.sendall(
                        _frame(HEADERS, END_HEADERS, stream, STATUS_200)
                        + _frame(DATA, 0, stream, BODY)
                        + _frame(HEADERS, END_HEADERS | END_STREAM, stream, _literal(b"grpc-status", b"0"))
                    )


def request_with_trailers(address: str, seconds: float = 60.0) -> tuple[bytes, int]:
    """Send a POST with `TE: trailers` as HTTP/2 without an upgrade.

    Returns the body, and the number of blocks of headers: two if the response ended with trailers.
    """
    host, _, port = address.rpartition(":")
    names = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/shop.Shop/Get"), (b":authority", b"shop.example")]
    headers = b"".join(_literal(name, value) for name, value in [*names, (b"te", b"trailers")])
    with closing(socket.create_connection((host.strip("[]"), int(port)), timeout=seconds)) as connection:
        connection.sendall(PREFACE + _frame(SETTINGS, 0, 0) + _frame(HEADERS, END_HEADERS | END_STREAM, 1, headers))
        body, blocks = b"", 0
        for kind, flags, stream, payload in _frames(connection):
            _settle(connection, kind, flags, payload)
            body += payload if kind == DATA and stream == 1 else b""
            blocks += kind == HEADERS and stream == 1
            if stream == 1 and kind in (HEADERS, DATA) and flags & END_STREAM:
                return body, blocks
    raise AssertionError(f"the connection ended after {blocks} blocks of headers and the body {body!r}")
