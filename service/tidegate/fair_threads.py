"""Threads for slow calls of which no service can take all."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")
_Waiting = tuple[str, "Future[Any]", Callable[[], Any]]


class FairThreads:
    """Runs calls, each in a daemon thread of its own: at most `total` at a time, and at most `share` of one key.

    A key without a running call never waits, whatever the others do: `total` is then exceeded. Calls that wait begin in
    the order in which they came.
    """

    def __init__(self, name: str, total: int, share: int) -> None:
        self._name, self._total, self._share = name, total, share
        self._idle = threading.Condition()
        self._running: Counter[str] = Counter()
        self._waiting: deque[_Waiting] = deque()

    def submit(self, key: str, call: Callable[[], T]) -> Future[T]:
        """Run the call with the present context variables. `key` is whose share it uses, such as a service."""
        future: Future[T] = Future()
        context = copy_context()
        with self._idle:
            self._waiting.append((key, future, lambda: context.run(call)))
            self._begin_waiting()
        return future

    def join(self) -> None:
        """Wait until all calls have ended, those that still wait included."""
        with self._idle:
            self._idle.wait_for(lambda: not self._running and not self._waiting)

    def _begin_waiting(self) -> None:
        """Begin every call that has room. Called with the lock held."""
        still_waiting: deque[_Waiting] = deque()
        for key, future, call in self._waiting:
            running = self._running[key]
            if running and (running >= self._share or self._running.total() >= self._total):
                still_waiting.append((key, future, call))
                continue
            thread = threading.Thread(target=self._run, args=(key, future, call), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads: begin it when another call ends
                still_waiting.append((key, future, call))
                continue
            self._running[key] += 1
        self._waiting = still_waiting

    def _run(self, key: str, future: Future[Any], call: Callable[[], Any]) -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        with self._idle:
            self._running[key] -= 1
            self._running += Counter()  # drop those without a call
            self._begin_waiting()
            self._idle.notify_all()
        future.set_exception(error) if error is not None else future.set_result(result)
