"""The statistics, against published figures and by their own meaning."""

from __future__ import annotations

import math

import pytest

from tidegate.core.judge.comparing import FAIL_Z, LATENCY_Z, Mean, dispersion, host_spread, least_excess, slower, wilson


@pytest.mark.parametrize(
    ("failed", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(failed: int, total: int, low: float, high: float) -> None:
    """Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998), table I."""
    assert wilson(failed, total, 1.959964) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@pytest.mark.parametrize(
    ("one", "two", "low"),
    [((56, 70), (48, 80), 0.0524), ((9, 10), (3, 10), 0.1705), ((6, 7), (2, 7), 0.0582), ((5, 56), (0, 29), -0.0381)],
)
def test_difference_as_published(one: tuple[int, int], two: tuple[int, int], low: float) -> None:
    """Newcombe 1998, comparison of methods for the difference, method 10, table II."""
    assert least_excess(one, two, 1.959964) == pytest.approx(low, abs=1e-4)


def test_nothing_is_known_without_requests() -> None:
    assert wilson(0, 0, FAIL_Z) == (0.0, 1.0)
    assert least_excess((0, 0), (0, 100), FAIL_Z) == least_excess((5, 100), (0, 0), FAIL_Z) == -1.0


def test_few_requests_never_prove_and_many_do() -> None:
    assert least_excess((3, 10), (0, 40), FAIL_Z) < 0
    assert least_excess((20, 100), (1, 400), FAIL_Z) > 0.005
    assert least_excess((20, 20), (0, 80), FAIL_Z) > 0.005


def test_dispersion_of_independent_errors_is_about_1_and_of_bursts_far_above() -> None:
    assert dispersion([(100, 1), (100, 0), (100, 2), (100, 1)]) == pytest.approx(1.0, abs=0.6)
    assert dispersion([(100, 0), (100, 40), (100, 0), (100, 0), (100, 35), (100, 0)]) > 20
    assert dispersion([(100, 0)] * 12) == dispersion([]) == dispersion([(0, 0)] * 12) == dispersion([(10, 10)] * 9) == 1.0


def test_a_release_that_turns_bad_half_way_is_one_step_and_not_a_burst() -> None:
    steps = [(100.0, 0.0)] * 6 + [(100.0, 20.0)] * 6
    assert dispersion(steps) < 3
    failed, requests = sum(x for _, x in steps), sum(n for n, _ in steps)
    worth = dispersion(steps)
    assert least_excess((failed / worth, requests / worth), (2, 4800), FAIL_Z) > 0.005


def mean(seconds: float, requests: float = 1000, servers: int = 1, coarse: float = 0.001) -> Mean:
    return Mean(seconds, requests, (math.log(seconds),) * servers, coarse)


def test_latency_needs_more_than_margin_chance_and_rounding() -> None:
    assert slower(mean(0.3), mean(0.1, servers=4), 0.2, LATENCY_Z)
    assert not slower(mean(0.13), mean(0.1, servers=4), 0.2, LATENCY_Z)
    assert not slower(mean(0.3, requests=20), mean(0.1, servers=4), 0.2, LATENCY_Z)
    assert not slower(mean(0.002), mean(0.001, servers=4), 0.2, LATENCY_Z), "one millisecond is rounding"
    assert not slower(Mean(math.nan, 0, ()), mean(0.1), 0.2, LATENCY_Z)


def test_servers_that_differ_widen_the_margin() -> None:
    unlike = Mean(0.1, 4000, tuple(math.log(x) for x in (0.05, 0.08, 0.12, 0.2)))
    assert host_spread(unlike) > 2 * host_spread(mean(0.1, servers=4))
    assert not slower(mean(0.2), unlike, 0.2, LATENCY_Z)
