"""A server that misbehaves as it is asked to, for what a proxy makes of it."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress


class ScriptedServer:
    """A server whose answer is told by the path; `/502` is an answer of its own, the words are answers that go wrong.

    `heads` are the requests that it was sent, without connections of health checks.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.heads: list[bytes] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                if head := line.recv(65536):
                    self.heads.append(head)
                    self._answer(line, head.split()[1].decode())
                else:
                    line.close()

    def _answer(self, line: socket.socket, path: str) -> None:
        head = b"HTTP/1.1 %s X\r\nConnection: close\r\nContent-Length: 10\r\n\r\n"
        if path == "/silence":
            self._open.append(line)  # until the proxy gives it up
            return
        if path == "/reset":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif path == "/nonsense":
            line.sendall(b"what?\r\n\r\n")
        elif path == "/cut":
            line.sendall(head % b"200" + b"half")
        elif path != "/nothing":
            line.sendall(head % path[1:].encode() + b"0123456789")
        line.close()

    def stop(self) -> None:
        """Stop serving."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)
        for line in self._open:
            line.close()
