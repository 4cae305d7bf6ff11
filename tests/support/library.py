"""Runs the shared library's real steps against a live service, with the harness in `shared-library/test`.

`httpRequest` makes real requests; Jenkins' own steps are simulated. One Groovy process runs all builds one after another,
because starting it is slow.
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
OUTCOME = "outcome of a build"  # the test property that becomes a line of the table
OPTIONS = "approval: {after: [1]}, drain_timeout: 1s, healthy_deadline: 20s"
CHECKED = (
    "bake: 1s, interval: 1s, on_inconclusive: pause, checks: [{name: slow, query: slow_seconds, max: 0.5, min_samples: 1}]"
)

Build = dict[str, Any]
Step = tuple[str, dict[str, Any]]


def java() -> dict[str, str]:
    """The environment for Groovy: Debian's Groovy requires Java 17. For programs that run for seconds, the second compiler
    and a collector with threads cost more than they save."""
    homes = sorted(Path("/usr/lib/jvm").glob("java-17-openjdk-*")) or [Path("/usr/lib/jvm/default-java")]
    if not homes[0].exists():
        missing("a Java 17 in /usr/lib/jvm")
    return {**os.environ, "JAVA_HOME": str(homes[0]), "JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}


def command(script: str) -> list[str]:
    """The command line that runs a script of the harness."""
    return [program("groovy"), "-cp", CLASSPATH, str(LIBRARY / "test" / script)]


class Harness:
    """A Groovy process that simulates builds."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors
        self._running: subprocess.Popen[str] | None = None

    def run(self, scenario: dict[str, Any], meanwhile: Callable[[], object] | None = None) -> Build:
        """Run a build and return its result; call `meanwhile` while it runs."""
        process = self._running = self._running or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(scenario) + "\n")
            process.stdin.flush()
            if meanwhile is not None:
                meanwhile()
            line = process.stdout.readline()
        except BaseException:  # the next build needs a new process, because this one is still busy
            self._running = None
            process.kill()
            process.communicate()
            raise
        if not line:
            raise AssertionError(self._errors.read_text())
        build: Build = json.loads(line)
        return build

    def _start(self) -> subprocess.Popen[str]:
        words, pipe = command("harness/run.groovy"), subprocess.PIPE
        with self._errors.open("w") as file:
            return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=file, env=java(), text=True)

    def close(self) -> None:
        """Close the standard input, which ends the process."""
        if self._running is not None:
            self._running.communicate(timeout=60)


@contextmanager
def harness(folder: Path) -> Iterator[Harness]:
    """A harness whose errors go to `groovy.log` in the folder."""
    running = Harness(folder / "groovy.log")
    try:
        yield running
    finally:
        running.close()


@dataclass
class Jenkins:
    """A job whose builds run steps against the API."""

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
        """Run a build with these steps and return its result."""
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
        build = self.harness.run({**scenario, **more}, meanwhile)
        for gate in build["inputs"]:
            if "heading" in gate:  # the library's; one of the Jenkinsfile itself shows what it likes
                assert_readable(gate)
        return build

    def _token(self) -> str:
        """One token for all builds, because the service recognises a repeated request by its token, too."""
        if self.scopes not in self.tokens:
            self.tokens[self.scopes] = self.api.token_for(*self.scopes)
        return self.tokens[self.scopes]

    def expect(self, case: str, build: Build, result: str) -> str:
        """Assert the build's result, record a line of the table, and return the log with the error."""
        text = "\n".join([*build["echo"], *build["unstable"], str(build["error"] or "")])
        message = str(build["error"] or next(iter(build["unstable"]), "")).partition("\n")[0]
        self.record(OUTCOME, (case, build["result"], message))
        assert build["result"] == result, text
        return text

    # -- the service's state -------------------------------------------------------------------------------------------

    def latest(self) -> dict[str, Any]:
        """The newest rollout."""
        rollout: dict[str, Any] = self.api.call("GET", "/v1/rollouts?limit=1").json()["rollouts"][0]
        return rollout

    def count(self) -> int:
        """The number of rollouts so far."""
        return len(self.api.call("GET", "/v1/rollouts").json()["rollouts"])

    def audit(self, action: str) -> list[dict[str, Any]]:
        """The entries of the audit log with this action, the oldest first."""
        entries = self.api.call("GET", "/v1/audit").json()["entries"]
        return [entry for entry in reversed(entries) if entry["action"] == action]

    def waiting(self) -> dict[str, Any]:
        """Wait until the newest rollout needs an approval, and return it."""
        return eventually(
            "the rollout waits for a person",
            lambda: rollout if (rollout := self.latest())["new"] != "v1-1" and rollout["approval"] else None,
        )

    def signal(self, verb: str, **body: Any) -> None:
        """Send a signal to the newest rollout from outside Jenkins."""
        response = self.api.post(f"/v1/rollouts/{self.latest()['id']}/{verb}", body)
        assert response.status_code == 202, response.text

    def approve(self, by: str) -> None:
        """Give the approval from outside Jenkins."""
        self.signal("promote", binding=self.waiting()["approval"]["binding"], on_behalf_of=by, reason="by hand")


def assert_readable(gate: dict[str, Any]) -> None:
    """An input as Jenkins shows it: a short heading that nothing collapses in, and the evidence as lines of text, whatever
    formatter Jenkins applies to it."""
    assert gate["heading"] == gate["message"], "white space or markup in the heading"
    assert 10 < len(gate["heading"]) <= 160
    assert "sha256:" not in gate["heading"]
    lines = gate["description"].split("\n")
    assert gate["plain"] == lines, "each line stays a line"
    assert all(line in gate["html"] for line in lines), "nothing is lost where HTML is interpreted"
    assert all(line.startswith("• ") for line in lines[1:]), "lines can be told apart where they collapse"


def deploy(version: str = "v2", **more: Any) -> Step:
    """tidegateDeploy of the shop."""
    return "tidegateDeploy", {"service": "demo/shop", "file": "compose.yaml", "variables": {"VERSION": version}, **more}


def verify(**more: Any) -> Step:
    """tidegateVerify."""
    return "tidegateVerify", {"wait": 60, **more}


def promote(more: dict[str, Any] | None = None, **gate: Any) -> Step:
    """tidegatePromote with a gate; `more` are its other options."""
    return "tidegatePromote", {"gate": {"submitter": "ops", "timeout": "1h", **gate}, **(more or {})}


def approves(approver: str = "alice", reason: str = "looks good", **more: Any) -> dict[str, Any]:
    """A person answers the next input."""
    return {"input": {"approver": approver, "reason": reason, **more}}


def rejects(**more: Any) -> dict[str, Any]:
    """A person aborts the next input."""
    return {"input": {"abort": True, **more}}


def table(reports: list[pytest.TestReport]) -> list[str]:
    """One line per build that a test has recorded, in the order of the tests."""
    outcomes = [value for report in reports for name, value in report.user_properties if name == OUTCOME]
    return [f"{case:58} {result:9} {message[:110]}".rstrip() for case, result, message in outcomes]
