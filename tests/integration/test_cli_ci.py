"""The command line in `sh` steps of a Jenkins build: a command that is run again follows its rollout, by exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import RunningApi, compose, running
from support.wait import eventually
from tidegate.cli.ci_build import CiBuild, current_build
from tidegate.cli.exit_codes import ExitCode

TIDEGATE = Path(sys.executable).with_name("tidegate")
BUILD = {"BUILD_TAG": "jenkins-team-shop-7", "JOB_NAME": "team/größe", "BUILD_NUMBER": "7", "STAGE_NAME": "Deploy it"}
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as api, api.engine():
        api.until(api.deploy("v1")["id"], "succeeded")
        yield api


@pytest.fixture
def start(api: RunningApi, tmp_path: Path) -> Iterator[Start]:
    """Start the command in a build; keyword arguments change its environment. What still runs at the end is killed."""
    (tmp_path / "compose.yaml").write_text(compose("drain_timeout: 1s, approval: {after: [1]}"))
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str, **environ: str) -> subprocess.Popen[str]:
        own = {"TIDEGATE_SERVER": api.url, "TIDEGATE_TOKEN": api.token, "BUILD_URL": "http://ci/7/", **BUILD, **environ}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([str(TIDEGATE), *words], env={**os.environ, **own}, cwd=tmp_path, **pipes))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], code: ExitCode) -> str:
    """The output of a command that has ended with this code."""
    out, errors = process.communicate(timeout=100)
    assert process.returncode == code, out + errors
    return out


def deploy(version: str = "v2") -> tuple[str, ...]:
    return ("deploy", "demo/shop", "-f", "compose.yaml", "--set", f"VERSION={version}", "--detailed-exit-code")


def rollouts(api: RunningApi) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.call("GET", "/v1/rollouts").json()["rollouts"]
    return found


def test_a_killed_deploy_is_found_again_by_the_same_build(api: RunningApi, start: Start) -> None:
    """The agent is lost while the command follows the rollout; `retry` runs it again, perhaps on another agent."""
    api.world.ready_after = 1.0
    lost = start(*deploy())
    eventually("the rollout has begun", lambda: len(rollouts(api)) == 2)
    lost.send_signal(signal.SIGKILL)
    lost.communicate()
    again = ended(start(*deploy(), "-o", "json"), ExitCode.WAITING)
    build = json.loads(again)["build"]
    assert (build["job"], build["number"], build["url"]) == ("team/größe", 7, "http://ci/7/")
    assert rollouts(api)[0]["id"] == json.loads(again)["id"]
    assert len(rollouts(api)) == 2
    other = start(*deploy("v3"), BUILD_NUMBER="8")
    ended(other, ExitCode.REFUSED)


def test_a_pipeline_resumes_at_each_exit_code(api: RunningApi, start: Start) -> None:
    ended(start(*deploy()), ExitCode.WAITING)
    status = json.loads(ended(start("status", "demo/shop", "-o", "json"), ExitCode.DONE))
    binding = status["rollout"]["approval"]["binding"]
    words = ("promote", "demo/shop", "--binding", binding, "--on-behalf-of", "alice", "-m", "looks good")
    for _ in range(2):  # the second time, the approval was given and the release is live
        ended(start(*words, "--detailed-exit-code", STAGE_NAME="Promote"), ExitCode.DONE)
    entries = [one for one in api.call("GET", "/v1/audit").json()["entries"] if one["action"] == "promote"]
    assert [(one["by"], one["reason"]) for one in entries] == [("alice", "looks good")]
    ended(start(*deploy()), ExitCode.DONE)
    assert len(rollouts(api)) == 2


def test_an_approval_is_not_given_for_what_was_not_shown(api: RunningApi, start: Start) -> None:
    ended(start(*deploy()), ExitCode.WAITING)
    process = start("promote", "demo/shop", "--binding", "0123456789abcdef")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == ExitCode.REFUSED
    assert "changed" in errors
    assert rollouts(api)[0]["approval"]["given"] == []


def test_outside_a_build_each_command_is_a_request_of_its_own(api: RunningApi, start: Start) -> None:
    ended(start(*deploy(), BUILD_TAG=""), ExitCode.WAITING)
    ended(start(*deploy(), BUILD_TAG=""), ExitCode.REFUSED)
    assert rollouts(api)[0]["build"] is None


def test_a_server_that_is_away_exits_6_and_the_command_can_be_repeated(api: RunningApi, start: Start) -> None:
    api.server.stop()
    try:
        ended(start("--patience", "0", *deploy()), ExitCode.UNREACHABLE)
    finally:
        api.server.start()
    ended(start(*deploy()), ExitCode.WAITING)


@pytest.mark.parametrize(
    "change",
    [{"BUILD_TAG": "gitlab-1"}, {"JOB_NAME": ""}, {"BUILD_NUMBER": "x"}, {"BUILD_NUMBER": "0"}, {"BUILD_NUMBER": "9" * 16}],
)
def test_only_the_variables_of_jenkins_make_a_build(change: dict[str, str]) -> None:
    assert current_build(BUILD | change) is None


def test_the_key_is_that_of_build_and_stage() -> None:
    build = current_build(BUILD | {"BUILD_URL": "javascript:1"})
    assert build == CiBuild("team/größe", 7, "", "Deploy it")
    assert build.key("deploy") == "team%2Fgr%C3%B6%C3%9Fe#7/Deploy+it/cli-deploy"
