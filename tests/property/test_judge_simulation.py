"""How often a good release is condemned, and how soon a bad one: simulated with fixed seeds, looks every 5 seconds."""

from __future__ import annotations

import math
import random

import pytest

from support.judging import NEW, OLD, SETTLED, answered, counters, labels, rollout_of, server_of
from tidegate.core.judge.comparing import FAIL_Z, LEAST_FAILED, dispersion, least_excess
from tidegate.core.judge.judging import judge
from tidegate.core.judge.questions import RESPONSE_TIME, Side, questions
from tidegate.core.judge.series import Series
from tidegate.core.judge.verdict import Outcome, Window

BAKE, LOOK = 300, 5
BLOCKS = 12


def poisson(rng: random.Random, mean: float) -> int:
    if mean > 40:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    floor, number, product = math.exp(-mean), 0, rng.random()
    while product > floor:
        number, product = number + 1, product * rng.random()
    return number


def draw(rng: random.Random, rps: float, share: float, burst: float) -> list[tuple[int, int]]:
    """(requests, failed) of each second; `burst` makes the share wander around its mean, together for both sides."""
    requests = [poisson(rng, rps) for _ in range(BAKE)]
    return [(each, min(each, poisson(rng, each * share * burst))) for each in requests]


def first_fail(candidate: list[tuple[int, int]], baseline: list[tuple[int, int]], margin: float) -> int | None:
    """The second of the look that condemns: the rule of the `errors` check, fed with counts directly."""
    for end in range(LOOK, BAKE + 1, LOOK):
        if sum(failed for _, failed in candidate[:end]) < LEAST_FAILED:
            continue
        sides = []
        for side in (candidate[:end], baseline[:end]):
            blocks = [[0.0, 0.0] for _ in range(BLOCKS)]
            for second, (requests, failed) in enumerate(side):
                block = blocks[BLOCKS * second // end]
                block[0] += requests
                block[1] += failed
            worth = dispersion([(requests, failed) for requests, failed in blocks])
            sides.append((sum(failed for _, failed in blocks) / worth, sum(requests for requests, _ in blocks) / worth))
        if least_excess(sides[0], sides[1], FAIL_Z) > margin:
            return end
    return None


@pytest.mark.parametrize("rps", [20, 100, 500])
@pytest.mark.parametrize("share", [0.001, 0.02])
def test_a_good_release_is_condemned_in_at_most_one_rollout_in_a_hundred(rps: int, share: float) -> None:
    """One of five instances is new; no margin at all, which is harder than any real check."""
    rng, rollouts = random.Random(f"{rps} {share}"), 400
    condemned = sum(
        first_fail(draw(rng, rps * 0.2, share, 1.0), draw(rng, rps * 0.8, share, 1.0), 0.0) is not None
        for _ in range(rollouts)
    )
    assert condemned <= rollouts * 0.01


def _side(rng: random.Random, release: str, rps: float, share: float, since: int) -> tuple[Series, ...]:
    """One server's counters, scraped every second, `since` seconds before the window."""
    good, bad, requests, failed = [], [], 0, 0
    for second in range(-since, BAKE + 1):
        requests, more = requests + poisson(rng, rps), 0
        more = poisson(rng, rps * share)
        failed += more
        good.append((SETTLED + second, float(requests - min(failed, requests))))
        bad.append((SETTLED + second, float(failed)))
    name = "haproxy_server_http_responses_total"
    return Series(labels(name, server_of(release), "2xx"), tuple(good)), Series(
        labels(name, server_of(release), "5xx"), tuple(bad)
    )


@pytest.mark.parametrize(("rps", "latest"), [(20, 30), (100, 15), (500, 10)])
def test_a_release_with_20_percent_errors_is_caught_within_a_few_looks(rps: int, latest: int) -> None:
    """Through the whole judge, from raw samples; one of five instances is new."""
    rollout = rollout_of("errors")
    for seed in range(5):
        rng = random.Random(f"{rps} {seed}")
        new, old = _side(rng, NEW, rps * 0.2, 0.2, 1), _side(rng, OLD, rps * 0.8, 0.002, 60)
        for end in range(LOOK, latest + 1, LOOK):
            window = Window(SETTLED, SETTLED + end)
            answers = answered(questions(rollout, window), {Side.CANDIDATE: new, Side.BASELINE: old})
            if judge(rollout, window, False, answers, window.end).outcome is Outcome.FAIL:
                break
        else:
            pytest.fail(f"not caught within {latest} s, seed {seed}")


def _averages(rng: random.Random, release: str, rps: int, mean: float, since: int) -> tuple[Series, ...]:
    """HAProxy's running average of log-normal response times (deviation 1.3 times the mean), every second."""
    sigma = math.sqrt(math.log(1 + 1.3**2))
    total, number, points = 0.0, 0, []
    for second in range(-since, 121):
        for _ in range(poisson(rng, rps)):
            took = rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)
            number += 1
            total += took if number <= 512 else took - total / 512
        points.append((SETTLED + second, float(number), math.ceil(1000 * total / 512) / 1000))
    name = server_of(release)
    answers = counters(name, [at for at, _, _ in points], lambda at: (points[int(at - SETTLED) + since][1], 0.0))
    return (*answers, Series(labels(RESPONSE_TIME, name), tuple((at, average) for at, _, average in points)))


@pytest.mark.parametrize(("slower", "expected"), [(1.0, 0), (3.0, 12)])
def test_latency_condemns_what_is_three_times_as_slow_and_nothing_else(slower: float, expected: int) -> None:
    rollout, condemned = rollout_of("latency"), 0
    for seed in range(12):
        rng = random.Random(seed)
        new = _averages(rng, NEW, 10, 0.02 * slower, 1)
        old = _averages(rng, OLD, 40, 0.02, 60)
        for end in range(LOOK, 121, LOOK):
            window = Window(SETTLED, SETTLED + end)
            answers = answered(questions(rollout, window), {Side.CANDIDATE: new, Side.BASELINE: old})
            if judge(rollout, window, False, answers, window.end).outcome is Outcome.FAIL:
                condemned += 1
                break
    assert condemned == expected
