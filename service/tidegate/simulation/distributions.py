"""What the generators draw from: wandering levels, clumped errors, latency histograms.

Each function draws from the generator in a fixed order, so that a seed gives the same numbers for good.
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

TAIL_SHARE = 0.02  # of requests are of the slow kind: a log-normal body alone is too well-behaved
TAIL_SHIFT = 1.6  # their log latency is that much higher
TAIL_SPREAD = 1.2  # ... and its standard deviation this factor wider

NEARLY_POISSON = 1.0001  # a dispersion up to this is none


def autoregressive_levels(
    rng: np.random.Generator, shape: tuple[int, int, int], interval: float, time_constant: float, deviation: float
) -> Floats:
    """[R, T, n]: a stationary autoregressive process (AR(1)) along T, `interval` seconds apart. Draws nothing without
    deviation."""
    replicates, steps, instances = shape
    if deviation == 0:
        return np.zeros(shape)
    kept = math.exp(-interval / time_constant)
    pushes = rng.standard_normal((steps, replicates, instances)) * deviation * math.sqrt(1 - kept * kept)
    result = np.empty((steps, replicates, instances))
    result[0] = rng.standard_normal((replicates, instances)) * deviation
    for step in range(1, steps):
        result[step] = kept * result[step - 1] + pushes[step]
    return result.transpose(1, 0, 2)


def overdispersed_counts(rng: np.random.Generator, expected: Floats, dispersion: float) -> Counts:
    """Counts with this mean, and with `dispersion` as variance over mean: Poisson, mixed by a gamma (negative binomial)."""
    if dispersion <= NEARLY_POISSON:
        return rng.poisson(expected)
    shape = np.maximum(expected / (dispersion - 1), 1e-12)
    return rng.poisson(rng.gamma(shape, dispersion - 1.0))


def slow_shares(
    median: float, spread: float, shift: Floats, tail_share: Floats | None = None, tail_factor: float = 1.0
) -> Floats:
    """[..., bounds]: the share of requests slower than each of BOUNDS.

    Latency is log-normal with a few slow requests mixed in; `shift` [...] is added to its log. Of `tail_share` [...] of the
    requests, the latency is multiplied by `tail_factor`.
    """
    distance = np.log(BUCKET_BOUNDS) - math.log(median) - shift[..., None]
    result = _slower(distance, spread)
    if tail_share is not None and np.any(tail_share):
        share = tail_share[..., None]
        result = (1 - share) * result + share * _slower(distance - math.log(tail_factor), spread)
    return result


def _slower(distance: Floats, spread: float) -> Floats:
    """The chance of a log latency over the median by more than `distance`."""
    slow = ndtr(-(distance - TAIL_SHIFT) / (TAIL_SPREAD * spread))
    return np.asarray((1 - TAIL_SHARE) * ndtr(-distance / spread) + TAIL_SHARE * slow)


def slow_counts(rng: np.random.Generator, requests: Counts, shares: Floats) -> Counts:
    """[..., bounds]: how many of `requests` [...] were slower than each bound, given the shares [..., bounds] that are.

    Those slower than a bound are drawn among those slower than the bound before, so the counts never rise.
    """
    result = np.empty((*requests.shape, shares.shape[-1]), dtype=np.int64)
    left, before = requests, np.ones(requests.shape)
    for bound in range(shares.shape[-1]):
        chance = np.clip(shares[..., bound] / np.maximum(before, 1e-300), 0, 1)
        left = rng.binomial(left, chance)
        result[..., bound] = left
        before = shares[..., bound]
    return result
