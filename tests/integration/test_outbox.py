"""What a build shows of its rollout: from the engine through the outbox and the Jenkins driver, to a FAKE Jenkins."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import SHOP, RunningApi, compose, running
from support.fake_jenkins import FakeBuild, FakeInput, FakeJenkins
from support.outbox import outbox
from support.wait import eventually, pause

JOB = "team/shop"


@pytest.fixture
def jenkins() -> Iterator[FakeJenkins]:
    """One that runs."""
    with FakeJenkins().running() as made:
        yield made


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    """The API and an engine over a shop that serves v1."""
    with running(tmp_path) as made, made.engine():
        made.until(made.deploy("v1")["id"], "succeeded")
        yield made


def asked(api: RunningApi, options: str = "approval: {after: [1]}") -> str:
    """A rollout that build 7 asked for; its id."""
    build = {"job": JOB, "number": 7, "url": "http://ci/7/"}
    body = {"compose": compose(options), "variables": {"VERSION": "v2"}, "build": build}
    return str(api.post(f"{SHOP}/rollouts", body).json()["id"])


def held(api: RunningApi, rollout: str) -> dict[str, Any]:
    """The rollout once a person is waited for."""

    def found() -> dict[str, Any] | None:
        now: dict[str, Any] = api.call("GET", f"/v1/rollouts/{rollout}").json()
        return now if now["approval"] else None

    return dict(eventually(f"{rollout} waits for a person", found) or {})


def ends_with(build: FakeBuild, word: str) -> bool:
    """Whether the page's line has the word by now."""
    return word in (build.description or "")


def test_the_builds_page_follows_the_rollout_to_its_end(api: RunningApi, jenkins: FakeJenkins, tmp_path: Path) -> None:
    build = jenkins.build(JOB, 7)
    with outbox(api, jenkins, tmp_path):
        rollout = asked(api, "drain_timeout: 1s")
        eventually("the build's page tells the end", lambda: ends_with(build, "succeeded"))
    assert "demo/shop" in (build.description or "")
    assert f"http://tidegate.example/v1/rollouts/{rollout}/report" in (build.description or "")


def test_an_approval_by_api_settles_the_input(api: RunningApi, jenkins: FakeJenkins, tmp_path: Path) -> None:
    rollout = asked(api)
    gate = FakeInput(f"Tidegate-{rollout}-0-0", ("reason",))
    jenkins.build(JOB, 7, gate, other := FakeInput("Deploy-docs"))
    with outbox(api, jenkins, tmp_path):
        approval = held(api, rollout)["approval"]
        body = {"binding": approval["binding"], "on_behalf_of": "bob", "reason": "all good"}
        assert api.post(f"/v1/rollouts/{rollout}/promote", body).status_code == 202
        eventually("the input is settled", lambda: gate.settled)
    ((verb, parameters),) = gate.answers
    assert verb == "proceed"
    assert "bob" in parameters["reason"]
    assert "all good" in parameters["reason"]
    assert not other.settled


def test_a_way_back_aborts_the_input(api: RunningApi, jenkins: FakeJenkins, tmp_path: Path) -> None:
    rollout = asked(api)
    gate = FakeInput(f"Tidegate-{rollout}-0-0", ("reason",))
    build = jenkins.build(JOB, 7, gate)
    with outbox(api, jenkins, tmp_path):
        held(api, rollout)
        api.post(f"/v1/rollouts/{rollout}/rollback", {"reason": "complaints"})
        eventually("the input is settled", lambda: gate.settled)
        eventually("the build's page tells the end", lambda: ends_with(build, "rolled back"))
    assert [verb for verb, _ in gate.answers] == ["abort"]
    assert "complaints" in (build.description or "")


def test_a_jenkins_that_is_down_holds_nothing_up_and_is_told_later(
    api: RunningApi, jenkins: FakeJenkins, tmp_path: Path
) -> None:
    build = jenkins.build(JOB, 7)
    jenkins.stop()
    with outbox(api, jenkins, tmp_path):
        rollout = asked(api, "drain_timeout: 1s")
        api.until(rollout, "succeeded")
        jenkins.start()
        eventually("the build's page tells the end", lambda: ends_with(build, "succeeded"))


def test_a_jenkins_that_never_answers_delays_no_other_environment(
    api: RunningApi, jenkins: FakeJenkins, tmp_path: Path
) -> None:
    build = jenkins.build(JOB, 7)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts connections, and nobody reads them
        body = {
            "compose": compose(),
            "variables": {"VERSION": "v2"},
            "build": {"job": JOB, "number": 8, "url": "http://ci/8/"},
        }
        assert api.post("/v1/services/live/shop/rollouts", body).status_code == 202
        live = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with outbox(api, jenkins, tmp_path, live=live), silent.accept()[0]:  # its delivery has begun
            asked(api, "drain_timeout: 1s")
            eventually("the build's page tells the end", lambda: ends_with(build, "succeeded"))
            silent.close()


def test_an_outbox_that_ends_in_between_leaves_nothing_untold(
    api: RunningApi, jenkins: FakeJenkins, tmp_path: Path
) -> None:
    build = jenkins.build(JOB, 7)
    with outbox(api, jenkins, tmp_path):
        rollout = asked(api)
        held(api, rollout)
    before = list(build.described)
    api.post(f"/v1/rollouts/{rollout}/rollback")
    api.until(rollout, "rolled_back")
    assert build.described == before, "nobody tells it now"
    with outbox(api, jenkins, tmp_path):
        eventually("the build's page tells the end", lambda: ends_with(build, "rolled back"))


def test_the_page_shows_an_end_that_comes_between_two_reads(api: RunningApi, jenkins: FakeJenkins, tmp_path: Path) -> None:
    build = jenkins.build(JOB, 7)
    rollout = asked(api)
    held(api, rollout)

    def roll_back() -> None:
        api.post(f"/v1/rollouts/{rollout}/rollback")
        api.until(rollout, "rolled_back")

    with outbox(api, jenkins, tmp_path, between=roll_back):
        eventually("the build's page shows the end", lambda: ends_with(build, "rolled back"))


def test_a_rollout_that_no_build_asked_for_is_told_to_nobody(api: RunningApi, jenkins: FakeJenkins, tmp_path: Path) -> None:
    with outbox(api, jenkins, tmp_path):
        api.until(api.deploy("v2")["id"], "succeeded")
        pause(1.0, "the outbox polls twice and sends nothing")
    assert jenkins.requests == []
