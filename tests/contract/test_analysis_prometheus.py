"""The analysis of a real Prometheus: whatever happens to counters, scrapes and the source, each request counts once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.measurements import ERRORS, NEW, OLD, server_of
from support.prometheus import SCRAPE_SECONDS, AnalysisHarness, Exporter, Prometheus, has_counted, metrics_of, started
from support.wait import at_most
from tidegate.analysis.bake_length import observe_traffic, traffic_query
from tidegate.analysis.queries import RESPONSES
from tidegate.analysis.verdict import Finding, Outcome, Reason
from tidegate.core.model import Check

A, B, N = server_of(OLD), server_of(OLD, 1), server_of(NEW)
NAN, INF = float("nan"), float("inf")
MAX_SCRAPES = 60  # until an outage fails; about eight on an idle machine
WARMUP_SECONDS = 6.0  # ten times what two scrapes take
Counts = Mapping[str, tuple[float, float]]  # by server: answers with 2xx, with 5xx


@dataclass
class CounterExporters:
    """One exporter, scraped by `plain` and by `other`, which tests stop; by `twice` in two jobs; `both` reads the first
    two."""

    exporter: Exporter
    plain: Prometheus
    other: Prometheus
    twice: Prometheus
    both: Prometheus

    def show(self, bake: AnalysisHarness, counts: Counts | None) -> None:
        """Let the bake's Prometheus scrape this; None: let a scrape fail."""
        self.exporter.down = counts is None
        if counts is not None:
            self.exporter.text = text(bake.proxy, counts)
        bake.scraped(well=counts is not None)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CounterExporters]:
    """All started together: Prometheus waits 5 s before its first scrape."""

    def home() -> Path:
        return tmp_path_factory.mktemp("prometheus")

    exporter = Exporter()
    target = exporter.address
    plain = Prometheus(home(), {"haproxy": target}, external={"replica": "a"})
    other = Prometheus(home(), {"haproxy": target}, external={"replica": "b"})
    twice = Prometheus(home(), {"haproxy": target, "again": target})
    both = Prometheus(home(), {}, remote=[plain.url, other.url])
    try:
        with started(plain, other, twice, both):
            yield CounterExporters(exporter, plain, other, twice, both)
    finally:
        exporter.close()


@pytest.fixture
def farm(servers: CounterExporters) -> CounterExporters:
    servers.exporter.down, servers.exporter.text = False, ""
    return servers


@pytest.fixture
def bakes() -> Iterator[Callable[..., AnalysisHarness]]:
    """Makes harnesses; at the end a replay of the saved measurements must give the same verdicts."""
    made: list[AnalysisHarness] = []

    def make(source: Prometheus, *checks: Check, **policy: float) -> AnalysisHarness:
        made.append(AnalysisHarness(metrics_of(source.url), *checks or (ERRORS,), **policy))
        return made[-1]

    yield make
    for harness in made:
        assert repr(harness.replayed()) == repr(harness.verdicts)


def text(proxy: str, counts: Counts) -> str:
    """As HAProxy's exporter shows it."""
    return "".join(
        f'{RESPONSES}{{proxy="{proxy}",server="{server}",code="{code}"}} {value}\n'
        for server, values in counts.items()
        for code, value in zip(("2xx", "5xx"), values, strict=True)
    )


class SteadyTraffic:
    """What each server answers between two reads of the exporter."""

    def __init__(self, proxy: str, each: Counts) -> None:
        self._proxy, self._each = proxy, each
        self.counts = dict.fromkeys(each, (0.0, 0.0))

    def __call__(self) -> str:
        for server, (good, bad) in self._each.items():
            before = self.counts[server]
            self.counts[server] = (before[0] + good, before[1] + bad)
        return text(self._proxy, self.counts)


def counted(found: Finding) -> tuple[float | None, float | None, float | None, float | None]:
    """Requests to the new release, their failed share; the old one's."""
    return found.candidate_count, found.candidate, found.baseline_count, found.baseline


# -- counters ----------------------------------------------------------------------------------------------------------

#: Scrapes before and after the new release takes traffic, and the expected counts of the analysis: requests and failed
#: ones to the new release, the same to the old one. None is a scrape that fails.
SCENARIOS: dict[str, tuple[Counts, list[Counts | None], tuple[float, float, float, float]]] = {
    "a new server counts from its first request": (
        {A: (1000, 10)}, [{A: (1100, 12), N: (160, 40)}, {A: (1200, 14), N: (160, 40)}], (200, 40, 204, 4),
    ),
    "numbers that are none": (
        {A: (1000, 0)},
        [
            {A: (1100, 1), N: (60, 1)}, {A: (NAN, 1), N: (NAN, NAN)}, {A: (INF, 1), N: (INF, 2)},
            {A: (-INF, 2), N: (70, INF)}, {A: (1200, 2), N: (100, 3)},
        ],
        (103, 3, 202, 2),
    ),
    "an old server's first value is none": (
        {A: (NAN, INF), B: (50, 0)}, [{A: (NAN, NAN), B: (50, 0)}, {A: (7000, 700), B: (50, 0)},
                                      {A: (7100, 700), B: (100, 0), N: (80, 0)}], (80, 0, 150, 0),
    ),
    "a new server's first value is none": (
        {A: (1000, 0)}, [{A: (1050, 0), N: (NAN, NAN)}, {A: (1100, 0), N: (80, 20)}], (100, 20, 100, 0),
    ),
    "the proxy was restarted": (
        {A: (1000, 10)}, [{A: (1100, 10), N: (80, 8)}, {A: (30, 1), N: (20, 2)}, {A: (60, 1), N: (40, 2)}],
        (130, 10, 161, 1),
    ),
    "the proxy was restarted between scrapes that failed": (
        {A: (1000, 10)}, [{A: (1100, 10), N: (80, 8)}, None, {A: (30, 1), N: (60, 2)}], (150, 10, 131, 1),
    ),
    "a server went and came back": (
        {A: (1000, 0)}, [{A: (1100, 0), N: (50, 5)}, {A: (1150, 0)}, {A: (1200, 0), N: (70, 10)}], (135, 15, 200, 0),
    ),
    "a server was deleted": (
        {A: (1000, 0), B: (1000, 0)}, [{A: (1080, 0), B: (1020, 0), N: (90, 0)}, {A: (1090, 0), N: (95, 5)}],
        (100, 5, 110, 0),
    ),
    "scrapes failed": (
        {A: (1000, 0)}, [{A: (1100, 0), N: (60, 1)}, None, None, None, {A: (1400, 4), N: (360, 31)}], (391, 31, 404, 4),
    ),
    "scrapes failed from the beginning": (
        {A: (1000, 0)}, [None, None, {A: (1400, 4), N: (360, 31)}], (391, 31, 404, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_request_counts_once(bakes: Callable[..., AnalysisHarness], farm: CounterExporters, scenario: str) -> None:
    before, after, (requests, failed, old, old_failed) = SCENARIOS[scenario]
    bake = bakes(farm.plain)
    farm.show(bake, before)
    bake.begin()
    for counts in after:
        farm.show(bake, counts)
        bake.measure(final=False)
        bake.take_over()
    found = bake.settled()["errors"]
    assert counted(found) == (requests, pytest.approx(failed / requests), old, pytest.approx(old_failed / old))
    assert has_counted(found)
    assert counted(bake.measure()["errors"]) == counted(found)


def test_what_warms_up_is_not_compared_yet(bakes: Callable[..., AnalysisHarness], farm: CounterExporters) -> None:
    bake = bakes(farm.plain, warmup_seconds=WARMUP_SECONDS)
    farm.show(bake, {A: (1000, 0)})
    bake.begin()
    farm.show(bake, {A: (1100, 0), N: (0, 50)})
    cold = bake.settled()["errors"]
    assert (cold.reason, cold.candidate_count) == (Reason.FEW_DATA, 0)
    bake.scraped(WARMUP_SECONDS)
    farm.show(bake, {A: (1200, 0), N: (80, 50)})
    warm = bake.settled()["errors"]
    assert (warm.candidate_count, warm.candidate) == (80, 0.0)
    assert 0 < (warm.baseline_count or 0) <= 200, "of the same time"


@pytest.mark.parametrize("source", ["twice", "both"])
def test_what_is_scraped_twice_is_evidence_once(
    bakes: Callable[..., AnalysisHarness], farm: CounterExporters, source: str
) -> None:
    bake, single = bakes(getattr(farm, source)), bakes(farm.plain)
    single.proxy, single.rollout = bake.proxy, bake.rollout
    farm.show(bake, {A: (0, 0)})
    for harness in (bake, single):
        harness.scraped()
        harness.begin()
    farm.exporter.text = traffic = SteadyTraffic(bake.proxy, {A: (10, 0), N: (9, 0.2)})
    for _ in range(10):
        bake.scraped()
        assert bake.measure(final=False)["errors"].outcome != Outcome.FAIL
    farm.exporter.text = text(bake.proxy, traffic.counts)
    for harness in (bake, single):
        harness.scraped()
    found, alone = bake.settled()["errors"], single.settled()["errors"]
    good, bad = traffic.counts[N]
    assert counted(found) == pytest.approx((good + bad, bad / (good + bad), traffic.counts[A][0], 0.0))
    assert counted(alone) == pytest.approx(counted(found))
    assert found.evidence is not None
    assert alone.evidence is not None
    assert math.log(found.evidence) == pytest.approx(math.log(alone.evidence), abs=1.5)


def test_scrapes_and_traffic_are_observed_for_advice_on_the_bake(
    bakes: Callable[..., AnalysisHarness], farm: CounterExporters
) -> None:
    bake = bakes(farm.plain)
    farm.exporter.text = SteadyTraffic(bake.proxy, {A: (40, 2), B: (40, 0)})
    for _ in range(4):
        bake.scraped()
    traffic = observe_traffic(bake.metrics.fetch(*traffic_query(bake.proxy, time.time())))
    assert traffic is not None
    assert traffic.scrape_seconds > 0.5 * SCRAPE_SECONDS
    assert 0 < traffic.requests_per_second <= 2 * 4 * 82 / SCRAPE_SECONDS, "four jobs read the exporter"
    assert observe_traffic(bake.metrics.fetch(*traffic_query("unknown", time.time()))) is None


# -- the source --------------------------------------------------------------------------------------------------------


def test_a_prometheus_that_was_stopped_is_no_pass_and_nothing_it_scraped_is_lost(
    bakes: Callable[..., AnalysisHarness], farm: CounterExporters
) -> None:
    bake = bakes(farm.other)
    farm.show(bake, {A: (1000, 0)})
    bake.begin()
    farm.show(bake, {A: (1100, 0), N: (90, 0)})
    assert has_counted(bake.settled()["errors"])
    farm.show(bake, {A: (1200, 0), N: (140, 10)})  # scraped, and not looked at before
    farm.other.stop()
    farm.exporter.text = text(bake.proxy, {A: (20, 0), N: (20, 1)})  # the proxy was restarted meanwhile
    for final in (False, True):
        found = bake.measure(final=final)["errors"]
        assert (found.reason, found.outcome, bake.outcome) == (Reason.SOURCE_DOWN, "INCONCLUSIVE", "INCONCLUSIVE")
        assert "refused" in found.message
    bake.take_over()
    farm.other.start()
    again = bake.settled()["errors"]
    assert counted(again) == (171, pytest.approx(11 / 171), 220, 0.0)
    assert has_counted(again)


def test_a_prometheus_that_does_not_answer_is_a_timeout_and_catches_up(
    bakes: Callable[..., AnalysisHarness], farm: CounterExporters
) -> None:
    bake = bakes(farm.other)
    farm.show(bake, {A: (1000, 0)})
    bake.begin()
    farm.show(bake, {A: (1100, 0), N: (90, 0)})
    assert has_counted(bake.settled()["errors"])
    with farm.other.held():
        farm.exporter.text = text(bake.proxy, {A: (1200, 0), N: (150, 0)})
        patient, bake.metrics = bake.metrics, metrics_of(farm.other.url, 0.7)
        with at_most(60, "giving up"):
            found = bake.measure()["errors"]
        assert (found.reason, bake.outcome) == (Reason.TIMEOUT, "INCONCLUSIVE")
        bake.metrics = patient
    found = bake.settled()["errors"]
    assert (counted(found), has_counted(found)) == ((150, 0.0, 200, 0.0), True)


def test_a_partial_answer_is_no_answer(bakes: Callable[..., AnalysisHarness], farm: CounterExporters) -> None:
    bake = bakes(farm.both)
    farm.show(bake, {A: (1000, 0)})
    bake.begin()
    farm.show(bake, {A: (1100, 0), N: (90, 0)})
    assert has_counted(bake.settled()["errors"])
    with farm.other.held():
        farm.exporter.text = text(bake.proxy, {A: (1300, 0), N: (250, 0)})
        bakes(farm.plain).scraped()
        found = bake.measure()["errors"]
        assert (found.reason, found.outcome, bake.outcome) == (Reason.PARTIAL, "INCONCLUSIVE", "INCONCLUSIVE")
        assert "remote_read" in found.message
    found = bake.settled()["errors"]
    assert (counted(found), has_counted(found)) == ((250, 0.0, 300, 0.0), True)


def test_old_samples_are_stale(bakes: Callable[..., AnalysisHarness], farm: CounterExporters) -> None:
    """The clock goes ahead instead of waiting: nothing is scraped either way."""
    bake = bakes(farm.plain)
    farm.show(bake, {A: (1000, 0)})
    bake.begin()
    farm.show(bake, {A: (1100, 0), N: (90, 0)})
    assert has_counted(bake.settled()["errors"])
    farm.show(bake, None)
    bake.ahead = 20.0
    assert has_counted(bake.measure()["errors"])
    bake.ahead = 32.0
    found = bake.measure()["errors"]
    assert (found.reason, found.outcome, bake.outcome) == (Reason.STALE, "INCONCLUSIVE", "INCONCLUSIVE")


def test_a_release_that_the_metrics_do_not_know_is_no_data(
    bakes: Callable[..., AnalysisHarness], farm: CounterExporters
) -> None:
    bake = bakes(farm.plain)
    farm.show(bake, {})
    bake.begin()
    for counts, missing in (({}, OLD), ({A: (1000, 0)}, NEW)):
        farm.show(bake, counts)
        found = bake.settled()["errors"]
        assert (found.reason, bake.outcome) == (Reason.NO_DATA, "INCONCLUSIVE")
        assert missing in found.message


def test_many_servers_are_counted_within_a_look(bakes: Callable[..., AnalysisHarness], farm: CounterExporters) -> None:
    bake, old, new = bakes(farm.plain), [server_of(OLD, n) for n in range(200)], [server_of(NEW, n) for n in range(100)]
    farm.show(bake, dict.fromkeys(old, (1000, 0)))
    bake.begin()
    for number in range(1, 4):
        farm.show(bake, dict.fromkeys(old, (1000 + number, 0)) | dict.fromkeys(new, (number, 0)))
    bake.scraped(0.5)
    with at_most(60, "a measurement of 300 servers"):
        found = bake.measure()["errors"]
    assert (counted(found), has_counted(found)) == ((300, 0.0, 600, 0.0), True)


def test_a_bake_of_few_scrapes_passes_no_outage(bakes: Callable[..., AnalysisHarness], farm: CounterExporters) -> None:
    """Seen with `bake: 60s` and a scrape interval of 15 s, here shorter: every request fails, and the bake passes."""
    bake = bakes(farm.plain, interval_seconds=SCRAPE_SECONDS)
    farm.show(bake, {A: (1000, 0)})
    bake.begin()
    farm.exporter.text = SteadyTraffic(bake.proxy, {A: (40, 0), N: (0, 40)})
    for _ in range(MAX_SCRAPES):
        bake.scraped()
        found = bake.measure()["errors"]
        assert found.outcome is not Outcome.PASS
        if found.outcome is Outcome.FAIL:
            break
    assert (bake.outcome, found.candidate) == ("FAIL", 1.0)
    assert bake.verdicts[0].outcome is Outcome.INCONCLUSIVE
