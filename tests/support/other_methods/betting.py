"""Betting on the new release's share of the bad events in each interval."""

from __future__ import annotations

import math

import numpy as np

from support.other_methods.aggregates import WatchedBound, release_counts, watched_bounds
from tidegate.simulation.distributions import Counts, Floats
from tidegate.simulation.generator import GeneratedRollout
from tidegate.simulation.result import AbortResult

WARMUP_SECONDS = 60.0
ALPHA = 0.01  # of the whole rollout
ERRORS_WEIGHT, LATENCY_WEIGHT = 0.5, 0.5
ERRORS_FACTOR, ERRORS_ADDED = 1.25, 2e-4  # margin: the larger of a factor of the error share and an addition to it
LATENCY_FACTOR = 1.10  # margin: all requests slower by this factor
STAKES = (0.1, 0.25, 0.5, 0.9)  # of the capital
CAP_NATS = 60.0  # the log capital is capped here, so that exp() does not overflow


def decide(rollouts: GeneratedRollout) -> AbortResult:
    """Bets in each interval that the new release has more of the bad events (failed requests, and requests slower than each
    of three bounds) than its share of the requests, with the margin. Each interval counts once, however many events it has,
    so clumped errors are no evidence. Rolls back when the capital, averaged over stakes and over a start with each batch,
    reaches 1 / ALPHA.

    Source: Waudby-Smith & Ramdas, *Estimating means of bounded random variables by betting* (JRSS B, 2024).
    """
    new, old = release_counts(rollouts, WARMUP_SECONDS)
    bounds = watched_bounds(rollouts)
    rate = np.maximum(rollouts.He.sum((1, 2)) / np.maximum(rollouts.Hn.sum((1, 2)), 1), 1e-5)[:, None]
    tolerated = np.asarray(np.maximum(ERRORS_FACTOR, 1 + ERRORS_ADDED / rate) * new.requests, dtype=np.float64)
    capital = ERRORS_WEIGHT * _capital(new.failed, old.failed, tolerated, old.requests, rollouts)
    for bound in bounds:
        bad, old_bad = new.slower[..., bound.place], old.slower[..., bound.place]
        tolerated = np.asarray(_latency_margin(bound) * new.requests, dtype=np.float64)
        won = _capital(bad, old_bad, tolerated, old.requests, rollouts)
        capital = capital + LATENCY_WEIGHT / len(bounds) * won
    return AbortResult.from_moments(capital >= 1 / ALPHA, np.arange(1, capital.shape[1] + 1) * rollouts.dt)


def _latency_margin(bound: WatchedBound) -> float:
    """By which factor more requests exceed the bound if all are slower by `LATENCY_FACTOR`."""
    return math.exp(bound.slope * math.log(LATENCY_FACTOR))


def _capital(bad: Counts, old_bad: Counts, tolerated: Floats, old_requests: Counts, rollouts: GeneratedRollout) -> Floats:
    """The capital [R, T], starting from 1. `tolerated` [R, T]: the requests of the new release times the margin."""
    won = _winnings(bad, old_bad, tolerated, old_requests)
    starts = [_start(rollouts, number) for number in range(rollouts.analyzed_batches)]
    capital: Floats = np.zeros(won.shape)
    interval = np.arange(won.shape[1])[None]
    for start in starts:
        for stake in STAKES:
            logs = np.cumsum(np.where(interval >= start, np.log1p(stake * won), 0), 1)
            capital = capital + np.exp(np.minimum(logs, CAP_NATS)) / (len(STAKES) * len(starts))
    return capital


def _start(rollouts: GeneratedRollout, number: int) -> int:
    """The first interval after the warm-up of a batch."""
    return number * round(rollouts.window / rollouts.dt) + int(WARMUP_SECONDS / rollouts.dt)


def _winnings(bad: Counts, old_bad: Counts, tolerated: Floats, old_requests: Counts) -> Floats:
    """The gain of a stake of 1 in each interval [R, T], at least -1. Its expectation is at most 0 within the margin."""
    both = bad + old_bad
    fair = np.where(tolerated + old_requests > 0, tolerated / np.maximum(tolerated + old_requests, 1e-9), 0.5)
    share = np.where(both > 0, bad / np.maximum(both, 1), fair)
    fair = np.maximum(fair, 1e-9)
    return np.where((tolerated > 0) & (old_requests > 0), (share - fair) / fair, 0.0)
