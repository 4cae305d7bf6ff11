"""Limits how many requests of one token wait for log lines at a time: each asks Docker again and again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tidegate.web.errors import TOO_MANY_WAITING, ApiProblem

MAX_FOLLOWERS = 4  # of one token
POLL_SECONDS = 0.5  # between two reads of the logs


class LogFollowers:
    """The requests that wait for log lines, by token."""

    def __init__(self, limit: int = MAX_FOLLOWERS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._present: Counter[str] = Counter()

    @contextmanager
    def acquire(self, token: str) -> Iterator[None]:
        """Count one request of the token while the context is open. Raises `ApiProblem` when it has too many."""
        with self._lock:
            if self._present[token] >= self._limit:
                detail = f"This token follows {self._limit} logs already. End one of them, or use another token."
                raise ApiProblem(TOO_MANY_WAITING, detail, headers={"Retry-After": "1"})
            self._present[token] += 1
        try:
            yield
        finally:
            with self._lock:
                self._present[token] -= 1
                if not self._present[token]:
                    del self._present[token]
