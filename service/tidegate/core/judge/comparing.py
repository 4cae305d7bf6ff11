"""The statistics of a comparison: pure functions of counts and means.

**Errors** are two shares of requests. The question is whether the candidate's share exceeds the baseline's by more than
the margin, and it is asked again every few seconds, so a plain 95 % test would condemn most good releases in time. Used is
the lower end of Newcombe's interval for the difference of two proportions, built from two Wilson score intervals (R. G.
Newcombe, *Interval estimation for the difference between independent proportions*, Statistics in Medicine 17, 1998,
method 10; E. B. Wilson, JASA 22, 1927): it stays honest with few events and shares near 0, where the textbook interval does
not. Its one-sided bound is taken at z = 4, a chance of 0.00003 in one look; neighbouring looks share nearly all their
data. By simulation (sixty looks in 5 minutes, no margin at all, 20 to 500 requests a second of which 0.1 to 2 % fail,
500 to 800 rollouts a cell) a good release is condemned in 0 to 0.4 % of rollouts, and in fewer with a margin. That is
calibrated, not proved.

Errors come in bursts, which makes counts look surer than they are. So both counts are divided by their dispersion, the
variance over the one that independent requests would have, estimated from differences of successive parts of the window:
a release that turns bad half-way makes one such difference large, not all of them.

**Latency** is two means of unknown spread, since HAProxy's exporter has no histogram. The spread is assumed (`SPREAD`) and
the differences among servers of one release are estimated; the margin is widened by both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

FAIL_Z = 4.0  # for a look that may condemn
DOUBT_Z = 1.645  # at the end of the bake: worse than this, though not proved, is no pass either (5 %)
LEAST_FAILED = 5  # fewer failed requests never condemn, however few there were in all

LATENCY_Z = 2.5  # three samples in a row have to exceed it
SPREAD = 2.0  # standard deviation over mean of response times; an exponential has 1, long tails 2 and more
HOST_SPREAD = 0.05  # standard deviation of the log of the mean between servers of one release, before any is seen
HOST_WEIGHT = 5  # how many servers that guess is worth


def wilson(failed: float, total: float, z: float) -> tuple[float, float]:
    """Wilson's score interval for a share, in [0, 1]; everything is possible without requests."""
    if total <= 0:
        return 0.0, 1.0
    share, square = min(1.0, failed / total), z * z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def least_excess(candidate: tuple[float, float], baseline: tuple[float, float], z: float) -> float:
    """By how much the candidate's share at least exceeds the baseline's; each is (failed, total).

    The lower end of Newcombe's interval, in [-1, 1]; -1 when one side had no requests.
    """
    (failed, total), (failed_before, total_before) = candidate, baseline
    if total <= 0 or total_before <= 0:
        return -1.0
    share, share_before = failed / total, failed_before / total_before
    low, high_before = wilson(failed, total, z)[0], wilson(failed_before, total_before, z)[1]
    return share - share_before - math.hypot(share - low, high_before - share_before)


def dispersion(blocks: Sequence[tuple[float, float]]) -> float:
    """Variance of the failed requests over that of independent ones, at least 1; blocks are (requests, failed) in time."""
    used = [(requests, failed) for requests, failed in blocks if requests > 0]
    total, failed_total = sum(requests for requests, _ in used), sum(failed for _, failed in used)
    share = failed_total / total if total else 0.0
    if len(used) < 3 or not 0.0 < share < 1.0:
        return 1.0
    squares = [
        (failed / requests - failed_next / requests_next) ** 2 / (1 / requests + 1 / requests_next)
        for (requests, failed), (requests_next, failed_next) in pairwise(used)
    ]
    return max(1.0, statistics.fmean(squares) / (share * (1 - share)))


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean response time in seconds: of about how many requests, over the logs of which servers' means.

    `resolution_seconds` is by how much rounding may have raised or lowered it.
    """

    seconds: float
    requests: float
    servers: tuple[float, ...]
    resolution_seconds: float = 0.0


def host_spread(*sides: Mean) -> float:
    """Standard deviation of the log of the mean between servers of the same release; what is seen, drawn to the guess."""
    squares, freedom = HOST_WEIGHT * HOST_SPREAD**2, float(HOST_WEIGHT)
    for side in sides:
        if len(side.servers) > 1:
            squares += statistics.variance(side.servers) * (len(side.servers) - 1)
            freedom += len(side.servers) - 1
    return math.sqrt(squares / freedom)


def slower(candidate: Mean, baseline: Mean, margin: float, z: float) -> bool:
    """Whether the candidate's mean exceeds the baseline's by more than the relative margin, chance and hosts apart."""
    if candidate.requests <= 0 or baseline.requests <= 0:
        return False
    chance = SPREAD**2 * (1 / candidate.requests + 1 / baseline.requests)
    hosts = host_spread(candidate, baseline) ** 2 * (1 / len(candidate.servers) + 1 / len(baseline.servers))
    limit = (baseline.seconds + baseline.resolution_seconds) * (1 + margin) * math.exp(z * math.sqrt(chance + hosts))
    return candidate.seconds - candidate.resolution_seconds > limit
