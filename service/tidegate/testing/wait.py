"""Waiting for conditions, with a time limit that only a condition that never becomes true reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MAX_SECONDS = 120.0  # for anything that takes a second or two on an idle machine
POLL_SECONDS = 0.01


def wait_until(
    condition: Callable[[], T | None], seconds: float = MAX_SECONDS, observed: Callable[[], object] | None = None
) -> T:
    """Poll `condition`; return its first true value.

    `observed`: what to add to the message of a failure.

    Raises `AssertionError` when it is not true within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"Not true within {seconds:g} s. Last observed: {observed() if observed else value!r}")
        time.sleep(POLL_SECONDS)
    return value


def pause(seconds: float) -> None:
    """Let time pass in which something must not happen. A longer pause must not make a test fail."""
    time.sleep(seconds)
