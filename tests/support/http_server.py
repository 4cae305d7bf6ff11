"""Small real HTTP servers for tests, which answer any bytes in any way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Answer = Iterable[bytes]


def page(status: int, body: bytes = b"", *headers: str) -> list[bytes]:
    """A whole answer, after which the connection may be kept."""
    head = "\r\n".join([f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}", *headers])
    return [f"{head}\r\n\r\n".encode() + body]


@dataclass
class HttpSite:
    """A running server: where it is, the paths it was asked for, and how many connections it got."""

    address: str
    asked: list[str] = field(default_factory=list)
    connections: int = 0


@contextmanager
def serving(answer: Callable[[str], Answer], *, hangs_up: bool = False) -> Iterator[HttpSite]:
    """Answers each request with these bytes. After an answer shorter than it says, or where it hangs up, the connection is
    closed."""
    listening = socket.create_server(("127.0.0.1", 0))
    site = HttpSite(f"127.0.0.1:{listening.getsockname()[1]}")
    threads: list[threading.Thread] = []
    lines: list[socket.socket] = []

    def talk(line: socket.socket) -> None:
        with suppress(OSError), line, line.makefile("rb") as words:
            while first := words.readline():
                while words.readline().strip():
                    pass
                path = first.split()[1].decode()
                site.asked.append(path)
                sent = b""
                for piece in answer(path):
                    line.sendall(piece)
                    sent += piece[:4096] if len(sent) < 4096 else b""
                if hangs_up or not _complete(sent):
                    return

    def accept() -> None:
        with suppress(OSError):
            while True:
                line = listening.accept()[0]
                site.connections += 1
                lines.append(line)
                threads.append(threading.Thread(target=talk, args=(line,), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield site
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for line in lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in (accepting, *threads):
            thread.join(60)


def _complete(sent: bytes) -> bool:
    """Whether the answer was as long as it said."""
    head, _, body = sent.partition(b"\r\n\r\n")
    told = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return bool(told) and (len(body) >= int(told[0].split(b":")[1]) or len(sent) >= 4096)
