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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parts import DemoStack
from processes import answers, wait_for
from support import haproxy
from support.frozen_process import frozen
from support.lanes import Lane, RolloutCase
from support.postgres import PostgresServer
from support.wait import eventually, pause
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.drivers.routers.haproxy.options import HAProxyOptions

ROLLOUTS = int(os.environ.get("CHAOS_ROLLOUTS", "3"))
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
      approval: {after: [BATCHES]}
      bake: 2s
      interval: 1s
      checks: [{name: watched, query: sum(up), min: 1, min_samples: 2}]
"""
IMAGES = {
    "tidegate-chaos:v1": {"VERSION": "v1"},
    "tidegate-chaos:v2": {"VERSION": "v2"},
    "tidegate-chaos:never": {"VERSION": "never", "READY": "never"},
}


PATIENT = ("DEADLINE", "120s")  # time to become ready also when the engines are away for long
FIRST = RolloutCase("the first", "succeeded", keys=(PATIENT, ("BATCHES", "")))
CASES = {
    RolloutCase("good", "succeeded", keys=(PATIENT, ("BATCHES", ""))): 5,
    RolloutCase("never ready", "rolled_back", "never", keys=(("DEADLINE", "15s"), ("BATCHES", ""))): 1,
    RolloutCase("approved", "succeeded", answer="promote", keys=(PATIENT, ("BATCHES", "1"))): 2,
    RolloutCase("rejected", "rolled_back", answer="rollback", keys=(PATIENT, ("BATCHES", "1"))): 2,
}


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
    images = Counter(f"tidegate-chaos:{lane.live}" for lane in lanes for _ in range(REPLICAS))
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
        lanes = [Lane(stage, f"shop{number}", COMPOSE, RATES, MAX_ROLLOUT_SECONDS) for number in range(LANES)]
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
        seen = sum((Counter(counts.by_outcome) for lane in lanes for counts in lane.counts), Counter[str]())
        print(f"seed {SEED}\nrollouts: {dict(outcomes)}\nfaults: {dict(broken)}\nrequests: {dict(seen)}")
        assert outcomes.total() == ROLLOUTS
        assert_observed_state(stage, lanes)
        assert set(seen) == {"ok"}, dict(seen)
        stage.stop()
