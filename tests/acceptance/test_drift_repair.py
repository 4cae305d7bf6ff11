"""Between rollouts, on real Docker and HAProxy: what hands and crashes take away comes back, scaling loses nothing, and a
crash loop is not started again for ever."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from parts import DemoStack
from processes import haproxy_pid
from support.wait import eventually, pause
from traffic import Counts

COMPOSE = """\
services:
  shop:
    image: tidegate-tending:v1
    expose: ["8080"]
    environment: {SERVICE_MS: "5", ON_SIGTERM: exit, COUNTERS: /counters/live}
    volumes: ["COUNTERS:/counters"]
    stop_grace_period: 2s
    deploy: {replicas: 2}
    x-tidegate: {listen: "LISTEN", health: {path: /health}, drain_timeout: 10s, healthy_deadline: 30s}
"""
GRACE_SECONDS = 1  # of a stop by hand: no bound, but how soon the engine kills
ENOUGH_REQUESTS = 100  # to show that none is lost
RATES = {"get_ka": 60.0, "get": 30.0, "post_ka": 20.0, "slow_gets": 2.0}
MAX_FAILED = 3


def shop(stage: DemoStack) -> dict[str, Any]:
    found: dict[str, Any] = stage.api(f"/v1/services/{stage.service}")
    return found


def rollouts(stage: DemoStack) -> list[dict[str, Any]]:
    """The newest first."""
    found: list[dict[str, Any]] = stage.api(f"/v1/rollouts?service={stage.service}&limit=20")["rollouts"]
    return found


def whole(stage: DemoStack, replicas: int) -> bool:
    """Exactly so many run, and HAProxy sends requests to exactly these."""
    there = stage.containers()
    running = {each["id"] for each in there if each["state"] == "running"}
    return len(there) == len(running) == replicas and stage.members() == running


def damage(stage: DemoStack, what: str, harm: Callable[[], object], replicas: int) -> None:
    """Something is done by hand; a repair ends with what is wanted, and fresh traffic loses nothing."""
    before = len(rollouts(stage))
    harm()
    eventually(f"a repair after {what}", lambda: len(rollouts(stage)) > before)
    begun = time.monotonic()
    assert stage.await_end() == "succeeded"
    newest = rollouts(stage)[0]
    print(f"{what}: {newest['kind']}, {time.monotonic() - begun:.1f} s")
    assert (newest["kind"], newest["requested_by"]) == ("repair", "tidegate")
    assert whole(stage, replicas)
    eventually("no drift any more", lambda: shop(stage)["drift"] is None)
    assert lost_while(stage).lost == 0


def lost_while(stage: DemoStack, act: Callable[[], object] = lambda: None) -> Counts:
    """What the clients saw while it was done, and some time before and after."""

    def requests() -> int:
        return (stage.traffic() or Counts()).requests

    stage.start_traffic(**RATES)
    eventually("there is traffic before", lambda: requests() > ENOUGH_REQUESTS / 2)
    act()
    before = requests()
    eventually("there is traffic after", lambda: requests() > before + ENOUGH_REQUESTS / 2)
    return stage.finish_traffic()


def kill_haproxy(stage: DemoStack) -> None:
    """All of its processes at once, and all that Tidegate remembers beside it."""
    home = stage.home / "haproxy"
    about = dict(line.split(": ", 1) for line in stage.haproxy("show info").splitlines() if ": " in line)
    for pid in (haproxy_pid(home), int(about["Pid"])):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(home)


def by_hand(stage: DemoStack, act: Callable[[Any], object]) -> Callable[[], None]:
    """On one of the service's containers."""

    def harm() -> None:
        engine = docker.from_env()
        try:
            act(engine.containers.get(stage.containers()[0]["id"]))
        finally:
            engine.close()

    return harm


def crash_loop(stage: DemoStack, counters: Path, replicas: int) -> None:
    """New instances end at once: three repairs fail, then none is tried, and what still serves goes on."""
    shutil.rmtree(counters / "live")
    by_hand(stage, lambda container: container.remove(force=True))()
    eventually("it is unhealthy", lambda: (shop(stage)["drift"] or {}).get("state") == "unhealthy", 200.0)
    failed = [rollout for rollout in rollouts(stage) if rollout["phase"] == "failed"]
    assert [each["kind"] for each in failed] == ["repair"] * MAX_FAILED
    print(f"automatic repair stopped: {shop(stage)['drift']['reason']}")
    pause(3.0, "no further repair is tried")
    repairs = [rollout for rollout in rollouts(stage) if rollout["kind"] == "repair"]
    assert len([rollout for rollout in repairs if rollout["phase"] == "failed"]) == MAX_FAILED
    assert len(stage.members()) == replicas - 1, "who still serves goes on"
    assert lost_while(stage).lost == 0
    (counters / "live").mkdir()
    stage.tidegate("repair", stage.service, "--reason", "mended")
    assert whole(stage, replicas)


def test_what_is_taken_away_comes_back_and_scaling_loses_nothing(stage: DemoStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_ENGINE__DRIFT_INTERVAL_SECONDS", "1")
    stage.start({"tidegate-tending:v1": {"VERSION": "v1"}})
    counters = stage.home / "counters"
    (counters / "live").mkdir(parents=True)
    file = stage.home / "compose.yaml"
    file.write_text(COMPOSE.replace("COUNTERS:/", f"{counters}:/").replace("LISTEN", stage.listen))
    stage.tidegate("deploy", stage.service, "-f", str(file), "--until", "end")

    damage(stage, "docker rm -f", by_hand(stage, lambda container: container.remove(force=True)), 2)
    damage(stage, "HAProxy killed with all it knew", lambda: kill_haproxy(stage), 2)
    damage(stage, "docker stop", by_hand(stage, lambda container: container.stop(timeout=GRACE_SECONDS)), 2)

    for replicas in (4, 1, 2):
        seen = lost_while(stage, lambda wanted=replicas: stage.tidegate("scale", stage.service, str(wanted)))  # type: ignore[misc]
        print(f"scaled to {replicas}: {seen.by_outcome}")
        assert seen.by_outcome == {"ok": seen.requests}
        assert whole(stage, replicas)
        assert shop(stage)["replicas"] == replicas
    crash_loop(stage, counters, 2)
