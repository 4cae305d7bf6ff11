"""The lines that nginx writes for each request, counted: nginx itself counts nothing by upstream."""

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
    """So many requests, by how they ended."""

    requests: int = 0
    lost: int = 0
    errors: int = 0

    def add(self, outcome: str, times: int) -> None:
        """So many more that ended so."""
        self.requests += times
        self.lost += times * (outcome == LOST)
        self.errors += times * (outcome == ERROR)

    def traffic(self) -> Traffic:
        """As the port has it."""
        return Traffic(self.requests, self.lost, self.errors)


@dataclass
class ReadPosition:
    """How far a file was read, in whole lines."""

    offset: int = 0

    def lines(self, file: BinaryIO) -> Iterator[bytes]:
        """What came since, in blocks of lines. It begins anew where the file was emptied."""
        if os.fstat(file.fileno()).st_size < self.offset:
            self.offset = 0
        file.seek(self.offset)
        rest = b""
        for block in iter(lambda: file.read(2**20), b""):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            self.offset += len(whole) + len(newline)
            yield whole + newline


class RequestLog:
    """A log that is read on from where it was read to. `rotate_bytes`: where it is ours, it is put aside at that size.

    The counts begin with the log as this process finds it, like those of a proxy that was restarted. The log that was put
    aside is read on, too, since workers write to it until they have opened the new one.
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
        """How the requests for a backend ended, all and by release. Raises `RouterError`."""
        with self._lock:
            try:
                self._read()
            except OSError as error:
                raise RouterError(f"{self._path} cannot be read: {error.strerror}", retryable=False) from error
            releases = self._by_release.get(backend, {})
            every = self._by_backend.get(backend, LoggedRequests())
            return every.traffic(), {release: counted.traffic() for release, counted in sorted(releases.items())}

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
        """Put it aside when it is large, in the place of the one before, and have nginx open a new one.

        There is always one: mtail leaves out the beginning of a file that was not there for a moment.
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
