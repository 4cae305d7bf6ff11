"""The Jenkins driver over real HTTP against a FAKE Jenkins whose responses were recorded from a real one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from support.fake_jenkins import (
    ANN,
    GATE,
    ID,
    JOB,
    LINK,
    PLACEHOLDER,
    PROMOTED,
    ROLLED_BACK,
    ROLLOUT,
    WAITING,
    FakeBuild,
    FakeInput,
    FakeJenkins,
    Logs,
    at,
    event,
    failure,
    judged,
    report_event,
    subject,
)
from tidegate.analysis.verdict import Outcome
from tidegate.core.build import Build
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Rollout, SignalKind
from tidegate.core.phases import Phase
from tidegate.drivers.ci.jenkins.driver import JenkinsCI
from tidegate.drivers.ci.jenkins.inputs import CLOSED

# -- the description ---------------------------------------------------------------------------------------------------


def test_the_description_has_service_release_phase_verdict_and_link(ci: JenkinsCI, build: FakeBuild) -> None:
    report_event(ci, ROLLOUT, EventKind.CREATED)
    assert build.description == f"Tidegate: demo/shop v2-4 running, {LINK}"
    report_event(ci, judged(WAITING, Outcome.PASS), EventKind.VERDICT)
    assert build.description == f"Tidegate: demo/shop v2-4 running, waiting for a person (PASS), {LINK}"
    report_event(ci, replace(ROLLOUT, paused=True), EventKind.PAUSED)
    assert build.description == f"Tidegate: demo/shop v2-4 running, paused, {LINK}"


def test_the_description_has_a_link_where_jenkins_renders_it(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    fake.safe_html, build.description = True, f"mine\nTidegate: demo/shop v2-4 running, {LINK}"
    reason = 'Rollback requested by <b>bob</b> "now"'
    report_event(ci, ROLLED_BACK, event(EventKind.ROLLING_BACK, reason))
    report_event(ci, ROLLED_BACK, event(EventKind.ROLLING_BACK, reason))
    escaped = "Rollback requested by &lt;b&gt;bob&lt;/b&gt; &quot;now&quot;"
    line = f'<div>Tidegate: <a href="{LINK}">demo/shop v2-4</a> rolling back: {escaped}</div>'
    assert build.description == f"mine\n{line}", "the plain line is replaced"
    assert len(build.described) == 1


def test_an_unchanged_description_is_not_sent_again(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    for kind in (EventKind.CREATED, EventKind.CREATED, EventKind.PINNED, EventKind.STEP_ADVANCED):
        report_event(ci, ROLLOUT, kind)
    assert len(build.described) == 1
    assert fake.posts() == ["/job/team/job/repo/job/feature%252Ffoo/12/submitDescription"]


def test_the_reason_of_a_rollback_stays_during_its_steps(ci: JenkinsCI, build: FakeBuild) -> None:
    report_event(ci, WAITING, event(EventKind.ROLLBACK_REQUESTED, "Rollback requested by bob: it smells"))
    assert (
        build.description
        == f"Tidegate: demo/shop v2-4 running, waiting for a person: Rollback requested by bob: it smells, {LINK}"
    )
    report_event(ci, ROLLED_BACK, event(EventKind.ROLLING_BACK, "errors: 5 % of requests failed"))
    wanted = f"Tidegate: demo/shop v2-4 rolling back: errors: 5 % of requests failed, {LINK}"
    assert build.description == wanted
    report_event(ci, replace(ROLLED_BACK, reason="step 2 of 3"), event(EventKind.STEP_ADVANCED, "step 2 of 3"))
    assert build.description == wanted


def test_a_rollback_requested_too_late_does_not_change_a_success(ci: JenkinsCI, build: FakeBuild) -> None:
    report_event(
        ci, replace(ROLLOUT, phase=Phase.SUCCEEDED), event(EventKind.ROLLBACK_REQUESTED, "Rollback requested by bob")
    )
    assert build.description == f"Tidegate: demo/shop v2-4 succeeded, {LINK}"


def test_other_lines_stay_and_the_rollouts_own_line_is_replaced(ci: JenkinsCI, build: FakeBuild) -> None:
    build.description = f"Sprint <b>12</b>\r\nTidegate: demo/shop v2-4 pending, {LINK}\nTidegate: demo/shop v2-40 running"
    report_event(ci, ROLLOUT, EventKind.CREATED)
    assert (
        build.description
        == f"Sprint <b>12</b>\r\nTidegate: demo/shop v2-4 running, {LINK}\nTidegate: demo/shop v2-40 running"
    )
    report_event(ci, replace(ROLLOUT, id="other", service="demo/cart"), EventKind.CREATED)
    assert build.description.split("\n")[-1] == f"Tidegate: demo/cart v2-4 running, {LINK}"
    assert len(build.description.split("\n")) == 4


HOSTILE = [
    "<script>alert('x')</script>",
    "quotes \" and ' and `",
    "two\nlines\r\nand\u2028more\x00\x1b[31m",
    "日本語 ünïcödé 🚀 \u202egnissergnier",
    "& &lt; %2F %s {0} $(id) ${x}",
    "long " * 500,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_escaped_in_one_bounded_line(ci: JenkinsCI, build: FakeBuild, name: str) -> None:
    rollout = replace(ROLLED_BACK, service=f"demo/{name}", new=name)
    build.description = "mine"
    for _ in range(2):
        report_event(ci, rollout, event(EventKind.ROLLING_BACK, name), link=f"http://x/{name}")
    first, second = str(build.description).split("\n")
    assert first == "mine"
    assert second.startswith("Tidegate: demo/")
    assert "<" not in second
    assert ">" not in second
    assert second.isprintable()
    assert len(second) < 1000
    assert len(build.described) == 1
    if "script" in name:
        assert "&lt;script&gt;alert('x')&lt;/script&gt;" in second


def test_hostile_reasons_reach_an_input_unharmed(ci: JenkinsCI, build: FakeBuild) -> None:
    for number, name in enumerate(HOSTILE):
        build.inputs = [FakeInput(GATE, ("reason",))]
        given = replace(ANN, by=name, reason=name, at=float(number))
        report_event(ci, replace(ROLLOUT, phase=Phase.SUCCEEDED), EventKind.SUCCEEDED, signals=[given])
        ((_, parameters),) = build.inputs[0].answers
        assert parameters["reason"].startswith(f"{CLOSED}approved by {name}"[:400])
        assert len(parameters["reason"]) <= 2_000


# -- an approval given elsewhere ---------------------------------------------------------------------------------------


def test_an_approval_given_elsewhere_proceeds_the_input_with_approver_and_reason(ci: JenkinsCI, build: FakeBuild) -> None:
    gate = FakeInput(GATE, ("reason", "comment"))
    build.inputs = [gate]
    report_event(ci, WAITING, PROMOTED, signals=[ANN])
    report_event(ci, WAITING, PROMOTED, signals=[ANN])
    assert gate.answers == []  # it is still held: others may have to approve, too, and the engine has not gone on
    report_event(ci, at(2), EventKind.STEP_ADVANCED, signals=[ANN])
    assert gate.answers == [("proceed", {"reason": f"{CLOSED}approved by ann: all good"})]
    report_event(ci, at(2), EventKind.STEP_ADVANCED)
    assert len(gate.answers) == 1


def test_two_approvals_are_both_named(ci: JenkinsCI, build: FakeBuild) -> None:
    build.inputs = [FakeInput(GATE, ("Reason",))]
    bob = replace(ANN, by="bob", reason="", step=None)  # for all steps
    eve = replace(ANN, by="eve", step=0)  # for an earlier one
    refused = replace(ANN, kind=SignalKind.ROLLBACK, by="mallory")
    report_event(ci, at(2), EventKind.STEP_ADVANCED, signals=[eve, ANN, bob, refused])
    assert build.inputs[0].answers == [("proceed", {"Reason": f"{CLOSED}approved by ann: all good; bob"})]


def test_an_approval_reported_late_proceeds_at_once(ci: JenkinsCI, build: FakeBuild) -> None:
    build.inputs = [FakeInput(GATE, ("reason",))]
    report_event(ci, at(2), PROMOTED, signals=[ANN])
    assert build.inputs[0].answers == [("proceed", {"reason": f"{CLOSED}approved by ann: all good"})]


@pytest.mark.parametrize("parameters", [(), ("comment",)])
def test_an_input_without_a_reason_is_proceeded_empty(ci: JenkinsCI, build: FakeBuild, parameters: tuple[str, ...]) -> None:
    build.inputs = [FakeInput(GATE, parameters)]
    report_event(ci, replace(ROLLOUT, phase=Phase.SUCCEEDED, approval_since=5.0, cursor=1), EventKind.SUCCEEDED)
    assert build.inputs[0].answers == [("proceedEmpty", {})]


def test_an_input_of_a_step_that_nobody_approved_gets_the_event_as_reason(ci: JenkinsCI, build: FakeBuild) -> None:
    build.inputs = [FakeInput(GATE, ("reason",))]
    report_event(ci, at(2), event(EventKind.STEP_ADVANCED, "step 3 of 4"))
    assert build.inputs[0].answers == [("proceed", {"reason": f"{CLOSED}decided elsewhere: step 3 of 4"})]


def test_an_input_opened_late_is_settled_at_the_next_event(ci: JenkinsCI, build: FakeBuild) -> None:
    report_event(ci, at(2), EventKind.STEP_ADVANCED)
    build.inputs = [FakeInput(GATE)]  # it had asked how the rollout stands just before
    report_event(ci, at(2), EventKind.STEP_STARTED)
    assert build.inputs[0].answers == [("proceedEmpty", {})]


@pytest.mark.parametrize(
    "kind",
    [
        EventKind.STEP_ADVANCED,
        EventKind.WAITING_FOR_APPROVAL,
        EventKind.PROMOTED,
        EventKind.VERDICT,
        EventKind.TRAFFIC_DIVERGED,
    ],
)
def test_the_input_of_the_current_step_stays_open(ci: JenkinsCI, build: FakeBuild, kind: EventKind) -> None:
    """Even when the rollout is not held at this moment: it may be held again, and our answer would count as an approval."""
    build.inputs = [FakeInput(GATE)]
    report_event(ci, WAITING, kind)
    report_event(ci, at(1), kind)
    assert build.inputs[0].answers == []


def test_a_late_event_does_not_settle_a_later_input(ci: JenkinsCI, build: FakeBuild) -> None:
    early, present = FakeInput(GATE), FakeInput(f"Tidegate-{ID}-3-0")
    build.inputs = [early, present]
    report_event(ci, replace(ROLLOUT, cursor=3, approval_since=9.0), EventKind.STEP_ADVANCED)
    assert early.answers == [("proceedEmpty", {})]
    assert present.answers == []


def strangers() -> list[FakeInput]:
    names = [
        "deploy",
        f"Tidegate-{ID}",
        f"Tidegate-{ID}-",
        f"Tidegate-{ID}-x-0",
        f"Tidegate-{ID}0-1-0",
        f"Tidegate-{ID}-1-0-0",
    ]
    names += ["Tidegate-other-1-0", f"X-Tidegate-{ID}-1-0", f"Tidegate-{ID}-1-0\n", f"Tidegate-{'.' * len(ID)}-1-0"]
    return [FakeInput(name) for name in names]


@pytest.mark.parametrize(
    ("rollout", "kind"),
    [(replace(ROLLOUT, phase=Phase.SUCCEEDED), EventKind.SUCCEEDED), (ROLLED_BACK, EventKind.ROLLING_BACK)],
)
def test_inputs_of_others_are_never_touched(ci: JenkinsCI, build: FakeBuild, rollout: Rollout, kind: EventKind) -> None:
    build.inputs = strangers()
    report_event(ci, rollout, kind)
    assert [gate.id for gate in build.inputs if gate.answers] == []


def test_an_id_is_not_a_pattern(ci: JenkinsCI, build: FakeBuild) -> None:
    build.inputs = [FakeInput("Tidegate-axb-1-0"), FakeInput("Tidegate-a.b-1-0")]
    report_event(ci, replace(at(2), id="a.b"), EventKind.STEP_ADVANCED)
    assert [gate.id for gate in build.inputs if gate.answers] == ["Tidegate-a.b-1-0"]


def test_the_same_input_in_another_build_is_not_touched(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    other = fake.build(JOB, 120, FakeInput(GATE))
    report_event(ci, replace(ROLLOUT, phase=Phase.SUCCEEDED), EventKind.SUCCEEDED)
    assert other.inputs[0].answers == []
    assert other.description is None
    assert build.description


def test_an_id_with_a_small_first_letter_is_found(ci: JenkinsCI, build: FakeBuild) -> None:
    build.inputs = [FakeInput(f"t{GATE[1:]}")]
    report_event(ci, at(2), EventKind.STEP_ADVANCED)
    assert build.inputs[0].answers == [("proceedEmpty", {})]


# -- a rollout that rolls back or fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rollout", "kind"),
    [
        (WAITING, EventKind.ROLLBACK_REQUESTED),
        (ROLLED_BACK, EventKind.ROLLING_BACK),
        (replace(ROLLED_BACK, phase=Phase.ROLLED_BACK), EventKind.ROLLED_BACK),
        (replace(ROLLED_BACK, phase=Phase.FAILED), EventKind.FAILED),
        (ROLLED_BACK, EventKind.PROMOTED),  # late
        (ROLLED_BACK, EventKind.STEP_ADVANCED),  # on the way back
    ],
)
def test_an_input_is_aborted_once(ci: JenkinsCI, build: FakeBuild, rollout: Rollout, kind: EventKind) -> None:
    gate = FakeInput(GATE, ("reason",))
    build.inputs = [gate]
    for _ in range(2):
        report_event(ci, rollout, event(kind, "because of this"))
    assert gate.answers == [("abort", {})]
    assert ("because of this" in str(build.description)) == (kind not in (EventKind.PROMOTED, EventKind.STEP_ADVANCED))


@pytest.mark.parametrize("answer", [404, 400])
@pytest.mark.parametrize(("rollout", "kind"), [(at(2), EventKind.STEP_ADVANCED), (ROLLED_BACK, EventKind.ROLLING_BACK)])
def test_an_input_settled_meanwhile_is_a_success(
    ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild, answer: int, rollout: Rollout, kind: EventKind
) -> None:
    gate = FakeInput(GATE)
    build.inputs, fake.settled_answer = [gate], answer
    fake.before = lambda path: None if gate.answers else gate.answers.append(("proceed", {}))
    report_event(ci, rollout, kind)
    assert gate.answers == [("proceed", {})]
    assert build.description


def test_an_input_for_other_submitters_is_an_error_with_the_fix(ci: JenkinsCI, build: FakeBuild) -> None:
    build.inputs = [FakeInput(GATE, submitters=("alice",))]
    error = failure(ci, at(2), EventKind.STEP_ADVANCED)
    assert error.retryable
    assert "You need to be alice to submit this" in error.message
    assert GATE in error.message
    assert "submitters" in error.message


def test_a_job_that_is_not_shown_is_tried_again(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    """Without Job/Read, Jenkins answers as if the job did not exist."""
    fake.hidden = {JOB}
    error = failure(ci)
    assert error.retryable
    assert "Job/Read is missing" in error.message
    fake.hidden.clear()
    report_event(ci, ROLLOUT, EventKind.CREATED)
    assert build.description


def test_a_missing_build_is_logged_once(ci: JenkinsCI, fake: FakeJenkins, logs: Logs) -> None:
    fake.emptied = {JOB}
    for kind in (EventKind.CREATED, EventKind.STEP_ADVANCED, EventKind.SUCCEEDED):
        report_event(ci, ROLLOUT, kind)
    assert fake.posts() == []
    assert [log["event"] for log in logs] == ["Build not found: it does not exist, or the user may not see it"]
    assert (logs[0]["job"], logs[0]["number"]) == (JOB, 12)


def test_a_build_deleted_during_the_report(ci: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    build.inputs = [FakeInput(GATE)]
    fake.before, fake.emptied = lambda path: fake.builds.clear(), {JOB}
    report_event(ci, at(2), EventKind.STEP_ADVANCED)
    assert build.inputs[0].answers == []


def test_a_404_of_a_proxy_is_not_a_missing_build(ci: JenkinsCI, fake: FakeJenkins) -> None:
    fake.error_response = (404, "text/html", "<html>nginx</html>")
    assert failure(ci).retryable


# -- older builds that wait for a node ---------------------------------------------------------------------------------


@pytest.fixture
def stopping(fake: FakeJenkins, token: Path) -> JenkinsCI:
    return subject(fake, token, stop_obsolete=True)


@pytest.mark.parametrize("job", [JOB, "shop", "a folder/with (brackets)/ünï"])
def test_an_older_build_that_waits_for_a_node_is_stopped(
    stopping: JenkinsCI, fake: FakeJenkins, job: str, logs: Logs
) -> None:
    fake.build(job, 12)
    old, older = fake.build(job, 11), fake.build(job, 9)
    for waiting in (old, older, old):
        fake.waits_for_node(waiting)
    report_event(stopping, ROLLOUT, EventKind.CREATED, Build(job, 12))
    report_event(stopping, ROLLOUT, EventKind.CREATED, Build(job, 12))
    assert (old.stopped, older.stopped) == (1, 1)
    assert [(log["number"], log["newer"]) for log in logs] == [(9, 12), (11, 12)]


def test_other_queue_items_are_left_alone(stopping: JenkinsCI, fake: FakeJenkins, build: FakeBuild) -> None:
    old = fake.build(JOB, 11)
    others = [fake.build(JOB, 13), fake.build("team/repo/feature%2Ffoobar", 3), fake.build("team/repo/feature/foo", 3)]
    others += [fake.build("feature%2Ffoo", 3), fake.build(f"x/{JOB}", 3)]
    for other in (build, *others):
        fake.waits_for_node(other)
    fake.waits_for_node(old, _class="org.jenkinsci.plugins.workflow.job.WorkflowJob")
    fake.waits_for_node(old, url=f"http://elsewhere/{old.path}")
    fake.waits_for_node(old, url=f"{old.path}x/")
    fake.waits_for_node(old, url="")
    fake.queue += [{"id": 90}, {"task": None}, {"task": {"_class": PLACEHOLDER}}]
    done = fake.build(JOB, 8)
    done.building = False
    fake.waits_for_node(done)
    fake.waits_for_node(FakeBuild(JOB, 7))  # in the queue still, and gone
    report_event(stopping, ROLLOUT, EventKind.CREATED)
    assert [other.number for other in (build, old, done, *others) if other.stopped] == []


def test_only_the_start_of_a_rollout_stops_older_builds_and_only_if_configured(
    ci: JenkinsCI, stopping: JenkinsCI, fake: FakeJenkins, build: FakeBuild
) -> None:
    old = fake.build(JOB, 11)
    fake.waits_for_node(old)
    report_event(ci, ROLLOUT, EventKind.CREATED)
    report_event(stopping, ROLLOUT, EventKind.STEP_ADVANCED)
    report_event(
        stopping, replace(ROLLOUT, phase=Phase.ROLLED_BACK), EventKind.CREATED
    )  # reported late: the rollout has ended
    assert old.stopped == 0
    assert "/queue/api/json" not in [path for _, path, _ in fake.requests]


def test_an_older_build_that_cannot_be_stopped_is_logged_only(
    stopping: JenkinsCI, fake: FakeJenkins, build: FakeBuild, logs: Logs
) -> None:
    fake.waits_for_node(fake.build(JOB, 11))
    fake.lacking = ("/stop",)
    report_event(stopping, ROLLOUT, EventKind.CREATED)
    assert build.description
    (line,) = logs
    assert line["log_level"] == "warning"
    assert "hudson.model.Item.Cancel" in line["error"]
