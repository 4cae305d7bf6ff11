"""Whether a bake is long enough for a verdict, given how often the proxy is scraped and how much traffic there is. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tidegate.analysis import promql
from tidegate.analysis.counters import Counters
from tidegate.analysis.queries import COUNTED_RESPONSES, ENVOY_RESPONSES, RESPONSES, Series
from tidegate.analysis.statistics.parameters import MIN_INTERVALS
from tidegate.clock import Time, Window
from tidegate.core.model import Check, CheckKind, Policy, Rollout, Service

OBSERVED_SECONDS = 300.0
PARTIAL_INTERVALS = 2  # an instance is seen up to a scrape late, and the last scrape is up to one old
MEMORY_SECONDS, MEMORY_WARMUPS = 90.0, 1.5  # that the check of memory needs
QUERY_SECONDS = 120.0  # that a compared query needs: four blocks
MAX_BAKE_SECONDS = 86_400.0  # a longer bake is no advice
WARMUP_SECONDS, WARMUP_SHARE = Policy().warmup_seconds, 1 / 3  # the default warm-up, and its largest share of a bake


@dataclass(frozen=True)
class ObservedTraffic:
    """How often the servers of a service are scraped, and the requests per second to all of them."""

    scrape_seconds: float
    requests_per_second: float


def traffic_query(proxy: str, now: Time) -> tuple[str, Window]:
    """The query for the counters of all servers of a backend in the last minutes, and its window."""
    names = promql.quote("|".join((RESPONSES, COUNTED_RESPONSES, ENVOY_RESPONSES)))
    return f"{{__name__=~{names},proxy={promql.quote(proxy)}}}", Window(now - OBSERVED_SECONDS, now)


def observe_traffic(series: Sequence[Series]) -> ObservedTraffic | None:
    """The traffic that these counters show; None with fewer than two scrapes."""
    gaps = [later - earlier for each in series for (earlier, _), (later, _) in pairwise(each.samples)]
    if not gaps:
        return None
    times = [at for each in series for at, _ in each.samples]
    requests = sum(increase.amount for increase in Counters().add(series))
    return ObservedTraffic(statistics.median(gaps), requests / (max(times) - min(times)))


def needs_counters(checks: Iterable[Check]) -> bool:
    """Whether any check counts requests."""
    return any(check.kind in (CheckKind.ERRORS, CheckKind.LATENCY) for check in checks)


def bake_warnings(service: Service, traffic: ObservedTraffic) -> list[str]:
    """What is wrong with the bake of a service for this traffic, with the bake that would do; empty: nothing."""
    share = min(service.batch, service.replicas) / max(service.replicas, 1)
    return _warnings(service.checks, service.policy, service.bake_seconds, share, traffic)


def rollout_warnings(rollout: Rollout, traffic: ObservedTraffic) -> list[str]:
    """The same for the first analysed step in which the new release works."""
    step = next((step for step in rollout.plan if step.gate.analyzed and step.serving.get(rollout.new)), None)
    if step is None:
        return []
    share = step.serving[rollout.new] / sum(step.serving.values()) if step.share is None else step.share
    return _warnings(rollout.checks, rollout.policy, step.gate.bake_seconds, share, traffic)


def _warnings(checks: Sequence[Check], policy: Policy, bake: float, share: float, traffic: ObservedTraffic) -> list[str]:
    """`share`: of the requests, for the new release."""
    needed: list[tuple[float, str]] = []
    if needs_counters(checks):
        interval = max(policy.interval_seconds, traffic.scrape_seconds)
        scrapes = f"the proxy is scraped every {traffic.scrape_seconds:.3g} s"
        needed.append((_bake_for(policy, bake, (MIN_INTERVALS + PARTIAL_INTERVALS) * interval), scrapes))
        requests = max(check.min_samples for check in checks if needs_counters([check]))
        fewer = traffic.requests_per_second * (min(share, 1.0 - share) if share < 1.0 else 1.0)
        seconds = requests / fewer if fewer * MAX_BAKE_SECONDS > requests else MAX_BAKE_SECONDS
        rate = f"one release gets {60 * fewer:.3g} requests a minute, at least {requests} are needed"
        needed.append((_bake_for(policy, bake, seconds), rate))
    if any(check.kind is CheckKind.MEMORY for check in checks):
        seconds = MEMORY_SECONDS + MEMORY_WARMUPS * policy.warmup_seconds
        longer = MEMORY_SECONDS / (1 - MEMORY_WARMUPS * WARMUP_SHARE) if _has_default_warmup(policy, bake) else seconds
        needed.append((longer, "a leak of memory has to show"))
    if any(check.kind is CheckKind.QUERY and not check.is_limit for check in checks):
        needed.append((QUERY_SECONDS, "queries are compared in blocks of 30 s"))
    return [_message(bake, seconds, reason) for seconds, reason in needed if bake < seconds - 1e-9]


def _has_default_warmup(policy: Policy, bake: float) -> bool:
    return policy.warmup_seconds == min(WARMUP_SECONDS, bake * WARMUP_SHARE)


def _bake_for(policy: Policy, bake: float, seconds: float) -> float:
    """The bake that leaves so many seconds after the warm-up, which by default grows with the bake."""
    if not _has_default_warmup(policy, bake):
        return policy.warmup_seconds + seconds
    return min(seconds / (1 - WARMUP_SHARE), seconds + WARMUP_SECONDS)


def _message(bake: float, needed: float, reason: str) -> str:
    if needed >= MAX_BAKE_SECONDS:
        return f"No bake is long enough for a verdict: {reason}"
    enough = 5 * math.ceil(needed / 5 - 1e-9)
    return (
        f"A bake of {bake:g} s is too short for a verdict, so it will be extended: {reason};"
        f" set `bake: {enough}s` or longer"
    )
