"""Fixed-sample tests, repeated after every scrape."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import t as student_t

from support.other_methods.aggregates import ReleaseCounts, release_counts
from tidegate.simulation.distributions import Floats, Mask
from tidegate.simulation.generator import GeneratedRollout
from tidegate.simulation.result import AbortResult

WARMUP_SECONDS = 60.0
ALPHA = 0.01  # of each test
MIN_ERRORS, MIN_SCRAPES = 5, 5
QUANTILES = (0.5, 0.99)
MIN_LATENCY = 1e-4  # seconds; avoids log(0)


def decide(rollouts: GeneratedRollout) -> AbortResult:
    """Tests after every scrape, from the warm-up of each batch on, one-sided at 1 %: a pooled z-test of the error rates so
    far, and Welch's t-test of the log median and log 99th percentile of the scrapes so far. Rolls back at the first
    significant test.

    Source: textbook tests (Welch 1947), repeated until one is significant. The level holds for one test, not for many
    (Armitage, McPherson & Rowe 1969; Johari et al., *Peeking at A/B tests*, KDD 2017).
    """
    new, old = release_counts(rollouts, WARMUP_SECONDS)
    intervals, window = rollouts.N.shape[1], round(rollouts.window / rollouts.dt)
    worse = np.zeros(rollouts.N.shape[:2], bool)
    for number in range(rollouts.analyzed_batches):
        within = slice(number * window + int(WARMUP_SECONDS / rollouts.dt), (number + 1) * window)
        if within.start < min(within.stop, intervals):
            worse[:, within] = _more_errors(new.within(within), old.within(within))
            worse[:, within] |= _slower(new.within(within), old.within(within))
    return AbortResult.from_moments(worse, np.arange(1, intervals + 1) * rollouts.dt)


def _more_errors(new: ReleaseCounts, old: ReleaseCounts) -> Mask:
    """The z-test on all scrapes up to each [R, K]."""
    requests, failed = new.requests.cumsum(1), new.failed.cumsum(1)
    old_requests, old_failed = old.requests.cumsum(1), old.failed.cumsum(1)
    total, old_total = np.maximum(requests, 1), np.maximum(old_requests, 1)
    pooled = (failed + old_failed) / np.maximum(requests + old_requests, 1)
    variance = np.maximum(pooled * (1 - pooled) * (1 / total + 1 / old_total), 1e-12)
    score = (failed / total - old_failed / old_total) / np.sqrt(variance)
    return np.asarray((score > -ndtri(ALPHA)) & (failed + old_failed >= MIN_ERRORS))


def _slower(new: ReleaseCounts, old: ReleaseCounts) -> Mask:
    """The t-test on all scrapes up to each [R, K]."""
    slower: Mask = np.zeros(new.requests.shape, dtype=np.bool_)
    scrapes = np.arange(1, new.requests.shape[1] + 1)
    critical = student_t.ppf(1 - ALPHA, np.maximum(2 * (scrapes - 1), 1))
    for share in QUANTILES:
        mean, error = _so_far(new.quantile(share))
        old_mean, old_error = _so_far(old.quantile(share))
        slower |= (mean - old_mean) / np.sqrt(error + old_error) > critical
    return np.asarray(slower & (scrapes >= MIN_SCRAPES))


def _so_far(latency: Floats) -> tuple[Floats, Floats]:
    """The mean of the log latency up to each scrape and the square of its standard error, each [R, K]. A scrape without
    requests counts as 1 s."""
    logs = np.nan_to_num(np.log(np.maximum(latency, MIN_LATENCY)))
    number = np.arange(1, logs.shape[1] + 1)
    mean = np.cumsum(logs, 1) / number
    variance = np.maximum(np.cumsum(logs * logs, 1) / number - mean**2, 1e-9)
    return mean, np.asarray(variance / np.maximum(number - 1, 1))
