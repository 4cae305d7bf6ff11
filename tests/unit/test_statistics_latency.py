"""Response times that lie within one bucket: the share above a bound falls so steeply that no margin in times fits."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.analysis.statistics.calibration import MAX_MARGIN_SHARE, widen_margin
from tidegate.analysis.statistics.eprocess import EProcess
from tidegate.analysis.statistics.metric_models import LatencyBound, latency_bounds, latency_calibration
from tidegate.analysis.statistics.parameters import Parameters

LIMITS = np.array([0.005, 0.007, 0.01, 0.02])
HISTORY, REQUESTS, DT = 600.0, 25, 0.5  # requests before, and to each side in an interval of DT seconds
ENOUGH = 200 / 0.3  # of evidence, where latency is all that is looked at
REPLICATES = 100


def bound_of(*shares: float) -> LatencyBound:
    """The only one that is watched, when so many requests exceed the first limits."""
    slower = np.array([*shares, *([0.0] * (len(LIMITS) - len(shares)))]) * HISTORY
    (result,) = latency_bounds(LIMITS, slower, HISTORY, Parameters())
    return result


def found_after(bound: LatencyBound, before: float, old: float, new: float, seconds: float = 60.0) -> tuple[float, float]:
    """How often the new one is called worse within that time, a ratio in [0, 1]; and the median of the seconds it took."""
    chance = np.random.default_rng(7)
    past = chance.binomial(int(HISTORY / 2), before, (REPLICATES, 2, 1))
    known = latency_calibration(bound, past, np.full(past.shape, HISTORY / 2), Parameters())
    per_second = np.full(REPLICATES, REQUESTS / DT)
    process = EProcess(bound.model, known, per_second, dt=DT, batches=1, planned=1, parameters=Parameters())
    process.begin_batch()
    new_one, exposure = np.array([True, False]), np.full((REPLICATES, 2), float(REQUESTS))
    crossed = np.full(REPLICATES, np.inf)
    for interval in range(1, int(seconds / DT) + 1):
        slow = np.stack([chance.binomial(REQUESTS, share, REPLICATES) for share in (new, old)], 1)
        process.advance(slow, exposure, new_one, ~new_one)
        crossed = np.minimum(crossed, np.where(process.evalue() >= ENOUGH, interval * DT, np.inf))
    return float(np.isfinite(crossed).mean()), float(np.median(crossed))


@pytest.mark.parametrize("before", [0.005, 0.03, 0.06])
def test_all_requests_beyond_a_bound_that_hardly_any_exceeded_are_found(before: float) -> None:
    share, seconds = found_after(bound_of(1.0, before), before, old=0.004, new=1.0)
    assert share == 1.0
    assert seconds <= 30.0


@pytest.mark.parametrize(("before", "new"), [(0.005, 0.015), (0.03, 0.12), (0.06, 0.24)])
def test_what_a_slightly_slower_host_explains_is_no_fault(before: float, new: float) -> None:
    """A slope of 16: a host that is 9 % slower has four times the slow requests."""
    assert found_after(bound_of(1.0, before), before, old=before, new=new)[0] <= 0.01


def test_a_bound_that_nobody_exceeded_makes_no_slope_endless() -> None:
    assert bound_of(1.0, 0.06).slope < 20


def test_luck_explains_no_more_than_what_leaves_harm_to_be_seen() -> None:
    rate = np.array([0.004, 0.1, 1.0])
    margin = widen_margin(np.full(3, 1.1), np.full(3, 10.0), rate)
    assert margin == pytest.approx([0.004**-MAX_MARGIN_SHARE, 0.1**-MAX_MARGIN_SHARE, 1.1])
    assert widen_margin(np.full(3, 1.1), np.full(3, 0.2), rate) == pytest.approx([np.exp(0.2), np.exp(0.2), 1.1])


def test_with_hardly_any_history_the_baseline_is_not_taken_for_disturbed() -> None:
    """A thousand requests are worth more than what is assumed before any was seen."""
    (bound, *_) = latency_bounds(np.array([0.2, 0.5]), np.array([540.0, 80.0]), 1000.0, Parameters())
    known = latency_calibration(bound, np.full((1, 1, 1), 540.0), np.full((1, 1, 1), 1000.0), Parameters())
    assert known.rate[0] == pytest.approx(0.54, rel=0.01)
    none = latency_calibration(bound, np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), Parameters())
    assert none.rate[0] == pytest.approx(0.54), "with none it is the share by which the bound was chosen"
