"""The ready-made counts: what is tolerated for each, and what its calibration starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tidegate.analysis.statistics.calibration import MAX_MARGIN_SHARE, Calibration, calibrate
from tidegate.analysis.statistics.effect_grid import Array, errors_grid, latency_grid, live_grid
from tidegate.analysis.statistics.eprocess import Margin, MetricModel
from tidegate.analysis.statistics.histogram import local_slope, slowdown_ratio, watched_bounds
from tidegate.analysis.statistics.parameters import Parameters

MIN_READINESS_RATE = 0.002  # failed probes are never assumed to be rarer
READINESS_ABSOLUTE, READINESS_FACTOR = 0.10, 2.0
WARMUP_ABSOLUTE, WARMUP_FACTOR = 0.10, 10.0
MIN_HOST_SD = 0.02
MAX_DISTURBED_SHARE = 0.7
FAST_SHARE = 0.02  # tolerated share of requests slower than a bound, where hardly any was before

STEEP_SLOPE, FEW_SLOW_SHARE = (
    8.0,
    0.1,
)  # a slope that makes a margin of many times, and a share of slow requests that can rise so far


def errors_model(parameters: Parameters, margin: float | None = None) -> MetricModel:
    """Failed requests among requests; `margin`: how much the share may be higher, a ratio in [0, 1]."""
    absolute = parameters.errors_absolute if margin is None else margin
    return MetricModel(
        errors_grid(),
        rate_margin(1 + parameters.errors_relative, absolute),
        rate_margin(1 + parameters.instance_errors_relative, max(absolute, parameters.instance_errors_absolute)),
        rare=True,
        disturbed=parameters.disturbed_errors,
    )


def warmup_model() -> MetricModel:
    """Failed requests from the first second on, with a margin that only a catastrophe exceeds; never held."""
    return MetricModel(errors_grid(), rate_margin(WARMUP_FACTOR, WARMUP_ABSOLUTE), rare=True)


def readiness_model() -> MetricModel:
    """Failed probes among probes."""
    margin = rate_margin(READINESS_FACTOR, READINESS_ABSOLUTE)
    return MetricModel(live_grid(), margin, margin, rare=True)


def rate_margin(factor: float, absolute: float) -> Margin:
    """The tolerated ratio of two rates: `factor`, or `absolute` more, whichever is more."""
    return lambda rate: np.maximum(factor, 1 + absolute / rate)


def errors_calibration(bad: Array, exposure: Array, parameters: Parameters) -> Calibration:
    """From blocks of history [R, blocks, instances]."""
    return calibrate(bad, exposure, parameters.errors_host_sd, parameters)


def readiness_calibration(bad: Array, exposure: Array, parameters: Parameters) -> Calibration:
    """From blocks of history [R, blocks, instances]."""
    result = calibrate(bad, exposure, parameters.readiness_host_sd, parameters)
    return replace(result, rate=np.maximum(result.rate, MIN_READINESS_RATE))


@dataclass(frozen=True, eq=False)
class LatencyBound:
    """One watched bucket bound: its place among the bounds, `seconds`, the `exceedance` in the history (a ratio in
    [0, 1]), the local `slope` of the survival function, and how requests slower than it are judged."""

    index: int
    seconds: float
    exceedance: float
    slope: float
    model: MetricModel


def latency_bounds(
    bounds: Array, slower: Array, requests: float, parameters: Parameters, margin: float | None = None
) -> Sequence[LatencyBound]:
    """The bounds worth watching: `slower` [bounds] of the history's `requests` took longer than each bound [seconds].

    `margin`: how much longer requests may take, as a share. Where nearly all were faster than every bound that tells
    anything, more than a few that are slower are harm.
    """
    tolerated = parameters.latency_relative if margin is None else margin
    exceedance = slower / max(requests, 1)
    result = []
    for place in watched_bounds(exceedance):
        slope, share = local_slope(bounds, exceedance, place), float(exceedance[place])

        def factor(slowdown: float, reach: float = MAX_MARGIN_SHARE, slope: float = slope, share: float = share) -> float:
            return slowdown_ratio(slope, slowdown, share, reach)

        kind = MetricModel(
            latency_grid(share),
            capped_margin(factor(1 + tolerated)),
            capped_margin(factor(1 + max(tolerated, parameters.instance_latency_relative))),
            # Where nearly all slow requests may be the candidate's, whose they are says nothing; how many there are does.
            rare=slope > STEEP_SLOPE and share <= FEW_SLOW_SHARE,
            disturbed=factor(parameters.disturbed_latency, MAX_DISTURBED_SHARE),
        )
        result.append(LatencyBound(place, float(bounds[place]), share, slope, kind))
    return result if any(each.exceedance > FAST_SHARE for each in result) else [_fast_bound(bounds, exceedance, parameters)]


def _fast_bound(bounds: Array, exceedance: Array, parameters: Parameters) -> LatencyBound:
    """Response times within one bucket, or below the lowest: requests slower than it are rare events, as errors are.

    How steep the share falls is not known there, so no margin can be told in times; and what share of all bad requests is
    the candidate's tells little where it may be nearly all of them. Their number does.
    """
    fast = np.flatnonzero(exceedance <= FAST_SHARE)
    place = int(fast[0]) if len(fast) else len(bounds) - 1
    kind = MetricModel(
        errors_grid(), rate_margin(1.0, FAST_SHARE), rate_margin(1.0, 3 * FAST_SHARE), True, parameters.disturbed_errors
    )
    return LatencyBound(place, float(bounds[place]), max(float(exceedance[place]), 1e-6), 1.0, kind)


def capped_margin(ratio: float) -> Margin:
    """A tolerated ratio; less of it while the rate is so high that nothing could exceed it."""
    return lambda rate: np.minimum(ratio, (1 / np.minimum(rate, 1.0)) ** MAX_MARGIN_SHARE)


def latency_calibration(bound: LatencyBound, slower: Array, requests: Array, parameters: Parameters) -> Calibration:
    """From blocks of history [R, blocks, instances] of requests, and of those slower than the bound.

    The rate is drawn to the exceedance by which the bound was chosen, not to the rate of rare errors: with a minute of
    history that would be so low that the baseline itself seems to be disturbed all the time, and nothing is compared.
    """
    host_sd = max(parameters.latency_host_sd * bound.slope, MIN_HOST_SD)
    return calibrate(slower, requests, host_sd, parameters, prior_rate=float(np.clip(bound.exceedance, 1e-6, 1.0)))
