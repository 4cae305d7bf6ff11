"""How tests wait: for a condition, with a bound that only something that never comes reaches.

`time.sleep` stands in no other test file, so that no test hopes that a machine is quick (`tests/unit/test_test_rules.py`).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

MAX_SECONDS = 120.0  # for anything that takes a second or two on an idle machine
MIN_BOUND_SECONDS = 10.0  # no bound on another process or thread is shorter
MIN_POLL_SECONDS, MAX_POLL_SECONDS = 0.02, 0.25


def eventually(
    what: str,
    condition: Callable[[], T],
    seconds: float = MAX_SECONDS,
    *,
    poll_seconds: float | None = None,
    process: subprocess.Popen[bytes] | None = None,
) -> T:
    """The first true value of `condition`.

    `what` completes the sentence "not within 120 s: …"; a callable would not help, since a failure needs it once only.
    `poll_seconds`: the pause between two tries, where a moment must not be missed. Without, it grows with the time waited,
    so that a request to a server is not repeated fifty times a second: the answer is noticed at most a tenth later.
    `process`: fail at once when it ends before.

    Raises `AssertionError`.
    """
    begun = time.monotonic()
    deadline = begun + seconds
    while not (value := condition()):
        assert process is None or process.poll() is None, f"the process ended with {process.returncode} before: {what}"
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        grown = min(MAX_POLL_SECONDS, max(MIN_POLL_SECONDS, (time.monotonic() - begun) / 10))
        time.sleep(grown if poll_seconds is None else poll_seconds)
    return value


def pause(seconds: float, why: str) -> None:
    """Let time pass where nothing can be waited for: that something does *not* happen, or an application that is slow.

    A longer pause must never make a test fail. `why` says what the time is for.
    """
    assert why
    time.sleep(seconds)


def exit_status(process: subprocess.Popen[bytes], seconds: float = MAX_SECONDS) -> int:
    """The exit status of a process that is about to end."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"process {process.pid} did not end within {seconds:g} s") from None


@contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """Fail when the block takes longer.

    For blocks that would last for ever, or for some much longer time of their own, without what is tested: at least ten
    times what the block takes on an idle machine, and never under `MIN_BOUND_SECONDS`.
    """
    assert seconds >= MIN_BOUND_SECONDS, "a slow machine would break that bound"
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    assert took <= seconds, f"{what} took {took:.1f} s, more than {seconds:g} s"
