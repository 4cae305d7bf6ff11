"""Counts of responses by server, made from the log lines of a proxy: how many, with which outcome, and how long they took.

Pure. The analysis queries them through Prometheus (`analysis/queries.py`). Routers with a log are `LoggedRouter`s.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from tidegate.clock import Time

#: The upper bounds of every histogram of response times, in milliseconds.
BUCKET_BOUNDS_MS = (
    1,
    2,
    3,
    5,
    7,
    10,
    15,
    20,
    30,
    50,
    70,
    100,
    150,
    200,
    300,
    500,
    700,
    1000,
    1500,
    2000,
    3000,
    5000,
    10000,
)
IDLE_SECONDS = 3 * 3600.0  # a server without requests for this long is forgotten: most were removed

Server = tuple[str, str]  # backend, server name


@dataclass
class ResponseTimes:
    """The response times of one server."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKET_BOUNDS_MS) + 1))  # not cumulative
    milliseconds: int = 0

    def add(self, milliseconds: int, times: int) -> None:
        """Count `times` responses. A proxy rounds down, so one of 5 ms took at least 5 ms and less than 6 ms."""
        self.buckets[bisect_right(BUCKET_BOUNDS_MS, milliseconds)] += times
        self.milliseconds += milliseconds * times

    @property
    def cumulative(self) -> list[int]:
        """The number of responses up to each bound, and in total."""
        total, sums = 0, []
        for number in self.buckets:
            total += number
            sums.append(total)
        return sums


@dataclass
class ResponseCounts:
    """The counts of one proxy. They start at 0 with the process that reads the log. Not thread-safe."""

    times: dict[Server, ResponseTimes] = field(default_factory=dict)
    outcomes: dict[Server, Counter[str]] = field(default_factory=dict)  # `2xx`, …; of proxies without such a counter
    counted: int = 0  # lines
    ignored: int = 0  # lines without a server of Tidegate, or without a response
    _used_at: dict[Server, Time] = field(default_factory=dict)

    def add_time(self, server: Server, milliseconds: int, times: int, now: Time) -> None:
        """Count `times` responses that began after this many milliseconds."""
        self.times.setdefault(server, ResponseTimes()).add(milliseconds, times)
        self._used_at[server] = now

    def add_outcome(self, server: Server, outcome: str, times: int, now: Time) -> None:
        """Count `times` requests that ended in this way."""
        self.outcomes.setdefault(server, Counter())[outcome] += times
        self._used_at[server] = now

    def copy(self) -> ResponseCounts:
        """A copy that later lines do not change."""
        return deepcopy(self)

    def forget_idle(self, now: Time) -> None:
        """Drop servers that had no request for `IDLE_SECONDS`."""
        for server in [server for server, at in self._used_at.items() if now - at > IDLE_SECONDS]:
            del self._used_at[server]
            self.times.pop(server, None)
            self.outcomes.pop(server, None)


class RequestLog(Protocol):
    """The request log of a proxy that has no histogram of response times. Thread-safe. Raises `RouterError`.

    `has_outcomes`: whether it also counts outcomes, because the proxy does not.
    """

    has_outcomes: bool

    def poll(self, now: Time) -> bool:
        """Count the lines that were written since the last call, without waiting for more; False while another process
        counts them. The first call begins with the lines that are written after it."""

    def counts(self) -> ResponseCounts:
        """The counts so far; they change no more."""

    def close(self) -> None:
        """Let another process count."""


@runtime_checkable
class LoggedRouter(Protocol):
    """A `Router` whose requests are counted from its log."""

    @property
    def request_log(self) -> RequestLog | None:
        """None if the settings say that there is none."""
