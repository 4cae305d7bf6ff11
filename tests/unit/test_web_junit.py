"""JUnit's XML of a rollout's checks: what is a failure, what is skipped, and that no text breaks it."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as Xml

import pytest

from support.measurements import rollout_of
from tidegate.analysis.verdict import Finding, Outcome, Reason, Verdict
from tidegate.clock import Window
from tidegate.core.model import Rollout
from tidegate.core.phases import Phase
from tidegate.core.report.build import StepVerdict, build_report
from tidegate.web.junit import junit

ROLLOUT = replace(
    rollout_of(steps=4), new="v2-2", created=100.0, phase=Phase.SUCCEEDED, reason="v2-2 is live", finished=130.0
)
GOOD = Finding("errors", Outcome.PASS, Reason.OK, "0.1 % of 4000 failed")
BAD = Finding("latency", Outcome.FAIL, Reason.WORSE, "slower by 80 %")
UNKNOWN = Finding("memory", Outcome.INCONCLUSIVE, Reason.NO_DATA, "no sample in the window")


def judged(*findings: Finding, step: int = 0, phase: Phase = Phase.RUNNING, final: bool = True) -> StepVerdict:
    outcome = max((each.outcome for each in findings), key=[Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL].index)
    return StepVerdict(step, phase, Verdict(outcome, 110.0, Window(102.0, 110.0), findings, f"in all {outcome}", final))


def suite(*verdicts: StepVerdict, rollout: Rollout = ROLLOUT) -> Xml.Element:
    text = junit(build_report(rollout, [], verdicts))
    assert text.isascii()
    (found,) = Xml.fromstring(text)
    return found


def told(found: Xml.Element) -> dict[str, tuple[str, str]]:
    """By the case's name, its tag and what it says."""
    cases = {}
    for case in found.findall("testcase"):
        (inner,) = case
        cases[str(case.get("name"))] = (inner.tag, inner.get("message") or inner.text or "")
    return cases


def test_each_check_of_each_step_is_a_case_with_its_sentence() -> None:
    found = suite(judged(GOOD, BAD, UNKNOWN), judged(GOOD, step=2))
    cases = told(found)
    assert cases.pop("rollout")[0] == "system-out"
    assert cases == {
        "step 1: errors": ("system-out", "0.1 % of 4000 failed"),
        "step 1: latency": ("failure", "slower by 80 %"),
        "step 1: memory": ("skipped", "no-data: no sample in the window"),
        "step 3: errors": ("system-out", "0.1 % of 4000 failed"),
    }
    counts = [found.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["5", "1", "0", "1"]
    assert (found.get("time"), found[0].get("time"), found[1].get("time")) == ("30.0", "30.0", "8.0")
    assert {each.get("classname") for each in found} == {"demo.shop"}
    assert found.get("name") == "demo/shop v2-2"


def test_what_decides_nothing_is_skipped() -> None:
    shadow = replace(BAD, shadow=True)
    assert told(suite(judged(GOOD, shadow)))["step 1: latency"] == (
        "skipped",
        "shadow check, does not affect the verdict, FAIL: slower by 80 %",
    )
    early = told(suite(judged(GOOD, final=False)))
    assert early["step 1: errors"] == ("skipped", "before the end of the bake: 0.1 % of 4000 failed")
    assert told(suite(judged(BAD, final=False)))["step 1: latency"][0] == "failure", "an early FAIL counts"


def test_the_last_verdict_of_a_step_counts_and_ways_back_are_not_judged() -> None:
    found = told(
        suite(judged(UNKNOWN), judged(replace(UNKNOWN, outcome=Outcome.PASS)), judged(BAD, phase=Phase.ROLLING_BACK))
    )
    assert found["step 1: memory"][0] == "system-out"
    assert "step 1: latency" not in found


@pytest.mark.parametrize(
    ("phase", "tag"),
    [
        (Phase.SUCCEEDED, "system-out"),
        (Phase.RUNNING, "skipped"),
        (Phase.PENDING, "skipped"),
        (Phase.ROLLING_BACK, "failure"),
        (Phase.ROLLED_BACK, "failure"),
        (Phase.FAILED, "failure"),
        (Phase.REFUSED, "failure"),
    ],
)
def test_there_is_always_a_case_for_the_rollout(phase: Phase, tag: str) -> None:
    found = suite(rollout=replace(ROLLOUT, phase=phase, reason="v2-2/0 is not ready"))
    assert told(found)["rollout"][0] == tag
    if tag == "failure":
        assert told(found)["rollout"][1] == "v2-2/0 is not ready"


@pytest.mark.parametrize(
    "text", ["a < b & \"c\" > 'd' ]]>", "größer 🚢", "\x00\x1b[31mred\x07 \ud83d \ufffe end", "a\nb\tc"]
)
def test_no_text_breaks_it(text: str) -> None:
    bad = replace(BAD, check=text, message=text)
    (case,) = [each for each in suite(judged(bad)) if each.get("name") != "rollout"]
    message = str(case[0].get("message"))
    kept = "".join("\ufffd" if each in "\x00\x1b\x07\ud83d\ufffe" else each for each in text)
    assert message == kept
    assert case.get("name") == f"step 1: {kept}"
