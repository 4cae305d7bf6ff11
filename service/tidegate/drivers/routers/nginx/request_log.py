"""Counts the lines that nginx logs for each request, because nginx has no counters by upstream."""

from __future__ import annotations

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

from tidegate.core.routing import Traffic
from tidegate.drivers.routers.members import parse_server_name
from tidegate.drivers.routers.nginx.process import NginxProcess
from tidegate.errors import RouterError

LINE = re.compile(rb"(?m)^(\S+) (\S+) ([1-5]xx|lost|gone) \S+ \S+\n")
LOST, ERROR = "lost", "5xx"


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


class RequestLog:
    """The request log, read incrementally. `rotate_bytes`: in mode owned, rotate the log at this size.

    Counts start at 0 with this process, like those of a restarted proxy. A rotated log is read further, because workers
    write to it until they have opened the new one.
    """

    def __init__(self, path: Path, process: NginxProcess, rotate_bytes: int | None) -> None:
        self._path, self._rotated_path = path, path.with_name(path.name + ".1")
        self._process = process
        self._rotate_bytes = rotate_bytes
        self._positions: dict[int, ReadPosition] = {}  # by inode
        self._by_backend: dict[str, LoggedRequests] = {}
        self._by_release: dict[str, dict[str, LoggedRequests]] = {}
        self._lock = threading.Lock()

    def traffic(self, backend: str) -> tuple[Traffic, Mapping[str, Traffic]]:
        """The outcomes of a backend's requests: in total, and by release. Raises `RouterError`."""
        with self._lock:
            try:
                self._read()
            except OSError as error:
                raise RouterError(f"Cannot read {self._path}: {error.strerror}", retryable=False) from error
            releases = self._by_release.get(backend, {})
            total = self._by_backend.get(backend, LoggedRequests())
            return total.traffic(), {release: counts.traffic() for release, counts in sorted(releases.items())}

    def _read(self) -> None:
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
        for block in blocks:
            for (backend, server, outcome), times in Counter(LINE.findall(block)).items():
                self._count(backend.decode(), server.decode(), outcome.decode(), times)

    def _rotate(self) -> None:
        """Rotate the log when it is large, replacing the previous rotated log, and have nginx open a new one.

        The path always exists: mtail skips the beginning of a file that was missing for a moment.
        """
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

    def _count(self, backend: str, server: str, outcome: str, times: int) -> None:
        self._by_backend.setdefault(backend, LoggedRequests()).add(outcome, times)
        if (member := parse_server_name(server, "")) is not None:
            self._by_release.setdefault(backend, {}).setdefault(member.release, LoggedRequests()).add(outcome, times)
