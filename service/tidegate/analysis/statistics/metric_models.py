"""The models of the built-in metrics: margins, and the priors of their calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tidegate.analysis.statistics.calibration import MAX_MARGIN_SHARE, Calibration, calibrate
from tidegate.analysis.statistics.effect_grid import Array, errors_grid, latency_grid, live_grid
from tidegate.analysis.statistics.eprocess import Margin, MetricModel
from tidegate.analysis.statistics.histogram import local_slope, slowdown_ratio, watched_bounds
from tidegate.analysis.statistics.parameters import Parameters

MIN_READINESS_RATE = 0.002  # of failed probes: the lowest assumed rate
READINESS_ABSOLUTE, READINESS_FACTOR = 0.10, 2.0
WARMUP_ABSOLUTE, WARMUP_FACTOR = 0.10, 10.0
MIN_HOST_SD = 0.02
MAX_DISTURBED_SHARE = 0.7
FAST_SHARE = 0.02  # tolerated share of requests slower than a bound that hardly any request exceeded before
#: Beyond this slope a margin is a large factor, and below this share of slow requests the share can grow by that factor.
STEEP_SLOPE, FEW_SLOW_SHARE = 8.0, 0.1


def errors_model(parameters: Parameters, margin: float | None = None) -> MetricModel:
    """The model of failed requests. `margin`: the tolerated increase of the failed share, in [0, 1]."""
    absolute = parameters.errors_absolute if margin is None else margin
    return MetricModel(
        errors_grid(),
        rate_margin(1 + parameters.errors_relative, absolute),
        rate_margin(1 + parameters.instance_errors_relative, max(absolute, parameters.instance_errors_absolute)),
        rare=True,
        disturbed=parameters.disturbed_errors,
    )


def warmup_model() -> MetricModel:
    """The model of failed requests during warm-up, too: a margin that only a catastrophe exceeds, and no disturbances."""
    return MetricModel(errors_grid(), rate_margin(WARMUP_FACTOR, WARMUP_ABSOLUTE), rare=True)


def readiness_model() -> MetricModel:
    """The model of failed probes."""
    margin = rate_margin(READINESS_FACTOR, READINESS_ABSOLUTE)
    return MetricModel(live_grid(), margin, margin, rare=True)


def rate_margin(factor: float, absolute: float) -> Margin:
    """The tolerated ratio of two rates: the larger of `factor` and `absolute` added to the rate."""
    return lambda rate: np.maximum(factor, 1 + absolute / rate)


def errors_calibration(bad: Array, exposure: Array, parameters: Parameters) -> Calibration:
    """The calibration of errors from blocks of history [R, blocks, instances]."""
    return calibrate(bad, exposure, parameters.errors_host_sd, parameters)


def readiness_calibration(bad: Array, exposure: Array, parameters: Parameters) -> Calibration:
    """The calibration of failed probes from blocks of history [R, blocks, instances]."""
    calibration = calibrate(bad, exposure, parameters.readiness_host_sd, parameters)
    return replace(calibration, rate=np.maximum(calibration.rate, MIN_READINESS_RATE))


@dataclass(frozen=True, eq=False)
class LatencyBound:
    """A watched bucket bound: its index among the bounds, `seconds`, the `exceedance` in the history (a ratio in [0, 1]),
    the local `slope` of the survival function, and the model of requests slower than it."""

    index: int
    seconds: float
    exceedance: float
    slope: float
    model: MetricModel


def latency_bounds(
    bounds: Array, slower: Array, requests: float, parameters: Parameters, margin: float | None = None
) -> Sequence[LatencyBound]:
    """The watched bounds: `slower` [bounds] of the `requests` in the history took longer than each of `bounds` [seconds].

    `margin`: the tolerated increase of the latency, as a share. If hardly any request exceeded the usable bounds, a small
    share of slower requests is harm.
    """
    tolerated = parameters.latency_relative if margin is None else margin
    exceedance = slower / max(requests, 1)
    watched = []
    for index in watched_bounds(exceedance):
        slope, share = local_slope(bounds, exceedance, index), float(exceedance[index])

        def factor(slowdown: float, reach: float = MAX_MARGIN_SHARE, slope: float = slope, share: float = share) -> float:
            return slowdown_ratio(slope, slowdown, share, reach)

        model = MetricModel(
            latency_grid(share),
            capped_margin(factor(1 + tolerated)),
            capped_margin(factor(1 + max(tolerated, parameters.instance_latency_relative))),
            # If nearly all slow requests may be the candidate's, its share of them is no evidence, but their number is.
            rare=slope > STEEP_SLOPE and share <= FEW_SLOW_SHARE,
            disturbed=factor(parameters.disturbed_latency, MAX_DISTURBED_SHARE),
        )
        watched.append(LatencyBound(index, float(bounds[index]), share, slope, model))
    if any(bound.exceedance > FAST_SHARE for bound in watched):
        return watched
    return [_fast_bound(bounds, exceedance, parameters)]


def _fast_bound(bounds: Array, exceedance: Array, parameters: Parameters) -> LatencyBound:
    """The bound for response times within one bucket: slower requests are rare events, as errors are.

    The slope is unknown there, so the margin cannot be relative to the latency. It is an absolute share of requests.
    """
    fast = np.flatnonzero(exceedance <= FAST_SHARE)
    index = int(fast[0]) if len(fast) else len(bounds) - 1
    model = MetricModel(
        errors_grid(), rate_margin(1.0, FAST_SHARE), rate_margin(1.0, 3 * FAST_SHARE), True, parameters.disturbed_errors
    )
    return LatencyBound(index, float(bounds[index]), max(float(exceedance[index]), 1e-6), 1.0, model)


def capped_margin(ratio: float) -> Margin:
    """A tolerated ratio, capped where the rate is so high that no release could exceed it."""
    return lambda rate: np.minimum(ratio, (1 / np.minimum(rate, 1.0)) ** MAX_MARGIN_SHARE)


def latency_calibration(bound: LatencyBound, slower: Array, requests: Array, parameters: Parameters) -> Calibration:
    """The calibration from blocks of history [R, blocks, instances] of requests, and of those slower than the bound.

    The rate is drawn to the exceedance by which the bound was chosen. Drawn to the rate of rare errors, it would be so low
    after a minute of history that the baseline would always count as disturbed.
    """
    host_sd = max(parameters.latency_host_sd * bound.slope, MIN_HOST_SD)
    return calibrate(slower, requests, host_sd, parameters, prior_rate=float(np.clip(bound.exceedance, 1e-6, 1.0)))
