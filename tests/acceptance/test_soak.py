"""Ordinary life of applications: instances hang, fail, are killed and run out of memory while releases are rolled out.

The services have constant traffic and clients that keep their connections open. Whatever happens to instances, every
rollout ends in time and as it should, a sick instance gets no requests, and no switch loses one. `make soak` lasts half an
hour, with another proxy if SOAK_ROUTER names one; `make test` has two services, and each kind of fault once.
"""

from __future__ import annotations

import os
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import docker
import pytest
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from parts import DemoStack
from support.app_counts import sum_app_counts
from support.lanes import Lane, RolloutCase
from support.long_clients import LongClients
from support.wait import eventually
from traffic import Counts

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "30"))
IS_SHORT = SOAK_SECONDS < 300
SEED = int(os.environ.get("SOAK_SEED", "20261130"))
ROUTER = os.environ.get("SOAK_ROUTER", "haproxy")
LANES = 2 if IS_SHORT else 3
FAULT_PAUSE_SECONDS = 5.0 if IS_SHORT else 10.0
HANG_SECONDS = 6.0
#: How long an instance may have been sick when a request reaches it. Half an hour alone shows 3 s; beside other tests on a
#: busy machine the proxy's checks themselves come late.
LATE_SICK_SECONDS = float(os.environ.get("SOAK_LATE_SICK_SECONDS", "15"))
#: A request that was in flight on a faulty instance may wait for as long as the load generator's own limit.
AFTERMATH_SECONDS = 25.0
MAX_ROLLOUT_SECONDS = 240.0  # three batches, each with its start, bake and drain, and a rollback of the same
RATES = {"get_ka": 20.0, "get": 10.0, "post_ka": 10.0, "post": 5.0}
LONG_CLIENTS = {"slow_uploads": 7, "websockets": 7, "event_streams": 3, "uploads": 1}  # for each of the services
COMPOSE = """\
services:
  NAME:
    image: tidegate-soak:${VERSION}
    expose: ["8080"]
    environment: {COUNTERS: /counters, LATE_SICK_SECONDS: "LIMIT"}
    volumes: ["COUNTERS:/counters"]
    stop_grace_period: 2s
    mem_limit: 128M
    deploy: {replicas: 3, update_config: {parallelism: 1, order: start-first}}
    x-tidegate:
      listen: "LISTEN"
      health: {path: /health}
      drain_timeout: 5s
      long_lived: {close_after: 5s}
      healthy_deadline: DEADLINE
      bake: 5s
      warmup: 1s
      interval: 1s
      on_inconclusive: continue
      checks: [{errors: {min_requests: 20}}]
"""
IMAGES = {
    "tidegate-soak:v1": {"VERSION": "v1"},
    "tidegate-soak:v2": {"VERSION": "v2"},
    "tidegate-soak:never": {"VERSION": "never", "READY": "never"},
    "tidegate-soak:crashing": {"VERSION": "crashing", "CRASH_AFTER": "2"},
}
GOOD = RolloutCase("good", "succeeded", answer="promote", keys=(("DEADLINE", "30s"),))
CRASHING = RolloutCase("crashing", "rolled_back", "crashing", keys=(("DEADLINE", "30s"),))
CASES = {
    GOOD: 3,
    RolloutCase("never ready", "rolled_back", "never", keys=(("DEADLINE", "10s"),)): 1,
    CRASHING: 1,
}


@dataclass
class Trouble:
    """A fault of one instance of a service, or of a whole release, for which no switch is to blame."""

    fault: str
    lane: Lane
    container: str  # empty: the new release crashes until its rollout has ended
    since: float
    until: float = float("inf")


@dataclass
class Observer:
    """What clients of each service lost while none of its instances was in trouble."""

    lanes: list[Lane]
    troubles: list[Trouble] = field(default_factory=list)
    before: dict[str, tuple[float, Counts]] = field(default_factory=dict)
    lost_in_trouble: int = 0

    def observe(self) -> None:
        """Call it every second or so: the generators report their totals once a second."""
        now = time.monotonic()
        for lane in self.lanes:
            assert lane.load is not None
            since, counts = self.before.get(lane.name, (now, Counts()))
            newest = lane.load.counts
            lost = newest.lost - counts.lost
            if lost and self._in_trouble(lane, since, now):
                self.lost_in_trouble += lost
            else:
                assert not lost, (lane.name, lane.case, lost, newest.by_outcome)
            self.before[lane.name] = (now, newest)

    def end_crashes(self, lane: Lane) -> None:
        """The rollout of this service has ended."""
        for trouble in self.troubles:
            if trouble.lane is lane and not trouble.container:
                trouble.until = min(trouble.until, time.monotonic())

    def _in_trouble(self, lane: Lane, since: float, until: float) -> bool:
        return any(
            trouble.lane is lane and trouble.since <= until and trouble.until + AFTERMATH_SECONDS >= since
            for trouble in self.troubles
        )


@dataclass
class Faults:
    """Brings instances of live releases into trouble, one at a time for each service."""

    stage: DemoStack
    engine: docker.DockerClient
    chance: random.Random
    observer: Observer
    happened: Counter[str] = field(default_factory=Counter)
    coming: list[str] = field(default_factory=list)

    def cause(self) -> bool:
        """The next kind of fault, of one live instance of any service; False while none may have one.

        New instances are left alone: their trouble would rightly end a rollout.
        """
        for lane in self.chance.sample(self.observer.lanes, LANES):
            found = self.stage.api(f"/v1/services/{lane.service}/instances")["instances"] or []
            members = {each["id"][:12] for each in found if each["receives_traffic"] and not each["down"]}
            victims = [one for one in self._containers(lane) if one.id[:12] in members and _version(one) == lane.live]
            if len(victims) < 2 or self.of(lane):
                continue
            victim, name = self.chance.choice(victims), self._next_kind()
            self.observer.troubles.append(Trouble(name, lane, victim.id, time.monotonic()))
            self.happened[name] += 1
            with suppress(OSError, APIError):  # it was stopped meanwhile, or ended before it answered
                self.kinds()[name](victim)
            return True
        return False

    def kinds(self) -> dict[str, Callable[[Container], object]]:
        return {
            "hangs": lambda one: one.kill("SIGSTOP"),
            "is killed": lambda one: one.kill("SIGKILL"),
            "is sick": lambda one: self._request(one, "/sick"),
            "is out of memory": lambda one: self._request(one, "/oom"),
        }

    def _next_kind(self) -> str:
        """Each kind once, in another order each time."""
        if not self.coming:
            self.coming = self.chance.sample(sorted(self.kinds()), len(self.kinds()))
        return self.coming.pop()

    def of(self, lane: Lane) -> list[Trouble]:
        return [trouble for trouble in self.observer.troubles if trouble.lane is lane and trouble.until == float("inf")]

    def settle(self) -> None:
        """Let what hangs run again after a while, and record which troubles are over."""
        now = time.monotonic()
        for trouble in self.observer.troubles:
            if (
                trouble.container
                and trouble.until == float("inf")
                and now > trouble.since + HANG_SECONDS
                and self._is_over(trouble)
            ):
                trouble.until = now

    def _is_over(self, trouble: Trouble) -> bool:
        try:
            container = self.engine.containers.get(trouble.container)
            if trouble.fault == "hangs":
                container.kill("SIGCONT")
        except NotFound:
            return True
        except APIError:
            return False
        return trouble.fault != "is sick" and container.status == "running"  # Docker restarts what was killed

    def _containers(self, lane: Lane) -> list[Container]:
        labels = [f"tidegate.environment={self.stage.environment}", f"tidegate.service={lane.name}"]
        found: list[Container] = self.engine.containers.list(filters={"label": labels}, ignore_removed=True)
        return found

    @staticmethod
    def _request(container: Container, path: str) -> None:
        networks: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"]
        address = next(network["IPAddress"] for network in networks.values())
        with urllib.request.urlopen(f"http://{address}:8080{path}", timeout=60) as response:
            response.read()


def _version(container: Container) -> str:
    return str(container.labels.get("tidegate.image", "")).rpartition(":")[2]


def play(lanes: list[Lane], faults: Faults, observer: Observer) -> Counter[str]:
    """Rollouts and faults until the time is over, each kind of fault happened, and the last rollouts have ended.

    Returns how often which case ended.
    """
    outcomes: Counter[str] = Counter()
    end, next_fault = time.monotonic() + SOAK_SECONDS, time.monotonic() + 2.0

    def over() -> bool:
        nonlocal next_fault
        for lane in lanes:
            if lane.case and (ended := lane.step()):
                outcomes[ended.name] += 1
                observer.end_crashes(lane)
            if not lane.case and time.monotonic() < end:
                case = faults.chance.choices(list(CASES), list(CASES.values()))[0]
                if case is CRASHING:
                    observer.troubles.append(Trouble("the release crashes", lane, "", time.monotonic()))
                lane.deploy(case)
        is_over = time.monotonic() >= end and len(faults.happened) == len(faults.kinds())
        if next_fault < time.monotonic() and not is_over and faults.cause():
            next_fault = time.monotonic() + FAULT_PAUSE_SECONDS
        faults.settle()
        observer.observe()
        return is_over and not any(lane.case for lane in lanes)

    eventually("every rollout has ended", over, SOAK_SECONDS + 2 * MAX_ROLLOUT_SECONDS, poll_seconds=0.5)
    return outcomes


@pytest.mark.timeout(SOAK_SECONDS + 1200)
def test_applications_fall_ill_and_no_switch_loses_a_request(stage: DemoStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_ENGINE__DRIFT_INTERVAL_SECONDS", "1")
    stage.start(IMAGES, router=ROUTER)
    counters = stage.home / "counters"
    counters.mkdir()
    compose = COMPOSE.replace("COUNTERS:/", f"{counters}:/").replace("LIMIT", f"{LATE_SICK_SECONDS:g}")
    lanes = [Lane(stage, f"shop{number}", compose, RATES, MAX_ROLLOUT_SECONDS) for number in range(LANES)]
    for lane in lanes:
        lane.deploy(GOOD)
    eventually("the first releases take traffic", lambda: not [lane for lane in lanes if lane.case and not lane.step()])
    engine = docker.from_env(timeout=60)
    observer = Observer(lanes)
    faults = Faults(stage, engine, random.Random(SEED), observer)
    for lane in lanes:
        lane.begin_traffic()
    try:
        with LongClients([lane.listen for lane in lanes], LONG_CLIENTS) as clients:
            outcomes = play(lanes, faults, observer)
    finally:
        for lane in lanes:
            lane.pause_traffic()
        engine.close()
    requests = sum(counts.requests for lane in lanes for counts in lane.counts)
    print(f"seed {SEED}\nrollouts: {dict(outcomes)}\nfaults: {dict(faults.happened)}\nlong clients: {dict(clients.counts)}")
    print(f"requests: {requests}, lost with a faulty instance: {observer.lost_in_trouble}")
    assert outcomes["good"], "no good release went through"
    assert all(clients.counts[kind] for kind in LONG_CLIENTS), dict(clients.counts)
    late = sum_app_counts(counters).late_while_sick
    assert late == 0, f"{late} requests reached an instance that had been sick for {LATE_SICK_SECONDS:g} s"
