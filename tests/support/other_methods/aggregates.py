"""Sums over the instances of each release, quantiles from latency buckets, and the watched latency bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tidegate.simulation.distributions import BUCKET_BOUNDS, Counts, Floats, Mask
from tidegate.simulation.generator import GeneratedRollout

#: The nearest latency bound is watched for each of these shares of slower requests: the median, and two in the tail.
WATCHED_SHARES = (0.5, 0.1, 0.01)


@dataclass(frozen=True, eq=False)
class ReleaseCounts:
    """Totals of a release: requests and failed requests [R, T], requests slower than each bound [R, T, bounds]."""

    requests: Counts
    failed: Counts
    slower: Counts

    def within(self, intervals: slice) -> ReleaseCounts:
        """The counts in these intervals."""
        return ReleaseCounts(self.requests[:, intervals], self.failed[:, intervals], self.slower[:, intervals])

    def total(self) -> ReleaseCounts:
        """The sums over the intervals: requests and failed requests [R], slower requests [R, bounds]."""
        return ReleaseCounts(self.requests.sum(1), self.failed.sum(1), self.slower.sum(1))

    def error_share(self) -> Floats:
        """The failed share of requests, in [0, 1]; NaN without requests."""
        return np.where(self.requests > 0, self.failed / np.maximum(self.requests, 1), np.nan)

    def quantile(self, share: float) -> Floats:
        """The quantile of the latency in seconds, computed as `histogram_quantile` of Prometheus does: linear within a
        bucket, and the highest bound beyond it. NaN without requests."""
        last = len(BUCKET_BOUNDS) - 1
        up_to = self.requests[..., None] - self.slower
        rank = share * self.requests
        bucket = (up_to < rank[..., None]).sum(-1)
        inside = np.minimum(bucket, last)
        below = np.maximum(inside - 1, 0)
        low = np.where(inside > 0, BUCKET_BOUNDS[below], 0.0)
        low_count = np.where(inside > 0, _take_bound(up_to, below), 0)
        part = np.clip((rank - low_count) / np.maximum(_take_bound(up_to, inside) - low_count, 1), 0, 1)
        latency = np.where(bucket > last, BUCKET_BOUNDS[-1], low + (BUCKET_BOUNDS[inside] - low) * part)
        return np.where(self.requests > 0, latency, np.nan)


def _take_bound(counts: Counts, place: Counts) -> Counts:
    """counts[..., place]"""
    return np.asarray(np.take_along_axis(counts, place[..., None], -1)[..., 0])


def release_counts(rollouts: GeneratedRollout, warmup_seconds: float) -> tuple[ReleaseCounts, ReleaseCounts]:
    """The counts of the new release, without instances younger than the warm-up, and of the old one."""
    return _sum_instances(rollouts, rollouts.age >= warmup_seconds), _sum_instances(rollouts, rollouts.age < 0)


def _sum_instances(rollouts: GeneratedRollout, mask: Mask) -> ReleaseCounts:
    """`mask` [T, n]: the instances to count."""
    requests, failed = (rollouts.N * mask).sum(2), (rollouts.X * mask).sum(2)
    return ReleaseCounts(requests, failed, (rollouts.S * mask[..., None]).sum(2))


@dataclass(frozen=True)
class WatchedBound:
    """One of `BUCKET_BOUNDS`, with the share of requests in the history that were slower."""

    place: int
    exceedance: float
    slope: float  # -d log(exceedance) / d log(latency)


def watched_bounds(rollouts: GeneratedRollout) -> list[WatchedBound]:
    """The bounds whose exceedance in the history is nearest to each of `WATCHED_SHARES`, each once."""
    exceedance = rollouts.Hs.sum((0, 1, 2)) / max(1, rollouts.Hn.sum())
    chosen: list[int] = []
    for wanted in WATCHED_SHARES:
        useful = [place for place, share in enumerate(exceedance) if place not in chosen and 1e-5 < share < 0.9]
        if useful:
            chosen.append(min(useful, key=lambda place: abs(math.log(max(exceedance[place], 1e-9) / wanted))))
    return [WatchedBound(place, float(exceedance[place]), _slope(exceedance, place)) for place in chosen]


def _slope(exceedance: Floats, place: int) -> float:
    """By finite differences between the neighbouring bounds."""
    low, high = max(place - 1, 0), min(place + 1, len(exceedance) - 1)
    logs = np.log(np.maximum(exceedance, 1e-9))
    return max(0.2, -float((logs[high] - logs[low]) / (np.log(BUCKET_BOUNDS[high]) - np.log(BUCKET_BOUNDS[low]))))
