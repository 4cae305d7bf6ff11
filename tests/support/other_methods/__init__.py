"""The rules of other tools, implemented from their documentation, to compare the analysis with (docs/simulation.md)."""

from __future__ import annotations

from collections.abc import Mapping

from support.other_methods import betting, fixed_limits, independent_requests, mann_whitney, repeated_tests
from tidegate.simulation.result import Decide, DecideSwitch

METHODS: Mapping[str, Decide] = {
    "fixed limits": fixed_limits.decide,
    "Mann-Whitney, effect 1.25": mann_whitney.decide,
    "repeated z and t tests": repeated_tests.decide,
    "independent e-process": independent_requests.decide,
    "betting": betting.decide,
}
#: Methods that need no concurrent baseline.
SWITCH_METHODS: Mapping[str, DecideSwitch] = {"fixed limits": fixed_limits.decide_switch}
