"""Each fault that the demo's application can have is caught, and good releases under the same noise go through.

All at the same time: a service for each, on one engine, one HAProxy and one Prometheus, with traffic of its own. Every
release, good or bad, has errors and response times that vary; and what the good ones share fails for a while in the middle.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from parts import Stage
from processes import free_port
from traffic import Load

NOISE = {"SERVICE_MS": "10", "JITTER": "0.6", "ALWAYS_RATIO": "0.01"}
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
    deploy: {replicas: 5, update_config: {parallelism: 2, order: start-first}}
    x-tidegate:
      listen: "LISTEN"
      health: {path: /health}
      drain: 10s
      bake: BAKE
      look: 5s
      warmup: WARMUP
      checks: CHECKS
"""
FIRST = "v1"
BASELINE_SECONDS = 62.0
OUTAGE_AFTER_SECONDS, OUTAGE_SECONDS = 30.0, 15.0
DECIDED_WITHIN_SECONDS = 200.0


@dataclass(frozen=True)
class Case:
    """A service whose new release has this environment; `blamed`: a word that the verdict has to have."""

    name: str
    fault: dict[str, str]
    bad: bool = True
    blamed: str = ""
    bake: str = "40s"
    checks: str = "[{errors: {}}, {latency: {}}]"
    rates: dict[str, float] = field(default_factory=lambda: {"get_ka": 60.0, "get": 20.0, "post_ka": 10.0})


CASES = (
    Case("errors-times-5", {"ERROR_RATIO": "0.04"}, blamed="failed", rates=BUSY),
    Case("errors-plus-5", {"ERROR_RATIO": "0.05"}, blamed="failed", rates=BUSY),
    Case("slow-half-again", {"SLOW_FACTOR": "1.5"}, blamed="took longer", rates=BUSY),
    Case("slow-threefold", {"SLOW_FACTOR": "3"}, blamed="took longer"),
    Case("one-bad", {"ERROR_RATIO": "0.5", "BAD_ORDINAL": "1"}, blamed="failed"),
    Case("leak", {"LEAK_MB_PER_MINUTE": "20"}, blamed="of the limit", bake="65s", checks="[{memory: {limit: 64M}}]"),
    Case("crash-loop", {"CRASH_AFTER": "4"}, blamed="restarted"),
    Case("bad-after-a-minute", {"ERROR_RATIO": "0.3", "BAD_AFTER": "60"}, blamed="failed"),
    Case("good", {}, bad=False),
    Case("good-too", {}, bad=False),
)


@dataclass
class Play:
    """One case on the stage."""

    case: Case
    stage: Stage
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

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stage.api(f"/v1/rollouts/{self.rollout()['id']}/report")
        return found


def ended(plays: list[Play], seconds: float) -> None:
    """Wait until every one is over; those that are not are told."""
    deadline = time.monotonic() + seconds
    while left := [play for play in plays if play.rollout()["phase"] in ("pending", "running", "rolling_back")]:
        if time.monotonic() > deadline:
            told = {play.case.name: (play.rollout()["phase"], play.rollout()["reason"]) for play in left}
            raise AssertionError(f"not over within {seconds:g} s: {told}")
        time.sleep(1.0)


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


@pytest.mark.timeout(800)
def test_each_fault_is_caught_and_the_good_go_through(stage: Stage) -> None:
    stage.start({f"tidegate-faults:{version}": {"VERSION": version} for version in ("v1", "v2")})
    (stage.home / "shared").mkdir()
    plays = [Play(case, stage, f"127.0.0.1:{free_port()}") for case in CASES]
    for play in plays:
        play.deploy("v1", {})
    ended(plays, 90.0)
    try:
        for play in plays:
            play.load = Load(play.listen, **play.case.rates)
        time.sleep(BASELINE_SECONDS)
        with outage(stage.home / "shared"):
            for play in plays:
                play.deploy("v2", play.case.fault)
            ended(plays, DECIDED_WITHIN_SECONDS + 100.0)
    finally:
        seen = {play.case.name: play.load.finish() for play in plays if play.load is not None}
    reports = {play.case.name: play.report() for play in plays}
    for name, report in reports.items():
        after = report["decision_seconds"]
        print(f"{name:20} {report['phase']:12} {'–' if after is None else f'{after:.0f} s':>6}  {report['reason'][:180]}")
    for play in plays:
        report, case = reports[play.case.name], play.case
        assert report["phase"] == ("rolled_back" if case.bad else "succeeded"), (case.name, report["reason"])
        assert case.blamed in report["reason"], (case.name, report["reason"])
        if "CRASH_AFTER" not in case.fault:
            assert seen[case.name].lost == 0, (case.name, seen[case.name].by_outcome)
