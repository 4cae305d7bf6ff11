"""The rungs of `decide` for rollouts that are promoted and turned back as one.

Each drives its own service. At two points they wait for each other: when all stand and none takes traffic yet, and before
anything is given up that turning back would need. One that turns back turns all back.
"""

from __future__ import annotations

from tidegate.core.decisions import Decision, Mark, MarkKind, Wait
from tidegate.core.phases import Phase
from tidegate.core.view import View

TURNED = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED})


def peer_turned(view: View) -> str:
    """One sentence when another one of the group turned back."""
    turned = next((each for each in view.peers if each.phase in TURNED), None)
    if turned is None:
        return ""
    return f"together with {turned.service}, which turned back" + (f": {turned.reason}" if turned.reason else "")


def arrive(view: View) -> Decision | None:
    """Come to the group's point, then wait until all have. The approval that follows is for all."""
    point = view.step.gate.together
    if not point or view.rollout.phase is not Phase.RUNNING:
        return None
    if view.rollout.arrived < point:
        return Mark(MarkKind.ARRIVED, f"at point {point} of its group")
    late = [each.service for each in view.peers if each.arrived < point and each.phase is not Phase.SUCCEEDED]
    return Wait(view.now + 0.5, f"waiting for {', '.join(late)}") if late else None
