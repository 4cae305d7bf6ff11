"""What is asked, and how PromQL is put together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.judging import NEW, OLD, SETTLED, rollout_of
from tidegate.core.judge import promql
from tidegate.core.judge.questions import LOOKBACK_SECONDS, LOOKS, Side, questions
from tidegate.core.judge.verdict import Window
from tidegate.core.model import Check, CheckKind

WINDOW = Window(SETTLED, SETTLED + 60)


def own(query: str, **more: object) -> Check:
    return replace(Check("mine", CheckKind.QUERY, query=query, margin=0.1), **more)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    "query",
    [
        "up",
        "a:b:c",
        'up{job="x"}',
        '{job="x"}',
        "up { job = \"x\" , instance =~ 'a\\'b' , }",
        'up{job="}{"}',
        "up{job=`a\\`}",
        "  up # a comment",
        '# first\nup{# inside\njob="x"}\n',
        "up{}",
    ],
)
def test_plain_selectors(query: str) -> None:
    assert promql.is_selector(query)


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        "# up",
        "up[5m]",
        "up offset 5m",
        "up @ 5",
        "rate(up[5m])",
        "up + 1",
        "1",
        "Inf",
        "nan",
        'up{job="x}',
        "up{job}",
        '"up"',
    ],
)
def test_everything_else_is_an_expression(query: str) -> None:
    assert not promql.is_selector(query)


def test_values_are_escaped_for_every_kind_of_quote() -> None:
    assert promql.quoted('a"b\\c\nd') == '"a\\x22b\\\\c\\nd"'
    assert promql.literal("v2-4.x+y") == r"v2-4\.x\+y"
    assert promql.quoted(promql.literal("a.b")) == '"a\\\\.b"'


def test_placeholders_are_filled_and_nothing_else_is_touched() -> None:
    values = {"release": "v2-4", "service": 'sh"op', "window": "60s"}
    query = 'sum(rate(x{r="$release",s="$service",p=~"a$|$releases"}[$window])) # $5\n> 0'
    assert promql.filled(query, values) == ('sum(rate(x{r="v2-4",s="sh\\x22op",p=~"a$|$releases"}[60s])) # $5\n> 0')
    assert promql.placeholders(query) == {"release", "service", "window"}


def test_ready_made_checks_ask_for_raw_counters_and_for_more_than_the_window() -> None:
    asked = questions(rollout_of("errors", "latency"), WINDOW)
    assert len(asked) == len(set(asked)) == 4
    for each in asked:
        assert promql.is_selector(each.query)
        assert each.window == Window(WINDOW.start - LOOKBACK_SECONDS, WINDOW.end)
        release = NEW if each.side is Side.CANDIDATE else OLD
        assert f'proxy="shop",server=~"{release}\\\\.[0-9]+\\\\.[a-z0-9]+"' in each.query


def test_without_the_old_release_beside_it_the_baseline_is_before_the_switch() -> None:
    rollout = rollout_of("errors", beside=False)
    (baseline,) = [each for each in questions(rollout, WINDOW) if each.side is Side.BASELINE]
    assert rollout.shifted is not None
    assert baseline.window == Window(rollout.shifted - 60 - LOOKBACK_SECONDS, rollout.shifted)


def test_limits_ask_only_about_the_candidate_and_the_first_deploy_only_limits() -> None:
    limit, compared = own("a * 1", maximum=5.0), own('a{r="$release"} * 1')
    assert {each.side for each in questions(rollout_of(limit), WINDOW)} == {Side.CANDIDATE}
    assert {each.side for each in questions(rollout_of(compared), WINDOW)} == set(Side)
    first = questions(rollout_of("errors", limit, compared, old=None), WINDOW)
    assert {(each.check, each.side) for each in first} == {("mine", Side.CANDIDATE)}
    assert len(first) == LOOKS


def test_an_expression_is_asked_at_the_last_looks_and_a_selector_once() -> None:
    asked = questions(rollout_of(own("rate(a[$window])", maximum=1.0)), WINDOW)
    assert [each.window.end for each in asked] == [WINDOW.end - 10, WINDOW.end - 5, WINDOW.end]
    assert [each.query for each in asked] == ["rate(a[50s])", "rate(a[55s])", "rate(a[60s])"]
    (single,) = questions(rollout_of(own('a{s="$service"}', maximum=1.0)), WINDOW)
    assert (single.query, single.window) == ('a{s="shop"}', WINDOW)


def test_in_the_first_seconds_the_window_is_at_least_a_second_for_promql() -> None:
    asked = questions(rollout_of(own("rate(a[$window])", maximum=1.0)), Window(SETTLED, SETTLED))
    assert {each.query for each in asked} == {"rate(a[1s])"}


def test_a_comparison_that_does_not_name_the_release_is_not_asked() -> None:
    assert questions(rollout_of(own("sum(a)")), WINDOW) == ()
    assert len(questions(rollout_of(own("sum(a)"), beside=False), WINDOW)) == 2 * LOOKS
