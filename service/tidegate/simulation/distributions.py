"""The distributions of the generators: autocorrelated levels, overdispersed counts, latency histograms.

Each function draws from the generator in a fixed order, so that a seed always gives the same numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Upper bounds of the latency buckets, in seconds.
BUCKET_BOUNDS: Floats = np.array([0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5])

TAIL_SHARE = 0.02  # of requests are from the slow component; a log-normal alone has too light a tail
TAIL_SHIFT = 1.6  # their log latency is this much higher
TAIL_SPREAD = 1.2  # and its standard deviation larger by this factor

NEARLY_POISSON = 1.0001  # a dispersion up to this counts as Poisson


def autoregressive_levels(
    rng: np.random.Generator, shape: tuple[int, int, int], interval: float, time_constant: float, deviation: float
) -> Floats:
    """[R, T, n]: a stationary AR(1) process along T with steps of `interval` seconds. Draws nothing if `deviation` is 0."""
    replicates, steps, instances = shape
    if deviation == 0:
        return np.zeros(shape)
    coefficient = math.exp(-interval / time_constant)
    innovations = rng.standard_normal((steps, replicates, instances)) * deviation * math.sqrt(1 - coefficient * coefficient)
    levels = np.empty((steps, replicates, instances))
    levels[0] = rng.standard_normal((replicates, instances)) * deviation
    for step in range(1, steps):
        levels[step] = coefficient * levels[step - 1] + innovations[step]
    return levels.transpose(1, 0, 2)


def overdispersed_counts(rng: np.random.Generator, expected: Floats, dispersion: float) -> Counts:
    """Counts with mean `expected` and variance `dispersion` * mean: negative binomial, drawn as a gamma-Poisson mixture."""
    if dispersion <= NEARLY_POISSON:
        return rng.poisson(expected)
    shape = np.maximum(expected / (dispersion - 1), 1e-12)
    return rng.poisson(rng.gamma(shape, dispersion - 1.0))


def slow_shares(
    median: float, spread: float, shift: Floats, tail_share: Floats | None = None, tail_factor: float = 1.0
) -> Floats:
    """[..., bounds]: the share of requests slower than each of `BUCKET_BOUNDS`.

    The latency is log-normal with a slow component; `shift` [...] is added to its log. For `tail_share` [...] of the
    requests it is multiplied by `tail_factor`.
    """
    distance = np.log(BUCKET_BOUNDS) - math.log(median) - shift[..., None]
    slow = _slower(distance, spread)
    if tail_share is not None and np.any(tail_share):
        share = tail_share[..., None]
        slow = (1 - share) * slow + share * _slower(distance - math.log(tail_factor), spread)
    return slow


def _slower(distance: Floats, spread: float) -> Floats:
    """The chance that the log latency exceeds its median by more than `distance`."""
    slow = ndtr(-(distance - TAIL_SHIFT) / (TAIL_SPREAD * spread))
    return np.asarray((1 - TAIL_SHARE) * ndtr(-distance / spread) + TAIL_SHARE * slow)


def slow_counts(rng: np.random.Generator, requests: Counts, shares: Floats) -> Counts:
    """[..., bounds]: how many of `requests` [...] are slower than each bound, given the expected shares [..., bounds].

    Each count is drawn from the count for the previous bound, so the counts never increase.
    """
    slower = np.empty((*requests.shape, shares.shape[-1]), dtype=np.int64)
    left, before = requests, np.ones(requests.shape)
    for bound in range(shares.shape[-1]):
        chance = np.clip(shares[..., bound] / np.maximum(before, 1e-300), 0, 1)
        left = rng.binomial(left, chance)
        slower[..., bound] = left
        before = shares[..., bound]
    return slower
