"""Fixed limits, checked each minute."""

from __future__ import annotations

import numpy as np

from support.other_methods.aggregates import ReleaseCounts, release_counts
from tidegate.simulation.blue_green import GeneratedSwitch
from tidegate.simulation.distributions import Mask
from tidegate.simulation.generator import GeneratedRollout
from tidegate.simulation.result import AbortResult

INITIAL_DELAY_SECONDS = 60.0  # before the first interval
INTERVAL_SECONDS = 60.0
MAX_FAILURES = 3  # one more rolls back
MAX_ERROR_SHARE = 0.01
MAX_LATENCY_SECONDS = 0.5  # seconds, of the 99th percentile


def decide(rollouts: GeneratedRollout) -> AbortResult:
    """Checks the last minute of the new release each minute. An error rate above 1 %, a 99th percentile above 500 ms, or no
    data is a failure; the fourth failure rolls back.

    Source: examples in the documentation of Argo Rollouts (`AnalysisTemplate`: `interval`, `failureCondition`,
    `failureLimit`) and of Flagger (`analysis`: `interval`, `threshold`, `thresholdRange`, with the built-in
    `request-success-rate` at 99 % and `request-duration` at 500 ms). Failures need not be consecutive.
    """
    new, _ = release_counts(rollouts, 0.0)
    return _check_limits(new, rollouts.dt)


def decide_switch(rollouts: GeneratedSwitch) -> AbortResult:
    """The same rule from the switch on."""
    after = slice(rollouts.switch, None)
    return _check_limits(ReleaseCounts(rollouts.N[:, after], rollouts.X[:, after], rollouts.S[:, after]), rollouts.dt)


def _check_limits(new: ReleaseCounts, interval: float) -> AbortResult:
    replicates, intervals = new.requests.shape
    length = round(INTERVAL_SECONDS / interval)
    checks = range(int((INITIAL_DELAY_SECONDS + INTERVAL_SECONDS) / interval) - 1, intervals, length)
    failed = np.zeros((replicates, len(checks)), bool)
    for number, check in enumerate(checks):
        failed[:, number] = _exceeds_limits(new.within(slice(max(0, check - length + 1), check + 1)).total())
    seconds = (np.array(checks, dtype=np.int64) + 1) * interval
    return AbortResult.from_moments(failed.cumsum(1) > MAX_FAILURES, np.asarray(seconds, dtype=np.float64))


def _exceeds_limits(minute: ReleaseCounts) -> Mask:
    no_data = minute.requests == 0
    slow = np.nan_to_num(minute.quantile(0.99), nan=np.inf) > MAX_LATENCY_SECONDS
    return np.asarray(no_data | (minute.failed > MAX_ERROR_SHARE * minute.requests) | slow)
