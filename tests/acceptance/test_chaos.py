"""Rollout after rollout of three services, with two engines on one PostgreSQL, and something breaks every few seconds.

Whatever breaks, every rollout ends as it should, no request is lost by a switch, and nothing is left over. Traffic pauses
only while HAProxy itself is dead: what is lost then is not lost by a switch. `make chaos` runs a hundred rollouts and
freezes Docker too; the seed that is printed repeats the faults in their order.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from parts import DemoStack
from processes import answers, free_port, wait_for
from support import haproxy
from support.frozen_process import frozen
from support.postgres import PostgresServer
from support.wait import eventually, pause
from tidegate.drivers.routers.haproxy.driver import HAProxyOptions, HAProxyRouter
from traffic import Counts, Load

ROLLOUTS = int(os.environ.get("CHAOS_ROLLOUTS", "6"))
SEED = int(os.environ.get("CHAOS_SEED", "20261126"))
DOCKER = os.environ.get("CHAOS_DOCKER", "") == "1"  # others who use this engine wait too
LANES, REPLICAS, LEASE_SECONDS = 3, 2, 3
MAX_ROLLOUT_SECONDS = 600.0
RATES = {"get_ka": 30.0, "get": 15.0, "post_ka": 15.0, "post": 5.0}
COMPOSE = """\
services:
  NAME:
    image: tidegate-chaos:${VERSION}
    expose: ["8080"]
    stop_grace_period: 5s
    deploy: {replicas: 2, update_config: {parallelism: 1, order: start-first}}
    x-tidegate:
      listen: "LISTEN"
      health: {path: /health}
      drain_timeout: 10s
      healthy_deadline: DEADLINE
      approval: {after: [HOLD]}
      bake: 2s
      interval: 1s
      checks: [{name: watched, query: sum(up), min: 1, min_samples: 2}]
"""
IMAGES = {
    "tidegate-chaos:v1": {"VERSION": "v1"},
    "tidegate-chaos:v2": {"VERSION": "v2"},
    "tidegate-chaos:never": {"VERSION": "never", "READY": "never"},
}


@dataclass(frozen=True)
class RolloutCase:
    """What one rollout is: `asked` is what a person says at its hold, `ends` the right end."""

    name: str
    ends: str
    asked: str = ""


FIRST = RolloutCase("the first", "succeeded")
CASES = {
    RolloutCase("good", "succeeded"): 5,
    RolloutCase("never ready", "rolled_back"): 1,
    RolloutCase("promoted at its hold", "succeeded", "promote"): 2,
    RolloutCase("turned back at its hold", "rolled_back", "rollback"): 2,
}


@dataclass
class Lane:
    """One service, its rollouts one after the other, and its traffic."""

    stage: DemoStack
    name: str
    listen: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    serving: str = ""
    version: str = ""
    case: RolloutCase | None = None
    answered: bool = False
    deadline: float = 0.0
    refused: set[str] = field(default_factory=set)
    load: Load | None = None
    seen: list[Counts] = field(default_factory=list)

    @property
    def service(self) -> str:
        return f"{self.stage.environment}/{self.name}"

    def deploy(self, case: RolloutCase) -> None:
        """Ask for the next one, and do not wait."""
        self.case, self.answered, self.deadline = case, False, time.monotonic() + MAX_ROLLOUT_SECONDS
        self.version = "never" if case.name == "never ready" else "v2" if self.serving == "v1" else "v1"
        text = COMPOSE.replace("NAME", self.name).replace("LISTEN", self.listen)
        # What is never ready ends soon. All others have time to become ready also when the engines are away for long.
        text = text.replace("DEADLINE", "15s" if self.version == "never" else "120s")
        file = self.stage.home / f"{self.name}.yaml"
        file.write_text(text.replace("HOLD", "1" if case.asked else ""))
        insisted = ("--force", "--reason", "once more") if self.version in self.refused else ()
        words = ("-f", str(file), "--no-wait", "--set", f"VERSION={self.version}", *insisted)
        self.stage.tidegate("deploy", self.service, *words)

    def step(self) -> RolloutCase | None:
        """Say what a person says at a hold; the case, when it is over."""
        assert self.case is not None
        rollout = self.stage.api(f"/v1/rollouts?service={self.service}&limit=1")["rollouts"][0]
        if self.case.asked and rollout["approval"] and not self.answered:
            self.stage.tidegate(self.case.asked, self.service, "-m", "as the case goes", "--no-wait")
            self.answered = True
        if rollout["phase"] not in ("succeeded", "rolled_back", "failed"):
            in_time = time.monotonic() < self.deadline
            assert in_time, (self.name, self.case, rollout["phase"], rollout["reason"], rollout["approval"])
            return None
        assert rollout["phase"] == self.case.ends, (self.name, self.case, rollout["phase"], rollout["reason"])
        if self.case.ends == "succeeded":
            self.serving = self.version
        else:
            self.refused.add(self.version)
        over, self.case = self.case, None
        return over

    def begin_traffic(self) -> None:
        self.load = Load(self.listen, **RATES)

    def pause_traffic(self) -> None:
        if self.load is not None:
            self.seen.append(self.load.finish())
            self.load = None


@dataclass
class Chaos:
    """What can break; each is a block of some seconds at whose end it is whole again."""

    stage: DemoStack
    database: PostgresServer
    lanes: list[Lane]
    chance: random.Random

    def faults(self) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        """By name."""
        found: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "an engine killed": lambda: self.killed(self.chance.choice(("engine", "other"))),
            "both engines killed": self.engines_killed,
            "an engine frozen": lambda: frozen(self.stage.state.pids[self.chance.choice(("engine", "other"))]),
            "the server killed": self.server_killed,
            "Prometheus killed": lambda: self.killed("prometheus"),
            "Prometheus frozen": lambda: frozen(self.stage.state.pids["prometheus"]),
            "PostgreSQL stopped": self.database_stopped,
            "HAProxy killed": self.haproxy_killed,
            "HAProxy reloaded": self.haproxy_reloaded,
        }
        if DOCKER:
            found["Docker frozen"] = lambda: frozen(int(Path("/var/run/docker.pid").read_text()))
        return found

    @contextmanager
    def killed(self, name: str) -> Iterator[None]:
        self.stage.kill(name)
        yield
        self.stage.restart_part(name)

    @contextmanager
    def engines_killed(self) -> Iterator[None]:
        with self.killed("engine"), self.killed("other"):
            yield

    @contextmanager
    def server_killed(self) -> Iterator[None]:
        with self.killed("tidegate"):
            yield
        self._await_server()

    @contextmanager
    def database_stopped(self) -> Iterator[None]:
        self.database.stop()
        try:
            yield
        finally:
            self.database.start()
        self._await_server()

    @contextmanager
    def haproxy_killed(self) -> Iterator[None]:
        for lane in self.lanes:
            lane.pause_traffic()
        router = HAProxyRouter(HAProxyOptions(directory=self.stage.home / "haproxy"), self.stage.environment)
        haproxy.kill(router)
        yield
        for lane in self.lanes:
            wait_for(f"HAProxy at {lane.listen}", answers(f"http://{lane.listen}/"))
            lane.begin_traffic()

    @contextmanager
    def haproxy_reloaded(self) -> Iterator[None]:
        self.stage.reload_haproxy()
        yield

    def _await_server(self) -> None:
        wait_for("Tidegate", answers(f"http://127.0.0.1:{self.stage.state.ports['tidegate']}/readyz"))


def play(lanes: list[Lane], chaos: Chaos) -> tuple[Counter[str], Counter[str]]:
    """All the rollouts, with a fault every few seconds; how often which case ended, and what broke."""
    outcomes: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    faults, asked, quiet_until = chaos.faults(), 0, 0.0

    def over() -> bool:
        nonlocal asked, quiet_until
        for lane in lanes:
            if lane.case and (ended := lane.step()):
                outcomes[ended.name] += 1
            if not lane.case and asked < ROLLOUTS:
                lane.deploy(chaos.chance.choices(list(CASES), list(CASES.values()))[0])
                asked += 1
        if time.monotonic() > quiet_until:
            name = chaos.chance.choice(list(faults))
            broken[name] += 1
            with faults[name]():
                pause(chaos.chance.uniform(0.5, LEASE_SECONDS + 2.0), "the fault lasts")
            quiet_until = time.monotonic() + chaos.chance.uniform(1.0, 4.0)
        return asked == ROLLOUTS and not any(lane.case for lane in lanes)

    eventually("every rollout has ended", over, ROLLOUTS * MAX_ROLLOUT_SECONDS, poll_seconds=0.2)
    return outcomes, broken


def assert_observed_state(stage: DemoStack, lanes: list[Lane]) -> None:
    """Exactly the containers of what serves, and exactly these in the proxy."""
    containers: list[dict[str, Any]] = stage.containers()
    images = Counter(f"tidegate-chaos:{lane.serving}" for lane in lanes for _ in range(REPLICAS))
    assert Counter(container["image"] for container in containers) == images
    assert {container["id"] for container in containers} == set().union(*(stage.members(lane.name) for lane in lanes))


@pytest.mark.timeout(max(1800, 120 * ROLLOUTS))
def test_every_rollout_ends_right_whatever_breaks(
    stage: DemoStack, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.database() as name:
        monkeypatch.setenv("TIDEGATE_DATABASE", postgres.url(name))
        monkeypatch.setenv("TIDEGATE_ENGINE__LEASE_SECONDS", str(LEASE_SECONDS))
        monkeypatch.setenv("TIDEGATE_ENGINE__POLL_SECONDS", "0.1")
        stage.start(IMAGES, engine_apart=True)
        for engine in ("engine", "other"):
            stage.start_engine(engine)
        lanes = [Lane(stage, f"shop{number}") for number in range(LANES)]
        for lane in lanes:
            lane.deploy(FIRST)
        eventually("the first ones serve", lambda: not [lane for lane in lanes if lane.case and not lane.step()])
        for lane in lanes:
            lane.begin_traffic()
        try:
            outcomes, broken = play(lanes, Chaos(stage, postgres, lanes, random.Random(SEED)))
        finally:
            for lane in lanes:
                lane.pause_traffic()
        seen = sum((Counter(counts.by_outcome) for lane in lanes for counts in lane.seen), Counter[str]())
        print(f"seed {SEED}\nrollouts: {dict(outcomes)}\nfaults: {dict(broken)}\nrequests: {dict(seen)}")
        assert outcomes.total() == ROLLOUTS
        assert_observed_state(stage, lanes)
        assert set(seen) == {"ok"}, dict(seen)
        stage.stop()
