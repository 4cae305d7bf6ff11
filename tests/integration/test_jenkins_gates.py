"""The shared library's gates against a live service: who answers, who is permitted to, what is shown, and the result."""

from __future__ import annotations

import json
import re

import pytest

from support.api import compose
from support.fake_drivers import constant
from support.library import CHECKED, Jenkins, approves, deploy, promote, rejects
from support.wait import eventually

GOOD, BAD = constant(0.1), constant(2.0)


def test_an_approval_at_the_gate(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote(), script=[approves()])
    text = jenkins.expect("gate: approved", build, "SUCCESS")
    assert "Approved by alice: looks good" in text
    assert jenkins.latest()["phase"] == "succeeded"
    assert [(entry["by"], entry["via"], entry["reason"]) for entry in jenkins.audit("promote")] == [
        ("alice", "deploy-promote-rollback-vouch", "looks good")
    ]
    (gate,) = build["inputs"]
    assert (gate["submitter"], gate["submitterParameter"]) == ("ops", "approver")
    assert build["milestones"] == 2


def test_the_gate_shows_the_evidence_and_the_requests(jenkins: Jenkins) -> None:
    jenkins.compose = compose(f"approval: {{after: [1]}}, drain_timeout: 1s, {CHECKED}")
    jenkins.api.world.answer = GOOD
    jenkins.build(deploy())
    report = jenkins.api.call("GET", f"/v1/rollouts/{jenkins.latest()['id']}/report").json()
    build = jenkins.build(deploy(), promote(), script=[approves()])
    jenkins.expect("gate: evidence, requests and losses", build, "SUCCESS")
    evidence, digest = build["inputs"][0]["description"], jenkins.latest()["digest"]
    link = f"{jenkins.api.url}/v1/rollouts/{jenkins.latest()['id']}"
    (table,) = [text for text in build["echo"] if text.startswith("demo/shop: v2-2 waits for an approval\n")]
    for line in (r"Verdict:? +PASS$", r"Check slow:? +PASS: 0.1 on v2-2", rf"Image:? .*{digest}", rf"Details:? +{link}"):
        assert re.search(f"^• {line}", evidence, re.MULTILINE), evidence
        assert re.search(f"^  {line}", table, re.MULTILINE), table
    assert table.endswith(link), "nothing after the link, which Jenkins makes clickable up to the next space"
    counts = re.search(r"^• Requests: (\d+), lost: (\d+)$", evidence, re.MULTILINE)
    assert counts is not None, evidence
    question = f"Promote shop v2-2 to 2 of 3 instances? {counts[2]} of {counts[1]} requests lost, PASS: slow: 0.1 on v2-2"
    assert build["inputs"][0]["heading"] == question
    assert int(counts[1]) >= report["requests"] > 0
    assert int(counts[2]) == report["lost"] == 0


def test_the_gate_shows_why_requests_were_not_counted(jenkins: Jenkins) -> None:
    """The counters of a proxy that restarts start at zero."""
    jenkins.api.world.pause = lambda verb: setattr(jenkins.api.world, "requests", 0) if verb == "write" else None
    build = jenkins.build(deploy(), promote(), script=[approves()])
    jenkins.expect("gate: requests that could not be counted", build, "SUCCESS")
    evidence = build["inputs"][0]["description"]
    assert "Request counts unavailable: the proxy was restarted or reloaded, so its counters were reset" in evidence


def test_a_gate_without_a_reason_records_the_approver(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote(milestone=False, message="To production?"), script=[approves(form=False)])
    jenkins.expect("gate: approved, without a reason", build, "SUCCESS")
    assert [(entry["by"], entry["reason"]) for entry in jenkins.audit("promote")] == [("alice", "Jenkins: team/shop #7")]
    assert build["milestones"] == 0
    assert re.fullmatch(r"To production\? 0 of \d+ requests lost, no checks", build["inputs"][0]["heading"])


GROUP = """\
services:
  shop: {image: "shop:${VERSION}", expose: ["8080"], deploy: {replicas: 2}, x-tidegate: {listen: 8001, OPTIONS}}
  worker: {image: "worker:${VERSION}", expose: ["8080"], deploy: {replicas: 2}, x-tidegate: {listen: 8002, OPTIONS}}
"""


def test_the_gate_of_a_group_names_all_that_it_is_for(jenkins: Jenkins) -> None:
    common = "health: {path: /health}, group: true, drain_timeout: 1s, strategy: blue_green"
    jenkins.compose = GROUP.replace("OPTIONS", common, 1).replace("OPTIONS", f"route: worker, {common}", 1)
    build = jenkins.build(deploy(), promote(), script=[approves()])
    log = jenkins.expect("gate: of a group", build, "SUCCESS")
    (gate,) = build["inputs"]
    assert re.match(r"Promote shop v2-2 and worker v2-1 of its group\? ", gate["heading"]), gate["heading"]
    assert "• Group: an approval or a rollback is also for demo/worker v2-1" in gate["description"]
    assert re.search(r"^\d\d:\d\d:\d\d  shop  ", log, re.MULTILINE), "lines of parallel branches can be told apart"


def test_markup_in_the_evidence_means_nothing(jenkins: Jenkins) -> None:
    """The harness interprets the description as HTML, as Jenkins does with a formatter that allows it."""
    build = jenkins.build(deploy(onBehalfOf="<img src=x onerror=alert(1)>&lt;"), promote(), script=[approves()])
    jenkins.expect("gate: markup in names", build, "SUCCESS")
    assert "Requested by: ‹img src=x onerror=alert(1)›＆lt;" in build["inputs"][0]["description"]


def test_without_a_gate_the_build_approves(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), ("tidegatePromote", {}))
    jenkins.expect("promote: without a gate", build, "SUCCESS")
    assert build["inputs"] == []
    assert [entry["by"] for entry in jenkins.audit("promote")] == ["deploy-promote-rollback-vouch"]


def test_without_a_gate_a_decision_waits_for_a_person_outside_jenkins(jenkins: Jenkins) -> None:
    jenkins.compose = compose(f"drain_timeout: 1s, {CHECKED}")
    build = jenkins.build(deploy(), ("tidegatePromote", {}), meanwhile=lambda: decide(jenkins))
    text = jenkins.expect("promote: without a gate, decided outside Jenkins", build, "UNSTABLE")
    assert "Waiting for the decision of a person outside Jenkins" in text


def decide(jenkins: Jenkins) -> None:
    """Accept every inconclusive verdict from outside Jenkins, each after the build has polled past the event that asks for
    the decision."""

    def is_over() -> bool:
        rollout = jenkins.latest()
        if rollout["approval"]:  # if it no longer waits, the request is refused
            eventually(
                "the build has polled past the event", lambda: polls_past(jenkins, rollout["id"], "waiting_for_approval")
            )
            body = {"binding": rollout["approval"]["binding"], "on_behalf_of": "bob"}
            jenkins.api.post(f"/v1/rollouts/{rollout['id']}/promote", body)
        return rollout["phase"] not in ("pending", "running") and rollout["new"] != "v1-1"

    eventually("the rollout is over", is_over)


def polls_past(jenkins: Jenkins, rollout: str, kind: str) -> bool:
    """Whether the build has polled for events after the last one of this kind."""
    events = jenkins.api.call("GET", f"/v1/rollouts/{rollout}/events").json()["events"]
    last = max(event["number"] for event in events if event["kind"] == kind)
    polls = [line for line in jenkins.api.server.asked if f"/{rollout}/events?" in line and "wait=" in line]
    return any(int(match[1]) >= last for poll in polls if (match := re.search(r"after=(\d+)", poll)))


# -- rejected, timed out, aborted --------------------------------------------------------------------------------------


def test_a_rejected_gate_rolls_back_and_aborts_the_build(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote({"archive": True}), script=[rejects()])
    text = jenkins.expect("gate: rejected", build, "ABORTED")
    assert jenkins.latest()["phase"] == "rolled_back", "the build ended after the rollback"
    assert "v2-2 was rolled back" in text
    assert "rejected in Jenkins" in text
    assert json.loads(build["written"]["tidegate.json"])["rollout"]["phase"] == "rolled_back"
    assert [entry["reason"] for entry in jenkins.audit("rollback")] == ["Jenkins: team/shop #7: rejected in Jenkins"]


def test_a_rejected_gate_with_detach_leaves_the_rollout_waiting(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote({"onAbort": "detach"}), script=[rejects()])
    text = jenkins.expect("gate: rejected, onAbort: 'detach'", build, "ABORTED")
    assert "continues without it" in text
    assert jenkins.waiting()["approval"]["given"] == []


@pytest.mark.parametrize(("choice", "phase"), [("rollback", "rolled_back"), ("detach", "running")])
def test_a_gate_that_times_out(jenkins: Jenkins, choice: str, phase: str) -> None:
    script = [{"input": {"expire": True}}]
    build = jenkins.build(deploy(), promote(timeout="2s", onTimeout=choice), script=script)
    text = jenkins.expect(f"gate: timed out, onTimeout: '{choice}'", build, "FAILURE")
    assert "no approval within 2 s" in text
    assert jenkins.latest()["phase"] == phase


def test_an_approval_that_expires_in_the_service_fails_the_build(jenkins: Jenkins) -> None:
    jenkins.compose = compose("approval: {after: [1], expires: 1s}, drain_timeout: 1s")
    build = jenkins.build(deploy(), promote(), script=[rejects(after=2)])
    text = jenkins.expect("gate: the approval expires in the service", build, "FAILURE")
    assert "Approval timed out" in text


def test_a_newer_build_ends_the_older_one_at_the_milestone(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote(), script=[{"abort": {"step": "milestone"}}])
    jenkins.expect("gate: a newer build passes the milestone", build, "ABORTED")
    assert jenkins.latest()["phase"] == "rolled_back"


def test_a_build_aborted_after_the_gate_rolls_back(jenkins: Jenkins) -> None:
    abort = {"abort": {"step": "httpRequest", "match": "GET .*/events.*wait", "call": 4}}
    jenkins.api.world.ready_after = 0.5
    build = jenkins.build(deploy(), promote(), script=[approves(), abort])
    jenkins.expect("promote: the build is aborted", build, "ABORTED")
    jenkins.api.until(jenkins.latest()["id"], "rolled_back")


# -- approvers who are not permitted -----------------------------------------------------------------------------------


def test_an_approver_without_the_role_is_refused_and_another_approves(jenkins: Jenkins) -> None:
    jenkins.compose = compose("approval: {after: [1], roles: [release-managers]}, drain_timeout: 1s")
    build = jenkins.build(deploy(), promote(), script=[approves("mallory"), approves("bob")])
    text = jenkins.expect("gate: without the role, then another person", build, "SUCCESS")
    assert re.search(r"mallory cannot approve rollout \w+: requires role release-managers", text)
    assert "Approver: needs one of the roles: release-managers" in build["inputs"][0]["description"]
    assert [entry["by"] for entry in jenkins.audit("promote")] == ["bob"]


def test_the_requester_cannot_approve(jenkins: Jenkins) -> None:
    jenkins.compose = compose("approval: {after: [1], requester: false}, drain_timeout: 1s")
    causes = [{"userId": "alice"}]
    script = [approves("alice"), approves("bob")]
    build = jenkins.build(deploy(onBehalfOf=True), promote(), script=script, causes=causes)
    text = jenkins.expect("gate: the requester, then another person", build, "SUCCESS")
    assert "alice requested rollout" in text
    assert "Requested by: alice, who cannot approve it" in build["inputs"][0]["description"]


def test_five_refused_approvers_fail_the_build(jenkins: Jenkins) -> None:
    jenkins.compose = compose("approval: {after: [1], roles: [release-managers]}, drain_timeout: 1s")
    build = jenkins.build(deploy(), promote(), script=[approves("mallory")] * 9)
    jenkins.expect("gate: nobody has the role", build, "FAILURE")
    assert len(build["inputs"]) == 5
    assert jenkins.waiting()


def test_a_token_without_the_scope_promote_fails_at_once(jenkins: Jenkins) -> None:
    jenkins.scopes = ("deploy", "rollback", "vouch")
    build = jenkins.build(deploy(), promote(), script=[approves()] * 9)
    text = jenkins.expect("gate: the token lacks the scope", build, "FAILURE")
    assert "lacks the scope promote" in text
    assert build["inputs"] == [], "nobody is asked in vain"


def test_two_approvers_one_after_the_other(jenkins: Jenkins) -> None:
    jenkins.compose = compose("approval: {after: [1], needed: 2}, drain_timeout: 1s")
    script = [approves("alice"), approves("alice"), approves("bob")]
    build = jenkins.build(deploy(), promote(), script=script)
    text = jenkins.expect("gate: 2 of 2 people, one of them twice", build, "SUCCESS")
    assert "already approved by alice" in text
    assert [approval["by"] for approval in build["returned"]["approvals"]] == ["alice", "bob"]
    assert "Approvals: 1 of 2, given by alice" in build["inputs"][2]["description"]


def test_two_people_of_a_role_are_asked_until_both_have_answered(jenkins: Jenkins) -> None:
    """Carol is not of the role, the requester does not count, and a reason may have 2,000 characters."""
    rule = "approval: {after: [1], needed: 2, roles: [release-managers], requester: false}"
    jenkins.compose, long = compose(f"{rule}, drain_timeout: 1s"), "because " * 240
    script = [approves("carol"), approves("alice"), approves("dave"), approves("bob", long.strip())]
    build = jenkins.build(deploy(onBehalfOf="dave"), promote(), script=script)
    text = jenkins.expect("gate: 2 people of a role", build, "SUCCESS")
    assert "carol cannot approve" in text
    assert "dave requested rollout" in text
    given = [(approval["by"], approval["reason"]) for approval in build["returned"]["approvals"]]
    assert given == [("alice", "looks good"), ("bob", long.strip())]
    assert len(build["inputs"]) == 4
    assert all("release-managers" in gate["description"] for gate in build["inputs"])


def test_a_gate_opens_again_when_the_rollout_has_changed(jenkins: Jenkins) -> None:
    """The first approval is given elsewhere; the click does not count as the next approval."""
    jenkins.compose = compose("approval: {after: [1, 2]}, drain_timeout: 1s")
    jenkins.build(deploy())
    rollout = jenkins.waiting()
    body = {"binding": rollout["approval"]["binding"], "on_behalf_of": "bob"}
    request = {"path": f"/v1/rollouts/{rollout['id']}/promote", "token": jenkins.api.token, "body": body}
    late = approves(meanwhile=[{**request, "headers": {"Idempotency-Key": "bob"}}], after=2)
    build = jenkins.build(deploy(), promote(), script=[late, approves("alice")])
    jenkins.expect("gate: approved by API while it is open", build, "SUCCESS")
    assert len(build["inputs"]) == 2
    assert [entry["by"] for entry in jenkins.audit("promote")] == ["bob", "alice"]
