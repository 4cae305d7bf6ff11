"""The requests that wait for events, and the one look for all of them.

Were each to look for itself, some hundred of them would keep the server busy with that alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import structlog

from tidegate.ports import Store

log = structlog.get_logger("tidegate.web")

POLL_SECONDS = 0.1  # between two looks


class _Waiter:
    """One request. It waits for events of `rollout` with a number above `after`."""

    def __init__(self, rollout: str, after: int) -> None:
        self.rollout, self.after = rollout, after
        self.woken = threading.Event()


class LongPolls:
    """Wakes each request when there is something for it. Looks in a thread of its own, which is there while anybody waits.

    `stopping` is set when the server ends: then nobody waits any longer.
    """

    def __init__(self, store: Store, stopping: threading.Event) -> None:
        self._store, self._stopping = store, stopping
        self._lock = threading.Lock()  # guards the two below
        self._waiters: set[_Waiter] = set()
        self._thread: threading.Thread | None = None

    def wait(self, rollout: str, after: int, seconds: float) -> None:
        """Returns when the rollout has an event with a number above `after`, when the time is over, when the server ends,
        or when the database fails, which whoever asks it next is told."""
        mine = _Waiter(rollout, after)
        with self._lock:
            self._waiters.add(mine)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="long-polls", daemon=True)
                thread.start()
                self._thread = thread
        mine.woken.wait(seconds)
        with self._lock:
            self._waiters.discard(mine)

    def _run(self) -> None:
        while waiters := self._present():
            self._wake(waiters)
            self._stopping.wait(POLL_SECONDS)

    def _present(self) -> tuple[_Waiter, ...]:
        """All that wait. Where there is none the thread ends, and the next one to wait starts another."""
        with self._lock:
            if not self._waiters:
                self._thread = None
            return tuple(self._waiters)

    def _wake(self, waiters: Iterable[_Waiter]) -> None:
        """Those for whom there is something. An unknown rollout, and a failure, are told by what is asked for next."""
        ending = self._stopping.is_set()
        last = {} if ending else self._last({waiter.rollout for waiter in waiters})
        woken = {waiter for waiter in waiters if last.get(waiter.rollout, waiter.after + 1) > waiter.after}
        with self._lock:
            self._waiters -= woken
        for waiter in woken:
            waiter.woken.set()

    def _last(self, rollouts: set[str]) -> dict[str, int]:
        try:
            return dict(self._store.last_events(rollouts))
        except Exception as error:
            log.warning("nothing can be waited for", error=str(error))
            return {}
