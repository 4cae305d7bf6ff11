"""Whatever the metrics show: counters count what happened, and what is unknown never passes."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from support.judging import NEW, OLD, SETTLED, answered, check_of, counters, labels, rollout_of, server_of
from tidegate.core.judge import promql
from tidegate.core.judge.comparing import FAIL_Z, dispersion, least_excess, wilson
from tidegate.core.judge.counting import Scrapes, increases, tally
from tidegate.core.judge.judging import Answer, Failure, combined, judge
from tidegate.core.judge.questions import Side, questions
from tidegate.core.judge.series import Series
from tidegate.core.judge.verdict import Outcome, Reason, Window
from tidegate.core.model import Check, CheckKind

WINDOW = Window(SETTLED, SETTLED + 60)
NAME = "haproxy_server_http_responses_total"

lives = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=8), min_size=1, max_size=4)


@given(lives, st.integers(0, 40))
def test_a_counter_that_restarts_again_and_again_is_counted_whole(histories: list[list[int]], start: int) -> None:
    """Each life begins at 0 after a scrape without the server; another server is always there."""
    samples, truth, clock = [], 0, 1
    for life in histories:
        value = 0
        for more in life:
            value += more
            samples.append((float(clock), float(value)))
            truth += more if clock > start else 0
            clock += 1
        clock += 1  # one scrape without it
    witness = Series(labels(NAME, "witness.0.a", "2xx"), tuple((float(at), 0.0) for at in range(clock + 1)))
    subject = Series(labels(NAME, "v2-4.0.b", "2xx"), tuple(samples))
    grown, known = increases(subject, Scrapes.of([[subject, witness]]), Window(float(start), 1000.0))
    assert known
    assert sum(value for _, value in grown) == truth


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(allow_nan=True)), max_size=20), st.floats(0, 100))
def test_no_samples_whatever_make_a_count_negative_or_not_a_number(
    samples: list[tuple[float, float]], start: float
) -> None:
    positive = tuple((at, abs(value)) for at, value in samples)
    one = Series(labels(NAME, "v2-4.0.b", "5xx"), positive)
    if any(math.isfinite(value) and value > 1e300 for _, value in positive):
        return  # sums beyond what a float holds
    found = tally([one], Scrapes.of([[one]]), Window(start, 101.0))
    assert found.failed >= 0
    assert found.requests == found.failed
    assert math.isfinite(found.requests)


shares = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(lambda pair: (min(pair), max(pair)))


@given(shares, shares)
def test_a_proof_needs_a_higher_share_and_is_never_above_the_plain_difference(
    one: tuple[int, int], two: tuple[int, int]
) -> None:
    low, high = wilson(*one, FAIL_Z)
    assert 0 <= low <= high <= 1
    least = least_excess(one, two, FAIL_Z)
    assert -1 - 1e-9 <= least <= 1
    if one[1] and two[1]:
        assert least <= one[0] / one[1] - two[0] / two[1] + 1e-12


@given(st.lists(shares, max_size=12))
def test_dispersion_is_at_least_one(blocks: list[tuple[int, int]]) -> None:
    assert dispersion([(requests, failed) for failed, requests in blocks]) >= 1


@given(st.text(), st.text())
def test_no_value_breaks_out_of_its_quotes(value: str, other: str) -> None:
    query = f"up{{a={promql.quoted(value)},b={promql.quoted(promql.literal(other))}}}"
    assert promql.is_selector(query)


failures = st.builds(
    Failure, st.sampled_from([Reason.SOURCE_DOWN, Reason.TIMEOUT, Reason.PARTIAL, Reason.BAD_QUERY]), st.just("x")
)
TIMES = [SETTLED - 30 + at for at in range(0, 91, 5)]


def _healthy(release: str, rps: float) -> Answer:
    return counters(server_of(release), TIMES, lambda at: (rps * (at - SETTLED + 40), 0.0))


answers_of = {
    Side.CANDIDATE: st.one_of(failures, st.just(()), st.just(_healthy(NEW, 20))),
    Side.BASELINE: st.one_of(failures, st.just(()), st.just(_healthy(OLD, 80))),
}


@settings(max_examples=150)
@given(
    st.fixed_dictionaries(answers_of), st.booleans(), st.lists(st.sampled_from(["errors", "latency", "own"]), unique=True)
)
def test_only_full_answers_pass(sides: dict[Side, Answer], final: bool, names: set[str]) -> None:
    own = Check("own", CheckKind.QUERY, query='sum(x{r="$release"})', margin=0.1)
    rollout = rollout_of(*(own if name == "own" else check_of(name) for name in sorted(names)))
    verdict = judge(rollout, WINDOW, final, answered(questions(rollout, WINDOW), sides), WINDOW.end)
    whole = all(isinstance(answer, tuple) and answer for answer in sides.values())
    assert verdict.outcome is not Outcome.FAIL, "nothing here is worse"
    if not whole or not names or "latency" in names or "own" in names:  # several series; no response times
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert all(each.sentence for each in verdict.findings)
    else:
        assert verdict.outcome is Outcome.PASS


@given(st.lists(st.sampled_from(list(Outcome))))
def test_the_order_of_checks_does_not_matter(outcomes: list[Outcome]) -> None:
    assert combined(outcomes) is combined(outcomes[::-1])
    assert (combined(outcomes) is Outcome.PASS) == (set(outcomes) == {Outcome.PASS})
