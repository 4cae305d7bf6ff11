"""Each fault that the demo's application can have is caught, and good releases under the same noise go through.

All at the same time: a service for each, on one engine, one HAProxy and one Prometheus, with traffic of its own. Every
release, good or bad, has errors and response times that vary; and what the good ones share fails for a while in the middle.

Requests take hundreds of milliseconds, so that the tens that a busy machine adds to each do not hide what is compared; and
`make test` runs this story by itself. It has three of the cases; `make faults` (`FAULTS=all`) has all.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from parts import DemoStack
from processes import free_port
from support.wait import eventually, pause
from traffic import Load

CHOSEN = os.environ.get("FAULTS", "short").split(",")  # short, all, or names of cases
ALL = "all" in CHOSEN
NOISE = {"SERVICE_MS": "200", "JITTER": "0.6", "ALWAYS_RATIO": "0.01"}
OUTAGE = {"OUTAGE": "/shared/outage"}
BUSY = {"get_ka": 120.0, "get": 30.0, "post_ka": 20.0}
COMPOSE = """\
services:
  NAME:
    image: tidegate-faults:${VERSION}
    expose: ["8080"]
    stop_grace_period: 5s
    volumes: ["SHARED:/shared:ro"]
    environment: ENVIRONMENT
    deploy: {replicas: 5, update_config: {parallelism: BATCH, order: start-first}}
    x-tidegate:
      listen: "LISTEN"
      health: {path: /health}
      drain_timeout: 10s
      bake: BAKE
      interval: 5s
      warmup: WARMUP
      checks: CHECKS
"""
FIRST = "v1"
BASELINE_SECONDS = 62.0  # the judge compares with the last whole minute
OUTAGE_AFTER_SECONDS, OUTAGE_SECONDS = 30.0, 15.0
MAX_ROLLOUT_SECONDS = 900.0  # the longest one takes 150 s on an idle machine


@dataclass(frozen=True)
class FaultCase:
    """A service whose new release has this environment; `blamed`: a word that the verdict has to have."""

    name: str
    fault: dict[str, str]
    bad: bool = True
    blamed: str = ""
    bake: str = "40s"
    checks: str = "[{errors: {}}, {latency: {}}]"
    rates: dict[str, float] = field(default_factory=lambda: {"get_ka": 40.0, "get": 10.0, "post_ka": 10.0})
    short: bool = False  # also in the short form


CASES = (
    FaultCase("errors-times-5", {"ERROR_RATIO": "0.04"}, blamed="error rate", rates=BUSY),
    FaultCase("errors-plus-5", {"ERROR_RATIO": "0.05"}, blamed="error rate", rates=BUSY, short=True),
    FaultCase("slow-half-again", {"SLOW_FACTOR": "1.5"}, blamed="slower than", bake="80s", rates=BUSY, short=True),
    FaultCase("slow-threefold", {"SLOW_FACTOR": "3"}, blamed="slower than"),
    FaultCase("one-bad", {"ERROR_RATIO": "0.5", "BAD_ORDINAL": "1"}, blamed="error rate"),
    FaultCase("leak", {"LEAK_MB_PER_MINUTE": "20"}, blamed="of the limit", bake="65s", checks="[{memory: {limit: 64M}}]"),
    FaultCase("crash-loop", {"CRASH_AFTER": "4"}, blamed="restarted"),
    FaultCase("bad-after-a-minute", {"ERROR_RATIO": "0.3", "BAD_AFTER": "60"}, blamed="error rate"),
    FaultCase("good", {}, bad=False, short=True),
    FaultCase("good-too", {}, bad=False),
)


def is_chosen(case: FaultCase) -> bool:
    """Whether the case is played in this run."""
    return ALL or case.name in CHOSEN or (case.short and "short" in CHOSEN)


@dataclass
class Play:
    """One case on the stage."""

    case: FaultCase
    stage: DemoStack
    listen: str
    load: Load | None = None

    @property
    def service(self) -> str:
        return f"{self.stage.environment}/{self.case.name}"

    def deploy(self, version: str, fault: dict[str, str]) -> None:
        """Ask for it, and do not wait."""
        environment = {**NOISE, **fault, **({} if self.case.bad else OUTAGE)}
        text = COMPOSE.replace("ENVIRONMENT", json.dumps(environment)).replace("NAME", self.case.name)
        text = text.replace("CHECKS", self.case.checks)
        bake, warmup = (self.case.bake, "10s") if version != FIRST else ("1s", "0s")  # nothing is judged in a first deploy
        text = text.replace("BATCH", "2" if ALL else "3")  # three batches, or two
        text = text.replace("BAKE", bake).replace("WARMUP", warmup)
        text = text.replace("LISTEN", self.listen).replace("SHARED", str(self.stage.home / "shared"))
        file = self.stage.home / f"{self.case.name}-{version}.yaml"
        file.write_text(text)
        words = ("-f", str(file), "--no-wait", "--set", f"VERSION={version}")
        self.stage.tidegate("deploy", self.service, *words)

    def rollout(self) -> dict[str, Any]:
        """The latest one."""
        found: dict[str, Any] = self.stage.api(f"/v1/rollouts?service={self.service}&limit=1")["rollouts"][0]
        return found

    def verdicts(self) -> str:
        """What the judge said, a line each."""
        verdicts = self.stage.api(f"/v1/rollouts/{self.rollout()['id']}/record")["verdicts"]
        found = [(verdict["final"], finding) for verdict in verdicts for finding in verdict["findings"]]
        return "\n".join(
            f"{'final' if final else 'early'}: {finding['check']}: {finding['message']}" for final, finding in found
        )

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stage.api(f"/v1/rollouts/{self.rollout()['id']}/report")
        return found


def all_ended(plays: list[Play]) -> None:
    """Wait until every one is over; the error names those that are not."""

    def over() -> bool:
        return not running()

    def running() -> dict[str, tuple[str, str]]:
        rollouts = {play.case.name: play.rollout() for play in plays}
        live = {name: each for name, each in rollouts.items() if each["phase"] in ("pending", "running", "rolling_back")}
        return {name: (rollout["phase"], rollout["reason"]) for name, rollout in live.items()}

    try:
        eventually("every rollout has ended", over, MAX_ROLLOUT_SECONDS, poll_seconds=1.0)
    except AssertionError as error:
        raise AssertionError(f"{error}: {running()}") from None


@contextmanager
def outage(shared: Path) -> Iterator[None]:
    """Something that all instances depend on fails for a while, in the middle of it all."""
    over = threading.Event()

    def fail() -> None:
        if not over.wait(OUTAGE_AFTER_SECONDS):
            (shared / "outage").touch()
            over.wait(OUTAGE_SECONDS)
            (shared / "outage").unlink()

    thread = threading.Thread(target=fail)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.timeout(2400)
def test_each_fault_is_caught_and_the_good_go_through(stage: DemoStack) -> None:
    stage.start({f"tidegate-faults:{version}": {"VERSION": version} for version in ("v1", "v2")})
    (stage.home / "shared").mkdir()
    plays = [Play(case, stage, f"127.0.0.1:{free_port()}") for case in CASES if is_chosen(case)]
    for play in plays:
        play.deploy("v1", {})
    all_ended(plays)
    try:
        for play in plays:
            play.load = Load(play.listen, seconds=2 * MAX_ROLLOUT_SECONDS, **play.case.rates)
        pause(BASELINE_SECONDS, "for the judge to know what is normal")
        with outage(stage.home / "shared"):
            for play in plays:
                play.deploy("v2", play.case.fault)
            all_ended(plays)
    finally:
        seen = {play.case.name: play.load.finish() for play in plays if play.load is not None}
    reports = {play.case.name: play.report() for play in plays}
    for name, report in reports.items():
        after = report["decision_seconds"]
        print(f"{name:20} {report['phase']:12} {'–' if after is None else f'{after:.0f} s':>6}  {report['reason'][:180]}")
    for play in plays:
        report, case = reports[play.case.name], play.case
        assert report["phase"] == ("rolled_back" if case.bad else "succeeded"), f"{case.name}: {play.verdicts()}"
        assert case.blamed in report["reason"], (case.name, report["reason"])
        if "CRASH_AFTER" not in case.fault:
            assert seen[case.name].lost == 0, (case.name, seen[case.name].by_outcome)
