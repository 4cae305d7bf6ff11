"""What every judge of simulated rollouts gives: which it turned back, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tidegate.simulation.draws import Floats, Mask
from tidegate.simulation.generating import Generated
from tidegate.simulation.switching import GeneratedSwitch


@dataclass(frozen=True, eq=False)
class Decided:
    """`aborted` [R]: turned back. `seconds` [R]: when, since the start of the rollout or the switch; inf where never."""

    aborted: Mask
    seconds: Floats

    @classmethod
    def at_first(cls, condemned: Mask, seconds: Floats) -> Decided:
        """Turned back at the first moment that condemns: `condemned` [R, K] at the moments `seconds` [K]."""
        never = condemned.shape[1]
        first = np.where(condemned, np.arange(never), never).min(1, initial=never)
        return cls(first < never, np.append(seconds, np.inf)[first])


Decide = Callable[[Generated], Decided]
DecideSwitch = Callable[[GeneratedSwitch], Decided]
