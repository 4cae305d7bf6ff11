"""No PASS that could not have been a FAIL: short bakes, values beyond the limit, memory that grows."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from support.measurements import (
    ERRORS,
    NEW,
    OLD,
    ORIGIN,
    Bake,
    FakeMetricsSource,
    Rates,
    measure,
    rollout_of,
    run_traffic,
    server_of,
    with_policy,
)
from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.verdict import Outcome, Reason, Verdict
from tidegate.core.model import Check, CheckKind

SERVERS = [*(server_of(OLD, n) for n in range(4)), *(server_of(NEW, n) for n in range(2))]


def steady(old: float, new: float, *, shock: tuple[float, float] = (0.0, 0.0)) -> Rates:
    """Rates of failed requests at 50 requests/s per server; a shared `shock` from and until."""
    chance = random.Random(2)

    def rates(server: str, at: float) -> tuple[float, float]:
        share = new if server.startswith(NEW) else old
        share += 0.3 if shock[0] <= at - ORIGIN < shock[1] else 0.0
        return 50.0, sum(chance.random() < share for _ in range(250)) / 5.0

    return rates


def verdicts_of(rates: Rates, seconds: float = 180.0) -> list[Verdict]:
    """All verdicts of a bake."""
    analysis = CanaryAnalysis(rollout_of(ERRORS, policy=with_policy(interval_seconds=5.0)), ORIGIN)
    return run_traffic(analysis, FakeMetricsSource(), SERVERS, rates, seconds)[1]


@pytest.mark.parametrize("olds", [1, 4])
@pytest.mark.parametrize("bake", [Bake(new_share=1.0), Bake(seconds=30.0, new_share=1.0), Bake(seconds=30.0, scrape=5.0)])
def test_a_bake_that_is_too_short_for_the_scrapes_passes_no_outage(olds: int, bake: Bake) -> None:
    """Seen: a release that failed every request passed, since two intervals of 15 s cannot reach the threshold."""
    bad = replace(bake, olds=olds, new_share=max(bake.new_share, 0.1), rps=10.0)
    assert {bad.ends(seed)[0].outcome for seed in range(4)} == {Outcome.FAIL}
    good = [replace(bad, new_share=bake.old_share).ends(seed) for seed in range(4)]
    assert {verdict.outcome for verdict, _ in good} == {Outcome.PASS}
    assert max(extensions for _, extensions in good) <= 2


def test_a_bake_that_is_long_enough_is_not_extended() -> None:
    ends = [Bake(seconds=150.0).ends(seed) for seed in range(4)]
    assert [(verdict.outcome, extensions) for verdict, extensions in ends] == [(Outcome.PASS, 0)] * 4


def test_too_few_intervals_are_no_verdict_yet_and_say_how_many_are_missing() -> None:
    verdict, _ = Bake(extensions=0).ends(0)
    assert (verdict.outcome, verdict.findings[0].reason) == (Outcome.INCONCLUSIVE, Reason.FEW_DATA)
    assert re.search(r"; \d of at least 4 intervals of 15 s compared; needs about \d+ s more$", verdict.message)
    early = verdicts_of(steady(0.0, 0.0), 20.0)[-2]
    assert early.message.startswith("No verdict yet: errors: ")


def test_nothing_beyond_its_limit_passes_early_or_at_the_end() -> None:
    for share in (0.01, 0.015, 0.02, 0.03):
        for verdict in verdicts_of(steady(0.01, share)):
            finding = verdict.findings[0]
            if verdict.outcome is Outcome.PASS:
                assert (finding.candidate or 0.0) <= (finding.limit or 0.0)


def test_a_rate_that_hosts_rarely_explain_does_not_pass() -> None:
    """Seen: PASS at 20.9 % against 7.96 %, since one instance of three may have three times the errors by its host."""
    bake = Bake(olds=2, seconds=60.0, scrape=5.0, rps=20.0, old_share=0.0796, new_share=0.209)
    ends = [bake.ends(seed)[0] for seed in range(3)]
    assert Outcome.PASS not in {verdict.outcome for verdict in ends}
    texts = " ".join(verdict.message for verdict in ends)
    assert "which differences between hosts rarely explain" in texts or "beyond the limit" in texts


def test_both_rates_are_of_the_same_time() -> None:
    """A shared outage after the warm-up is as bad on both sides, though the old release was there before it."""
    policy = with_policy(interval_seconds=5.0, warmup_seconds=60.0)
    analysis = CanaryAnalysis(rollout_of(ERRORS, policy=policy), ORIGIN)
    rates = steady(0.01, 0.01, shock=(65.0, 80.0))
    finding = run_traffic(analysis, FakeMetricsSource(), SERVERS, rates, 180.0)[1][-1].findings[0]
    assert finding.baseline == pytest.approx(finding.candidate or 0.0, rel=0.15)


def test_the_test_at_the_end_of_a_batch_waits_for_the_real_end() -> None:
    """Taken at an end that is extended, it would be spent on too little data."""
    chance = random.Random(3)

    def rates(server: str, at: float) -> tuple[float, float]:
        share = 0.05 if server.startswith(NEW) else 0.01
        return 8.0, sum(chance.random() < share for _ in range(40)) / 5.0

    analysis, source = (
        CanaryAnalysis(rollout_of(ERRORS, policy=with_policy(warmup_seconds=10.0)), ORIGIN),
        FakeMetricsSource(),
    )
    measurements, _ = run_traffic(analysis, source, SERVERS, rates, 60.0, until_fail=False)
    tests: dict[bool, bool] = {}
    for extendable in (True, False):
        analysis = CanaryAnalysis(rollout_of(ERRORS, policy=with_policy(warmup_seconds=10.0)), ORIGIN)
        for number, measurement in enumerate(measurements, start=1):
            end = number in (5, len(measurements))  # two intervals are compared at the first end, all at the last
            verdict = analysis.add(replace(measurement, final=end, extendable=extendable and number == 5))
        tests[extendable] = verdict.findings[0].blamed_part == "batch-end test"
    assert tests == {True: True, False: False}


# -- memory ---------------------------------------------------------------------------------------------------------------

MEBIBYTE = 2.0**20
MEMORY = Check("memory", CheckKind.MEMORY, "memory", maximum=256 * MEBIBYTE)


def memory_end(bake_seconds: float, scrape: float, leak: float) -> Verdict:
    """The verdict that ends a bake of one instance, which fills a cache to half of its limit and leaks `leak` bytes/s,
    against four old ones."""
    policy = with_policy(interval_seconds=5.0, warmup_seconds=bake_seconds / 3)
    analysis, source, extended = CanaryAnalysis(rollout_of(MEMORY, policy=policy), ORIGIN), FakeMetricsSource(), 0
    chance = random.Random(1)
    for number in range(1, 1000):
        at = ORIGIN + 5.0 * number
        if at % scrape == 0:
            for ordinal in range(5):
                release, age = (NEW, at - ORIGIN) if ordinal == 4 else (OLD, 1e4)
                cache = 0.5 - 0.3 * 2.718 ** (-age / 20.0)
                value = 256 * MEBIBYTE * (cache + chance.gauss(0, 0.005)) + (leak * age if release == NEW else 0.0)
                source.add(at, {"release": release, "ordinal": str(ordinal)}, value)
        final = at >= ORIGIN + bake_seconds * (1 + extended)
        verdict = analysis.add(replace(measure(analysis, source, at, final=final), extendable=extended < 2))
        if verdict.outcome is Outcome.FAIL or (final and (verdict.outcome is Outcome.PASS or extended == 2)):
            break
        extended += final
    return verdict


@pytest.mark.parametrize("scrape", [5.0, 15.0])
@pytest.mark.parametrize("bake_seconds", [60.0, 120.0, 180.0])
def test_a_leak_passes_no_bake_for_being_short(bake_seconds: float, scrape: float) -> None:
    """Seen: 1 MB/s passed each bake up to 3 min, since the check began after three warm-ups, the whole bake by default."""
    assert memory_end(bake_seconds, scrape, 1e6).outcome is Outcome.FAIL
    assert memory_end(bake_seconds, scrape, 0.0).outcome is Outcome.PASS
