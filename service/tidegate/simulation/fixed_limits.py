"""Fixed limits, checked each minute."""

from __future__ import annotations

import numpy as np

from tidegate.simulation.deciding import Decided
from tidegate.simulation.draws import Mask
from tidegate.simulation.generating import Generated
from tidegate.simulation.sides import Side, sides
from tidegate.simulation.switching import GeneratedSwitch

FIRST_SECONDS = 60.0  # before it is checked for the first time, a minute's data are awaited on top
EVERY_SECONDS = 60.0
MOST_FAILURES = 3  # one more turns back
MOST_ERRORS = 0.01
SLOWEST = 0.5  # seconds, of the 99th percentile


def decide(made: Generated) -> Decided:
    """Each minute, the last minute of the new release alone: errors over 1 % or the 99th percentile over 500 ms, or no
    data, is a failure; the fourth in all turns it back.

    Source: usage in the documentation of Argo Rollouts (`AnalysisTemplate`: `interval`, `failureCondition`, `failureLimit`)
    and of Flagger (`analysis`: `interval`, `threshold`, `thresholdRange`, with the built-in `request-success-rate` at 99 %
    and `request-duration` at 500 ms). Failures are counted in all, not in a row.
    """
    new, _ = sides(made, 0.0)
    return _checked(new, made.dt)


def decide_switch(made: GeneratedSwitch) -> Decided:
    """The same from the switch on."""
    after = slice(made.switch, None)
    return _checked(Side(made.N[:, after], made.X[:, after], made.S[:, after]), made.dt)


def _checked(new: Side, interval: float) -> Decided:
    replicates, intervals = new.requests.shape
    together = round(EVERY_SECONDS / interval)
    checks = range(int((FIRST_SECONDS + EVERY_SECONDS) / interval) - 1, intervals, together)
    failed = np.zeros((replicates, len(checks)), bool)
    for number, check in enumerate(checks):
        failed[:, number] = _failed(new.within(slice(max(0, check - together + 1), check + 1)).total())
    seconds = (np.array(checks, dtype=np.int64) + 1) * interval
    return Decided.at_first(failed.cumsum(1) > MOST_FAILURES, np.asarray(seconds, dtype=np.float64))


def _failed(minute: Side) -> Mask:
    nothing = minute.requests == 0
    slow = np.nan_to_num(minute.quantile(0.99), nan=np.inf) > SLOWEST
    return np.asarray(nothing | (minute.failed > MOST_ERRORS * minute.requests) | slow)
