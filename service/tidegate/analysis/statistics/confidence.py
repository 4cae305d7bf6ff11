"""A confidence sequence for the effect, the rejection of harm, the minimum detectable effect, and limits of a PASS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.analysis.statistics.effect_grid import Array, EffectGrid, log_evalue

LEVEL = 0.05  # of the confidence sequence, and of the rejection of harm
RATIOS_BEYOND_GRID = 20
STRONG_EVALUE = 10.0  # of one check: too much evidence of harm for a PASS


def confidence_bounds(log_sums: Array, grid: EffectGrid, level: float = LEVEL) -> tuple[Array, Array]:
    """The lowest and highest theta, each [R], that the data do not reject: a confidence sequence for log(ratio / margin).

    Each theta is tested against the uniform mixture over the grid (Howard et al., *Time-uniform, nonparametric,
    nonasymptotic confidence sequences*, 2021). An end of the grid means "this or beyond".
    """
    mixture = _uniform_mixture(log_sums)
    kept = mixture[:, None] - log_sums < np.log(1 / level)
    lowest, highest = kept.argmax(1), kept.shape[1] - 1 - kept[:, ::-1].argmax(1)
    return np.asarray(grid.theta[lowest]), np.asarray(grid.theta[highest])


def _uniform_mixture(log_sums: Array) -> Array:
    top = log_sums.max(1)
    return np.asarray(top + np.log(np.exp(log_sums - top[:, None]).mean(1)))


def rules_out_harm(log_sums: Array, grid: EffectGrid, harm: Array, level: float = LEVEL) -> NDArray[np.bool_]:
    """Whether an effect of at least `harm` [R] (log ratio beyond the margin) is rejected in favour of a smaller one [R]."""
    likelihood = np.exp(log_sums - log_sums.max(1, keepdims=True))
    below = grid.theta[None] < harm[:, None]
    nearest = np.abs(grid.theta[None] - harm[:, None]).argmin(1)
    at_harm = np.maximum(likelihood[np.arange(len(harm)), nearest], 1e-300)
    mean = (likelihood * below).sum(1) / np.maximum(below.sum(1), 1)
    return np.asarray((mean / at_harm >= 1 / level) & (harm > grid.step))


def min_detectable_ratio(
    grid: EffectGrid,
    rate: float,
    margin: float,
    dispersion: float,
    *,
    new: float,
    old: float,
    needed: float,
    intervals: int,
    max_nats: float,
) -> float | None:
    """The smallest rate ratio that these exposures would show if the counts equalled their expectation; None: none would.

    `new` and `old` are exposures in so many equal `intervals`, each of which adds at most `max_nats`. `needed` is the
    e-value at which the check alone fails the rollout. Neglects the cut of bursts, so it is a lower bound.
    """
    if new <= 0 or old <= 0 or not intervals:
        return None
    ratios = np.exp(grid.theta[grid.zero + 1 :]) * margin
    beyond = np.geomspace(ratios[-1], max(ratios[-1], 1 / rate), RATIOS_BEYOND_GRID)  # up to "every event is bad"
    ratios = np.append(ratios, beyond)
    ratios = ratios[rate * ratios <= 1.0 + 1e-9]
    bad, old_bad = (rate * new * ratios)[:, None], rate * old
    sums = (bad * grid.theta - (bad + old_bad) * np.log(old + new * margin * np.exp(grid.theta))) / dispersion
    capped = np.minimum((sums - sums[:, grid.zero, None]) / intervals, max_nats) * intervals
    detected = log_evalue(capped, grid) >= np.log(needed)
    return float(ratios[detected].min()) if detected.any() else None


def tolerated_events(rate: Array, exposure: Array, dispersion: Array) -> Array:
    """The highest tolerated number of events in so many exposures [R]: those at the tolerated `rate` and one standard
    deviation more, in whole events, since less than one cannot be measured."""
    expected = rate * exposure
    return np.asarray(np.ceil(expected + np.sqrt(dispersion * expected) - 1e-9))
