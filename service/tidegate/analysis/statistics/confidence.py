"""What the evidence leaves possible: a confidence sequence, a certificate of no harm, and the least visible harm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.analysis.statistics.effect_grid import Array, EffectGrid, log_evalue

LEVEL = 0.05  # the level of intervals and certificates


def confidence_bounds(log_sums: Array, grid: EffectGrid, level: float = LEVEL) -> tuple[Array, Array]:
    """Lowest and highest theta, each [R], that the data have not rejected: a confidence sequence for log(ratio / margin).

    Each theta is tested by the mixture, even over the grid, against it; what is never rejected is possible (Howard et al.,
    2021). The ends of the grid mean "this or beyond".
    """
    mixture = _even_mixture(log_sums)
    kept = mixture[:, None] - log_sums < np.log(1 / level)
    lowest, highest = kept.argmax(1), kept.shape[1] - 1 - kept[:, ::-1].argmax(1)
    return np.asarray(grid.theta[lowest]), np.asarray(grid.theta[highest])


def _even_mixture(log_sums: Array) -> Array:
    top = log_sums.max(1)
    return np.asarray(top + np.log(np.exp(log_sums - top[:, None]).mean(1)))


def rules_out_harm(log_sums: Array, grid: EffectGrid, harm: Array, level: float = LEVEL) -> NDArray[np.bool_]:
    """[R]: whether harm of at least `harm` [R] (log ratio beyond the margin) is rejected in favour of less."""
    likelihood = np.exp(log_sums - log_sums.max(1, keepdims=True))
    below = grid.theta[None] < harm[:, None]
    nearest = np.abs(grid.theta[None] - harm[:, None]).argmin(1)
    at_harm = np.maximum(likelihood[np.arange(len(harm)), nearest], 1e-300)
    mean = (likelihood * below).sum(1) / np.maximum(below.sum(1), 1)
    return np.asarray((mean / at_harm >= 1 / level) & (harm > grid.step))


def min_detectable_ratio(
    grid: EffectGrid, rate: float, margin: float, dispersion: float, new: float, old: float, needed: float
) -> float | None:
    """The smallest rate ratio that these exposures would have shown, if all had gone as expected; None: none would.

    `needed` is the evidence that ends a rollout, over the check's share of it. Without tempering, so at its best.
    """
    if new <= 0 or old <= 0:
        return None
    tried = np.exp(grid.theta[grid.zero + 1 :]) * margin
    tried = tried[rate * tried <= 1.0]
    bad, old_bad = (rate * new * tried)[:, None], rate * old
    sums = (bad * grid.theta - (bad + old_bad) * np.log(old + new * margin * np.exp(grid.theta))) / dispersion
    seen = log_evalue(sums - sums[:, grid.zero, None], grid) >= np.log(needed)
    return float(tried[seen].min()) if seen.any() else None
