"""`kill -9` of the engine at any moment of a rollout, then start again: it ends right, nothing lost, nothing left over."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from parts import DemoStack
from support.wait import pause

COMPOSE = """\
services:
  shop:
    image: tidegate-acceptance:${VERSION}
    expose: ["8080"]
    stop_grace_period: 5s
    deploy: {replicas: 2, update_config: {parallelism: 1, order: start-first}}
    x-tidegate: {listen: "LISTEN", health: {path: /health}, drain_timeout: 10s, healthy_deadline: "${DEADLINE}"}
"""
IMAGES = {
    "tidegate-acceptance:v1": {"VERSION": "v1"},
    "tidegate-acceptance:v2": {"VERSION": "v2"},
    "tidegate-acceptance:never": {"VERSION": "never", "READY": "never"},
}
KILLS = int(os.environ.get("KILLS", "5"))  # `make kills` has thirty
MAX_SECONDS = 2.0  # a rollout takes about that long
SEED = 20261123


@pytest.mark.timeout(1500)
def test_kill_9_at_random_moments(stage: DemoStack) -> None:
    stage.start(IMAGES, engine_apart=True)
    stage.start_engine()
    file = stage.home / "compose.yaml"
    file.write_text(COMPOSE.replace("LISTEN", stage.listen))
    live = run(stage, file, "v1")
    assert live == "succeeded"
    stage.start_traffic(get_ka=40, get=20, post_ka=20, post=10)

    moments = random.Random(SEED)
    ends: list[str] = []
    serving = "v1"
    kills = 0
    while kills < KILLS:
        version = moments.choice(("v2", "v1", "never")) if kills % 3 else ("v2" if serving == "v1" else "v1")
        insisted = ("--force", "--reason", "it is turned back once more") if version == "never" else ()
        words = ("--no-wait", "--set", f"VERSION={version}", "--set", f"DEADLINE={deadline(version)}", *insisted)
        stage.tidegate("deploy", service(stage), "-f", str(file), *words)
        for _ in range(moments.choice((1, 2))):
            kill_engine(stage, moments.uniform(0.0, MAX_SECONDS))
            kills += 1
        phase = stage.await_end()
        ends.append(f"{version}:{phase}")
        assert phase == ("rolled_back" if version == "never" else "succeeded"), stage.report()["reason"]
        serving = serving if version == "never" else version
        assert_observed_state(stage, serving)

    seen = stage.finish_traffic()
    print(f"{kills} kills in {len(ends)} rollouts: {ends}; {seen.by_outcome}")
    assert seen.by_outcome == {"ok": seen.requests}


def service(stage: DemoStack) -> str:
    return f"{stage.environment}/shop"


def kill_engine(stage: DemoStack, after_seconds: float) -> None:
    """And start it again."""
    pause(after_seconds, "the engine gets to any place of a rollout")
    stage.kill("engine")
    stage.start_engine()


def deadline(version: str) -> str:
    """Until when its instances must be ready. An engine that was killed may take long to start again."""
    return "6s" if version == "never" else "120s"


def run(stage: DemoStack, file: Path, version: str) -> str:
    variables = ("--set", f"VERSION={version}", "--set", f"DEADLINE={deadline(version)}")
    stage.tidegate("deploy", service(stage), "-f", str(file), "--until", "end", *variables)
    return str(stage.report()["phase"])


def assert_observed_state(stage: DemoStack, version: str) -> None:
    """Exactly two containers, all of this version, and exactly these in the proxy."""
    containers = stage.containers()
    assert sorted(container["image"] for container in containers) == [f"tidegate-acceptance:{version}"] * 2
    assert {container["id"] for container in containers} == stage.members()
