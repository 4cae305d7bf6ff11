"""HAProxy's request log: one line per request, counted as a histogram of response times by server.

An owned HAProxy writes to a named pipe, which Tidegate gave it as `PIPE_DESCRIPTOR` at its start. The kernel keeps up to
`PIPE_BYTES` while nobody reads, also across a reload. HAProxy never waits: it drops what does not fit, and what one thread
would write while another one is suspended in a write, and counts it (`DroppedLogs`). An adopted HAProxy connects to an
address where Tidegate listens.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tidegate.clock import Time
from tidegate.core.response_counts import ResponseCounts
from tidegate.errors import RouterError

PIPE_DESCRIPTOR = 3  # in HAProxy's process
PIPE_BYTES = 2**20  # about 22,000 lines; more needs a privilege
READ_BYTES = 2**20
MAX_CONNECTIONS = 16  # of HAProxy processes, old ones included
#: Backend, server, status, milliseconds until the response began; -1 for a request without one.
LINE = re.compile(rb"(\S+) ([a-z0-9-]+\.[0-9]+\.[a-z0-9]+)(?:\.backup)? -?\d+ (\d+)")


def ensure_pipe(path: Path) -> None:
    """Create the named pipe if it is missing. Raises `RouterError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not stat.S_ISFIFO(path.stat().st_mode):
            path.unlink()
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
    except OSError as error:
        raise RouterError(f"Cannot create the pipe {path}: {error.strerror}", retryable=False) from error


class LineBuffer:
    """Joins the lines of a stream that is read in blocks."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> bytes:
        """The lines that are whole with this block."""
        whole, newline, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest[-READ_BYTES:]
        return whole + newline


class LogSource(Protocol):
    """Where the log lines come from."""

    def open(self) -> bool:
        """Begin to read, unless this has happened; False while another process reads. Raises `RouterError`."""

    def blocks(self) -> Iterator[bytes]:
        """Whole lines that arrived since the last call, without waiting."""

    def close(self) -> None:
        """Let another process read."""


class PipeSource:
    """The named pipe of an owned HAProxy. Lines that were written before it was opened are skipped: nobody knows when."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pipe: int | None = None
        self._buffer = LineBuffer()

    def open(self) -> bool:
        if self._pipe is not None:
            return True
        ensure_pipe(self._path)
        try:
            pipe = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise RouterError(f"Cannot open {self._path}: {error.strerror}", retryable=False) from error
        try:
            fcntl.flock(pipe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(pipe)
            return False
        with suppress(OSError):  # where a smaller size is the limit, fewer lines are kept
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._pipe = pipe
        for _ in self.blocks():
            pass
        return True

    def blocks(self) -> Iterator[bytes]:
        assert self._pipe is not None
        with suppress(BlockingIOError):
            while data := os.read(self._pipe, READ_BYTES):
                yield self._buffer.take(data)

    def close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


class StreamSource:
    """Connections of an adopted HAProxy to `address`: the path of a Unix socket, or host:port."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._listener: socket.socket | None = None
        self._connections: dict[socket.socket, LineBuffer] = {}

    def open(self) -> bool:
        if self._listener is None:
            try:
                self._listener = self._listen()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
                text = f"Cannot listen on {self._address} for HAProxy's log: {error}"
                raise RouterError(text, retryable=False) from error
            self._listener.setblocking(False)
        return True

    def _listen(self) -> socket.socket:
        if not self._address.startswith("/"):
            host, _, port = self._address.rpartition(":")
            host = host.strip("[]")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, int(port)), family=family)
        path = Path(self._address)
        with socket.socket(socket.AF_UNIX) as probe:
            if path.is_socket() and probe.connect_ex(self._address) == errno.ECONNREFUSED:
                path.unlink()  # left by a process that was killed
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(self._address)
            listener.listen()
        except OSError:
            listener.close()
            raise
        return listener

    def blocks(self) -> Iterator[bytes]:
        assert self._listener is not None
        while len(self._connections) < MAX_CONNECTIONS:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            connection.setblocking(False)
            self._connections[connection] = LineBuffer()
        for connection in list(self._connections):
            yield from self._received(connection)

    def _received(self, connection: socket.socket) -> Iterator[bytes]:
        try:
            while data := connection.recv(READ_BYTES):
                yield self._connections[connection].take(data)
        except BlockingIOError:
            return
        except OSError:
            pass
        del self._connections[connection]
        connection.close()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if self._address.startswith("/"):
                Path(self._address).unlink(missing_ok=True)


class HAProxyRequestLog:
    """See `RequestLog`. Equal lines are counted before they are parsed, since most are equal."""

    has_outcomes = False

    def __init__(self, source: LogSource) -> None:
        self._source, self._counts = source, ResponseCounts()
        self._lock = threading.Lock()

    def poll(self, now: Time) -> bool:
        with self._lock:
            if not self._source.open():
                return False
            for block in self._source.blocks():
                for line, times in Counter(block.splitlines()).items():
                    self._count(line, times, now)
            self._counts.forget_idle(now)
        return True

    def _count(self, line: bytes, times: int, now: Time) -> None:
        match = LINE.fullmatch(line)
        if match is None:
            self._counts.ignored += times
            return
        self._counts.counted += times
        self._counts.add_time((match[1].decode(), match[2].decode()), int(match[3]), times, now)

    def counts(self) -> ResponseCounts:
        with self._lock:
            return self._counts.copy()

    def close(self) -> None:
        with self._lock:
            self._source.close()
            self._counts = ResponseCounts()
