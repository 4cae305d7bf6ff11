"""Other methods: their decisions do not change, and each follows its source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support.other_methods import METHODS, SWITCH_METHODS, fixed_limits
from support.other_methods.aggregates import ReleaseCounts, release_counts, watched_bounds
from support.other_methods.mann_whitney import is_high
from tidegate.simulation.blue_green import generate_switch
from tidegate.simulation.distributions import BUCKET_BOUNDS
from tidegate.simulation.generator import GeneratedRollout, generate_rollout
from tidegate.simulation.grids import load_published
from tidegate.simulation.result import AbortResult
from tidegate.simulation.scenarios import NO_FAULT, Fault, RolloutNoise, ServiceSize, SwitchNoise

SIZE = ServiceSize("M", 10, 200, 0.001, 10, 300)
SHOCKED = RolloutNoise("shocked", sd_e=0.15, sd_u=0.03, ar_e=0.1, ar_u=0.02, phi=2, shock_pp=0.05, shock_n=1)
WORSE = Fault("worse", err_mult=8, lat_mult=1.4)


def made(noise: RolloutNoise = SHOCKED, fault: Fault = NO_FAULT, size: ServiceSize = SIZE) -> GeneratedRollout:
    return generate_rollout(size, noise, fault, 30, np.random.default_rng(7))


@pytest.mark.parametrize(
    ("method", "fault", "aborted", "seconds"),
    [
        ("fixed limits", NO_FAULT, 4, 2340),
        ("fixed limits", WORSE, 30, 9360),
        ("Mann-Whitney, effect 1.25", NO_FAULT, 12, 17400),
        ("Mann-Whitney, effect 1.25", WORSE, 30, 9000),
        ("repeated z and t tests", NO_FAULT, 26, 9910),
        ("repeated z and t tests", WORSE, 30, 2360),
        ("independent e-process", NO_FAULT, 10, 7010),
        ("independent e-process", WORSE, 30, 2200),
        ("betting", NO_FAULT, 0, 0),
        ("betting", WORSE, 30, 6070),
    ],
)
def test_decisions_do_not_change(method: str, fault: Fault, aborted: int, seconds: float) -> None:
    result = METHODS[method](made(fault=fault))
    assert (result.aborted.sum(), result.seconds[result.aborted].sum()) == (aborted, seconds)
    assert np.isinf(result.seconds[~result.aborted]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "size",
    [
        replace(SIZE, window=50),  # shorter than the warm-up
        replace(SIZE, rps=1e-5),  # not even a request in the history
        replace(SIZE, med=60.0, sig=0.1),  # slower than every bound
        replace(SIZE, p0=0.0),
        replace(SIZE, n=2, scrape=60, window=60),
    ],
    ids=["short", "silent", "slow", "faultless", "least"],
)
def test_nothing_breaks_at_the_edges(method: str, size: ServiceSize) -> None:
    result = METHODS[method](made(size=size))
    assert result.aborted.shape == result.seconds.shape == (30,)
    assert (np.isfinite(result.seconds) == result.aborted).all()


def test_the_first_moment_counts() -> None:
    failing = np.array([[False, True, True], [False, False, False], [True, False, False]])
    result = AbortResult.from_moments(failing, np.array([10.0, 20.0, 30.0]))
    assert result.aborted.tolist() == [True, False, True]
    assert result.seconds.tolist() == [20.0, np.inf, 10.0]
    nothing = AbortResult.from_moments(np.zeros((2, 0), bool), np.zeros(0))
    assert (nothing.aborted.tolist(), nothing.seconds.tolist()) == ([False, False], [np.inf, np.inf])


def test_release_counts_exclude_instances_in_warm_up() -> None:
    result = made()
    new, old = release_counts(result, 60.0)
    interval = 33  # 335 s: the first batch is 335 s old, the second 35 s
    assert new.requests[0, interval] == result.N[0, interval, :2].sum()
    assert old.failed[0, interval] == result.X[0, interval, 4:].sum()


def test_quantiles_are_those_of_prometheus() -> None:
    slower = np.array([[[80, 40, 20, 10, 4, 2, 1], [0, 0, 0, 0, 0, 0, 0]]])
    side = ReleaseCounts(np.array([[100, 0]]), np.array([[0, 0]]), slower)
    assert side.quantile(0.5)[0, 0] == pytest.approx(0.025 + 0.025 * 30 / 40)
    assert side.quantile(0.1)[0, 0] == pytest.approx(0.025 * 10 / 20)
    assert side.quantile(0.995)[0, 0] == BUCKET_BOUNDS[-1]  # beyond the highest
    assert np.isnan(side.quantile(0.5)[0, 1])


def test_bounds_near_the_median_and_in_the_tail() -> None:
    result = watched_bounds(made())
    assert [BUCKET_BOUNDS[bound.place] for bound in result] == [0.05, 0.1, 0.5]
    assert result[0].exceedance == pytest.approx(0.51, abs=0.02)
    assert all(bound.slope > 0.2 for bound in result)


def test_fixed_limits_roll_back_at_the_fourth_failure() -> None:
    result = fixed_limits.decide(made(replace(SHOCKED, shock_n=0), Fault("f", err_pp=0.1)))
    assert result.seconds.tolist() == [300.0] * 30  # checked after 120, 180, 240 and 300 s


def test_fixed_limits_after_a_switch() -> None:
    size, calm = replace(SIZE, window=600), SwitchNoise("calm", phi=1)
    for fault, expected in ((NO_FAULT, np.inf), (Fault("f", err_pp=0.1), 300.0)):
        result = SWITCH_METHODS["fixed limits"](generate_switch(size, calm, fault, 5, np.random.default_rng(7)))
        assert result.seconds.tolist() == [expected] * 5


def test_high_needs_a_clear_difference_and_its_size() -> None:
    control = np.linspace(1.0, 2.0, 20)
    assert is_high(control * 1.5, control)
    assert not is_high(control * 1.2, control)  # clear, but under the effect size
    assert not is_high(control[::-1], control)
    assert not is_high(control / 2, control)


def test_high_needs_values() -> None:
    control = np.linspace(1.0, 2.0, 20)
    assert not is_high(np.array([9.0, 9.0, np.nan]), control)
    assert not is_high(np.full(20, 3.0), np.full(20, 3.0))
    assert is_high(np.append(control * 2, np.nan), control)
    assert is_high(control, np.zeros(20))  # a control of 0 has no ratio


@pytest.mark.parametrize("method", METHODS)
def test_every_method_detects_severe_harm(method: str) -> None:
    noise = load_published("public").noises[1]
    assert isinstance(noise, RolloutNoise)
    assert METHODS[method](made(noise, Fault("f", err_pp=0.3, lat_mult=3))).aborted.all()
