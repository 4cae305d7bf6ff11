"""Generates blue-green switches: counts of the whole service at each scrape, before and after all traffic moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tidegate.simulation.distributions import (
    Counts,
    Floats,
    autoregressive_levels,
    overdispersed_counts,
    slow_counts,
    slow_shares,
)
from tidegate.simulation.scenarios import Fault, ServiceSize, SwitchNoise

BEFORE_SECONDS = 7200.0
MAX_ERROR_SHARE = 0.95  # upper bound of the failed share
LOAD_DEVIATION = 0.08  # of the log traffic, from scrape to scrape
NEVER = 1e9  # seconds


@dataclass(frozen=True, eq=False)
class GeneratedSwitch:
    """R switches in T scrape intervals of the whole service. Interval `switch` is the first after the switch."""

    N: Counts  # [R, T] requests
    X: Counts  # [R, T] failed requests
    S: Counts  # [R, T, bounds] requests slower than each of BUCKET_BOUNDS
    switch: int  # number of intervals before the switch: two hours
    dt: float  # seconds of an interval


def generate_switch(
    size: ServiceSize, noise: SwitchNoise, fault: Fault, replicates: int, rng: np.random.Generator
) -> GeneratedSwitch:
    """Draw `replicates` switches with `size.window` seconds after the switch. Ignores `size.n` and `size.batches`."""
    interval = size.scrape
    before, after = int(BEFORE_SECONDS / interval), int(size.window / interval)
    time: Floats = np.asarray((np.arange(before + after) - before + 0.5) * interval, dtype=np.float64)
    errors, latency = _levels(rng, time, noise, replicates, interval)
    shock = _shock(rng, time, noise, replicates, size.window)
    harmed = (time > 0) & (time >= fault.onset)
    busy = np.exp(LOAD_DEVIATION * rng.standard_normal((replicates, len(time))))
    requests = rng.poisson(size.rps * interval * np.exp(noise.drift * time / BEFORE_SECONDS)[None] * busy)
    factor = np.where(harmed, fault.err_mult, 1)
    share = size.p0 * np.exp(errors) * factor + harmed * fault.err_pp + shock * noise.shock_pp
    expected = np.asarray(np.clip(share, 0, MAX_ERROR_SHARE) * requests, dtype=np.float64)
    failed = np.minimum(overdispersed_counts(rng, expected, noise.phi), requests)
    slow = latency + noise.shock_lat * shock + harmed * math.log(fault.lat_mult)
    tail = np.broadcast_to(harmed * fault.tail_frac, slow.shape)
    slower = slow_counts(rng, requests, slow_shares(size.med, size.sig, slow, tail, fault.tail_mult))
    return GeneratedSwitch(requests, failed, slower, before, interval)


def _levels(
    rng: np.random.Generator, time: Floats, noise: SwitchNoise, replicates: int, interval: float
) -> tuple[Floats, Floats]:
    """Additions to the log error rate and to the log latency, each [R, T], without faults and shocks."""
    shape = (replicates, len(time), 1)
    errors = (
        autoregressive_levels(rng, shape, interval, noise.tc, noise.sd_s)[..., 0] + noise.drift / 2 * time / BEFORE_SECONDS
    )
    latency = (
        autoregressive_levels(rng, shape, interval, noise.tc, noise.sd_l)[..., 0] + noise.drift / 6 * time / BEFORE_SECONDS
    )
    fading = np.where(time > 0, np.exp(-np.maximum(time, 0) / noise.warm_tc), 0)
    return errors + noise.warm_err * fading, latency + noise.warm_lat * fading


def _shock(rng: np.random.Generator, time: Floats, noise: SwitchNoise, replicates: int, window: float) -> Floats:
    """[R, T]: 1 while a dependency fails, at a random time within the `window` after the switch."""
    begins: Floats = np.full((replicates, 1), NEVER)
    if noise.shock_pp or noise.shock_lat:
        begins = rng.uniform(0, window - noise.shock_len, (replicates, 1))
    return np.where((time[None] >= begins) & (time[None] < begins + noise.shock_len), 1.0, 0.0)
