"""The state file of a proxy: fences, listen addresses and the servers its processes may know. One writer at a time."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tidegate.core.routing import Backend, BackendOptions, Traffic
from tidegate.drivers.routers import atomic_files
from tidegate.errors import RouterError

LOCK_SECONDS = 60.0  # longer than any write takes: a process that holds the lock for longer is frozen
LOCK_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class RequestCounts:
    """Request counters of one server, or the sums of several."""

    answered: int = 0
    errors: int = 0  # answered with 5xx; included in `answered`
    refused: int = 0  # connections that the server refused
    broken: int = 0  # broken off after the response headers; included in `answered`
    silent: int = 0  # without any response; an upper bound

    def __add__(self, other: RequestCounts) -> RequestCounts:
        return RequestCounts(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass
class BackendState:
    """The recorded state of one backend.

    `known`: servers that any HAProxy process may know, including processes of an earlier configuration. `counts`: counters
    of servers deleted from the process `process`, because HAProxy drops them with the server; by server name until the
    deletion is certain, then summed by release, because a server name may be used again. `earlier`: the outcomes
    that processes before `process` counted, by release, and of all with the key "". `options`: as last written, so that a
    restarted proxy has them.
    """

    name: str
    listen: str = ""
    former_listen: str = ""
    header: str = ""  # `Name: value` of the preview that shares the backend's address
    fence: int = 0  # the highest fencing token that has written this backend
    known: list[str] = field(default_factory=list)
    counts: dict[str, RequestCounts] = field(default_factory=dict)
    process: str = ""
    earlier: dict[str, Traffic] = field(default_factory=dict)
    options: BackendOptions = field(default_factory=BackendOptions)

    def require_current(self, fence: int) -> None:
        """Raise `RouterError` if a newer engine has written this backend."""
        if fence < self.fence:
            raise RouterError(
                f"Not writing backend {self.name}: fence {fence} is outdated, a newer engine has written with {self.fence}",
                retryable=False,
            )


def retire(state: dict[str, BackendState], backend: Backend, fence: int) -> tuple[str, ...]:
    """Record that the backend and its preview are gone, and return the names of both. The fencing token stays. Raises
    `RouterError` if a newer engine has written the backend."""
    kept = state.setdefault(backend.name, BackendState(backend.name))
    kept.require_current(fence)
    state[backend.name] = BackendState(backend.name, fence=fence)
    if backend.preview_backend is None:
        return (backend.name,)
    state.pop(backend.preview_backend.name, None)
    return (backend.name, backend.preview_backend.name)


BACKENDS = TypeAdapter(dict[str, BackendState])


class RouterStateFile:
    """`directory`/state.json, protected by a lock between threads and processes.

    `lock_seconds`: how long to wait for the lock. The lock is never broken: a frozen holder would finish its write when it
    resumes.
    """

    def __init__(self, directory: Path, lock_seconds: float = LOCK_SECONDS) -> None:
        self._directory, self._lock_seconds = directory, lock_seconds
        self._threads = threading.Lock()

    @contextmanager
    def locked(self) -> Iterator[dict[str, BackendState]]:
        """Hold the lock and yield the recorded state by backend. Raises `RouterError`."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            handle = os.open(self._directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            text = f"Cannot use the directory {self._directory}: {error.strerror}. Make it writable for Tidegate's user."
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
        holder = os.pread(handle, 20, 0).decode(errors="replace") or "unknown"
        message = f"Cannot lock {self._directory / 'lock'}: process {holder} has held it for {self._lock_seconds:g} s"
        return RouterError(f"{message}. If that process is frozen, resume or kill it.")

    def load(self) -> dict[str, BackendState]:
        """The recorded state by backend; empty before the first write. Unknown keys of other versions are dropped."""
        path = self._directory / "state.json"
        try:
            return BACKENDS.validate_json(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            text = f"Cannot read {path}: {_reason(error)}. Restore it, or remove it to start with fence 0."
            raise RouterError(text, retryable=False) from error

    def save(self, state: Mapping[str, BackendState]) -> None:
        """Replace the file atomically."""
        text = BACKENDS.dump_json(dict(state), indent=1).decode()
        atomic_files.replace(self._directory / "state.json", text)


def _reason(error: OSError | ValueError) -> str:
    """On one line, and without values: they may be secrets."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'document'}: {each['msg']}" for each in error.errors())
