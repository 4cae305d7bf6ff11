"""Latency from a classic histogram: the watched bounds, and the effect of a slower service at each."""

from __future__ import annotations

import numpy as np

from tidegate.analysis.statistics.effect_grid import Array

WATCHED_SHARES = (0.5, 0.1, 0.01)  # of requests slower than a bound: near the median, the 90th and the 99th percentile
USABLE_SHARES = (1e-5, 0.9)
MIN_SLOPE = 0.2


def watched_bounds(exceedance: Array) -> list[int]:
    """The indexes of the bounds whose `exceedance` [bounds] in the history is nearest to each watched share, each once."""
    chosen: list[int] = []
    for wanted in WATCHED_SHARES:
        free = [
            (abs(np.log(max(share, 1e-9) / wanted)), place)
            for place, share in enumerate(exceedance)
            if place not in chosen and USABLE_SHARES[0] < share < USABLE_SHARES[1]
        ]
        if free:
            chosen.append(min(free)[1])
    return chosen


def local_slope(bounds: Array, exceedance: Array, place: int) -> float:
    """-d log S / d log x at a bound, by finite differences: log S rises by slope * log(1.1) if all are 10 % slower.

    A single bound has the minimum slope. A bound that no request exceeded is treated as the smallest usable share.
    """
    x, y = np.log(bounds), np.log(np.maximum(exceedance, USABLE_SHARES[0]))
    before, after = max(place - 1, 0), min(place + 1, len(exceedance) - 1)
    if before == after:
        return MIN_SLOPE
    return float(max(MIN_SLOPE, -(y[after] - y[before]) / (x[after] - x[before])))


def slowdown_ratio(slope: float, factor: float, exceedance: float, reach: float) -> float:
    """By which factor more requests exceed a bound if all are slower by `factor`; at most exceedance^-reach."""
    return float(np.exp(min(slope * np.log(factor), reach * np.log(1.0 / exceedance))))
