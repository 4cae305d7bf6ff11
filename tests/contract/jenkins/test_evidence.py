"""The Jenkins driver ends an input that shows outdated evidence, so that the pipeline opens it again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.fake_jenkins import (
    ANN,
    GATE,
    PROMOTED,
    WAITING,
    FakeBuild,
    FakeInput,
    FakeJenkins,
    at,
    judged,
    report_event,
)
from tidegate.analysis.verdict import Outcome
from tidegate.core.approvals import awaited_answer, evidence_id
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Rollout, Signal
from tidegate.drivers.ci.jenkins.driver import JenkinsCI
from tidegate.drivers.ci.jenkins.inputs import CLOSED

GATED = replace(WAITING.step, gate=replace(WAITING.step.gate, approval="approve"))
ASKED = replace(WAITING, plan=(WAITING.plan[0], GATED, *WAITING.plan[2:]))
TWO = replace(ASKED, policy=replace(ASKED.policy, approval=replace(ASKED.policy.approval, needed=2)))
AGAIN = [("proceed", {"reason": f"{CLOSED}the evidence has changed"})]


def open_input(build: FakeBuild, rollout: Rollout, *signals: Signal) -> FakeInput:
    """An input that the pipeline has opened in this state."""
    assert awaited_answer(rollout, signals) is not None
    text = f"Reason\n• Check errors: PASS\n• Evidence version {evidence_id(rollout, signals)}"
    build.inputs = [FakeInput(GATE, ("comment", "reason"), description=text)]
    return build.inputs[0]


@pytest.mark.parametrize(
    ("before", "now", "kind"),
    [
        (judged(ASKED, Outcome.PASS), judged(ASKED, Outcome.INCONCLUSIVE), EventKind.VERDICT),
        (ASKED, judged(ASKED, Outcome.PASS), EventKind.VERDICT),
        (ASKED, replace(ASKED, paused=True), EventKind.PAUSED),
        (replace(ASKED, paused=True), ASKED, EventKind.RESUMED),
    ],
)
def test_an_input_with_other_evidence_is_asked_again(
    ci: JenkinsCI, build: FakeBuild, before: Rollout, now: Rollout, kind: EventKind
) -> None:
    gate = open_input(build, before)
    report_event(ci, before, kind)
    assert gate.answers == [], "it shows the present state"
    report_event(ci, now, kind)
    report_event(ci, now, kind)
    assert gate.answers == AGAIN
    gate = open_input(build, now)
    report_event(ci, now, kind)
    assert gate.answers == [], "one that was opened again stays open"


def test_the_approval_of_one_of_two_people_is_shown_to_the_other(ci: JenkinsCI, build: FakeBuild) -> None:
    gate = open_input(build, TWO)
    report_event(ci, TWO, PROMOTED, signals=[ANN])
    assert gate.answers == AGAIN


def test_more_of_the_same_evidence_disturbs_nobody(ci: JenkinsCI, build: FakeBuild) -> None:
    """The numbers of a verdict grow with each measurement."""
    before = judged(ASKED, Outcome.PASS)
    assert before.verdict is not None
    later = replace(before, verdict=replace(before.verdict, at=99.0, message="PASS: 0 of 9000"))
    gate = open_input(build, before)
    report_event(ci, later, EventKind.VERDICT)
    assert gate.answers == []


def test_an_approval_elsewhere_is_left_to_the_event_of_the_next_step(ci: JenkinsCI, build: FakeBuild) -> None:
    gate = open_input(build, ASKED)
    report_event(ci, ASKED, PROMOTED, signals=[ANN])
    assert gate.answers == [], "nobody has to answer any more, and the engine has not continued yet"
    report_event(ci, at(2), EventKind.STEP_ADVANCED, signals=[ANN])
    assert gate.answers == [("proceed", {"reason": f"{CLOSED}approved by ann: all good"})]


@pytest.mark.parametrize(
    "text",
    ["", "Evidence version", "Evidence version 0123456", "Evidence version 01234567 of old", "evidence version 01234567"],
)
def test_an_input_that_shows_no_evidence_stays_open(ci: JenkinsCI, build: FakeBuild, text: str) -> None:
    """Somebody else's, with a name like ours."""
    build.inputs = [FakeInput(GATE, ("reason",), description=text)]
    report_event(ci, judged(ASKED, Outcome.PASS), EventKind.VERDICT)
    assert build.inputs[0].answers == []


def test_a_person_who_was_faster_is_not_overridden(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    """The click comes between the driver's reading and its answer: Jenkins refuses the answer, and the delivery is done."""
    gate = open_input(build, ASKED)
    click = ("proceed", {"reason": "fine"})
    fake.before = lambda path: gate.answers.append(click) if path.endswith("/proceed") else None
    report_event(ci, judged(ASKED, Outcome.PASS), EventKind.VERDICT)
    assert gate.answers == [click]
