"""The log-likelihood of each effect size in one interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from tidegate.analysis.statistics.baseline_rate import CurrentRate
from tidegate.analysis.statistics.effect_grid import Array, EffectGrid
from tidegate.analysis.statistics.parameters import Parameters

SHOCK_SCALE, SHOCK_SIZE = 50.0, 0.25  # a shock is diffuse: up to many times the usual count
MIN_EXTRA_DISPERSION, RATE_DOUBT = 0.05, 0.02


@dataclass(frozen=True, eq=False)
class IntervalCounts:
    """Bad events and exposures of the candidate [..., R] and of the baseline [R], which is the same on all leading axes."""

    bad: Array
    exposure: Array
    old_bad: Array
    old_exposure: Array


def log_likelihood(
    counts: IntervalCounts,
    margin: Array,
    now: CurrentRate,
    dispersion: Array,
    grid: EffectGrid,
    parameters: Parameters,
    *,
    rare: bool,
    max_nats: float,
) -> Array:
    """[..., R, K]: the log-likelihood of each theta, minus that of theta = 0, at most `max_nats` nats.

    Conditional on the total: of D bad events, O fell on the candidate, binomial with odds N1 g e^theta : N0 (Lindon &
    Malek, *Anytime-valid inference for multinomial count data*, 2022), so that a shared disturbance cancels. It is divided
    by the dispersion and by `cut`, so that a burst in one interval counts as few events. For `rare` events a second term
    is the likelihood of the total given the baseline's rate. 0 without exposure on both sides, or while the baseline is
    disturbed.
    """
    bad, exposure = counts.bad, counts.exposure
    total = bad + counts.old_bad
    expected = now.rate * (exposure + counts.old_exposure)
    cut = np.maximum(1.0, total / (parameters.events_free + parameters.events_expected * expected))
    weighted = counts.old_exposure[..., None] + (exposure * margin)[..., None] * np.exp(grid.theta)
    share = bad[..., None] * grid.theta - total[..., None] * np.log(np.maximum(weighted, 1e-9))
    log_ratio = share / (dispersion * cut)[..., None]
    if rare:
        at_zero = exposure * margin + counts.old_exposure
        log_ratio = log_ratio + _total_likelihood(total, weighted, at_zero, now, dispersion, parameters) / cut[..., None]
    log_ratio = np.minimum(log_ratio - log_ratio[..., grid.zero : grid.zero + 1], max_nats)
    informative = (exposure > 0) & (counts.old_exposure > 0) & ~now.is_disturbed
    return np.where(informative[..., None], log_ratio, 0.0)


def _total_likelihood(
    total: Array, weighted: Array, at_zero: Array, now: CurrentRate, dispersion: Array, parameters: Parameters
) -> Array:
    """[..., R, K]: the log-likelihood of the total given the baseline's rate: negative binomial, or a diffuse shock."""
    mean = now.rate[..., None] * weighted
    extra = np.maximum(dispersion[..., None] - 1, MIN_EXTRA_DISPERSION) / np.maximum(mean, 1e-9)
    size = 1 / (extra + RATE_DOUBT + 1 / now.shape[..., None])
    usual = _log_negative_binomial(total[..., None], mean, size)
    shock_mean = SHOCK_SCALE * (now.rate * at_zero)[..., None] + 1.0
    shock = _log_negative_binomial(total[..., None], shock_mean, np.float64(SHOCK_SIZE))
    chance = parameters.shock_chance
    return np.asarray(np.logaddexp(math.log(1 - chance) + usual, math.log(chance) + shock))


def _log_negative_binomial(count: Array, mean: Array, size: Array | np.float64) -> Array:
    """log NB(count; mean, size) without the factorial of the count, which does not depend on theta."""
    odds = size + mean
    rising = np.where(count > 0, gammaln(count + size) - gammaln(size), 0.0)
    return np.asarray(rising + size * np.log(size / odds) + count * np.log(np.maximum(mean, 1e-300) / odds))
