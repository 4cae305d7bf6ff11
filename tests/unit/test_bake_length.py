"""Which bakes are too short for how often a proxy is scraped and for the traffic, and which would do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from support.measurements import Bake
from support.plans import NEW, OLD, SERVICE
from tidegate.analysis.bake_length import (
    ObservedTraffic,
    bake_warnings,
    observe_traffic,
    rollout_warnings,
    traffic_query,
)
from tidegate.analysis.queries import RESPONSES, Series
from tidegate.analysis.verdict import Outcome
from tidegate.cli.server import check_bake
from tidegate.clock import Window
from tidegate.core import planner
from tidegate.core.model import Check, CheckKind, Policy, Rollout
from tidegate.errors import MetricsError
from tidegate.ports import CheckStatus, Diagnosis

BUSY = ObservedTraffic(5.0, 100.0)


def advice(bake: float, warmup: float | None, traffic: ObservedTraffic, *checks: Check) -> list[int]:
    """The bakes that are advised for a service of five replicas, one by one; without a warm-up, the default."""
    policy = Policy(warmup_seconds=min(60.0, bake / 3) if warmup is None else warmup)
    service = replace(SERVICE, batch=1, bake_seconds=bake, policy=policy, checks=checks or SERVICE.checks)
    texts = bake_warnings(service, traffic)
    return [int(found[1]) for text in texts if (found := re.search(r"set `bake: (\d+)s` or longer$", text))]


@pytest.mark.parametrize(
    ("bake", "warmup", "scrape", "enough"),
    [
        (60.0, None, 15.0, [135]),
        (30.0, None, 5.0, [45]),
        (45.0, None, 5.0, []),
        (60.0, 30.0, 15.0, [120]),
        (135.0, None, 15.0, []),
        (180.0, None, 30.0, [240]),
    ],
)
def test_enough_scrapes(bake: float, warmup: float | None, scrape: float, enough: list[int]) -> None:
    assert advice(bake, warmup, ObservedTraffic(scrape, 100.0)) == enough


@pytest.mark.parametrize(("bake", "scrape"), [(45.0, 5.0), (135.0, 15.0)])
def test_what_is_advised_is_not_extended(bake: float, scrape: float) -> None:
    """Seen by the analysis itself, with scrapes at any time relative to the shift of the traffic."""
    ends = [Bake(seconds=bake, scrape=scrape, rps=10.0, old_share=0.0, new_share=0.0).ends(seed) for seed in range(8)]
    assert {(verdict.outcome, extensions) for verdict, extensions in ends} == {(Outcome.PASS, 0)}


def test_enough_requests() -> None:
    assert advice(60.0, None, ObservedTraffic(5.0, 5.0)) == [75], "50 requests at one a second"
    text = bake_warnings(replace(SERVICE, batch=1), ObservedTraffic(5.0, 0.0))[-1]
    assert text.startswith("No bake is long enough for a verdict: one release gets 0 requests a minute, at least 50")


def test_memory_and_compared_queries_need_more() -> None:
    assert advice(120.0, None, BUSY, Check("memory", CheckKind.MEMORY)) == [180]
    assert advice(100.0, 20.0, BUSY, Check("memory", CheckKind.MEMORY)) == [120]
    assert advice(60.0, None, BUSY, Check("own", CheckKind.QUERY, "q")) == [120]
    assert advice(10.0, None, BUSY, Check("limit", CheckKind.QUERY, "q", maximum=1.0)) == []


def test_a_rollout_is_warned_of_its_first_batch() -> None:
    service = replace(SERVICE, batch=1, policy=Policy(warmup_seconds=20.0))
    rollout = Rollout(
        "r", service.key, "a", "b", planner.make_plan(service, OLD, NEW), service.backend, 0.0,
        checks=service.checks, policy=service.policy,
    )  # fmt: skip
    assert rollout_warnings(rollout, BUSY) == []
    assert rollout_warnings(rollout, ObservedTraffic(15.0, 100.0)) == bake_warnings(service, ObservedTraffic(15.0, 100.0))
    first = replace(rollout, old=None, plan=planner.make_plan(service, None, NEW))
    assert rollout_warnings(first, ObservedTraffic(15.0, 100.0)) == [], "a first deploy compares nothing"


class EachFifteenSeconds:
    """A metrics source with four servers that answer 15 requests a second each, scraped every 15 s; or one that is down."""

    def __init__(self, error: MetricsError | None = None) -> None:
        self.error = error

    def fetch(self, query: str, window: Window, step_seconds: float = 0.0) -> tuple[Series, ...]:
        if self.error is not None:
            raise self.error
        samples = tuple((window.start + 15.0 * n, 225.0 * n) for n in range(20))
        return tuple(Series({"server": f"v1.{n}.abc"}, samples) for n in range(4))

    def check(self) -> tuple[Diagnosis, ...]:
        return ()


def test_check_warns_of_each_bake_that_is_too_short() -> None:
    service = replace(SERVICE, policy=Policy(warmup_seconds=20.0))
    (warning,) = check_bake(service, EachFifteenSeconds(), 1000.0)
    assert (warning.part, warning.status) == ("bake of shop", CheckStatus.WARNING)
    assert "the proxy is scraped every 15 s; set `bake: 135s` or longer" in warning.result
    assert list(check_bake(replace(service, bake_seconds=135.0), EachFifteenSeconds(), 1000.0)) == []
    assert list(check_bake(service, EachFifteenSeconds(MetricsError("down", reason="source-down")), 1000.0)) == []


def test_traffic_is_read_from_raw_counters() -> None:
    labels = {"__name__": RESPONSES, "proxy": "shop", "server": "v1.0.abc", "code": "2xx", "job": "haproxy"}
    series = [
        Series({**labels, "code": code}, tuple((15.0 * n, start + 30.0 * n) for n in range(5)))
        for code, start in (("2xx", 1000.0), ("5xx", 0.0))
    ]
    assert observe_traffic(series) == ObservedTraffic(15.0, 4.0)
    assert observe_traffic([Series(labels, ((0.0, 1.0),))]) is None
    query, window = traffic_query("shop", 1000.0)
    assert (query.endswith('proxy="shop"}'), window.seconds) == (True, 300.0)
