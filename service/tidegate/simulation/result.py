"""What every judge of simulated rollouts gives: which it turned back, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidegate.simulation.blue_green import GeneratedSwitch
from tidegate.simulation.distributions import Floats, Mask
from tidegate.simulation.generator import GeneratedRollout


@dataclass(frozen=True, eq=False)
class AbortResult:
    """`aborted` [R]: turned back. `seconds` [R]: when, since the start of the rollout or the switch; inf where never."""

    aborted: Mask
    seconds: Floats

    @classmethod
    def from_moments(cls, condemned: Mask, seconds: Floats) -> AbortResult:
        """Turned back at the first moment that condemns: `condemned` [R, K] at the moments `seconds` [K]."""
        never = condemned.shape[1]
        first = np.where(condemned, np.arange(never), never).min(1, initial=never)
        return cls(first < never, np.append(seconds, np.inf)[first])


Decide = Callable[[GeneratedRollout], AbortResult]
DecideSwitch = Callable[[GeneratedSwitch], AbortResult]
