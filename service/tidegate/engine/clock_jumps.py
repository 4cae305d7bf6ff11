"""Jumps of the system clock under a running engine: set by hand, by a time service, or after the machine slept.

Recorded times refer to the clock before the jump. They are moved by the same amount, so that a bake, a drain and a deadline
keep their length: without this, a jump forward would end them at once and a jump back would delay them.
"""

from __future__ import annotations

from tidegate.clock import Time
from tidegate.core.decisions import shift_marks
from tidegate.core.event_kinds import EventKind
from tidegate.core.records import Claim
from tidegate.engine import events
from tidegate.engine.log_context import log_event
from tidegate.engine.rollout_cache import RolloutCache
from tidegate.store_port import EngineStore

JUMP_SECONDS = 1.0  # smaller jumps are ignored: they change no wait noticeably


def jump_seconds(before: float, clock_offset: float) -> float:
    """The size of the jump, 0 when there was none. `before` and `clock_offset` are the clock's offsets from a monotonic
    clock, in seconds."""
    seconds = clock_offset - before
    return seconds if abs(seconds) >= JUMP_SECONDS else 0.0


def adjust(claim: Claim, store: EngineStore, cache: RolloutCache, clock_offset: float, now: Time) -> None:
    """Move the rollout's recorded times if the clock jumped since this process last drove it. Call it before deciding.

    If another engine drove it in between, its times refer to that engine's clock and are left alone.
    Raises `LeaseLost` and `StoreError`; the adjustment is then repeated with the next tick.
    """
    driven_by_others = claim.fence > cache.fence + 1
    before = clock_offset if cache.clock_offset is None or driven_by_others else cache.clock_offset
    if seconds := jump_seconds(before, clock_offset):
        rollout, _ = store.load(claim.rollout)
        if rollout.phase.live:
            direction = "forward" if seconds > 0 else "back"
            message = f"Engine clock jumped {direction} {abs(seconds):.0f} s; timers were adjusted."
            event = events.simple(EventKind.WARNING, message, rollout, now)
            store.save(shift_marks(rollout, seconds), [event], claim.fence)
            log_event(event)
        cache.shift_clock(seconds)
        before = clock_offset
    cache.clock_offset = before
