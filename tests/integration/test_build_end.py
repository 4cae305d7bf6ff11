"""A rollout whose build is over, or hangs: from a FAKE Jenkins through the driver and the watcher to the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import SHOP, RunningApi, compose, running
from support.fake_jenkins import FakeBuild, FakeJenkins, aborted_by, rejected_by
from support.outbox import build_watcher
from support.wait import eventually, pause
from tidegate.core.build import BuildEndPolicy
from tidegate.core.build_watch import BuildEndRules

JOB = "team/shop"
HELD = "approval: {after: [1]}, drain_timeout: 1s"
TO_PAUSE = BuildEndRules(BuildEndPolicy.PAUSE, after_seconds=0.0)


@pytest.fixture
def jenkins() -> Iterator[FakeJenkins]:
    with FakeJenkins().running() as made:
        yield made


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    """The API and an engine over a shop that serves v1."""
    with running(tmp_path) as made, made.engine():
        made.until(made.deploy("v1")["id"], "succeeded")
        yield made


@pytest.fixture
def build(jenkins: FakeJenkins) -> FakeBuild:
    return jenkins.build(JOB, 7)


def deploy(api: RunningApi, options: str = HELD, **build: Any) -> dict[str, Any]:
    """The rollout that build 7 requested, once it waits for a person."""
    wanted = {"job": JOB, "number": 7, "url": "http://ci/7/", **build}
    body = {"compose": compose(options), "variables": {"VERSION": "v2"}, "build": wanted}
    rollout = api.post(f"{SHOP}/rollouts", body).json()["id"]

    def waiting() -> dict[str, Any] | None:
        now: dict[str, Any] = api.call("GET", f"/v1/rollouts/{rollout}").json()
        return now if now["approval"] else None

    return dict(eventually(f"{rollout} waits for a person", waiting) or {})


def events(api: RunningApi, rollout: str, kind: str) -> list[dict[str, Any]]:
    found = api.call("GET", f"/v1/rollouts/{rollout}/events").json()["events"]
    return [event for event in found if event["kind"] == kind]


def test_a_rollout_does_not_outlive_its_build(
    api: RunningApi, jenkins: FakeJenkins, build: FakeBuild, tmp_path: Path
) -> None:
    rollout = deploy(api)["id"]
    build.end("ABORTED", aborted_by("ann"))
    with build_watcher(api, jenkins, tmp_path):
        ended = api.until(rollout, "rolled_back")
    assert ended["rollback_cause"] == "build_ended"
    assert "build 7 of team/shop is over (ABORTED, Aborted by ann)" in ended["reason"]
    (event,) = events(api, rollout, "build_ended")
    assert event["data"]["by"] == "ann"
    entries = api.call("GET", "/v1/audit").json()["entries"]
    assert [(one["action"], one["by"]) for one in entries if one["rollout"] == rollout][:2] == [
        ("rollback after the end of its build", "tidegate"),
        ("stop build", "ann"),
    ]
    assert api.call("GET", "/v1/quarantine").json()["releases"] == [], "no finding about the image"


def test_a_build_that_succeeds_before_its_rollout_is_over_too(
    api: RunningApi, jenkins: FakeJenkins, build: FakeBuild, tmp_path: Path
) -> None:
    rollout = deploy(api)["id"]
    build.end("SUCCESS")
    with build_watcher(api, jenkins, tmp_path):
        assert api.until(rollout, "rolled_back")["rollback_cause"] == "build_ended"


def test_the_policy_pause_pauses_and_detach_lets_it_continue(
    api: RunningApi, jenkins: FakeJenkins, build: FakeBuild, tmp_path: Path
) -> None:
    rollout = deploy(api)["id"]
    build.end("FAILURE")
    with build_watcher(api, jenkins, tmp_path, TO_PAUSE):
        eventually("it is paused", lambda: api.call("GET", f"/v1/rollouts/{rollout}").json()["paused"])
        api.post(f"/v1/rollouts/{rollout}/rollback")
        api.until(rollout, "rolled_back")
        detached = deploy(api, on_end="detach")
        eventually("its end is reported", lambda: events(api, detached["id"], "build_ended"))
        api.post(f"/v1/rollouts/{detached['id']}/promote", {"binding": detached["approval"]["binding"]})
        assert api.until(detached["id"], "succeeded")["build"]["on_end"] == "detach"


def test_a_jenkins_that_does_not_answer_changes_nothing_and_is_reported_once(
    api: RunningApi, jenkins: FakeJenkins, build: FakeBuild, tmp_path: Path
) -> None:
    rollout = deploy(api)["id"]
    build.end("ABORTED")
    jenkins.stop()
    with build_watcher(api, jenkins, tmp_path):
        eventually("it is reported", lambda: events(api, rollout, "warning"))
        pause(1.0, "further answers that do not come change nothing")
        (event,) = events(api, rollout, "warning")
        assert "Unknown whether build 7 of team/shop still runs" in event["message"]
        assert api.call("GET", f"/v1/rollouts/{rollout}").json()["phase"] == "running"
        jenkins.start()
        api.until(rollout, "rolled_back")


def test_a_build_that_may_not_be_seen_is_not_over(api: RunningApi, jenkins: FakeJenkins, tmp_path: Path) -> None:
    rollout = deploy(api)["id"]  # this Jenkins shows no such build
    with build_watcher(api, jenkins, tmp_path):
        eventually("it is reported", lambda: events(api, rollout, "warning"))
        assert api.call("GET", f"/v1/rollouts/{rollout}").json()["phase"] == "running"
        jenkins.build(JOB, 7).end("ABORTED", aborted_by("ann"))
        api.until(rollout, "rolled_back")


def test_who_rejected_a_gate_is_recorded_when_its_build_has_ended(
    api: RunningApi, jenkins: FakeJenkins, build: FakeBuild, tmp_path: Path
) -> None:
    rollout = deploy(api)["id"]
    api.post(f"/v1/rollouts/{rollout}/rollback", {"reason": "gate rejected"})  # as the library does, without a name
    assert api.until(rollout, "rolled_back")["rollback_cause"] == "approval_rejected"
    with build_watcher(api, jenkins, tmp_path):
        build.end("ABORTED", rejected_by("bob"))
        eventually("it is recorded", lambda: events(api, rollout, "build_ended"))
    (entry,) = [one for one in api.call("GET", "/v1/audit").json()["entries"] if one["action"] == "stop build"]
    assert (entry["by"], entry["reason"], entry["build"]) == ("bob", "Rejected by Bob", "team/shop #7")


def test_a_build_that_does_not_poll_is_reported_and_one_that_polls_is_not(
    api: RunningApi, jenkins: FakeJenkins, build: FakeBuild, tmp_path: Path
) -> None:
    body = {"compose": compose("bake: 1h"), "variables": {"VERSION": "v2"}, "build": {"job": JOB, "number": 7}}
    rollout = api.post(f"{SHOP}/rollouts", body).json()["id"]
    with build_watcher(api, jenkins, tmp_path, BuildEndRules(silent_seconds=3_600.0)):
        pause(0.5, "a build that has polled lately is not reported")
    assert events(api, rollout, "warning") == []
    with build_watcher(api, jenkins, tmp_path, BuildEndRules(silent_seconds=0.001)):
        eventually("it is reported", lambda: events(api, rollout, "warning"))
    (event,) = events(api, rollout, "warning")
    assert "has not polled for this rollout" in event["message"]
