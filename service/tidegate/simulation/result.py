"""The result of a method on simulated rollouts: which it rolled back, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidegate.simulation.blue_green import GeneratedSwitch
from tidegate.simulation.distributions import Floats, Mask
from tidegate.simulation.generator import GeneratedRollout


@dataclass(frozen=True, eq=False)
class AbortResult:
    """`aborted` [R]: rolled back. `seconds` [R]: when, since the start of the rollout or the switch; inf for never.

    `bakes` [R]: how many bakes ended without a rollback; `unclear` [R]: how many of them INCONCLUSIVE, so that they would
    be extended. None for a method without such results.
    """

    aborted: Mask
    seconds: Floats
    bakes: Floats | None = None
    unclear: Floats | None = None

    @classmethod
    def from_moments(cls, failing: Mask, seconds: Floats) -> AbortResult:
        """Rolled back at the first moment that fails: `failing` [R, K] at the moments `seconds` [K]."""
        never = failing.shape[1]
        first = np.where(failing, np.arange(never), never).min(1, initial=never)
        return cls(first < never, np.append(seconds, np.inf)[first])


Decide = Callable[[GeneratedRollout], AbortResult]
DecideSwitch = Callable[[GeneratedSwitch], AbortResult]
