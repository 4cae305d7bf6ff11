"""The Mann-Whitney test with an effect size, at the end of the window of each batch."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from support.other_methods.aggregates import ReleaseCounts, release_counts
from tidegate.simulation.distributions import Floats
from tidegate.simulation.generator import GeneratedRollout
from tidegate.simulation.result import AbortResult

WARMUP_SECONDS = 60.0
CONFIDENCE = 0.98
TOLERANCE = 0.25  # of the estimated difference: the lower confidence bound has to exceed this share of it
MIN_EFFECT_SIZE = 1.25  # minimum ratio of the means
MIN_VALUES = 3  # values on each side


def decide(rollouts: GeneratedRollout) -> AbortResult:
    """Compares, at the end of each window, the error rates, medians and 99th percentiles of all scrapes of both releases,
    as unordered samples. A metric that is "High" rolls back, as a critical metric of Kayenta does.

    Source: Kayenta's `NetflixACAJudge`, classifier `MannWhitneyClassifier` with its tolerance 0.25 and confidence 0.98, and
    an `effectSize.allowedIncrease` of 1.25 (its default, 1, rolls back more good releases). Kayenta also removes outliers.
    """
    samples, controls = (_metrics(side) for side in release_counts(rollouts, WARMUP_SECONDS))
    window = round(rollouts.window / rollouts.dt)
    high = np.zeros((len(rollouts.N), rollouts.analyzed_batches), bool)
    for number in range(rollouts.analyzed_batches):
        within = slice(number * window + int(WARMUP_SECONDS / rollouts.dt), (number + 1) * window)
        for new, old in zip(samples, controls, strict=True):
            high[:, number] |= [is_high(*pair) for pair in zip(new[:, within], old[:, within], strict=True)]
    ends = np.arange(1, rollouts.analyzed_batches + 1) * window
    return AbortResult.from_moments(high, np.asarray(ends * rollouts.dt, dtype=np.float64))


def _metrics(side: ReleaseCounts) -> list[Floats]:
    """The failed share, the median and the 99th percentile of the latency, each [R, T]."""
    return [side.error_share(), side.quantile(0.5), side.quantile(0.99)]


def is_high(experiment: Floats, control: Floats) -> bool:
    """Whether a metric is higher in the experiment than in the control, by Kayenta's rule. Ignores NaN."""
    experiment, control = experiment[~np.isnan(experiment)], control[~np.isnan(control)]
    if len(experiment) < MIN_VALUES or len(control) < MIN_VALUES:
        return False
    differences = np.sort((experiment[:, None] - control[None]).ravel())
    if differences[0] == differences[-1]:
        return False
    rank = _lower_rank(experiment, control)
    if rank < 0 or not differences[rank] > TOLERANCE * abs(np.median(differences)):
        return False
    new, old = experiment.mean(), control.mean()
    return not (new and old) or bool(new / old >= MIN_EFFECT_SIZE)


def _lower_rank(experiment: Floats, control: Floats) -> int:
    """The index of the sorted difference that is the lower confidence bound of the shift (Hodges and Lehmann 1963), by the
    normal approximation with a correction for ties."""
    new, old = len(experiment), len(control)
    _, tied = np.unique(np.concatenate([experiment, control]), return_counts=True)
    ties = (tied**3 - tied).sum() / ((new + old) * (new + old - 1))
    deviation = math.sqrt(new * old / 12 * (new + old + 1 - ties))
    quantile = -float(ndtri((1 - CONFIDENCE) / 2))
    return math.floor(new * old / 2 - 0.5 - quantile * deviation)
