"""The grid of effect sizes with its prior, and the e-value as the mixture over it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CAP_NATS = 60.0  # log evidence is capped here, so that exp() does not overflow


@dataclass(frozen=True, eq=False)
class EffectGrid:
    """`theta` [K]: logs of the rate ratio beyond the margin, one of them exactly 0 (at `zero`): the margin itself.

    `log_prior` [K]: the alternative is exponential on theta > 0, -inf elsewhere.
    """

    theta: Array
    zero: int
    log_prior: Array

    @property
    def step(self) -> float:
        """The distance between two thetas."""
        return float(self.theta[1] - self.theta[0])


@lru_cache(maxsize=256)
def make_grid(low: float, high: float, points: int, mean: float) -> EffectGrid:
    """`points` values over [low, high], shifted so that one is 0. The prior has this mean. Arguments round to 0.001."""
    low, high, mean = round(low, 3), round(high, 3), round(mean, 3)
    theta = np.linspace(low, high, points)
    zero = int(np.argmin(np.abs(theta)))
    theta = theta - theta[zero]
    prior = np.where(theta > 0, np.exp(-theta / mean), 0.0)
    with np.errstate(divide="ignore"):
        return EffectGrid(theta, zero, np.log(prior / prior.sum()))


def errors_grid() -> EffectGrid:
    """The grid for rates of rare events: up to e^6 = 403 times the margin."""
    return make_grid(-2.0, 6.0, 101, 1.0)


def live_grid() -> EffectGrid:
    """The grid for failed probes."""
    return make_grid(-2.0, 5.0, 71, 1.0)


def latency_grid(exceedance: float) -> EffectGrid:
    """The grid for a share of slow requests. It is `exceedance` before, so it can rise by at most 1/exceedance."""
    reach = float(np.log(1.0 / exceedance))
    return make_grid(-reach, reach, 121, max(0.1, reach / 6.0))


def log_evalue(log_likelihood: Array, grid: EffectGrid) -> Array:
    """log of the mixture sum_k prior(theta_k) exp(log_likelihood[..., k]). The likelihood is relative to theta = 0.

    A mixture of likelihood ratios is an e-process: under the null its expectation is at most 1 at any stopping time
    (Howard et al., *Time-uniform, nonparametric, nonasymptotic confidence sequences*, 2021; Ville 1939).
    """
    summed = log_likelihood + grid.log_prior
    top = summed.max(-1)
    return np.asarray(top + np.log(np.exp(summed - top[..., None]).sum(-1)))
