"""The shared library's real steps, on Groovy as Jenkins runs it, against a live service: each step in each outcome.

`httpRequest` makes real requests to the real API with its engine; Jenkins' own steps are played by the harness in
`shared-library/test`, and what runs the instances is a small world in memory.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.api import SHOP, Running, compose, running
from support.need import missing, program

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "shared-library"
CLASSPATH = f"{LIBRARY}/test/harness:{LIBRARY}/src"
TABLE: list[str] = []


def groovy(script: str, *words: str, told: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script of the harness on the Java that Debian's Groovy was made for."""
    program("groovy")
    homes = sorted(Path("/usr/lib/jvm").glob("java-17-openjdk-*")) or [Path("/usr/lib/jvm/default-java")]
    if not homes[0].exists():
        missing("a Java 17 in /usr/lib/jvm")
    command = ["groovy", "-cp", CLASSPATH, str(LIBRARY / "test" / script), *words]
    environment = {**os.environ, "JAVA_HOME": str(homes[0])}
    return subprocess.run(command, input=told, env=environment, capture_output=True, text=True, check=False, timeout=120)


@dataclass
class Jenkins:
    """A build that runs steps against the API."""

    api: Running
    number: int = 7
    job: str = "team/shop"
    scopes: tuple[str, ...] = ("deploy", "promote", "rollback", "vouch")
    more: dict[str, Any] = field(default_factory=dict)

    def build(self, *steps: tuple[str, dict[str, Any]], script: list[Any] | None = None, **more: Any) -> dict[str, Any]:
        """What became of a build with these steps."""
        scenario = {
            "steps": [
                {"stage": step.removeprefix("tidegate"), "step": step, "options": options} for step, options in steps
            ],
            "env": {
                "TIDEGATE_URL": self.api.url,
                "JOB_NAME": self.job,
                "BUILD_NUMBER": str(self.number),
                "BUILD_URL": f"http://ci/{self.number}/",
            },
            "files": {"compose.yaml": compose("hold: [1], drain: 1s, healthy_deadline: 2s")},
            "credentials": {"tidegate-token": self.api.token_for(*self.scopes)},
            "scale": 0.05,
            "script": script or [],
        }
        done = groovy("harness/run.groovy", "-", told=json.dumps({**scenario, **more}))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def jenkins(tmp_path: Path) -> Iterator[Jenkins]:
    """A build over a shop that serves v1."""
    with running(tmp_path) as api, api.engine():
        api.until(api.deploy("v1")["id"], "succeeded")
        yield Jenkins(api)


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """What was seen, in a table at the end."""
    yield
    print("\n" + "\n".join(TABLE))


def seen(what: str, build: dict[str, Any], result: str) -> str:
    """The build's log and error, for further looks; it must have ended so."""
    text = "\n".join([*build["echo"], str(build["error"] or "")])
    TABLE.append(f"{what:60} {build['result']:10} {(build['error'] or '')[:90]}")
    assert build["result"] == result, text
    return text


def deploy(version: str = "v2", **more: Any) -> tuple[str, dict[str, Any]]:
    """The step."""
    return "tidegateDeploy", {"service": "demo/shop", "file": "compose.yaml", "variables": {"VERSION": version}, **more}


def promote(**gate: Any) -> tuple[str, dict[str, Any]]:
    """The step."""
    return "tidegatePromote", {"gate": {"submitter": "ops", "timeout": "1h", **gate}}


APPROVED = {"input": {"approver": "alice", "reason": "looks good"}}


def latest(api: Running) -> dict[str, Any]:
    """The newest rollout."""
    found: dict[str, Any] = api.call("GET", "/v1/rollouts?limit=1").json()["rollouts"][0]
    return found


def test_approved_at_the_gate_it_goes_to_the_end(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), promote(), script=[APPROVED])
    text = seen("approved in Jenkins", build, "SUCCESS")
    assert latest(jenkins.api)["phase"] == "succeeded"
    (shown,) = build["inputs"]
    assert latest(jenkins.api)["digest"] in shown["message"], "the evidence is before the approver's eyes"
    assert "alice" in text
    entries = jenkins.api.call("GET", "/v1/audit").json()["entries"]
    assert [(each["by"], each["via"], each["reason"]) for each in entries if each["action"] == "promote"] == [
        ("alice", "deploy-promote-rollback-vouch", "looks good")
    ]


def test_the_same_stage_again_attaches_to_the_same_rollout(jenkins: Jenkins) -> None:
    first = jenkins.build(deploy())
    seen("deployed to the hold", first, "SUCCESS")
    again = jenkins.build(deploy(), promote(), script=[APPROVED])
    seen("the same stage again, as after a restart", again, "SUCCESS")
    assert again["env"]["TIDEGATE_ROLLOUT"] == first["env"]["TIDEGATE_ROLLOUT"]
    assert len(jenkins.api.call("GET", f"{SHOP}/rollouts").json()["rollouts"]) == 2


def test_an_answer_that_is_lost_starts_no_second_rollout(jenkins: Jenkins) -> None:
    lost = [{"restart": {"step": "httpRequest", "match": "POST .*/rollouts"}}]
    seen("the answer to the POST is lost", jenkins.build(deploy(), script=lost), "SUCCESS")
    assert len(jenkins.api.call("GET", f"{SHOP}/rollouts").json()["rollouts"]) == 2


@pytest.mark.parametrize("answer", [{"abort": True}, {"expire": True}])
def test_a_gate_that_is_refused_or_expires_turns_back(jenkins: Jenkins, answer: dict[str, bool]) -> None:
    build = jenkins.build(deploy(), promote(timeout="2s"), script=[{"input": answer}])
    seen(f"the gate: {next(iter(answer))}", build, "FAILURE" if "expire" in answer else build["result"])
    assert build["result"] in ("FAILURE", "ABORTED")
    assert latest(jenkins.api)["phase"] == "rolled_back"


def test_approved_elsewhere_while_the_gate_waits(jenkins: Jenkins) -> None:
    deployed = jenkins.build(deploy())
    rollout = jenkins.api.call("GET", f"/v1/rollouts/{deployed['env']['TIDEGATE_ROLLOUT']}").json()
    body = {"binding": rollout["hold"]["binding"], "on_behalf_of": "bob"}
    request = {"path": f"/v1/rollouts/{rollout['id']}/promote", "token": jenkins.api.token, "body": body}
    request["headers"] = {"Idempotency-Key": "bob"}
    build = jenkins.build(
        deploy(), promote(), script=[{"input": {**APPROVED["input"], "meanwhile": [request], "after": 1}}]
    )
    seen("approved by API while the gate waits", build, "SUCCESS")
    given = [each for each in jenkins.api.call("GET", "/v1/audit").json()["entries"] if each["action"] == "promote"]
    assert [each["by"] for each in given] == ["bob"], "the late click of Jenkins approves nothing more"


def test_a_release_that_never_stands_fails_the_build_with_the_reason(jenkins: Jenkins) -> None:
    jenkins.api.world.never_ready.add("v2-2")
    text = seen("turned back", jenkins.build(deploy()), "FAILURE")
    assert "v2-2" in text
    assert "not ready" in text


def test_an_aborted_build_asks_for_the_way_back(jenkins: Jenkins) -> None:
    jenkins.api.world.never_ready.add("v2-2")
    abort = [{"abort": {"step": "httpRequest", "match": "GET .*/events.*wait", "call": 2}}]
    seen("the build is aborted", jenkins.build(deploy(), script=abort), "ABORTED")
    jenkins.api.until(latest(jenkins.api)["id"], "rolled_back")
    assert any(each["action"] == "rollback" for each in jenkins.api.call("GET", "/v1/audit").json()["entries"])


def refused_token(jenkins: Jenkins) -> dict[str, Any]:
    return jenkins.build(deploy(), credentials={"tidegate-token": "tg_" + "x" * 43})


def weak_token(jenkins: Jenkins) -> dict[str, Any]:
    jenkins.scopes = ("read",)
    return jenkins.build(deploy())


def another_under_way(jenkins: Jenkins) -> dict[str, Any]:
    jenkins.api.deploy("v3", "hold: [1]")
    return jenkins.build(deploy())


def an_older_build(jenkins: Jenkins) -> dict[str, Any]:
    body = {"compose": compose(), "variables": {"VERSION": "v3"}, "build": {"job": "team/shop", "number": 8}}
    jenkins.api.until(jenkins.api.post(f"{SHOP}/rollouts", body).json()["id"], "succeeded")
    return jenkins.build(deploy())


def frozen(jenkins: Jenkins) -> dict[str, Any]:
    jenkins.api.call("PUT", "/v1/environments/demo/freeze", {"reason": "audit week"})
    return jenkins.build(deploy())


def mistaken(jenkins: Jenkins) -> dict[str, Any]:
    return jenkins.build(deploy(servcie="x", untill="end"))


@pytest.mark.parametrize(
    ("play", "result", "told"),
    [
        (refused_token, "FAILURE", "401"),
        (weak_token, "FAILURE", "deploy"),
        (another_under_way, "FAILURE", "live rollout"),
        (an_older_build, "NOT_BUILT", "superseded"),
        (frozen, "FAILURE", "audit week"),
        (mistaken, "FAILURE", "untill"),
    ],
)
def test_what_is_refused_says_why(
    jenkins: Jenkins, play: Callable[[Jenkins], dict[str, Any]], result: str, told: str
) -> None:
    text = seen(play.__name__.replace("_", " "), play(jenkins), result)
    assert told in text


def test_a_service_that_is_silent_for_a_while_is_asked_again(jenkins: Jenkins) -> None:
    url, jenkins.api.url = jenkins.api.url, "http://127.0.0.1:1"
    build = jenkins.build(deploy(patience=60), scale=0.01)
    jenkins.api.url = url
    text = seen("silent until patience ends", build, "FAILURE")
    assert len(build["sleeps"]) > 3, text


def test_a_rollback_in_one_line(jenkins: Jenkins) -> None:
    jenkins.api.until(jenkins.api.deploy("v2")["id"], "succeeded")
    build = jenkins.build(("tidegateRollback", {"service": "demo/shop", "reason": "complaints"}))
    seen("rolled back on request", build, "SUCCESS")
    assert latest(jenkins.api)["image"] == "shop:v1"


def test_every_step_keeps_the_conventions() -> None:
    done = groovy("convention.groovy")
    assert done.returncode == 0, done.stdout + done.stderr
