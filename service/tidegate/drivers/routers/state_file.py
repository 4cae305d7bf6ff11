"""What is remembered beside a proxy: fences, listening addresses, who may be known to it. One writer at a time."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

from tidegate.drivers.routers import atomic_files
from tidegate.errors import RouterError

LOCK_SECONDS = 60.0  # longer than any write takes; whoever holds it so long does not go on by itself
LOCK_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class RequestCounts:
    """The counters of a server, or the sums of several. `silent`: requests without any answer, as far as its own numbers
    tell; they may be fewer."""

    answered: int = 0
    errors: int = 0  # of the answered ones, with 5xx
    refused: int = 0
    broken: int = 0  # of the answered ones, broken off after the head
    silent: int = 0

    def __add__(self, other: RequestCounts) -> RequestCounts:
        return RequestCounts(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass
class BackendState:
    """One backend.

    `known` are the servers that any process of HAProxy may know, one of an earlier configuration too.
    `counts` are those of servers that were deleted from the process called `process`: HAProxy's own end with them. By name
    while the deletion may still fail, then in one sum for the release, since a name may come again.
    """

    name: str
    listen: str = ""
    header: str = ""  # of its preview, when that is reached at the same address
    fence: int = 0
    known: list[str] = field(default_factory=list)
    counts: dict[str, RequestCounts] = field(default_factory=dict)
    process: str = ""


class RouterStateFile:
    """A file in `directory`, with a lock that all threads and processes respect.

    `lock_seconds`: how long is waited for the lock. It is never taken from somebody: a process that is frozen in the middle
    of a write would end it when it is awake.
    """

    def __init__(self, directory: Path, lock_seconds: float = LOCK_SECONDS) -> None:
        self._directory, self._lock_seconds = directory, lock_seconds
        self._threads = threading.Lock()

    @contextmanager
    def locked(self) -> Iterator[dict[str, BackendState]]:
        """Be the only writer; what is remembered, by backend. Raises `RouterError`."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            handle = os.open(self._directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            text = f"{self._directory} cannot be used: {error.strerror}: make it a folder that Tidegate may write"
            raise RouterError(text, retryable=False) from error
        until = time.monotonic() + self._lock_seconds
        try:
            if not self._threads.acquire(timeout=self._lock_seconds):
                raise self._lock_error(handle)
            try:
                self._lock(handle, until)
                yield self.load()
            finally:
                self._threads.release()
        finally:
            os.close(handle)

    def _lock(self, handle: int, until: float) -> None:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise self._lock_error(handle) from None
                time.sleep(LOCK_POLL_SECONDS)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)

    def _lock_error(self, handle: int) -> RouterError:
        by = os.pread(handle, 20, 0).decode(errors="replace") or "unknown"
        message = f"{self._directory / 'lock'} has been held for {self._lock_seconds:g} s by process {by}"
        return RouterError(f"{message}: when that is frozen or hangs, wake it or kill it")

    def load(self) -> dict[str, BackendState]:
        """What is remembered; nothing at first. What another version kept besides is not taken over."""
        path = self._directory / "state.json"
        try:
            document = json.loads(path.read_text())
            return {name: _parse_backend(backend) for name, backend in document.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            text = f"{path} cannot be read: {error}: restore it, or remove it to begin with fence 0"
            raise RouterError(text, retryable=False) from error

    def save(self, state: Mapping[str, BackendState]) -> None:
        """Write it, careful of a crash in the middle."""
        text = json.dumps({name: asdict(kept) for name, kept in state.items()}, indent=1)
        atomic_files.replace(self._directory / "state.json", text)


def _parse_backend(document: Mapping[str, Any]) -> BackendState:
    known = {field.name for field in fields(BackendState)}
    kept = BackendState(**{key: value for key, value in document.items() if key in known})
    kept.counts = {name: RequestCounts(**counted) for name, counted in document.get("counts", {}).items()}
    return kept
