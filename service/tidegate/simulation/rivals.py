"""Other ways to judge, to set beside the product's. Each is a module with a `decide` that names the rule's source."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.simulation import betting, fixed_limits, independence, mann_whitney, peeking
from tidegate.simulation.deciding import Decide, Decided, DecideSwitch

__all__ = ["RIVALS", "SWITCH_RIVALS", "Decide", "DecideSwitch", "Decided"]

RIVALS: Mapping[str, Decide] = {
    "fixed limits": fixed_limits.decide,
    "Mann-Whitney, effect 1.25": mann_whitney.decide,
    "peeked z and t": peeking.decide,
    "independent e-process": independence.decide,
    "betting": betting.decide,
}

#: Those that need no old instances beside the new ones.
SWITCH_RIVALS: Mapping[str, DecideSwitch] = {"fixed limits": fixed_limits.decide_switch}
