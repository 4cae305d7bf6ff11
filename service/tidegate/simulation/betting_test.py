"""Bets on the new release's share of the bad events of each interval."""

from __future__ import annotations

import math

import numpy as np

from tidegate.simulation.aggregates import WatchedBound, release_counts, watched_bounds
from tidegate.simulation.distributions import Counts, Floats
from tidegate.simulation.generator import GeneratedRollout
from tidegate.simulation.result import AbortResult

WARMUP_SECONDS = 60.0
ALPHA = 0.01  # of the whole rollout
ERRORS_WEIGHT, LATENCY_WEIGHT = 0.5, 0.5
ERRORS_FACTOR, ERRORS_ADDED = 1.25, 2e-4  # the margin: the greater of a factor of the error share and an addition to it
LATENCY_FACTOR = 1.10  # the margin: all requests slower by this factor
STAKES = (0.1, 0.25, 0.5, 0.9)  # of the capital
CAP_NATS = 60.0  # beyond this, evidence is only called overwhelming; exp() must not overflow


def decide(rollouts: GeneratedRollout) -> AbortResult:
    """Bets, in each interval, that the new release has more of the bad events (failed requests; those slower than each of
    three bounds) than its share of the requests, margin included. Each interval counts once, however many events it has, so
    clumped errors are no evidence. The capital, averaged over stakes and over a start with each batch, turns back when it
    reaches 1/ALPHA.

    Source: Waudby-Smith & Ramdas, *Estimating means of bounded random variables by betting* (JRSS B, 2024).
    """
    new, old = release_counts(rollouts, WARMUP_SECONDS)
    known = watched_bounds(rollouts)
    rate = np.maximum(rollouts.He.sum((1, 2)) / np.maximum(rollouts.Hn.sum((1, 2)), 1), 1e-5)[:, None]
    tolerated = np.asarray(np.maximum(ERRORS_FACTOR, 1 + ERRORS_ADDED / rate) * new.requests, dtype=np.float64)
    capital = ERRORS_WEIGHT * _capital(new.failed, old.failed, tolerated, old.requests, rollouts)
    for bound in known:
        bad, old_bad = new.slower[..., bound.place], old.slower[..., bound.place]
        tolerated = np.asarray(_latency_margin(bound) * new.requests, dtype=np.float64)
        won = _capital(bad, old_bad, tolerated, old.requests, rollouts)
        capital = capital + LATENCY_WEIGHT / len(known) * won
    return AbortResult.from_moments(capital >= 1 / ALPHA, np.arange(1, capital.shape[1] + 1) * rollouts.dt)


def _latency_margin(bound: WatchedBound) -> float:
    """By what factor more requests exceed the bound when all are slower by LATENCY_FACTOR."""
    return math.exp(bound.slope * math.log(LATENCY_FACTOR))


def _capital(bad: Counts, old_bad: Counts, tolerated: Floats, old_requests: Counts, rollouts: GeneratedRollout) -> Floats:
    """[R, T]: what is left of 1. `tolerated` [R, T]: the new release's requests times the margin."""
    won = _winnings(bad, old_bad, tolerated, old_requests)
    starts = [_start(rollouts, number) for number in range(rollouts.judged)]
    result: Floats = np.zeros(won.shape)
    interval = np.arange(won.shape[1])[None]
    for start in starts:
        for stake in STAKES:
            logs = np.cumsum(np.where(interval >= start, np.log1p(stake * won), 0), 1)
            result = result + np.exp(np.minimum(logs, CAP_NATS)) / (len(STAKES) * len(starts))
    return result


def _start(rollouts: GeneratedRollout, number: int) -> int:
    """The interval in which the batch is warm."""
    return number * round(rollouts.window / rollouts.dt) + int(WARMUP_SECONDS / rollouts.dt)


def _winnings(bad: Counts, old_bad: Counts, tolerated: Floats, old_requests: Counts) -> Floats:
    """[R, T]: what a stake of 1 wins in the interval, at least -1; its expectation is at most 0 within the margin."""
    both = bad + old_bad
    fair = np.where(tolerated + old_requests > 0, tolerated / np.maximum(tolerated + old_requests, 1e-9), 0.5)
    share = np.where(both > 0, bad / np.maximum(both, 1), fair)
    fair = np.maximum(fair, 1e-9)
    return np.where((tolerated > 0) & (old_requests > 0), (share - fair) / fair, 0.0)
