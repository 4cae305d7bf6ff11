"""Who has to approve what a rollout waits for, and what an approval was given for. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate.core.model import Rollout, Signal


class Expiry(StrEnum):
    """What follows when nobody answers in time."""

    ROLLBACK = "rollback"
    PROMOTE = "promote"  # only a hold of the plan: nothing that is judged bad or not known goes on by itself
    WAIT = "wait"  # on, for as long as it takes


@dataclass(frozen=True, slots=True)
class Approval:
    """When a rollout waits for approval, and for whose.

    `after`: the batches, from 1, after which it waits. `roles`: of which an approver must have one; none: whoever may
    promote. `needed`: how many different people. `requester`: whether who asked for the rollout may approve it.
    """

    after: tuple[int, ...] = ()
    roles: tuple[str, ...] = ()
    needed: int = 1
    requester: bool = True
    expires_seconds: float = 86_400.0
    on_expiry: Expiry = Expiry.ROLLBACK


def given_approvals(rollout: Rollout, signals: Sequence[Signal]) -> tuple[Signal, ...]:
    """Those given for the present step, the first of each person."""
    first: dict[str, Signal] = {}
    for signal in signals:
        if signal.kind == "promote" and signal.step in (None, rollout.cursor):
            first.setdefault(signal.by, signal)
    return tuple(first.values())


def deciding_approval(rollout: Rollout, signals: Sequence[Signal]) -> Signal | None:
    """The approval that made them enough, None while more are needed. One is always needed."""
    given, needed = given_approvals(rollout, signals), max(1, rollout.policy.approval.needed)
    return given[needed - 1] if len(given) >= needed else None


def approval_binding(rollout: Rollout) -> str:
    """What an approval is bound to: 16 hex digits that change with the rollout, its digest, its plan and its step.

    Unlike its version they stay while the checks go on being judged.
    """
    steps = [(sorted(each.fleet.items()), sorted(each.route.items()), each.gate.approval) for each in rollout.plan]
    told = repr((rollout.id, rollout.group, rollout.digest, rollout.phase.value, rollout.cursor, steps))
    return hashlib.sha256(told.encode()).hexdigest()[:16]
