"""Verdicts: what each kind of check says of what it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from support.judging import NEW, OLD, SETTLED, answered, check_of, counters, labels, rollout_of, server_of
from tidegate.core.judge.judging import Answer, Failure, combined, judge
from tidegate.core.judge.questions import LOOKS, RESPONSE_TIME, VALUES, Side, questions
from tidegate.core.judge.series import Series
from tidegate.core.judge.verdict import Finding, Outcome, Reason, Verdict, Window
from tidegate.core.model import Check, CheckKind, Direction, Rollout

WINDOW = Window(SETTLED, SETTLED + 60)
TIMES = [SETTLED - 60 + at for at in range(0, 121, 5)]

FAIL, PASS, UNKNOWN = Outcome.FAIL, Outcome.PASS, Outcome.INCONCLUSIVE


def flow(rps: float, share: float, start: float = SETTLED - 1) -> Callable[[float], tuple[float, float]]:
    """Steady traffic from a moment on, of which a share fails."""
    return lambda at: (rps * max(0.0, at - start), round(share * rps * max(0.0, at - start)))


def side(release: str, course: Callable[[float], tuple[float, float]], times: list[float] = TIMES, **more: str) -> Answer:
    return counters(server_of(release), times, course, **more)


GOOD_OLD = side(OLD, flow(100, 0.002, start=0))
NEW_TIMES = [at for at in TIMES if at > SETTLED]


def errors(
    candidate: Answer, baseline: Answer = GOOD_OLD, *, final: bool = True, rollout: Rollout | None = None
) -> tuple[Verdict, Finding]:
    rollout = rollout or rollout_of("errors")
    asked = questions(rollout, WINDOW)
    answers = answered(asked, {Side.CANDIDATE: candidate, Side.BASELINE: baseline})
    verdict = judge(rollout, WINDOW, final, answers, WINDOW.end)
    return verdict, verdict.findings[0]


# -- errors ------------------------------------------------------------------------------------------------------------


def test_a_good_release_passes_with_all_its_evidence() -> None:
    verdict, found = errors(side(NEW, flow(25, 0.002), NEW_TIMES))
    assert (verdict.outcome, found.reason, verdict.final, verdict.at) == (PASS, Reason.OK, True, WINDOW.end)
    assert found.candidate == pytest.approx(0.002, abs=2e-3)
    assert found.baseline == pytest.approx(0.002, abs=1e-4)
    assert found.limit == pytest.approx(0.007, abs=1e-4)
    assert (found.baseline_count, found.candidate_count) == (6000, 25 * 61)
    assert found.window == found.baseline_window == WINDOW
    assert len(found.queries) == 2
    assert all("haproxy_server_http_responses_total" in query for query in found.queries)
    assert found.sentence == (
        "errors: 0.197 % of 1,525 requests to v2-4 failed, 0.2 % of 6,000 to v1-1; 0.5 points more are allowed"
    )
    assert verdict.sentence == f"PASS: {found.sentence}"


@pytest.mark.parametrize("final", [True, False])
def test_a_release_with_20_percent_errors_fails_also_before_the_end(final: bool) -> None:
    verdict, found = errors(side(NEW, flow(25, 0.2), NEW_TIMES), final=final)
    assert (verdict.outcome, found.reason) == (FAIL, Reason.WORSE)
    assert found.candidate == pytest.approx(0.2, abs=0.001)
    assert verdict.sentence.startswith("FAIL: errors: 20 % of 1,525 requests to v2-4 failed, 0.2 % of 6,000 to v1-1")


def test_the_first_jump_of_a_new_server_counts() -> None:
    """`increase()` sees nothing here: all that failed did so before the first scrape."""
    jump = side(NEW, lambda at: (100.0, 40.0), NEW_TIMES)
    verdict, found = errors(jump)
    assert verdict.outcome is FAIL
    assert (found.candidate, found.candidate_count) == (0.4, 100)


def test_errors_that_both_have_are_nobodys_fault() -> None:
    verdict, _ = errors(side(NEW, flow(25, 0.2), NEW_TIMES), side(OLD, flow(100, 0.2, start=0)))
    assert verdict.outcome is PASS


def test_no_series_is_not_no_errors() -> None:
    for candidate, baseline, named in (((), GOOD_OLD, NEW), (side(NEW, flow(25, 0), NEW_TIMES), (), OLD)):
        verdict, found = errors(candidate, baseline)
        assert (verdict.outcome, found.reason) == (UNKNOWN, Reason.NO_DATA)
        assert named in found.sentence
        assert found.limit is None


def test_no_traffic_is_few_data_and_no_share() -> None:
    verdict, found = errors(side(NEW, lambda at: (0.0, 0.0), NEW_TIMES))
    assert (verdict.outcome, found.reason, found.candidate) == (UNKNOWN, Reason.FEW_DATA, None)
    assert "0 requests to v2-4, 50 are needed" in found.sentence


def test_few_requests_neither_pass_nor_fail() -> None:
    _, found = errors(side(NEW, flow(0.5, 0.0), NEW_TIMES))
    assert (found.outcome, found.reason) == (UNKNOWN, Reason.FEW_DATA)
    _, found = errors(side(NEW, flow(0.3, 0.2), NEW_TIMES))
    assert (found.outcome, found.reason) == (UNKNOWN, Reason.FEW_DATA), "4 failures, however few the requests"


def test_traffic_that_stops_half_way_does_not_pass() -> None:
    stopped = side(NEW, lambda at: (min(400.0, 50 * max(0.0, at - SETTLED)), 0.0), NEW_TIMES)
    _, found = errors(stopped)
    assert (found.outcome, found.reason) == (UNKNOWN, Reason.FEW_DATA)
    assert "traffic to v2-4 stopped" in found.sentence
    assert errors(stopped, final=False)[1].outcome is PASS, "an early look has no effect"


def test_a_source_that_stopped_collecting_is_stale_and_known_harm_still_fails() -> None:
    times = [at for at in NEW_TIMES if at <= SETTLED + 25]
    _, found = errors(side(NEW, flow(50, 0.0), times), side(OLD, flow(100, 0.002, start=0), times))
    assert (found.outcome, found.reason) == (UNKNOWN, Reason.STALE)
    assert "35 s old" in found.sentence
    assert errors(side(NEW, flow(50, 0.2), times))[1].outcome is FAIL


def test_every_instance_has_to_be_seen_before_it_passes() -> None:
    rollout = rollout_of("errors", replicas=2)
    one = side(NEW, flow(25, 0.0), NEW_TIMES)
    _, found = errors(one, rollout=rollout)
    assert (found.outcome, found.reason) == (UNKNOWN, Reason.PARTIAL)
    assert "1 of the 2 instances" in found.sentence
    assert isinstance(one, tuple)
    second = counters(server_of(NEW, 1), NEW_TIMES, flow(25, 0.0))
    assert errors((*one, *second), rollout=rollout)[1].outcome is PASS


def test_worse_but_not_surely_is_no_pass() -> None:
    _, found = errors(side(NEW, flow(5, 0.02), NEW_TIMES))
    assert (found.outcome, found.reason) == (UNKNOWN, Reason.FEW_DATA)
    assert "looks worse" in found.sentence


def test_one_exporter_scraped_twice_is_not_twice_the_evidence() -> None:
    def both(release: str, course: Callable[[float], tuple[float, float]], times: list[float]) -> tuple[Series, ...]:
        first = counters(server_of(release), times, course)
        return first + counters(server_of(release), [at + 0.3 for at in times], course, job="again")

    twice = both(NEW, flow(0.6, 0.0), NEW_TIMES), both(OLD, flow(100, 0.002, start=0), TIMES)
    _, found = errors(*twice)
    assert (found.outcome, found.reason) == (UNKNOWN, Reason.FEW_DATA), "37 requests, though 73 are counted"
    _, found = errors(both(NEW, flow(25, 0.002), NEW_TIMES), twice[1])
    assert found.outcome is PASS
    assert "2 targets report the same servers" in found.sentence


def test_not_numbers_are_dropped_and_told() -> None:
    bad = Series(
        labels("haproxy_server_connection_errors_total", server_of(NEW)), tuple((at, math.nan) for at in NEW_TIMES)
    )
    good = side(NEW, flow(25, 0.0), NEW_TIMES)
    assert isinstance(good, tuple)
    _, found = errors((*good, bad))
    assert found.outcome is PASS
    assert f"{len(NEW_TIMES)} samples were not numbers" in found.sentence


def test_without_a_baseline_beside_it_the_time_before_the_switch_is_the_baseline() -> None:
    rollout = rollout_of("errors", beside=False)
    before = [SETTLED - 200 + at for at in range(0, 200, 5)]
    old = side(OLD, flow(100, 0.002, start=0), before)
    verdict, found = errors(side(NEW, flow(100, 0.002), NEW_TIMES), old, rollout=rollout)
    assert verdict.outcome is PASS
    assert found.baseline_window == Window(SETTLED - 61, SETTLED - 1)
    assert found.baseline_count == pytest.approx(6000, abs=500)
    assert "nothing of v1-1 serves beside it, so this is against the 60 s before the switch" in found.sentence
    assert errors(side(NEW, flow(100, 0.2), NEW_TIMES), old, rollout=rollout)[0].outcome is FAIL


# -- latency -----------------------------------------------------------------------------------------------------------


def timed(release: str, rps: float, seconds: Callable[[float], float], start: float, times: list[float] = TIMES) -> Answer:
    """A server as HAProxy reports it: the average fills over 512 requests, in whole milliseconds, rounded up."""
    averages = []
    for at in times:
        answers = max(0.0, rps * (at - start))
        averages.append((at, math.ceil(1000 * seconds(at) * min(answers, 512) / 512) / 1000))
    name = server_of(release)
    return (*counters(name, times, flow(rps, 0, start)), Series(labels(RESPONSE_TIME, name), tuple(averages)))


OLD_TIMED = timed(OLD, 100, lambda _: 0.050, 0)


def latency(candidate: Answer, *, final: bool = True, baseline: Answer = OLD_TIMED) -> Finding:
    rollout = rollout_of("latency")
    answers = answered(questions(rollout, WINDOW), {Side.CANDIDATE: candidate, Side.BASELINE: baseline})
    return judge(rollout, WINDOW, final, answers, WINDOW.end).findings[0]


@pytest.mark.parametrize("final", [True, False])
def test_a_slow_release_fails(final: bool) -> None:
    found = latency(timed(NEW, 25, lambda _: 0.150, SETTLED - 1, NEW_TIMES), final=final)
    assert (found.outcome, found.reason) == (FAIL, Reason.WORSE)
    assert found.candidate == pytest.approx(0.150, abs=0.002)
    assert found.baseline == pytest.approx(0.050)
    assert found.limit == pytest.approx(0.060)
    assert "v2-4 answers in 150 ms on average (1,525 requests), v1-1 in 50 ms" in found.sentence


def test_the_same_speed_passes_even_while_the_average_is_still_filling() -> None:
    found = latency(timed(NEW, 5, lambda _: 0.050, SETTLED - 1, NEW_TIMES))
    assert found.outcome is PASS
    assert found.candidate == pytest.approx(0.050, abs=0.002), "HAProxy itself shows 30 ms"


def test_a_slow_release_does_not_hide_in_a_filling_average() -> None:
    found = latency(timed(NEW, 5, lambda _: 0.150, SETTLED - 1, NEW_TIMES))
    assert found.outcome is FAIL


def test_a_little_slower_is_allowed() -> None:
    assert latency(timed(NEW, 25, lambda _: 0.055, SETTLED - 1, NEW_TIMES)).outcome is PASS


def test_warming_up_does_not_fail_and_does_not_pass() -> None:
    warming = timed(NEW, 25, lambda at: 0.300 * math.exp(-(at - SETTLED) / 60) + 0.050, SETTLED - 1, NEW_TIMES)
    assert latency(warming, final=False).outcome is UNKNOWN or latency(warming, final=False).outcome is PASS
    found = latency(warming)
    assert (found.outcome, found.reason) == (UNKNOWN, Reason.FEW_DATA)
    assert "looks slower" in found.sentence


def test_latency_without_series_or_requests_is_unknown() -> None:
    assert latency(()).reason is Reason.NO_DATA
    found = latency(timed(NEW, 0, lambda _: 0.0, SETTLED - 1, NEW_TIMES))
    assert (found.outcome, found.reason, found.candidate) == (UNKNOWN, Reason.FEW_DATA, None)
    times = [at for at in NEW_TIMES if at <= SETTLED + 25]
    stale = latency(timed(NEW, 25, lambda _: 0.05, SETTLED, times), baseline=timed(OLD, 99, lambda _: 0.05, 0, times))
    assert (stale.outcome, stale.reason) == (UNKNOWN, Reason.STALE)


# -- the user's own queries --------------------------------------------------------------------------------------------


def own(**more: object) -> Check:
    base = Check("mine", CheckKind.QUERY, query='rate(failed{r="$release"}[1m])', margin=0.1)
    return replace(base, **more)  # type: ignore[arg-type]  # fields by name


def value(number: float, **more: str) -> tuple[Series, ...]:
    return (Series(more, ((0.0, number),)),)


def asked_for(check: Check, candidate: list[Answer], baseline: Answer = (), *, final: bool = True) -> Finding:
    """An expression's answers at the moments, oldest first; the baseline's is the same at each."""
    rollout = rollout_of(check)
    answers = {
        each: baseline if each.side is Side.BASELINE else candidate[VALUES.index(each.part)]
        for each in questions(rollout, WINDOW)
    }
    return judge(rollout, WINDOW, final, answers, WINDOW.end).findings[0]


@pytest.mark.parametrize(
    ("more", "values", "outcome", "reason"),
    [
        ({"maximum": 5.0}, [4, 5, 5], PASS, Reason.OK),
        ({"maximum": 5.0}, [6, 6, 6], FAIL, Reason.LIMIT),
        ({"maximum": 5.0}, [6, 4, 6], UNKNOWN, Reason.FEW_DATA),
        ({"maximum": 5.0}, [6, 6, 4], PASS, Reason.OK),
        ({"maximum": 5.0}, [6, math.nan, 6], UNKNOWN, Reason.NO_DATA),
        ({"maximum": 5.0}, [4, 4, math.nan], UNKNOWN, Reason.NO_DATA),
        ({"maximum": 5.0}, [math.inf] * 3, UNKNOWN, Reason.NO_DATA),
        ({"minimum": 5.0}, [4, 4, 4], FAIL, Reason.LIMIT),
        ({"minimum": 5.0, "maximum": 9.0}, [7, 7, 7], PASS, Reason.OK),
        ({"minimum": 5.0, "maximum": 9.0}, [10, 4, 10], FAIL, Reason.LIMIT),
    ],
)
def test_limits(more: dict[str, float], values: list[float], outcome: Outcome, reason: Reason) -> None:
    found = asked_for(own(**more), [value(each) for each in values])
    assert (found.outcome, found.reason) == (outcome, reason)
    assert found.baseline_window is None


@pytest.mark.parametrize(
    ("direction", "baseline", "candidate", "outcome"),
    [
        (Direction.LOWER, 100, 109, PASS),
        (Direction.LOWER, 100, 111, FAIL),
        (Direction.LOWER, -100, -111, PASS),
        (Direction.LOWER, -100, -89, FAIL),
        (Direction.HIGHER, 100, 91, PASS),
        (Direction.HIGHER, 100, 89, FAIL),
        (Direction.LOWER, 0, 0, PASS),
        (Direction.LOWER, 0, 1, UNKNOWN),
    ],
)
def test_comparisons(direction: Direction, baseline: float, candidate: float, outcome: Outcome) -> None:
    found = asked_for(own(direction=direction), [value(candidate)] * LOOKS, value(baseline))
    assert found.outcome is outcome
    assert (found.baseline, found.candidate) == (baseline, candidate)
    assert found.reason is {PASS: Reason.OK, FAIL: Reason.WORSE, UNKNOWN: Reason.FEW_DATA}[outcome]


def test_an_empty_answer_and_several_series_are_unknown() -> None:
    empty = asked_for(own(maximum=5.0), [()] * LOOKS)
    assert (empty.outcome, empty.reason) == (UNKNOWN, Reason.NO_DATA)
    assert "found no series for v2-4" in empty.sentence
    several = asked_for(own(maximum=5.0), [value(9, a="1") + value(9, a="2")] * LOOKS)
    assert (several.outcome, several.reason) == (UNKNOWN, Reason.MANY_SERIES)
    assert "2 series" in several.sentence
    no_old = asked_for(own(), [value(9)] * LOOKS, ())
    assert (no_old.outcome, no_old.reason) == (UNKNOWN, Reason.NO_DATA)
    assert "for v1-1" in no_old.sentence


def test_a_comparison_that_cannot_tell_the_releases_apart_is_never_a_pass() -> None:
    found = asked_for(own(query="sum(failed)"), [])
    assert (found.outcome, found.reason) == (UNKNOWN, Reason.BAD_QUERY)
    assert "$release" in found.sentence
    assert found.queries == ("sum(failed)",)


def test_in_a_window_too_short_for_three_looks_only_the_end_of_the_bake_judges() -> None:
    rollout, window = rollout_of(own(maximum=5.0)), Window(SETTLED, SETTLED + 6)
    answers = {each: value(9) for each in questions(rollout, window)}
    assert judge(rollout, window, False, answers, window.end).findings[0].reason is Reason.FEW_DATA
    assert judge(rollout, window, True, answers, window.end).outcome is FAIL


@pytest.mark.parametrize(
    ("values", "newest", "outcome", "reason"),
    [
        ([1, 1, 1, 1], 60, PASS, Reason.OK),
        ([1, 9, 9, 9, 1], 60, FAIL, Reason.LIMIT),
        ([9, 9, 1, 9, 9], 60, UNKNOWN, Reason.FEW_DATA),
        ([1, 1], 60, UNKNOWN, Reason.FEW_DATA),
        ([1, 1, 1], 20, UNKNOWN, Reason.STALE),
        ([1, 1, math.nan], 60, UNKNOWN, Reason.NO_DATA),
    ],
)
def test_samples_of_a_plain_selector(values: list[float], newest: float, outcome: Outcome, reason: Reason) -> None:
    rollout = rollout_of(own(query='depth{r="$release"}', maximum=5.0))
    samples = tuple((SETTLED + newest - len(values) + 1 + number, each) for number, each in enumerate(values))
    answers = {each: (Series({}, samples),) for each in questions(rollout, WINDOW)}
    found = judge(rollout, WINDOW, True, answers, WINDOW.end).findings[0]
    assert (found.outcome, found.reason) == (outcome, reason)


# -- together ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason", [Reason.SOURCE_DOWN, Reason.TIMEOUT, Reason.BAD_QUERY, Reason.PARTIAL, Reason.MANY_SERIES]
)
def test_a_question_that_failed_makes_its_check_unknown_with_the_reason(reason: Reason) -> None:
    verdict, found = errors(side(NEW, flow(25, 0.0), NEW_TIMES), Failure(reason, "what the source said"))
    assert (verdict.outcome, found.reason) == (UNKNOWN, reason)
    assert found.sentence.startswith("errors: what the source said")


def test_a_question_that_was_never_asked_is_unknown() -> None:
    verdict = judge(rollout_of("errors"), WINDOW, True, {}, WINDOW.end)
    assert (verdict.outcome, verdict.findings[0].reason) == (UNKNOWN, Reason.NO_DATA)


def test_nothing_asked_is_never_a_pass() -> None:
    assert judge(rollout_of(), WINDOW, True, {}, WINDOW.end).outcome is UNKNOWN
    first = judge(rollout_of("errors", "latency", old=None), WINDOW, True, {}, WINDOW.end)
    assert first.outcome is UNKNOWN
    assert "no release to compare with" in first.sentence


def test_the_first_deploy_is_judged_by_its_limits_and_says_what_was_left_out() -> None:
    rollout = rollout_of("errors", own(maximum=5.0), old=None)
    answers = {each: value(1) for each in questions(rollout, WINDOW)}
    verdict = judge(rollout, WINDOW, True, answers, WINDOW.end)
    assert verdict.outcome is PASS
    assert verdict.sentence.endswith("; not asked without a release to compare with: errors")


def test_a_fail_is_not_hidden_by_what_is_unknown_before_or_after_it() -> None:
    checks = [own(name="before", maximum=5.0), check_of("errors"), own(name="after", maximum=5.0)]
    rollout = rollout_of(*checks)
    sides = {Side.CANDIDATE: side(NEW, flow(25, 0.2), NEW_TIMES), Side.BASELINE: GOOD_OLD}
    answers = answered(tuple(each for each in questions(rollout, WINDOW) if each.check == "errors"), sides)
    verdict = judge(rollout, WINDOW, True, answers, WINDOW.end)
    assert [each.outcome for each in verdict.findings] == [UNKNOWN, FAIL, UNKNOWN]
    assert verdict.outcome is FAIL
    assert verdict.sentence.startswith("FAIL: errors: 20 %")


def test_outcomes_combined() -> None:
    assert combined([PASS, PASS]) is PASS
    assert combined([PASS, UNKNOWN]) is UNKNOWN
    assert combined([UNKNOWN, FAIL, PASS]) is FAIL
    assert combined([]) is UNKNOWN
