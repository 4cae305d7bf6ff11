"""How far to follow a rollout: the one rule that the event poll, the command line and Jenkins use."""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.analysis.verdict import Outcome
from tidegate.core.approvals import awaited_answer
from tidegate.core.model import Rollout, Signal
from tidegate.core.phases import Phase, Until


def has_reached(rollout: Rollout, signals: Sequence[Signal], until: Until) -> bool:
    """Whether the rollout has come as far as `until`.

    A rollout that is rolling back is followed to its end, because how the rollback ends matters.
    """
    if not rollout.phase.live:
        return True
    if rollout.phase is Phase.ROLLING_BACK or until is Until.END:
        return False
    if awaited_answer(rollout, signals) is not None:
        return True
    verdict = rollout.verdict
    counts = verdict is not None and (verdict.final or verdict.outcome is Outcome.FAIL)
    return until is Until.VERDICT and (rollout.cursor > 0 or counts)
