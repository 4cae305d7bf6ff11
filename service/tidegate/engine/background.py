"""A background thread that runs for as long as a `with` block."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

T = TypeVar("T", bound="BackgroundThread")


class BackgroundThread(ABC):
    """A thread that starts when the `with` block begins. Leaving the block waits for the work in progress."""

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self: T) -> T:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ask the thread to end soon. Leaving the block does so too, and waits."""
        self._stopping.set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """Work until `_stopping` is set. Must not raise."""
