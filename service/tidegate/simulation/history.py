"""Generates the half hour before a rollout: the old release in blocks of a minute."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tidegate.simulation.distributions import (
    Counts,
    Floats,
    autoregressive_levels,
    overdispersed_counts,
    slow_counts,
    slow_shares,
)
from tidegate.simulation.scenarios import RolloutNoise, ServiceSize

BLOCK_SECONDS = 60.0
BLOCKS = 30
MAX_ERROR_SHARE = 0.9  # upper bound of the failed share

#: The mean over a block varies less than single moments; this factor fits time constants of one or two blocks.
BLOCK_DEVIATION = 0.85


@dataclass(frozen=True, eq=False)
class BaselineCounts:
    """Counts per replicate, block of 60 s, and instance [R, 30, n].

    Requests, failed requests, requests slower than each bound [R, 30, n, bounds], failed scrapes, and scrapes.
    """

    requests: Counts
    failed: Counts
    slower: Counts
    missed: Counts
    scrapes: Counts


def draw_history(
    rng: np.random.Generator, size: ServiceSize, noise: RolloutNoise, load: Floats, hosts: tuple[Floats, Floats]
) -> BaselineCounts:
    """Draw the history. `load` [R, n]: the share of the traffic of each instance. `hosts`: the lasting differences of its
    errors and its latency, each [R, n], in standard deviations."""
    quiet = replace(noise, sd_e=0, sd_u=0, ar_e=0, ar_u=0, phi=1.0) if noise.hist_quiet else noise
    shape = (len(load), BLOCKS, size.n)
    requests = rng.poisson(size.rps * BLOCK_SECONDS * load[:, None, :] * np.ones((1, BLOCKS, 1)))
    errors = autoregressive_levels(rng, shape, BLOCK_SECONDS, noise.ar_tc, quiet.ar_e) * BLOCK_DEVIATION
    latency = autoregressive_levels(rng, shape, BLOCK_SECONDS, noise.ar_tc, quiet.ar_u) * BLOCK_DEVIATION
    share = np.minimum(MAX_ERROR_SHARE, size.p0 * np.exp(hosts[0][:, None] * quiet.sd_e + errors))
    expected = np.asarray(share * requests, dtype=np.float64)
    failed = np.minimum(overdispersed_counts(rng, expected, quiet.phi), requests)
    shares = slow_shares(size.med, size.sig, hosts[1][:, None] * quiet.sd_u + latency)
    slower = slow_counts(rng, requests, shares)
    scrapes = int(BLOCK_SECONDS / size.scrape)
    missed = rng.binomial(scrapes, noise.miss_p, shape)
    return BaselineCounts(requests, failed, slower, missed, np.full(shape, scrapes))
