"""Time: points in time, spans, and ids that sort by it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime


def new_id(now: Time) -> str:
    """A rollout's id: 14 hex digits, the first nine of them the time in sixteenths of a second, so that ids sort by age."""
    return f"{int(now * 16):09x}{secrets.randbits(20):05x}"


Time = float  # seconds since the epoch, UTC


def utc_second(time: Time) -> str:
    """`2026-11-23T16:12:03Z`, for messages."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time, `start` and `end` in seconds since the epoch."""

    start: Time
    end: Time

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start
