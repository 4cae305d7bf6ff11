"""The phases of a rollout and the legal moves between them."""

from __future__ import annotations

from enum import StrEnum

from tidegate.errors import IllegalMove


class Phase(StrEnum):
    """The state of a rollout as a whole."""

    PENDING = "pending"  # recorded; image not yet pinned, nothing touched
    RUNNING = "running"  # on its way to the new release
    ROLLING_BACK = "rolling_back"  # on its way back to the old one
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"  # it cannot be done as requested; nothing was changed
    FAILED = "failed"  # halted: no traffic moves any more, a person must act

    @property
    def live(self) -> bool:
        """Whether an engine still drives it."""
        return self in LIVE


LIVE = frozenset({Phase.PENDING, Phase.RUNNING, Phase.ROLLING_BACK})

LEGAL = frozenset(
    {
        (Phase.PENDING, Phase.RUNNING),
        (Phase.PENDING, Phase.ROLLED_BACK),  # rolled back before anything was changed
        (Phase.PENDING, Phase.REFUSED),
        (Phase.PENDING, Phase.FAILED),  # a repair, or engines died
        (Phase.RUNNING, Phase.RUNNING),  # the next step
        (Phase.RUNNING, Phase.ROLLING_BACK),
        (Phase.RUNNING, Phase.SUCCEEDED),
        (Phase.RUNNING, Phase.FAILED),
        (Phase.ROLLING_BACK, Phase.ROLLING_BACK),  # the next step on the way back
        (Phase.ROLLING_BACK, Phase.ROLLED_BACK),
        (Phase.ROLLING_BACK, Phase.FAILED),
    }
)


def move(now: Phase, to: Phase) -> Phase:
    """Return `to` when the table allows it; raise `IllegalMove` otherwise."""
    if (now, to) not in LEGAL:
        raise IllegalMove(f"a rollout that is {now} cannot become {to}")
    return to


class Until(StrEnum):
    """How far to follow a rollout. Each value also ends at the next one, and at the end of the rollout."""

    VERDICT = "verdict"  # the first verdict that counts: final, or FAIL
    APPROVAL = "approval"  # the first approval or decision that a person has to make
    END = "end"  # the rollout has ended
