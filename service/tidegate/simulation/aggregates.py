"""The new release beside the old one: sums over instances, the latency bounds that matter, quantiles from buckets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tidegate.simulation.distributions import BUCKET_BOUNDS, Counts, Floats, Mask
from tidegate.simulation.generator import GeneratedRollout

#: The shares of requests for which the nearest latency bound is taken: the median, and two in the tail.
WATCHED_SHARES = (0.5, 0.1, 0.01)


@dataclass(frozen=True, eq=False)
class ReleaseCounts:
    """Counts of all instances of a release: requests and failed ones [R, T], slower than each bound [R, T, bounds]."""

    requests: Counts
    failed: Counts
    slower: Counts

    def within(self, intervals: slice) -> ReleaseCounts:
        """These intervals only."""
        return ReleaseCounts(self.requests[:, intervals], self.failed[:, intervals], self.slower[:, intervals])

    def total(self) -> ReleaseCounts:
        """Summed over the intervals: requests and failed ones [R], slower [R, bounds]."""
        return ReleaseCounts(self.requests.sum(1), self.failed.sum(1), self.slower.sum(1))

    def error_share(self) -> Floats:
        """The share of failed requests; NaN without requests."""
        return np.where(self.requests > 0, self.failed / np.maximum(self.requests, 1), np.nan)

    def quantile(self, share: float) -> Floats:
        """The latency that this share of requests stays below, as Prometheus' `histogram_quantile` has it: linear within
        a bucket, the highest bound beyond it. NaN without requests."""
        last = len(BUCKET_BOUNDS) - 1
        up_to = self.requests[..., None] - self.slower
        rank = share * self.requests
        bucket = (up_to < rank[..., None]).sum(-1)
        inside = np.minimum(bucket, last)
        below = np.maximum(inside - 1, 0)
        low = np.where(inside > 0, BUCKET_BOUNDS[below], 0.0)
        low_count = np.where(inside > 0, _take_bound(up_to, below), 0)
        part = np.clip((rank - low_count) / np.maximum(_take_bound(up_to, inside) - low_count, 1), 0, 1)
        result = np.where(bucket > last, BUCKET_BOUNDS[-1], low + (BUCKET_BOUNDS[inside] - low) * part)
        return np.where(self.requests > 0, result, np.nan)


def _take_bound(counts: Counts, place: Counts) -> Counts:
    """counts[..., place]"""
    return np.asarray(np.take_along_axis(counts, place[..., None], -1)[..., 0])


def release_counts(rollouts: GeneratedRollout, warmup_seconds: float) -> tuple[ReleaseCounts, ReleaseCounts]:
    """The new release, without instances younger than the warm-up, and the old one."""
    return _sum_instances(rollouts, rollouts.age >= warmup_seconds), _sum_instances(rollouts, rollouts.age < 0)


def _sum_instances(rollouts: GeneratedRollout, whose: Mask) -> ReleaseCounts:
    """`whose` [T, n]: the instances that count."""
    requests, failed = (rollouts.N * whose).sum(2), (rollouts.X * whose).sum(2)
    return ReleaseCounts(requests, failed, (rollouts.S * whose[..., None]).sum(2))


@dataclass(frozen=True)
class WatchedBound:
    """One of BOUNDS, with the share of requests that were slower in the history."""

    place: int
    exceedance: float
    slope: float  # -d log(exceedance) / d log(latency): by how much more exceed it when all gets slower


def watched_bounds(rollouts: GeneratedRollout) -> list[WatchedBound]:
    """Those whose exceedance in the history is nearest to each of WANTED_EXCEEDANCES; none twice."""
    exceedance = rollouts.Hs.sum((0, 1, 2)) / max(1, rollouts.Hn.sum())
    chosen: list[int] = []
    for wanted in WATCHED_SHARES:
        useful = [place for place, share in enumerate(exceedance) if place not in chosen and 1e-5 < share < 0.9]
        if useful:
            chosen.append(min(useful, key=lambda place: abs(math.log(max(exceedance[place], 1e-9) / wanted))))
    return [WatchedBound(place, float(exceedance[place]), _slope(exceedance, place)) for place in chosen]


def _slope(exceedance: Floats, place: int) -> float:
    """By finite differences between the bounds on either side."""
    low, high = max(place - 1, 0), min(place + 1, len(exceedance) - 1)
    logs = np.log(np.maximum(exceedance, 1e-9))
    return max(0.2, -float((logs[high] - logs[low]) / (np.log(BUCKET_BOUNDS[high]) - np.log(BUCKET_BOUNDS[low]))))
