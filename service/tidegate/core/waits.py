"""What a rollout waits for: the reason, since when, until when, and what happens then. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tidegate.clock import Time

OVERDUE_SECONDS = 15.0  # after `until`: no engine acts
UNLIMITED_WAIT_SECONDS = 3600.0  # after which a wait without a limit deserves attention


class WaitKind(StrEnum):
    """What ends the wait."""

    APPROVAL = "approval"  # the plan asks for a person's approval
    DECISION = "decision"  # the analysis, a hook or a comparison has no clear result: a person decides
    READINESS = "readiness"  # instances start
    STOP = "stop"  # instances stop
    DRAIN = "drain"  # requests in flight finish
    BAKE = "bake"  # the step must be ready for its bake time
    HOOKS = "hooks"  # a hook runs
    GROUP = "group"  # other rollouts of the group reach the same point
    FREEZE = "freeze"  # the environment is frozen
    PAUSE = "pause"  # the rollout is paused
    PART = "part"  # Docker, the proxy or another part works again


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """A wait. `until` is when it ends at the latest; None if it has no limit, then `then` says what ends it."""

    kind: WaitKind
    reason: str
    since: Time
    until: Time | None
    then: str

    def is_overdue(self, now: Time) -> bool:
        """Whether it lasts longer than expected: past its limit, or very long without one."""
        if self.until is None:
            return now - self.since > UNLIMITED_WAIT_SECONDS
        return now > self.until + OVERDUE_SECONDS
