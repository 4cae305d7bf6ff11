"""An e-process that assumes independent requests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from support.other_methods.aggregates import ReleaseCounts, WatchedBound, release_counts, watched_bounds
from tidegate.simulation.distributions import Counts, Floats
from tidegate.simulation.generator import GeneratedRollout
from tidegate.simulation.result import AbortResult

WARMUP_SECONDS = 60.0
ALPHA = 0.01  # of the whole rollout
ERRORS_WEIGHT, LATENCY_WEIGHT = 0.35, 0.30
FIRST_WEIGHT = 0.25  # of the process that starts with the first batch
CAP_NATS = 60.0  # log evidence is capped here, so that exp() does not overflow


def decide(rollouts: GeneratedRollout) -> AbortResult:
    """Tests whether the new release has a larger share of the bad events (failed requests, and requests slower than each of
    three bounds) than of the requests: a mixture of binomial likelihood ratios, given the total. One process starts with
    each batch; rolls back when their weighted mean reaches 1 / ALPHA.

    Source: Lindon & Malek, *Anytime-valid inference for multinomial count data* (2022); Lindon et al., *Rapid regression
    detection in software deployments through sequential testing* (KDD 2022). No margin, and no allowance for clumped errors
    or for instances that differ.
    """
    new, old = release_counts(rollouts, WARMUP_SECONDS)
    bounds = watched_bounds(rollouts)
    evidence = ERRORS_WEIGHT * _evidence(new.failed, old.failed, new, old, errors_prior(), rollouts)
    for bound in bounds:
        slow = _evidence(
            new.slower[..., bound.place], old.slower[..., bound.place], new, old, latency_prior(bound), rollouts
        )
        evidence = evidence + LATENCY_WEIGHT / len(bounds) * slow
    evidence = evidence / (ERRORS_WEIGHT + LATENCY_WEIGHT)
    return AbortResult.from_moments(evidence >= 1 / ALPHA, np.arange(1, evidence.shape[1] + 1) * rollouts.dt)


@dataclass(frozen=True, eq=False)
class EffectPrior:
    """`theta` [K]: the grid of log rate ratios, all above 0; `log_weight` [K]: their log prior weights."""

    theta: Floats
    log_weight: Floats


def _prior(low: float, high: float, points: int, mean: float) -> EffectPrior:
    """An exponential prior with this mean, on the positive points of a uniform grid that contains 0."""
    theta = np.linspace(round(low, 3), round(high, 3), points)
    theta = theta - theta[np.argmin(np.abs(theta))]
    theta = theta[theta > 0]
    weight = np.exp(-theta / round(mean, 3))
    return EffectPrior(theta, np.log(weight / weight.sum()))


def errors_prior() -> EffectPrior:
    """The prior for errors: up to e^6 = 403 times as many."""
    return _prior(-2.0, 6.0, 101, 1.0)


def latency_prior(bound: WatchedBound) -> EffectPrior:
    """The prior for slow requests, whose share cannot exceed 1."""
    reach = math.log(1 / bound.exceedance)
    return _prior(-reach, reach, 121, max(0.1, reach / 6))


def _evidence(
    bad: Counts, old_bad: Counts, new: ReleaseCounts, old: ReleaseCounts, prior: EffectPrior, rollouts: GeneratedRollout
) -> Floats:
    """The mean e-value of the processes [R, T]; one that has not begun counts as 1."""
    logs = np.cumsum(_log_likelihood(bad, old_bad, new.requests, old.requests, prior), 1)
    begins = [
        round((number * rollouts.window + WARMUP_SECONDS) / rollouts.dt) for number in range(rollouts.analyzed_batches)
    ]
    begins = [begin for begin in begins if begin < logs.shape[1]]
    evalue = np.zeros(logs.shape[:2])
    for number, begin in enumerate(begins):
        before = logs[:, begin - 1][:, None] if begin else 0.0
        evalue[:, :begin] += _weight(number, len(begins))
        evalue[:, begin:] += _weight(number, len(begins)) * _mixed(logs[:, begin:] - before, prior)
    return np.asarray(np.minimum(evalue, math.exp(CAP_NATS)))


def _weight(number: int, processes: int) -> float:
    if processes == 1:
        return 1.0
    return FIRST_WEIGHT if number == 0 else (1 - FIRST_WEIGHT) / (processes - 1)


def _log_likelihood(bad: Counts, old_bad: Counts, requests: Counts, old_requests: Counts, prior: EffectPrior) -> Floats:
    """[R, T, K]: the log-likelihood of each theta minus that of 0, given the bad events of both releases together."""
    total = (bad + old_bad)[..., None]
    expected = old_requests[..., None] + requests[..., None] * np.exp(prior.theta)
    equal = np.maximum((requests + old_requests)[..., None], 1e-9)
    log_ratio = bad[..., None] * prior.theta - total * np.log(np.maximum(expected, 1e-9) / equal)
    return np.where(((requests > 0) & (old_requests > 0))[..., None], log_ratio, 0.0)


def _mixed(logs: Floats, prior: EffectPrior) -> Floats:
    """The mixture of likelihood ratios [..., K] over theta: an e-value."""
    weighted = logs + prior.log_weight
    top = weighted.max(-1)
    log_mixture = top + np.log(np.exp(weighted - top[..., None]).sum(-1))
    return np.asarray(np.exp(np.minimum(log_mixture, CAP_NATS)))
