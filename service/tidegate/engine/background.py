"""What an engine does outside of ticks: threads for as long as a `with` block, and calls that may take minutes."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from tidegate.fair_threads import FairThreads

T = TypeVar("T", bound="BackgroundThread")
R = TypeVar("R")
MAX_PULLS, MAX_PULLS_OF_SERVICE = 64, 2  # of one engine; a rollout that was rolled back leaves its pull behind
MAX_SLOW_CALLS = 64  # of one environment: calls that may take longer than a tick should


class Turns:
    """Which rollouts the threads of an engine drive: at most `threads` of each environment at a time.

    Those in a call that may be slow do not count, so that a hook whose image is pulled, or a container that is created
    slowly, delays no other rollout. Calls in the background change nothing of a rollout, so that it need not be driven
    meanwhile. `wake` is called when a thread is idle again.
    """

    def __init__(self, threads: int, environments: int, wake: Callable[[], None]) -> None:
        self._threads, self.wake = threads, wake
        self.capacity = (threads + MAX_SLOW_CALLS) * (environments + 1)  # one more for environments not in the settings
        self._total = threads * (environments + 1)
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()  # by environment, rollouts that a thread drives
        self._slow: Counter[str] = Counter()  # by environment, rollouts in a slow call
        self._pulls = FairThreads("pull", MAX_PULLS, MAX_PULLS_OF_SERVICE)

    def full(self) -> list[str] | None:
        """The environments without an idle thread; None if none has one."""
        with self._lock:
            if self._busy.total() >= self._total:
                return None
            return [environment for environment, count in self._busy.items() if count >= self._threads]

    def count(self) -> int:
        """The rollouts that a thread drives, those in a slow call included."""
        with self._lock:
            return self._busy.total() + self._slow.total()

    def is_full(self, environment: str) -> bool:
        """Whether the environment has no idle thread."""
        with self._lock:
            return self._busy[environment] >= self._threads

    def begin(self, environment: str) -> None:
        """A thread drives a rollout of the environment."""
        with self._lock:
            self._busy[environment] += 1

    def end(self, environment: str) -> None:
        """It does so no longer."""
        with self._lock:
            self._busy[environment] -= 1
        self.wake()

    @contextmanager
    def slow_call(self, environment: str) -> Iterator[None]:
        """Let another rollout have the turn meanwhile; unless `MAX_SLOW_CALLS` have done so."""
        with self._lock:
            steps_aside = self._slow[environment] < MAX_SLOW_CALLS
            if steps_aside:
                self._slow[environment] += 1
                self._busy[environment] -= 1
        if not steps_aside:
            yield
            return
        self.wake()
        try:
            yield
        finally:
            with self._lock:
                self._slow[environment] -= 1
                self._busy[environment] += 1

    def in_background(self, service: str, call: Callable[[], R], *, urgent: bool) -> Future[R]:
        """Run a call that changes nothing of a rollout. `urgent` ones of a service do not wait for its others."""
        return self._pulls.submit(f"{service} urgent" if urgent else service, call)


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
