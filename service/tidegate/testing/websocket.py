"""A client that speaks just enough WebSocket (RFC 6455) to see whether a connection still leads to where it led."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from types import TracebackType

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BINARY, CLOSE = 0x82, 0x88  # the last frame of a message, and what it is


class WebSocket:
    """One connection, upgraded. Leaving it closes it as the standard asks: a close frame, and the other side's."""

    def __init__(self, address: str, path: str, seconds: float = 60.0) -> None:
        host, _, port = address.rpartition(":")
        self._line = socket.create_connection((host, int(port)), timeout=seconds)
        try:
            self._upgrade(address, path)
        except BaseException:
            self._line.close()
            raise

    def _upgrade(self, address: str, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {address}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        self._line.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._receive(1)
        agreed = base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest())
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert agreed in head, "that is an answer to another handshake"

    def echo(self, message: bytes) -> bytes:
        """Send a message of up to 125 bytes; what comes back."""
        self._send(BINARY, message)
        kind, size = self._receive(2)
        assert kind == BINARY, f"a frame of kind {kind:#x}"
        return self._receive(size)

    def _send(self, kind: int, message: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(message))
        self._line.sendall(bytes([kind, 0x80 | len(message)]) + mask + masked)

    def _receive(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            more = self._line.recv(size - len(found))
            assert more, "the connection was closed"
            found += more
        return found

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, failed: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if failed is None:
                self._send(CLOSE, b"")
                assert self._receive(2)[0] == CLOSE
        finally:
            self._line.close()
