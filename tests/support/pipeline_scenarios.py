"""What people do with a pipeline in Jenkins, from deploy to the end: told once, for a real controller and a fake one."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from support.api import RunningApi, compose
from support.controller import Controller, Library
from support.fake_drivers import constant
from support.wait import eventually

CHECKED = "approval: {after: [1]}, drain_timeout: 1s, healthy_deadline: 30m, bake: 1s, interval: 1s, on_inconclusive: pause"
CHECKS = "checks: [{name: slow, query: slow_seconds, max: 0.5, min_samples: 1}]"
REASON = "read it, <b>fine</b> & 'good'"
MAX_HEADING = 160
JENKINSFILE = """\
@Library('NAME') _
stage('Deploy') {
    tidegateDeploy server: 'SERVER', service: 'demo/shop', variables: [VERSION: 'v2'], compose: '''COMPOSE'''
}
stage('Verify') {
    tidegateVerify server: 'SERVER', wait: 60
}
stage('Promote') {
    tidegatePromote server: 'SERVER', gate: [message: 'To production?']
}
"""


@dataclass(frozen=True)
class PipelineScenario:
    """A pipeline that is not started yet, in a folder with all it needs, over a shop that serves v1."""

    api: RunningApi
    controller: Controller
    job: str
    script: str = ""  # of the job

    @property
    def folder(self) -> str:
        """In which all of the scene is."""
        return self.job.partition("/")[0]

    def rollout(self) -> dict[str, Any]:
        """The pipeline's, as the service has it, once there is one. That there is one only is part of every story."""
        return dict(self.controller.eventually("a rollout begins", self._rollout))

    def _rollout(self) -> dict[str, Any] | None:
        found = self.api.call("GET", "/v1/rollouts").json()["rollouts"]
        mine = [each for each in found if each["build"] and each["build"]["job"] == self.job]
        assert len(mine) <= 1, "a build starts one rollout, whatever happens to it"
        return next(iter(mine), None)

    def description(self) -> str:
        """Of the build, as a person reads it on its page."""
        shown = str((self.controller.shown(self.job) or {}).get("description"))
        return re.sub(r"</?(a|div)\b[^>]*>", "", shown)

    def approve(self) -> None:
        """Somebody approves on the command line, and not in Jenkins."""
        rollout = self.rollout()
        body = {"binding": rollout["approval"]["binding"], "on_behalf_of": "bob", "reason": "by hand"}
        answer = self.api.post(f"/v1/rollouts/{rollout['id']}/promote", body)
        assert answer.status_code == 202, answer.text

    def ends(self, result: str, phase: str) -> str:
        """The build and its rollout end so; its log."""
        ended, log = self.controller.ended(self.job), self.controller.log(self.job)
        assert ended == result, log
        eventually(f"the rollout is {phase}", lambda: self.rollout()["phase"] == phase)
        return log


@contextmanager
def scenario(api: RunningApi, controller: Controller, library: Library, *, trusted: bool) -> Iterator[PipelineScenario]:
    """Made, and removed whatever happens."""
    folder = f"tidegate-acceptance-{uuid.uuid4().hex[:8]}"
    api.world.answer = constant(0.1)
    api.until(api.deploy("v1")["id"], "succeeded")
    script = JENKINSFILE.replace("NAME", library.name).replace("SERVER", api.url)
    controller.make_folder(folder, None if trusted else library)
    try:
        if trusted:
            controller.trust(library)
        controller.make_secret(folder, api.token_for("deploy", "promote", "rollback", "vouch", services=("demo/*",)))
        script = script.replace("COMPOSE", compose(f"{CHECKED}, {CHECKS}"))
        controller.make_pipeline(f"{folder}/shop", script)
        yield PipelineScenario(api, controller, f"{folder}/shop", script)
    finally:
        if trusted:
            controller.forget(library)
        controller.remove(folder)


# -- the stories ---------------------------------------------------------------------------------------------------------


def failed_between_stages(here: PipelineScenario) -> None:
    """Another step fails after the deployment, where no Tidegate step notices: the service rolls back."""
    job = f"{here.folder}/fails"
    here.controller.make_pipeline(job, here.script.partition("stage('Verify')")[0] + "error 'the tests failed'\n")
    failing = replace(here, job=job)
    here.controller.start(job)
    log = failing.ends("FAILURE", "rolled_back")
    assert "the tests failed" in log
    assert "Rolling back" not in log
    rollout = failing.rollout()
    assert rollout["rollback_cause"] == "build_ended"
    assert f"build 1 of {job} is over (FAILURE)" in rollout["reason"]


def approved_elsewhere(here: PipelineScenario) -> None:
    """Deploy, verify, and an approval on the command line: the service closes the input, and no executor was held."""
    here.controller.start(here.job)
    gate = here.controller.input(here.job)
    assert gate["id"].startswith("Tidegate-")
    assert "requests lost" in gate["input"]["message"]
    assert "PASS" in gate["input"]["message"]
    assert here.controller.executing(here.folder) == [], "a gate that waits holds no executor"
    here.approve()
    log = here.ends("SUCCESS", "succeeded")
    assert "promoted" in log
    told = "demo/shop v2-2 succeeded"
    here.controller.eventually(f"the description says: {told}", lambda: told in here.description())


def evidence_changes(here: PipelineScenario) -> None:
    """The rollout is paused and resumed while the gate is open: it is asked again each time, and then answered there."""
    here.controller.start(here.job)
    gate = here.controller.input(here.job)
    rollout = here.rollout()["id"]
    for verb, is_paused in (("pause", True), ("resume", False)):
        assert here.api.post(f"/v1/rollouts/{rollout}/{verb}").status_code == 202

        def shown(wanted: bool = is_paused) -> bool:
            evidence = here.controller.evidence(here.job)
            return bool(evidence) and ("Paused: " in evidence) == wanted

        here.controller.eventually(f"the gate shows the {verb}", shown)
    assert here.controller.input(here.job)["id"] == gate["id"], "a click on the first page counts, too"
    here.controller.approve(here.job, "seen while it was paused")
    log = here.ends("SUCCESS", "succeeded")
    assert log.count("The gate opens again. Changed since it was opened:") == 2
    entries = here.api.call("GET", "/v1/audit").json()["entries"]
    given = [(entry["by"], entry["reason"]) for entry in entries if entry["action"] == "promote"]
    assert given == [(here.controller.user, "seen while it was paused")]


def approved_in_jenkins(here: PipelineScenario) -> None:
    """Somebody reads the gate and clicks on Promote: what was shown can be read, and who approved is recorded."""
    here.controller.start(here.job)
    gate = here.controller.input(here.job)["input"]
    assert len(gate["message"]) <= MAX_HEADING
    assert "\n" not in gate["message"], "a heading, in which lines collapse"
    (reason,) = gate["parameters"]
    shown = [line.removeprefix("• ").partition(":")[0] for line in reason["description"].split("\n")]
    assert {"Release", "Traffic", "Requests", "Verdict", "Image", "Details"} <= set(shown)
    here.controller.approve(here.job, REASON)
    log = here.ends("SUCCESS", "succeeded")
    table = log.partition("waits for an approval\n")[2]
    assert here.rollout()["links"]["self"] in table, "the evidence is in the log, too, with a link"
    entries = here.api.call("GET", "/v1/audit").json()["entries"]
    assert [(one["by"], one["reason"]) for one in entries if one["action"] == "promote"] == [(here.controller.user, REASON)]


def refused(here: PipelineScenario) -> None:
    """Somebody aborts the input: the rollout is turned back, and the build ends as aborted after it."""
    here.controller.start(here.job)
    here.controller.refuse(here.job)
    log = here.ends("ABORTED", "rolled_back")
    assert "rejected in Jenkins" in log
    assert here.api.call("GET", "/v1/quarantine").json()["releases"] == [], "nothing was found in the image"


def aborted(here: PipelineScenario) -> None:
    """The build is aborted while its release does not stand yet, and holds no executor until then."""
    here.api.world.never_ready.add("v2-2")
    here.controller.start(here.job)
    here.rollout()
    assert here.controller.executing(here.folder) == [], "a rollout that runs holds no executor"
    here.controller.stop(here.job)
    here.ends("ABORTED", "rolled_back")


def restarted(here: PipelineScenario, restart: Callable[[], None]) -> None:
    """Jenkins is restarted, or killed, in each stage: while the release starts, at the gate, and after the approval."""
    here.api.world.never_ready.add("v2-2")
    here.controller.start(here.job)
    here.rollout()
    restart()
    here.api.world.never_ready.clear()
    before = here.controller.input(here.job)["id"]
    restart()
    assert here.controller.input(here.job)["id"] == before, "the same input, as it was"
    here.api.world.never_ready.add("v2-2")
    here.controller.approve(here.job, REASON)
    here.controller.eventually("the service has the approval", lambda: here.rollout()["approval"] is None)
    restart()
    here.api.world.never_ready.clear()
    log = here.ends("SUCCESS", "succeeded")
    assert "No response from Tidegate" not in log, "the service has always responded"
