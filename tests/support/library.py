"""The shared library's real steps, played by the harness in `shared-library/test` against a live service.

`httpRequest` makes real requests; Jenkins' own steps are played. One Groovy plays all builds, one after another, so that it
is started once.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.api import RunningApi, compose
from support.prerequisites import missing, program
from support.wait import eventually

LIBRARY = Path(__file__).parents[2] / "shared-library"
CLASSPATH = f"{LIBRARY}/test/harness:{LIBRARY}/src"
OUTCOME = "outcome of a build"  # the property of a test that has its line in the table
OPTIONS = "approval: {after: [1]}, drain_timeout: 1s, healthy_deadline: 20s"
CHECKED = (
    "bake: 1s, interval: 1s, on_inconclusive: pause, checks: [{name: slow, query: slow_seconds, max: 0.5, min_samples: 1}]"
)

Build = dict[str, Any]
Step = tuple[str, dict[str, Any]]


def java() -> dict[str, str]:
    """The environment for Groovy: the Java that Debian's was made for."""
    homes = sorted(Path("/usr/lib/jvm").glob("java-17-openjdk-*")) or [Path("/usr/lib/jvm/default-java")]
    if not homes[0].exists():
        missing("a Java 17 in /usr/lib/jvm")
    return {**os.environ, "JAVA_HOME": str(homes[0])}


def command(script: str) -> list[str]:
    """Groovy on a script of the harness."""
    return [program("groovy"), "-cp", CLASSPATH, str(LIBRARY / "test" / script)]


class Harness:
    """A Groovy that plays builds."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors
        self._running: subprocess.Popen[str] | None = None

    def play(self, scenario: dict[str, Any], meanwhile: Callable[[], object] | None = None) -> Build:
        """What became of a build; `meanwhile` happens while it runs."""
        process = self._running = self._running or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(scenario) + "\n")
            process.stdin.flush()
            if meanwhile is not None:
                meanwhile()
            line = process.stdout.readline()
        except BaseException:  # nobody waits for this build any more, and the next one begins afresh
            self._running = None
            process.kill()
            process.communicate()
            raise
        if not line:
            raise AssertionError(self._errors.read_text())
        found: Build = json.loads(line)
        return found

    def _started(self) -> subprocess.Popen[str]:
        words, pipe = command("harness/run.groovy"), subprocess.PIPE
        with self._errors.open("w") as file:
            return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=file, env=java(), text=True)

    def close(self) -> None:
        """It ends when there is nothing more to play."""
        if self._running is not None:
            self._running.communicate(timeout=60)


@contextmanager
def harness(folder: Path) -> Iterator[Harness]:
    """One that runs."""
    made = Harness(folder / "groovy.log")
    try:
        yield made
    finally:
        made.close()


@dataclass
class Jenkins:
    """A build of a job that runs steps against the API."""

    api: RunningApi
    harness: Harness
    record: Callable[[str, object], None]  # pytest's record_property
    folder: Path
    number: int = 7
    job: str = "team/shop"
    scopes: tuple[str, ...] = ("deploy", "promote", "rollback", "vouch")
    compose: str = field(default_factory=lambda: compose(OPTIONS))
    tokens: dict[tuple[str, ...], str] = field(default_factory=dict)  # by their scopes

    def build(
        self,
        *steps: Step,
        script: list[Any] | None = None,
        meanwhile: Callable[[], object] | None = None,
        **more: Any,
    ) -> Build:
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
            "files": {"compose.yaml": self.compose},
            "credentials": {"tidegate-token": self._token()},
            "scale": 0.02,
            "script": script or [],
        }
        return self.harness.play({**scenario, **more}, meanwhile)

    def _token(self) -> str:
        """One for all builds: the service knows a repeated request by it, too."""
        if self.scopes not in self.tokens:
            self.tokens[self.scopes] = self.api.token_for(*self.scopes)
        return self.tokens[self.scopes]

    def ends(self, what: str, build: Build, result: str) -> str:
        """It must have ended so; its log and error, for further looks. One line of the table at the end."""
        text = "\n".join([*build["echo"], *build["unstable"], str(build["error"] or "")])
        said = str(build["error"] or next(iter(build["unstable"]), "")).partition("\n")[0]
        self.record(OUTCOME, (what, build["result"], said))
        assert build["result"] == result, text
        return text

    # -- what the service has by now -----------------------------------------------------------------------------------

    def latest(self) -> dict[str, Any]:
        """The newest rollout."""
        found: dict[str, Any] = self.api.call("GET", "/v1/rollouts?limit=1").json()["rollouts"][0]
        return found

    def count(self) -> int:
        """How many rollouts there were."""
        return len(self.api.call("GET", "/v1/rollouts").json()["rollouts"])

    def audit(self, action: str) -> list[dict[str, Any]]:
        """The lines of the audit log about it, the oldest first."""
        entries = self.api.call("GET", "/v1/audit").json()["entries"]
        return [entry for entry in reversed(entries) if entry["action"] == action]

    def waiting(self) -> dict[str, Any]:
        """The newest rollout once it waits for a person."""
        return eventually(
            "the rollout waits for a person",
            lambda: found if (found := self.latest())["new"] != "v1-1" and found["approval"] else None,
        )

    def signal(self, verb: str, **body: Any) -> None:
        """Somebody else wants something of the newest rollout."""
        answer = self.api.post(f"/v1/rollouts/{self.latest()['id']}/{verb}", body)
        assert answer.status_code == 202, answer.text

    def approve(self, by: str) -> None:
        """Somebody approves elsewhere what is waited for."""
        self.signal("promote", binding=self.waiting()["approval"]["binding"], on_behalf_of=by, reason="by hand")


def deploy(version: str = "v2", **more: Any) -> Step:
    """The step."""
    return "tidegateDeploy", {"service": "demo/shop", "file": "compose.yaml", "variables": {"VERSION": version}, **more}


def verify(**more: Any) -> Step:
    """The step."""
    return "tidegateVerify", {"wait": 60, **more}


def promote(more: dict[str, Any] | None = None, **gate: Any) -> Step:
    """The step with a gate; `more` are its other options."""
    return "tidegatePromote", {"gate": {"submitter": "ops", "timeout": "1h", **gate}, **(more or {})}


def clicks(approver: str = "alice", reason: str = "looks good", **more: Any) -> dict[str, Any]:
    """Somebody answers the next input."""
    return {"input": {"approver": approver, "reason": reason, **more}}


def refuses(**more: Any) -> dict[str, Any]:
    """Somebody aborts the next input."""
    return {"input": {"abort": True, **more}}


def table(reports: list[pytest.TestReport]) -> list[str]:
    """A line for each build that a test has told of, in the order of the tests."""
    told = [value for report in reports for name, value in report.user_properties if name == OUTCOME]
    return [f"{what:58} {result:9} {said[:110]}".rstrip() for what, result, said in told]
