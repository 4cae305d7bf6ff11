"""Counts the lines that nginx logs for each request, because nginx has no counters by upstream.

The report of a rollout needs the outcomes, which every process of Tidegate counts for itself. For Prometheus one process
counts outcomes and response times by server; it holds a lock in nginx's directory.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tidegate.clock import Time
from tidegate.core.response_counts import ResponseCounts
from tidegate.core.routing import Traffic
from tidegate.drivers.routers.members import parse_server_name
from tidegate.drivers.routers.nginx.process import NginxProcess
from tidegate.errors import RouterError

#: Backend, server, outcome, seconds until the response began (-: none), and the server that refused before (-: none).
LINE = re.compile(rb"(?m)^(\S+) (\S+) ([1-5]xx|lost|gone) (?:(\d+)\.(\d{3})|\S+) (\S+)$")
SERVER = re.compile(rb"[a-z0-9-]+\.\d+\.[a-z0-9]+")  # of Tidegate
LOST, GONE, ERROR = "lost", "gone", "5xx"


@dataclass
class LoggedRequests:
    """Request counts by outcome."""

    requests: int = 0
    lost: int = 0
    errors: int = 0

    def add(self, outcome: str, times: int) -> None:
        """Count `times` requests with this outcome."""
        self.requests += times
        self.lost += times * (outcome == LOST)
        self.errors += times * (outcome == ERROR)

    def traffic(self) -> Traffic:
        """The counts as a value of the port."""
        return Traffic(self.requests, self.lost, self.errors)


@dataclass
class ReadPosition:
    """How far a file has been read, in whole lines."""

    offset: int = 0

    def lines(self, file: BinaryIO) -> Iterator[bytes]:
        """The lines added since the last call, in blocks; all lines if the file was truncated."""
        if os.fstat(file.fileno()).st_size < self.offset:
            self.offset = 0
        file.seek(self.offset)
        rest = b""
        for block in iter(lambda: file.read(2**20), b""):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            self.offset += len(whole) + len(newline)
            yield whole + newline


class NginxRequestLog:
    """The request log, read incrementally. `rotate_bytes`: in mode owned, rotate the log at this size.

    Counts start at 0 with this process, like those of a restarted proxy. A rotated log is read further, because workers
    write to it until they have opened the new one. `lock`: the file by which one process counts for Prometheus.
    """

    has_outcomes = True

    def __init__(self, path: Path, process: NginxProcess, rotate_bytes: int | None, lock: Path) -> None:
        self._path, self._rotated_path = path, path.with_name(path.name + ".1")
        self._process = process
        self._rotate_bytes = rotate_bytes
        self._positions: dict[int, ReadPosition] = {}  # by inode
        self._by_backend: dict[str, LoggedRequests] = {}
        self._by_release: dict[str, dict[str, LoggedRequests]] = {}
        self._counts = ResponseCounts()
        self._lock_file = lock
        self._held_lock: int | None = None
        self._now: Time | None = None  # of the last poll; None while another process counts for Prometheus
        self._lock = threading.Lock()

    def traffic(self, backend: str) -> tuple[Traffic, Mapping[str, Traffic]]:
        """The outcomes of a backend's requests: in total, and by release. Raises `RouterError`."""
        with self._lock:
            self._read()
            releases = self._by_release.get(backend, {})
            total = self._by_backend.get(backend, LoggedRequests())
            return total.traffic(), {release: counts.traffic() for release, counts in sorted(releases.items())}

    def poll(self, now: Time) -> bool:
        """See `RequestLog`."""
        with self._lock:
            if not self._hold_lock():
                return False
            if self._now is None:
                self._read()  # lines from before belong to nobody's counts
            self._now = now
            self._read()
            self._counts.forget_idle(now)
        return True

    def _hold_lock(self) -> bool:
        """Whether this process is the one that counts for Prometheus. Raises `RouterError`."""
        if self._held_lock is not None:
            return True
        try:
            self._lock_file.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RouterError(f"Cannot open {self._lock_file}: {error.strerror}", retryable=False) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._held_lock = file
        return True

    def counts(self) -> ResponseCounts:
        """See `RequestLog`."""
        with self._lock:
            return self._counts.copy()

    def close(self) -> None:
        """See `RequestLog`."""
        with self._lock:
            if self._held_lock is not None:
                os.close(self._held_lock)
            self._held_lock, self._now, self._counts = None, None, ResponseCounts()

    def _read(self) -> None:
        """Count all new lines. Raises `RouterError`."""
        try:
            self._read_files()
        except OSError as error:
            raise RouterError(f"Cannot read {self._path}: {error.strerror}", retryable=False) from error

    def _read_files(self) -> None:
        positions: dict[int, ReadPosition] = {}
        for path in (self._rotated_path, self._path):
            with suppress(FileNotFoundError), path.open("rb") as file:  # nginx makes it
                inode = os.fstat(file.fileno()).st_ino
                if path == self._path or inode in self._positions:
                    positions[inode] = self._positions.get(inode, ReadPosition())
                    self._take(positions[inode].lines(file))
        self._positions = positions
        self._rotate()

    def _take(self, blocks: Iterator[bytes]) -> None:
        """Count whole lines. They are summed up first, since most differ only in their time."""
        for block in blocks:
            ends: Counter[tuple[bytes, bytes, bytes, bytes]] = Counter()
            times: Counter[tuple[bytes, bytes, int]] = Counter()
            found = LINE.findall(block)
            for (backend, server, outcome, seconds, thousandths, refused), number in Counter(found).items():
                ends[backend, server, outcome, refused] += number
                if seconds:
                    times[backend, server, int(seconds + thousandths)] += number
            for (backend, server, outcome, refused), number in ends.items():
                self._count(backend.decode(), server.decode(), outcome.decode(), refused.decode(), number)
            if self._now is not None:
                self._counts.counted += len(found)
                self._counts.ignored += block.count(b"\n") - len(found)
                for (backend, server, milliseconds), number in times.items():
                    if SERVER.fullmatch(server):
                        self._counts.add_time((backend.decode(), server.decode()), milliseconds, number, self._now)

    def _rotate(self) -> None:
        """Rotate the log when it is large, replacing the previous rotated log, and have nginx open a new one."""
        pid = self._process.pid
        if self._rotate_bytes is None or pid is None:
            return
        new = self._path.with_name(self._path.name + ".new")
        with suppress(FileNotFoundError, ProcessLookupError):
            if self._path.stat().st_size >= self._rotate_bytes:
                new.touch()
                self._rotated_path.unlink(missing_ok=True)
                self._rotated_path.hardlink_to(self._path)
                new.rename(self._path)
                os.kill(pid, signal.SIGUSR1)

    def _count(self, backend: str, server: str, outcome: str, refused: str, number: int) -> None:
        self._by_backend.setdefault(backend, LoggedRequests()).add(outcome, number)
        member = parse_server_name(server, "")
        if member is not None:
            releases = self._by_release.setdefault(backend, {})
            releases.setdefault(member.release, LoggedRequests()).add(outcome, number)
        if self._now is None:
            return
        if parse_server_name(refused, "") is not None:  # an error of that server, also if another one answered
            self._counts.add_outcome((backend, refused), ERROR, number, self._now)
        if member is not None and outcome != GONE:
            self._counts.add_outcome((backend, server), ERROR if outcome == LOST else outcome, number, self._now)
