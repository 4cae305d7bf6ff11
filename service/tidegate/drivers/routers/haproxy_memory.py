"""What is remembered beside HAProxy: fences, listening addresses, what was deleted when. One writer at a time."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tidegate.drivers.routers import haproxy_config as config
from tidegate.errors import RouterError


@dataclass
class Kept:
    """One backend: its place, the highest fence, and the servers that were deleted with the time of it."""

    name: str
    listen: str = ""
    fence: int = 0
    deleted: dict[str, float] = field(default_factory=dict)


class Memory:
    """A file in `directory`, with a lock that all threads and processes respect."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._threads = threading.Lock()

    @contextmanager
    def locked(self) -> Iterator[dict[str, Kept]]:
        """Be the only writer; what is remembered, by backend."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o750)
            handle = os.open(self._directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            text = f"{self._directory} cannot be used: {error.strerror}: make it a folder that Tidegate may write"
            raise RouterError(text, retryable=False) from error
        try:
            with self._threads:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield self.load()
        finally:
            os.close(handle)

    def load(self) -> dict[str, Kept]:
        """What is remembered; nothing at first."""
        path = self._directory / "state.json"
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            text = f"{path} cannot be read: {error}: restore it, or remove it to begin with fence 0"
            raise RouterError(text, retryable=False) from error
        return {name: Kept(**kept) for name, kept in found.items()}

    def save(self, state: Mapping[str, Kept]) -> None:
        """Write it, careful of a crash in the middle."""
        text = json.dumps({name: asdict(kept) for name, kept in state.items()}, indent=1)
        config.replace(self._directory / "state.json", text)
