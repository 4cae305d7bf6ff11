"""The shared library's gates against a live service: who answers, who may, what is shown, and what comes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from support.api import compose
from support.fake_drivers import constant
from support.fake_jenkins import FakeBuild, FakeInput, FakeJenkins
from support.library import CHECKED, Jenkins, clicks, deploy, promote, refuses
from support.outbox import outbox
from support.wait import eventually

GOOD, BAD = constant(0.1), constant(2.0)


def test_approved_at_the_gate_it_goes_to_the_end(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote(), script=[clicks()])
    text = jenkins.ends("gate: approved", build, "SUCCESS")
    assert "Approved by alice: looks good" in text
    assert jenkins.latest()["phase"] == "succeeded"
    assert [(each["by"], each["via"], each["reason"]) for each in jenkins.audit("promote")] == [
        ("alice", "deploy-promote-rollback-vouch", "looks good")
    ]
    (asked,) = build["inputs"]
    assert (asked["submitter"], asked["submitterParameter"], asked["bound"]) == ("ops", "approver", False)
    assert build["milestones"] == 2
    assert "succeeded" in build["description"]


def test_the_gate_shows_the_evidence_and_the_requests(jenkins: Jenkins) -> None:
    jenkins.compose = compose(f"approval: {{after: [1]}}, drain_timeout: 1s, {CHECKED}")
    jenkins.api.world.answer = GOOD
    jenkins.build(deploy())
    report = jenkins.api.call("GET", f"/v1/rollouts/{jenkins.latest()['id']}/report").json()
    build = jenkins.build(deploy(), promote(), script=[clicks()])
    jenkins.ends("gate: evidence, requests seen and lost", build, "SUCCESS")
    message = build["inputs"][0]["message"]
    assert jenkins.latest()["digest"] in message
    assert "PASS: " in message
    assert "- slow: PASS" in message
    seen = re.search(r"^requests seen (\d+), lost (\d+)$", message, re.MULTILINE)
    assert seen is not None, message
    assert int(seen[1]) >= report["requests"] > 0
    assert int(seen[2]) == report["lost"] == 0


def test_what_the_proxy_could_not_count_is_told_at_the_gate(jenkins: Jenkins) -> None:
    """A proxy that is restarted meanwhile begins to count anew."""
    jenkins.api.world.pause = lambda verb: setattr(jenkins.api.world, "requests", 0) if verb == "write" else None
    build = jenkins.build(deploy(), promote(), script=[clicks()])
    jenkins.ends("gate: requests that could not be counted", build, "SUCCESS")
    message = build["inputs"][0]["message"]
    assert "requests seen and lost: not known, the proxy's counters began anew" in message


def test_a_gate_without_a_form_still_knows_who(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote(reason=False, milestone=False), script=[clicks()])
    jenkins.ends("gate: approved, without a reason", build, "SUCCESS")
    assert [(each["by"], each["reason"]) for each in jenkins.audit("promote")] == [("alice", "Jenkins: team/shop #7")]
    assert (build["milestones"], "parameters" in build["inputs"][0]) == (0, False)


def test_a_plan_without_a_gate_is_approved_by_the_build_itself(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), ("tidegatePromote", {}))
    jenkins.ends("promote: without a gate", build, "SUCCESS")
    assert build["inputs"] == []
    assert [each["by"] for each in jenkins.audit("promote")] == ["deploy-promote-rollback-vouch"]


def test_a_decision_without_a_gate_waits_for_a_person_elsewhere(jenkins: Jenkins) -> None:
    jenkins.compose = compose(f"drain_timeout: 1s, {CHECKED}")
    build = jenkins.build(deploy(), ("tidegatePromote", {}), meanwhile=lambda: decide(jenkins))
    text = jenkins.ends("promote: without a gate, decided elsewhere", build, "UNSTABLE")
    assert "Waiting for a person's decision" in text


def decide(jenkins: Jenkins) -> None:
    """Somebody accepts on the command line what the checks cannot clear, as often as it is asked, and not before the build
    has seen that somebody has to."""

    def is_over() -> bool:
        rollout = jenkins.latest()
        if rollout["approval"]:  # perhaps no longer: then the answer is a refusal
            eventually(
                "the build has seen the hold", lambda: follows_beyond(jenkins, rollout["id"], "waiting_for_approval")
            )
            body = {"binding": rollout["approval"]["binding"], "on_behalf_of": "bob"}
            jenkins.api.post(f"/v1/rollouts/{rollout['id']}/promote", body)
        return rollout["phase"] not in ("pending", "running") and rollout["new"] != "v1-1"

    eventually("the rollout is over", is_over)


def follows_beyond(jenkins: Jenkins, rollout: str, kind: str) -> bool:
    """Whether the build waits for what comes after the last event of this kind, or did."""
    events = jenkins.api.call("GET", f"/v1/rollouts/{rollout}/events").json()["events"]
    last = max(event["number"] for event in events if event["kind"] == kind)
    polls = [line for line in jenkins.api.server.asked if f"/{rollout}/events?" in line and "wait=" in line]
    return any(int(match[1]) >= last for poll in polls if (match := re.search(r"after=(\d+)", poll)))


# -- no ----------------------------------------------------------------------------------------------------------------


def test_a_gate_that_is_refused_turns_back_and_aborts_the_build(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote({"archive": True}), script=[refuses()])
    text = jenkins.ends("gate: rejected", build, "ABORTED")
    assert jenkins.latest()["phase"] == "rolled_back", "the build ended after the way back"
    assert "v2-2 was turned back" in text
    assert "turned down in Jenkins" in text
    assert "rolled back" in build["description"]
    assert json.loads(build["written"]["tidegate.json"])["rollout"]["phase"] == "rolled_back"
    assert [each["reason"] for each in jenkins.audit("rollback")] == ["Jenkins: team/shop #7: turned down in Jenkins"]


def test_a_gate_that_is_refused_and_detached_leaves_the_rollout_waiting(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote({"onAbort": "detach"}), script=[refuses()])
    text = jenkins.ends("gate: rejected, onAbort: 'detach'", build, "ABORTED")
    assert "goes on by itself" in text
    assert jenkins.waiting()["approval"]["given"] == []


@pytest.mark.parametrize(("choice", "phase"), [("rollback", "rolled_back"), ("detach", "running")])
def test_a_gate_that_nobody_answers_in_time(jenkins: Jenkins, choice: str, phase: str) -> None:
    script = [{"input": {"expire": True}}]
    build = jenkins.build(deploy(), promote(timeout="2s", onTimeout=choice), script=script)
    text = jenkins.ends(f"gate: expired, onTimeout: '{choice}'", build, "FAILURE")
    assert "nobody approved within 2 s" in text
    assert jenkins.latest()["phase"] == phase


def test_the_services_own_deadline_fails_the_build(jenkins: Jenkins) -> None:
    jenkins.compose = compose("approval: {after: [1], expires: 1s}, drain_timeout: 1s")
    build = jenkins.build(deploy(), promote(), script=[refuses(after=2)])
    text = jenkins.ends("gate: the service's own deadline is over", build, "FAILURE")
    assert "nobody answered in time" in text


def test_a_newer_build_that_passes_the_milestone_ends_the_older_one(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote(), script=[{"abort": {"step": "milestone"}}])
    jenkins.ends("gate: a newer build passes the milestone", build, "ABORTED")
    assert jenkins.latest()["phase"] == "rolled_back"


def test_a_build_that_is_aborted_behind_the_gate_asks_for_the_way_back(jenkins: Jenkins) -> None:
    abort = {"abort": {"step": "httpRequest", "match": "GET .*/events.*wait", "call": 4}}
    jenkins.api.world.ready_after = 0.5
    build = jenkins.build(deploy(), promote(), script=[clicks(), abort])
    jenkins.ends("promote: the build is aborted", build, "ABORTED")
    jenkins.api.until(jenkins.latest()["id"], "rolled_back")


# -- somebody who may not ----------------------------------------------------------------------------------------------


def test_who_is_not_of_the_role_is_told_so_and_another_may(jenkins: Jenkins) -> None:
    jenkins.compose = compose("approval: {after: [1], roles: [release-managers]}, drain_timeout: 1s")
    build = jenkins.build(deploy(), promote(), script=[clicks("mallory"), clicks("bob")])
    text = jenkins.ends("gate: not of the role, then another person", build, "SUCCESS")
    assert "mallory may not approve" in text
    assert "Who may: release-managers" in build["inputs"][0]["message"]
    assert [each["by"] for each in jenkins.audit("promote")] == ["bob"]


def test_who_asked_may_not_approve_where_that_is_wanted(jenkins: Jenkins) -> None:
    jenkins.compose = compose("approval: {after: [1], requester: false}, drain_timeout: 1s")
    causes = [{"userId": "alice"}]
    script = [clicks("alice"), clicks("bob")]
    build = jenkins.build(deploy(onBehalfOf=True), promote(), script=script, causes=causes)
    text = jenkins.ends("gate: who asked, then another person", build, "SUCCESS")
    assert "alice asked for rollout" in text
    assert "Asked for by alice, who may not approve it" in build["inputs"][0]["message"]


def test_five_people_who_may_not_end_the_build(jenkins: Jenkins) -> None:
    jenkins.compose = compose("approval: {after: [1], roles: [release-managers]}, drain_timeout: 1s")
    build = jenkins.build(deploy(), promote(), script=[clicks("mallory")] * 9)
    jenkins.ends("gate: nobody of the role", build, "FAILURE")
    assert len(build["inputs"]) == 5
    assert jenkins.waiting()


def test_a_token_that_may_not_approve_fails_at_once(jenkins: Jenkins) -> None:
    jenkins.scopes = ("deploy", "rollback", "vouch")
    build = jenkins.build(deploy(), promote(), script=[clicks()] * 9)
    text = jenkins.ends("gate: the token lacks the scope", build, "FAILURE")
    assert "lacks the scope promote" in text
    assert len(build["inputs"]) == 1


def test_two_people_are_asked_one_after_the_other(jenkins: Jenkins) -> None:
    jenkins.compose = compose("approval: {after: [1], needed: 2}, drain_timeout: 1s")
    script = [clicks("alice"), clicks("alice"), clicks("bob")]
    build = jenkins.build(deploy(), promote(), script=script)
    text = jenkins.ends("gate: 2 of 2 people, one of them twice", build, "SUCCESS")
    assert "approved already, by alice" in text
    assert [each["by"] for each in build["returned"]["approvals"]] == ["alice", "bob"]
    assert "Approvals: 1 of 2, given by alice" in build["inputs"][2]["message"]


def test_what_has_changed_since_it_was_shown_is_asked_for_anew(jenkins: Jenkins) -> None:
    """The first hold is approved elsewhere; the click is not taken for an approval of the next one."""
    jenkins.compose = compose("approval: {after: [1, 2]}, drain_timeout: 1s")
    jenkins.build(deploy())
    rollout = jenkins.waiting()
    body = {"binding": rollout["approval"]["binding"], "on_behalf_of": "bob"}
    request = {"path": f"/v1/rollouts/{rollout['id']}/promote", "token": jenkins.api.token, "body": body}
    late = clicks(meanwhile=[{**request, "headers": {"Idempotency-Key": "bob"}}], after=2)
    build = jenkins.build(deploy(), promote(), script=[late, clicks("alice")])
    jenkins.ends("gate: approved by API while it is open", build, "SUCCESS")
    assert len(build["inputs"]) == 2
    assert [each["by"] for each in jenkins.audit("promote")] == ["bob", "alice"]


# -- with the service's CI driver, which closes inputs ------------------------------------------------------------------


@pytest.fixture
def fake(jenkins: Jenkins) -> Iterator[FakeJenkins]:
    """A FAKE Jenkins that the service tells of its rollouts."""
    with FakeJenkins().running() as made, outbox(jenkins.api, made, jenkins.folder):
        yield made


def shown(jenkins: Jenkins, fake: FakeJenkins) -> tuple[FakeBuild, FakeInput, dict[str, Any]]:
    """The build's input as the fake has it, and the entry of the script whose input ends as this one does."""
    rollout = jenkins.waiting()
    gate = FakeInput(f"Tidegate-{rollout['id']}-0-0", ("reason",))
    return fake.build(jenkins.job, jenkins.number, gate), gate, {"input": {"file": str(jenkins.folder / "answer.json")}}


def told(jenkins: Jenkins, gate: FakeInput) -> None:
    """Once the input was settled in the fake, the played one ends in the same way."""
    eventually("the input is settled", lambda: gate.settled)
    ((verb, parameters),) = gate.answers
    answer = {"abort": True} if verb == "abort" else {"approver": "tidegate", **parameters}
    written = jenkins.folder / "answer.tmp"
    written.write_text(json.dumps(answer))
    written.rename(jenkins.folder / "answer.json")


def test_a_fail_while_the_gate_waits_closes_it_and_fails_the_build(jenkins: Jenkins, fake: FakeJenkins) -> None:
    jenkins.compose = compose(f"approval: {{after: [1]}}, drain_timeout: 1s, {CHECKED}")
    jenkins.api.world.answer = GOOD
    jenkins.build(deploy())
    page, gate, ends = shown(jenkins, fake)

    def worse() -> None:
        jenkins.api.world.answer = BAD
        jenkins.signal("verify")
        told(jenkins, gate)

    build = jenkins.build(deploy(), promote(), script=[ends], meanwhile=worse)
    text = jenkins.ends("gate: a FAIL while it is open", build, "FAILURE")
    assert gate.answers[0][0] == "abort"
    assert "v2-2 was turned back: FAIL: slow" in text
    assert "turned down in Jenkins" not in text
    eventually("the build's page tells why", lambda: "FAIL: slow" in str(page.description))
    assert jenkins.audit("rollback") == [], "nobody asked for it: the checks did"


def test_an_approval_on_the_command_line_closes_the_gate(jenkins: Jenkins, fake: FakeJenkins) -> None:
    jenkins.build(deploy())
    page, gate, ends = shown(jenkins, fake)

    def approved() -> None:
        jenkins.approve("bob")
        told(jenkins, gate)

    build = jenkins.build(deploy(), promote(), script=[ends], meanwhile=approved)
    jenkins.ends("gate: approved on the command line", build, "SUCCESS")
    assert gate.answers == [("proceed", {"reason": "approved by bob: by hand"})]
    assert [each["by"] for each in jenkins.audit("promote")] == ["bob"], "the service's own click approves nothing more"
    eventually("the build's page tells the end", lambda: "succeeded" in str(page.description))
