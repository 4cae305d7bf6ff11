"""A clock that jumps under a running engine: set by hand, by a time service, or while the machine slept.

What was recorded before stands in the time of before. It is moved by as much, so that a bake, a drain and a deadline take
as long as they were meant to: a jump ahead would end them at once, and one back hold them up for as long.
"""

from __future__ import annotations

from tidegate.clock import Time
from tidegate.core.decisions import shift_marks
from tidegate.core.event_kinds import EventKind
from tidegate.core.records import Claim
from tidegate.engine import events
from tidegate.engine.rollout_cache import RolloutCache
from tidegate.ports import EngineStore

JUMP_SECONDS = 1.0  # less than this harms nothing that is waited for


def jump_seconds(before: float, clock_offset: float) -> float:
    """By how much the clock jumped: its offset from a monotonic clock was `before` and is `clock_offset`. 0: it did not."""
    seconds = clock_offset - before
    return seconds if abs(seconds) >= JUMP_SECONDS else 0.0


def adjust(claim: Claim, store: EngineStore, cache: RolloutCache, clock_offset: float, now: Time) -> None:
    """Before anything is decided by a clock that jumped since this process last drove the rollout. Raises `LeaseLost`,
    `StoreError`; then it is still to be done."""
    before = clock_offset if cache.clock_offset is None else cache.clock_offset
    if seconds := jump_seconds(before, clock_offset):
        rollout, _ = store.load(claim.rollout)
        if rollout.phase.live:
            direction = "ahead" if seconds > 0 else "back"
            message = (
                f"the engine's clock jumped {direction} by {abs(seconds):.0f} s; all waits take as long as they should"
            )
            event = events.simple(EventKind.WARNING, message, rollout, now)
            store.save(shift_marks(rollout, seconds), [event], claim.fence)
        cache.shift_clock(seconds)
        before = clock_offset
    cache.clock_offset = before
