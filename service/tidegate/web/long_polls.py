"""Long polls: requests that wait for events, served by one shared database query per interval.

If each request polled the database itself, a hundred waiting requests would occupy the server.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog

from tidegate.store_port import Store

log = structlog.get_logger("tidegate.web")

POLL_SECONDS = 0.1  # between two queries
CLIENT_SECONDS = 5.0  # between two checks whether the client is still there


class _Waiter:
    """A request that waits for events of `rollout` with a number above `after`."""

    def __init__(self, rollout: str, after: int) -> None:
        self.rollout, self.after = rollout, after
        self.woken = threading.Event()


class LongPolls:
    """Wakes each request when its rollout has new events. A thread polls the database while any request waits.

    `stopping` is set when the server stops, which wakes every request.
    """

    def __init__(self, store: Store, stopping: threading.Event) -> None:
        self._store, self._stopping = store, stopping
        self._lock = threading.Lock()  # guards the two attributes below
        self._waiters: set[_Waiter] = set()
        self._thread: threading.Thread | None = None

    def wait(self, rollout: str, after: int, seconds: float, client_left: Callable[[], bool] = lambda: False) -> None:
        """Wait until the rollout has an event with a number above `after`, `seconds` have passed, the client has left, or
        the server stops.

        Also returns when the rollout is unknown or the database fails; the caller's next query raises the error.
        """
        mine = _Waiter(rollout, after)
        with self._lock:
            self._waiters.add(mine)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="long-polls", daemon=True)
                thread.start()
                self._thread = thread
        end = time.monotonic() + seconds
        while not mine.woken.wait(min(CLIENT_SECONDS, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end or client_left():
                break
        with self._lock:
            self._waiters.discard(mine)

    def _run(self) -> None:
        while waiters := self._present():
            self._wake(waiters)
            self._stopping.wait(POLL_SECONDS)

    def _present(self) -> tuple[_Waiter, ...]:
        """All waiters. Without any the thread ends, and the next waiter starts a new one."""
        with self._lock:
            if not self._waiters:
                self._thread = None
            return tuple(self._waiters)

    def _wake(self, waiters: Iterable[_Waiter]) -> None:
        """Wake every waiter whose rollout has new events, is unknown or cannot be read."""
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
            log.warning("long poll failed: could not read events", error=str(error))
            return {}


def has_client_left(environ: Mapping[str, Any]) -> bool:
    """Whether the client has closed the connection of this WSGI request; False if the server does not show it.

    A build that is killed leaves its poll behind, which would keep a slot until its end.
    """
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is None or not hasattr(select, "POLLRDHUP"):
        return False
    poller = select.poll()
    try:
        poller.register(connection, select.POLLRDHUP)
        return bool(poller.poll(0))
    except (OSError, ValueError):
        return True
