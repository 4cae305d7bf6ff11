"""Two engines on one PostgreSQL, real containers, HAProxy and traffic.

One is frozen in the middle of a rollout, the other goes on, the first one wakes up again: nothing is lost or left over.
"""

from __future__ import annotations

import os
import signal

import pytest

from parts import DemoStack
from processes import PartFailed
from support.postgres import PostgresServer
from support.wait import eventually, pause

COMPOSE = """\
services:
  shop:
    image: tidegate-acceptance:${VERSION}
    expose: ["8080"]
    stop_grace_period: 5s
    deploy: {replicas: 2, update_config: {parallelism: 1, order: start-first}}
    x-tidegate: {listen: "LISTEN", health: {path: /health}, drain_timeout: 10s, healthy_deadline: 120s, bake: 2s}
"""
IMAGES = {f"tidegate-acceptance:{version}": {"VERSION": version} for version in ("v1", "v2")}
ROUNDS = 2
LEASE_SECONDS = 3


def freeze(server: PostgresServer, database: str) -> int:
    """Stop the engine that drives the rollout now; its process."""
    holder = "SELECT owner FROM rollouts WHERE phase IN ('pending', 'running') AND lease_until IS NOT NULL"

    def frozen() -> int:
        for (owner,) in server.run(holder, database):
            process = int(str(owner).split("-")[-2])
            os.kill(process, signal.SIGSTOP)
            if server.run(holder, database) == [(owner,)]:
                return process
            os.kill(process, signal.SIGCONT)  # it gave it back a moment before
        return 0

    return eventually("an engine that holds the rollout is stopped", frozen, poll_seconds=0.005)


def begun(stage: DemoStack) -> int:
    """How many batches of the latest rollout have begun."""
    rollout = stage.api(f"/v1/rollouts?service={stage.service}&limit=1")["rollouts"][0]
    events = stage.api(f"/v1/rollouts/{rollout['id']}/events")["events"]
    return sum(event["kind"] == "started" for event in events)


def ended(stage: DemoStack) -> str:
    """How it ended. An engine that was frozen while it wrote to the proxy, which both share, holds up the other one: it is
    woken long after its lease."""
    try:
        return stage.await_end(30.0)
    except PartFailed:
        for name in ("engine", "other"):
            os.kill(stage.state.pids[name], signal.SIGCONT)
        return stage.await_end()


def test_one_of_two_engines_sleeps_through_a_rollout(
    stage: DemoStack, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.database() as name:
        monkeypatch.setenv("TIDEGATE_DATABASE", postgres.url(name))
        monkeypatch.setenv("TIDEGATE_ENGINE__LEASE_SECONDS", str(LEASE_SECONDS))
        monkeypatch.setenv("TIDEGATE_ENGINE__POLL_SECONDS", "0.1")
        stage.start(IMAGES, engine_apart=True)
        stage.start_engine()
        stage.start_engine("other")
        file = stage.home / "compose.yaml"
        file.write_text(COMPOSE.replace("LISTEN", stage.listen))
        deploy = ("deploy", stage.service, "-f", str(file))
        stage.tidegate(*deploy, "--until", "end", "--set", "VERSION=v1")
        stage.start_traffic(get_ka=40, get=20, post_ka=20, post=10)
        taken_over = 0
        for number in range(ROUNDS):
            version = ("v2", "v1")[number % 2]
            stage.tidegate(*deploy, "--no-wait", "--set", f"VERSION={version}")
            eventually(f"{number} batches have begun", lambda least=number: begun(stage) >= least)
            sleeper = freeze(postgres, name)
            try:
                assert ended(stage) == "succeeded"
            finally:
                os.kill(sleeper, signal.SIGCONT)
            pause(1.0, "the engine that wakes up changes nothing")
            told = [note["kind"] for note in stage.report()["notes"]]
            taken_over += "taken_over" in told
            found = stage.containers()
            assert sorted(each["image"] for each in found) == [f"tidegate-acceptance:{version}"] * 2
            assert {each["id"] for each in found} == stage.members()
        seen = stage.finish_traffic()
        print(f"{taken_over} of {ROUNDS} rollouts were taken over; {seen.by_outcome}")
        assert taken_over, "who was frozen drove nothing"
        assert seen.by_outcome == {"ok": seen.requests}
        stage.stop()
