"""Verdicts of a rollout: FAIL with the reason, PASS with the minimum detectable rate, and never PASS without data."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from support.measurements import (
    ERRORS,
    LATENCY,
    NEW,
    OLD,
    ORIGIN,
    FakeMetricsSource,
    Rates,
    measure,
    rollout_of,
    run_traffic,
    server_of,
    with_policy,
)
from tidegate.analysis import messages
from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.measurement import InstanceSample
from tidegate.analysis.queries import Query, QueryFailure, QueryPurpose, QueryResult, Series
from tidegate.analysis.verdict import Finding, Outcome, Reason, Verdict
from tidegate.core.model import Check, CheckKind, Direction

OLDS = [server_of(OLD, n) for n in range(4)]
NEWS = [server_of(NEW, n) for n in range(2)]
SERVERS = [*OLDS, *NEWS]


def steady(old: float, new: float, *, only: str = "", shock: tuple[float, float] = (0.0, 0.0)) -> Rates:
    """Rates of failed requests at 50 requests/s per server; `only` this server is bad; a shared `shock` from and until."""
    chance = random.Random(2)

    def rates(server: str, at: float) -> tuple[float, float]:
        share = new if server.startswith(NEW) and only in ("", server) else old
        share += 0.3 if shock[0] <= at - ORIGIN < shock[1] else 0.0
        return 50.0, sum(chance.random() < share for _ in range(250)) / 5.0

    return rates


def verdicts_of(rates: Rates, seconds: float = 180.0, *checks: Check) -> tuple[list[Verdict], Finding]:
    """All verdicts, and the first finding of the last one."""
    analysis = CanaryAnalysis(rollout_of(*(checks or (ERRORS,)), policy=with_policy(interval_seconds=5.0)), ORIGIN)
    _, verdicts = run_traffic(analysis, FakeMetricsSource(), SERVERS, rates, seconds)
    return verdicts, verdicts[-1].findings[0]


def test_five_times_the_errors_fail() -> None:
    verdicts, finding = verdicts_of(steady(0.01, 0.05))
    assert verdicts[-1].outcome is Outcome.FAIL
    assert not verdicts[-1].final, "before the bake is over"
    assert (finding.reason, finding.blamed_part) == (Reason.WORSE, "all instances")
    assert (finding.ratio_low or 0.0) > 1.5
    assert verdicts[-1].evidence is not None
    assert verdicts[-1].threshold_reached_at == verdicts[-1].at
    old, new = (f"{{:.3g}} % ({{:,.0f}} of {{:,.0f}} requests) on {release}" for release in (OLD, NEW))
    bad, old_bad = (
        (finding.candidate or 0.0) * (finding.candidate_count or 0.0),
        (finding.baseline or 0.0) * (finding.baseline_count or 0.0),
    )
    shown = new.format(100 * (finding.candidate or 0.0), bad, finding.candidate_count)
    shown_old = old.format(100 * (finding.baseline or 0.0), old_bad, finding.baseline_count)
    assert verdicts[-1].message.startswith(f"FAIL: errors: error rate {shown} vs {shown_old}; limit ")
    assert verdicts[-1].message.endswith("; across all its instances")


def test_equal_error_rates_pass_with_a_minimum_detectable_rate() -> None:
    verdicts, finding = verdicts_of(steady(0.01, 0.01))
    assert {verdict.outcome for verdict in verdicts} == {Outcome.PASS, Outcome.INCONCLUSIVE}
    assert (verdicts[-1].outcome, verdicts[-1].final, finding.reason) == (Outcome.PASS, True, Reason.OK)
    assert (finding.ratio_low or 9.0) < 1.0 < (finding.ratio_high or 0.0) < 3.0
    assert 1.0 < (finding.min_detectable_ratio or 0.0) < 5.0
    assert finding.harm_ruled_out
    assert "; minimum detectable rate " in finding.message
    assert finding.message.endswith(" %; harm ruled out")


def test_a_shared_shock_fails_no_release() -> None:
    verdicts, _ = verdicts_of(steady(0.01, 0.01, shock=(60.0, 100.0)))
    assert verdicts[-1].outcome is Outcome.PASS


def test_a_baseline_disturbed_most_of_the_time_is_inconclusive() -> None:
    verdicts, finding = verdicts_of(steady(0.01, 0.01, shock=(60.0, 180.0)))
    assert (verdicts[-1].outcome, finding.reason) == (Outcome.INCONCLUSIVE, Reason.FEW_DATA)
    assert f"{OLD} itself was disturbed" in finding.message


def test_one_bad_instance_is_named() -> None:
    verdicts, finding = verdicts_of(steady(0.01, 0.3, only=NEWS[1]))
    assert verdicts[-1].outcome is Outcome.FAIL
    assert finding.blamed_part == f"instance {NEW}/1"


def test_a_catastrophe_does_not_wait_for_the_warm_up() -> None:
    analysis = CanaryAnalysis(rollout_of(ERRORS, policy=with_policy(warmup_seconds=120.0)), ORIGIN)
    _, verdicts = run_traffic(analysis, FakeMetricsSource(), SERVERS, steady(0.005, 0.9), 115.0)
    assert verdicts[-1].outcome is Outcome.FAIL
    assert verdicts[-1].findings[0].blamed_part == "warm-up"


# -- unknown is never good ------------------------------------------------------------------------------------------------


def at_the_end(source: FakeMetricsSource, seconds: float = 60.0, check: Check = ERRORS, **changes: int) -> Verdict:
    """The last verdict, when the source answered as it did all the time."""
    analysis = CanaryAnalysis(rollout_of(check), ORIGIN)
    verdict = None
    for number in range(1, int(seconds / 5) + 1):
        at = ORIGIN + 5.0 * number
        verdict = analysis.add(measure(analysis, source, at, final=at >= ORIGIN + seconds, **changes))
    assert verdict is not None
    return verdict


def scraped(servers: list[str], until: float = 60.0, each: float = 50.0) -> FakeMetricsSource:
    source = FakeMetricsSource()
    for number in range(-1, int(until / 5) + 1):
        source.scrape(ORIGIN + 5.0 * number, dict.fromkeys(servers, (each * 5 * (number + 2), 0.0)))
    return source


@pytest.mark.parametrize(
    ("source", "reason", "text"),
    [
        (FakeMetricsSource(), Reason.NO_DATA, "no series"),
        (scraped(OLDS), Reason.NO_DATA, f"no series for {NEW}"),
        (scraped(SERVERS, until=20.0), Reason.STALE, "the newest sample is 40 s old"),
        (scraped(SERVERS, each=0.2), Reason.FEW_DATA, "at least 50 needed"),
        (FakeMetricsSource(down=QueryFailure(Reason.TIMEOUT, "no answer in 5 s")), Reason.TIMEOUT, "no answer in 5 s"),
    ],
)
def test_each_missing_result_has_its_reason(source: FakeMetricsSource, reason: Reason, text: str) -> None:
    verdict = at_the_end(source)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.findings[0].reason is reason
    assert text in verdict.message


def test_missing_response_times_name_what_has_to_be_scraped() -> None:
    own = replace(LATENCY, query='own_bucket{service="$service"}')
    missing, missing_own = (at_the_end(FakeMetricsSource(), check=check) for check in (LATENCY, own))
    assert {missing.outcome, missing_own.outcome} == {Outcome.INCONCLUSIVE}
    assert "has to scrape the engine's /metrics" in missing.message
    assert "no series" in missing_own.message


def test_an_instance_that_is_missing_from_the_metrics() -> None:
    verdict = at_the_end(scraped(SERVERS), routed=3)
    assert (verdict.outcome, verdict.findings[0].reason) == (Outcome.INCONCLUSIVE, Reason.PARTIAL)
    assert "2 of the 3 instances" in verdict.message


def test_after_an_outage_of_the_source_nothing_is_lost() -> None:
    def evidence(outage: tuple[float, float]) -> tuple[float | None, list[Outcome]]:
        source, analysis, outcomes = scraped([]), CanaryAnalysis(rollout_of(ERRORS), ORIGIN), []
        totals = {name: [0.0, 0.0] for name in SERVERS}
        source.scrape(ORIGIN, dict.fromkeys(OLDS, (0.0, 0.0)))
        for number in range(1, 25):
            at = ORIGIN + 5.0 * number
            for name, total in totals.items():
                total[0] += 250.0
                total[1] += 12.0 if name in NEWS else 8.0
            source.scrape(at, {name: (a, b) for name, (a, b) in totals.items()})
            blind = outage[0] <= at - ORIGIN < outage[1]
            source.down = QueryFailure(Reason.SOURCE_DOWN, "refused") if blind else None
            verdict = analysis.add(measure(analysis, source, at, final=number == 24, routed=2))
            outcomes += [verdict.outcome] if blind else []
        return verdict.evidence, outcomes

    whole, _ = evidence((0.0, 0.0))
    caught_up, blind = evidence((30.0, 80.0))
    assert set(blind) == {Outcome.INCONCLUSIVE}
    assert caught_up == pytest.approx(whole)


# -- the last batch, several checks, limits, queries ----------------------------------------------------------------------


def test_without_a_concurrent_baseline_the_time_before_is_the_baseline() -> None:
    def ends(new: float) -> Verdict:
        analysis, source = CanaryAnalysis(rollout_of(ERRORS, steps=2, olds=2), ORIGIN), FakeMetricsSource()
        measurements = run_traffic(analysis, source, SERVERS, steady(0.01, 0.01), 120.0, until_fail=False)[0]
        totals = dict.fromkeys(NEWS, (100000.0, 1000.0))
        for number in range(1, 37):
            at = measurements[-1].at + 5.0 * number
            totals = {name: (all_ + 250.0, bad + 250.0 * new) for name, (all_, bad) in totals.items()}
            source.scrape(at, totals)
            measurement = measure(
                analysis, source, at, step=1, concurrent=False, final=number == 36, shifted=measurements[-1].at, routed=2
            )
            verdict = analysis.add(measurement)
            if verdict.outcome is Outcome.FAIL:
                break
        return verdict

    bad, good = ends(0.2), ends(0.01)
    assert (bad.outcome, bad.findings[0].blamed_part) == (Outcome.FAIL, "before and after")
    assert "; worse than before the rollout (" in bad.message
    assert good.outcome is Outcome.PASS
    assert f"no instance of {OLD} takes traffic, so {NEW} is compared with the time before" in good.message


def test_a_shadow_check_is_measured_and_decides_nothing() -> None:
    verdicts, finding = verdicts_of(
        steady(0.01, 0.2), 120.0, replace(ERRORS, shadow=True), Check("x", CheckKind.QUERY, "q", maximum=1)
    )
    assert finding.shadow
    assert finding.outcome is Outcome.FAIL, "the finding shows the outcome it would have had"
    assert all(verdict.outcome is not Outcome.FAIL for verdict in verdicts)


def last_verdict(answers: Callable[[Query], QueryResult], check: Check, count: int = 40, *more: Check) -> Verdict:
    """The verdict on a query check after `count` measurements, or the first FAIL."""
    analysis = CanaryAnalysis(rollout_of(check, *more), ORIGIN)
    for number in range(1, count + 1):
        at = ORIGIN + 5.0 * number
        results = tuple((query, answers(query)) for query in analysis.queries(at))
        measurement = measure(analysis, FakeMetricsSource(), at, final=number == count)
        verdict = analysis.add(replace(measurement, results=results))
        if verdict.outcome is Outcome.FAIL:
            break
    return verdict


def one(value: float) -> QueryResult:
    return (Series({}, ((ORIGIN, value),)),)


LIMIT = Check("queue", CheckKind.QUERY, "q", maximum=10.0, min_samples=3)


def test_a_limit_fails_after_enough_violations_in_a_row() -> None:
    def values(*numbers: float) -> Callable[[Query], QueryResult]:
        left = list(numbers)
        return lambda query: one(left.pop(0))

    nan = float("nan")
    assert last_verdict(values(11, 11, 9, 11, 11, 9), LIMIT, 6).outcome is Outcome.PASS
    assert last_verdict(values(11, nan, 11, nan, 11), LIMIT, 5).outcome is Outcome.FAIL, (
        "a measurement without a value does not count"
    )
    assert last_verdict(values(9, 9, 11), LIMIT, 3).outcome is Outcome.INCONCLUSIVE, (
        "beyond the limit, but not often enough"
    )
    assert last_verdict(values(9, nan, 9), LIMIT, 3).outcome is Outcome.INCONCLUSIVE, "two values could not have failed"
    low = replace(LIMIT, maximum=None, minimum=1.0, min_samples=1)
    assert last_verdict(values(0.5), low, 1).findings[0].reason is Reason.LIMIT


@pytest.mark.parametrize(
    ("limits", "value", "text"),
    [
        ({"maximum": 1000.0}, 1234.5, "1,230 on b; max 1,000"),
        ({"maximum": 1000.0}, 1001.0, "1,001 on b; max 1,000"),
        ({"minimum": 0.25}, 0.123456, "0.123 on b; min 0.25"),
        ({"maximum": 10.0, "minimum": 1.0}, 3.33333, "3.33 on b; max 10, min 1"),
    ],
)
def test_values_have_three_digits_unless_they_would_equal_the_limit(
    limits: dict[str, float], value: float, text: str
) -> None:
    assert messages.limit_message(Check("queue", CheckKind.QUERY, "q", **limits), value, "b") == text  # type: ignore[arg-type]


def test_several_series_are_inconclusive() -> None:
    two = (Series({"a": "1"}, ((ORIGIN, 1.0),)), Series({"a": "2"}, ((ORIGIN, 1.0),)))
    assert last_verdict(lambda _: two, LIMIT, 3).findings[0].reason is Reason.MANY_SERIES


@pytest.mark.parametrize(("direction", "worse"), [(Direction.LOWER, 2.0), (Direction.HIGHER, 0.4)])
def test_a_compared_query_in_both_directions(direction: Direction, worse: float) -> None:
    check = Check("mine", CheckKind.QUERY, 'q{release="$release"}', direction, margin=0.1, min_samples=3)

    def answers(factor: float) -> Callable[[Query], QueryResult]:
        def answer(query: Query) -> QueryResult:
            if query.purpose is QueryPurpose.HISTORY:
                return (Series({}, tuple((ORIGIN - 30.0 * n, 100.0 + n % 3) for n in range(100, 0, -1))),)
            return one(100.0 * factor if query.purpose is QueryPurpose.CANDIDATE else 100.0)

        return answer

    assert last_verdict(answers(worse), check, 60).outcome is Outcome.FAIL
    assert last_verdict(answers(1.0), check, 60).outcome is Outcome.PASS
    assert last_verdict(answers(1 / worse), check, 60).outcome is Outcome.PASS, "better is not worse"
    short = last_verdict(answers(1.0), check, 12)
    assert (short.outcome, short.findings[0].reason) == (Outcome.INCONCLUSIVE, Reason.FEW_DATA)
    assert "2 of at least 4 intervals of 30 s compared" in short.message


def test_a_missing_result_of_an_uncritical_check_does_not_matter() -> None:
    down = QueryFailure(Reason.SOURCE_DOWN, "refused")
    fine = Check("fine", CheckKind.QUERY, "q", maximum=10.0, min_samples=1)
    results = lambda query: one(1.0) if query.check == "fine" else down  # noqa: E731
    assert last_verdict(results, replace(LIMIT, critical=False), 3, fine).outcome is Outcome.PASS
    assert last_verdict(results, LIMIT, 3, fine).outcome is Outcome.INCONCLUSIVE
    assert last_verdict(lambda _: down, replace(LIMIT, critical=False), 3).outcome is Outcome.INCONCLUSIVE, (
        "no check has a result"
    )


def test_a_flapping_instance_fails_readiness() -> None:
    analysis = CanaryAnalysis(rollout_of(ERRORS, olds=4), ORIGIN)
    source = scraped(SERVERS, until=400.0)
    for number in range(1, 80):
        at = ORIGIN + 5.0 * number
        present = [InstanceSample(name, OLD, n, True, 0) for n, name in enumerate(OLDS)]
        present += [InstanceSample(name, NEW, n, number == 1 or number % 2 == 0, 0) for n, name in enumerate(NEWS)]
        verdict = analysis.add(measure(analysis, source, at, present=present, routed=2))
        if verdict.outcome is Outcome.FAIL:
            break
    assert verdict.outcome is Outcome.FAIL
    assert verdict.findings[-1].check == "readiness"
    assert re.match(r"readiness: not ready in [\d.]+ % \(\d+ of \d+ probes\) on ", verdict.findings[-1].message)
