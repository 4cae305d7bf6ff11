"""The ready-made counts: what is tolerated for each, and what its calibration starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tidegate.core.evidence.buckets import USABLE, local_slope, ratio_of_slowdown, watched_bounds
from tidegate.core.evidence.calibration import Calibration, calibrate
from tidegate.core.evidence.grid import Array, errors_grid, latency_grid, live_grid
from tidegate.core.evidence.options import Options
from tidegate.core.evidence.process import Kind, Margin

LIVE_RATE = 0.002  # failed probes are never assumed to be rarer
LIVE_ABSOLUTE, LIVE_FACTOR = 0.10, 2.0
WARMUP_ABSOLUTE, WARMUP_FACTOR = 0.10, 10.0
LEAST_HOST_SD = 0.02
POSSIBLE = 0.9  # margins reach at most this far (in the log) towards "all requests are slow"
POSSIBLE_DISTURBED = 0.7
FAST_SHARE = 0.02  # tolerated share of requests slower than the lowest bound, where none was before


def errors_kind(options: Options, margin: float | None = None) -> Kind:
    """Failed requests among requests; `margin`: how much the share may be higher, a ratio in [0, 1]."""
    absolute = options.errors_absolute if margin is None else margin
    return Kind(
        errors_grid(),
        rate_margin(1 + options.errors_relative, absolute),
        rate_margin(1 + options.instance_errors_relative, max(absolute, options.instance_errors_absolute)),
        rare=True,
        disturbed=options.disturbed_errors,
    )


def warmup_kind() -> Kind:
    """Failed requests from the first second on, with a margin that only a catastrophe exceeds; never held."""
    return Kind(errors_grid(), rate_margin(WARMUP_FACTOR, WARMUP_ABSOLUTE), rare=True)


def live_kind() -> Kind:
    """Failed probes among probes."""
    margin = rate_margin(LIVE_FACTOR, LIVE_ABSOLUTE)
    return Kind(live_grid(), margin, margin, rare=True)


def rate_margin(factor: float, absolute: float) -> Margin:
    """The tolerated ratio of two rates: `factor`, or `absolute` more, whichever is more."""
    return lambda rate: np.maximum(factor, 1 + absolute / rate)


def errors_calibration(bad: Array, exposure: Array, options: Options) -> Calibration:
    """From blocks of history [R, blocks, instances]."""
    return calibrate(bad, exposure, options.errors_host_sd, options)


def live_calibration(bad: Array, exposure: Array, options: Options) -> Calibration:
    """From blocks of history [R, blocks, instances]."""
    found = calibrate(bad, exposure, options.live_host_sd, options)
    return replace(found, rate=np.maximum(found.rate, LIVE_RATE))


@dataclass(frozen=True, eq=False)
class Bound:
    """One watched bucket bound: its place among the bounds, `seconds`, the `exceedance` in the history (a ratio in
    [0, 1]), the local `slope` of the survival function, and how requests slower than it are judged."""

    place: int
    seconds: float
    exceedance: float
    slope: float
    kind: Kind


def latency_bounds(
    bounds: Array, slower: Array, requests: float, options: Options, margin: float | None = None
) -> Sequence[Bound]:
    """The bounds worth watching: `slower` [bounds] of the history's `requests` took longer than each bound [seconds].

    `margin`: how much longer requests may take, as a share. Where all were faster than every bound, more than a few that
    are slower than the lowest one are harm.
    """
    tolerated = options.latency_relative if margin is None else margin
    exceedance = slower / max(requests, 1)
    found = []
    for place in watched_bounds(exceedance):
        slope, share = local_slope(bounds, exceedance, place), float(exceedance[place])

        def factor(slowdown: float, reach: float = POSSIBLE, slope: float = slope, share: float = share) -> float:
            return ratio_of_slowdown(slope, slowdown, share, reach)

        kind = Kind(
            latency_grid(share),
            constant(factor(1 + tolerated)),
            constant(factor(1 + max(tolerated, options.instance_latency_relative))),
            disturbed=factor(options.disturbed_latency, POSSIBLE_DISTURBED),
        )
        found.append(Bound(place, float(bounds[place]), share, slope, kind))
    return found or [_fast(bounds, exceedance, options)]


def _fast(bounds: Array, exceedance: Array, options: Options) -> Bound:
    """A service that is faster than any bound: requests slower than the lowest one are rare events, as errors are."""
    fast = np.flatnonzero(exceedance <= USABLE[0])
    place = int(fast[0]) if len(fast) else len(bounds) - 1
    kind = Kind(
        errors_grid(), rate_margin(1.0, FAST_SHARE), rate_margin(1.0, 3 * FAST_SHARE), True, options.disturbed_errors
    )
    return Bound(place, float(bounds[place]), max(float(exceedance[place]), 1e-6), 1.0, kind)


def constant(ratio: float) -> Margin:
    """A tolerated ratio that does not depend on the rate."""
    return lambda rate: np.full_like(rate, ratio)


def latency_calibration(bound: Bound, slower: Array, requests: Array, options: Options) -> Calibration:
    """From blocks of history [R, blocks, instances] of requests, and of those slower than the bound."""
    return calibrate(slower, requests, max(options.latency_host_sd * bound.slope, LEAST_HOST_SD), options)
