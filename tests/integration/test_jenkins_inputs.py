"""Inputs that the service's CI driver ends: decided elsewhere, outdated, and clicked on at the same moment.

The library's steps and the service are real. A FAKE Jenkins has the same inputs as the simulated build: whoever settles
one there, a person or the driver, ends it in the build.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import requests

from support.api import compose
from support.fake_drivers import constant
from support.fake_jenkins import FakeBuild, FakeInput, FakeJenkins
from support.library import CHECKED, Build, Jenkins, deploy, promote
from support.outbox import outbox
from support.wait import eventually

GOOD, BAD = constant(0.1), constant(2.0)
MAX_INPUTS = 3


@dataclass
class Page:
    """The build's page in the fake."""

    jenkins: Jenkins
    fake: FakeJenkins
    build: FakeBuild

    def run(self, meanwhile: Callable[[], object]) -> Build:
        """Run the build's last stage; its inputs open and end in the fake."""
        files = [(self.jenkins.folder / f"shown{n}", self.jenkins.folder / f"answer{n}") for n in range(MAX_INPUTS)]
        script = [{"input": {"shown": str(shown), "file": str(answer)}} for shown, answer in files]
        ended = threading.Event()

        def mirror() -> None:
            for shown, answer in files:
                eventually("an input opens or the build ends", lambda file=shown: file.exists() or ended.is_set())  # type: ignore[misc]
                if ended.is_set():
                    return
                asked = json.loads(shown.read_text())
                gate = FakeInput(asked["id"], ("reason",), message=asked["message"], description=asked["description"])
                self.build.inputs.append(gate)
                eventually("the input is settled or the build ends", lambda one=gate: one.settled or ended.is_set())  # type: ignore[misc]
                if not gate.settled:
                    return
                ((verb, parameters),) = gate.answers
                ends = {"abort": True} if verb == "abort" else {"approver": self.fake.user, **parameters}
                written = answer.with_suffix(".tmp")
                written.write_text(json.dumps(ends))
                written.rename(answer)

        thread = threading.Thread(target=mirror)
        thread.start()
        try:
            return self.jenkins.build(deploy(), promote(), script=script, meanwhile=meanwhile)
        finally:
            ended.set()
            thread.join()

    def opened(self, number: int = 1) -> FakeInput:
        """Wait for this input, counted from 1."""
        inputs = self.build.inputs
        return eventually(f"input {number} opens", lambda: inputs[number - 1] if len(inputs) >= number else None)

    def click(self, gate: FakeInput, reason: str) -> int:
        """Approve on the page of this input, which may have been opened long ago; the status of the response."""
        form = {"json": json.dumps({"parameter": [{"name": "reason", "value": reason}]})}
        url = f"{self.fake.url}/{self.build.path}input/{gate.id}/proceed"
        return requests.post(url, form, auth=(self.fake.user, self.fake.token), timeout=60).status_code


@contextmanager
def opened_page(jenkins: Jenkins) -> Iterator[Page]:
    """A build that has deployed and whose page is in a FAKE Jenkins, to which the service reports."""
    with FakeJenkins().running() as fake, outbox(jenkins.api, fake, jenkins.folder):
        jenkins.build(deploy())
        jenkins.waiting()
        yield Page(jenkins, fake, fake.build(jenkins.job, jenkins.number))


@pytest.fixture
def page(jenkins: Jenkins) -> Iterator[Page]:
    """Without checks."""
    with opened_page(jenkins) as page:
        yield page


@pytest.fixture
def checked(jenkins: Jenkins) -> Iterator[Page]:
    """With a check that passes."""
    jenkins.compose = compose(f"approval: {{after: [1]}}, drain_timeout: 1s, {CHECKED}")
    jenkins.api.world.answer = GOOD
    with opened_page(jenkins) as page:
        yield page


def test_a_fail_closes_the_open_gate_and_fails_the_build(jenkins: Jenkins, checked: Page) -> None:
    def fail_checks() -> None:
        checked.opened()
        jenkins.api.world.answer = BAD
        jenkins.signal("verify")

    build = checked.run(fail_checks)
    text = jenkins.expect("gate: a FAIL while it is open", build, "FAILURE")
    assert checked.build.inputs[0].answers[0][0] == "abort"
    assert "v2-2 was rolled back: FAIL: slow" in text
    assert "rejected in Jenkins" not in text
    eventually("the build's page shows why", lambda: "FAIL: slow" in str(checked.build.description))
    assert jenkins.audit("rollback") == [], "the checks rolled back, no person did"


def test_an_approval_on_the_command_line_closes_the_gate(jenkins: Jenkins, page: Page) -> None:
    def approve() -> None:
        page.opened()
        jenkins.approve("bob")

    build = page.run(approve)
    text = jenkins.expect("gate: approved on the command line", build, "SUCCESS")
    assert "Tidegate closed this input: approved by bob: by hand" in text
    assert "Approved by" not in text, "the service's own answer is no approval"
    assert [entry["by"] for entry in jenkins.audit("promote")] == ["bob"]
    eventually("the build's page shows the end", lambda: "succeeded" in str(page.build.description))


def test_a_gate_opens_again_with_what_has_changed(jenkins: Jenkins, page: Page) -> None:
    """The rollout is paused while the gate is open. A click on the page as it was then counts: it approves the same."""

    def pause_and_click() -> None:
        old = page.opened()
        jenkins.signal("pause")
        new = page.opened(2)
        assert "• Paused: " in new.description
        assert "• Paused: " not in old.description
        jenkins.signal("resume")
        page.opened(3)
        assert page.click(old, "seen before the pause") == 200

    build = page.run(pause_and_click)
    text = jenkins.expect("gate: opened again, and a click on the old page", build, "SUCCESS")
    assert [gate["id"] for gate in build["inputs"]] == [build["inputs"][0]["id"]] * 3
    assert text.count("The gate opens again. Changed since it was opened:") == 2
    assert "    Paused: none -> no step starts until the rollout is resumed" in text
    assert build["milestones"] == 2, "one before the approval and one after it, however often it was asked"
    assert [entry["reason"] for entry in jenkins.audit("promote")] == ["seen before the pause"]


def test_a_click_that_comes_before_the_gate_is_closed_counts(jenkins: Jenkins, page: Page) -> None:
    """The evidence has changed, the driver has not ended the input yet: the approval still applies."""

    def click_first() -> None:
        gate = page.opened()
        once = [gate]

        def person(path: str) -> None:
            if path.endswith("/proceed") and once:
                once.pop().answers.append(("proceed", {"reason": "just in time"}))

        page.fake.before = person
        jenkins.signal("pause")
        eventually("somebody has clicked", lambda: gate.settled)
        jenkins.signal("resume")

    build = page.run(click_first)
    jenkins.expect("gate: a click at the moment when it is closed", build, "SUCCESS")
    assert [entry["reason"] for entry in jenkins.audit("promote")] == ["just in time"]


def test_a_click_on_a_page_about_something_else_does_not_count(jenkins: Jenkins) -> None:
    """The checks are inconclusive meanwhile: that is another decision, and its input has another ID."""
    jenkins.compose = compose(f"approval: {{after: [1]}}, drain_timeout: 1s, {CHECKED}")
    jenkins.api.world.answer = GOOD
    with opened_page(jenkins) as page:

        def lose_the_metrics() -> None:
            old = page.opened()
            jenkins.api.world.answer = lambda query, window: ()
            jenkins.signal("verify")
            new = page.opened(2)
            assert page.click(old, "outdated") == 404
            assert page.click(new, "accepted without data") == 200
            jenkins.api.world.answer = GOOD

        build = page.run(lose_the_metrics)
    text = jenkins.expect("gate: a click on a page about another decision", build, "UNSTABLE")
    first, second = build["inputs"]
    assert first["id"] != second["id"]
    assert "although its checks did not pass?" in second["heading"]
    assert "    Verdict: PASS -> INCONCLUSIVE" in text
    assert [entry["reason"] for entry in jenkins.audit("promote")] == ["accepted without data"]
