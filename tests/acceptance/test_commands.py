"""The commands of a service's life on real Docker and HAProxy: plan, deploy that plan, restart, exec, logs, remove."""

from __future__ import annotations

import json
import re
import shutil
import socket

import docker
import pytest

from parts import DemoStack, PartFailed
from support.prerequisites import program
from support.wait import eventually

COMPOSE = """\
services:
  shop:
    image: tidegate-commands:${VERSION}
    expose: ["8080"]
    environment: {SERVICE_MS: "2", ON_SIGTERM: exit, DB_URL: "postgres://shop:secret-value@db/shop"}
    stop_grace_period: 2s
    deploy: {replicas: 2, update_config: {parallelism: 2}}
    x-tidegate: {listen: "LISTEN", health: {path: /health}, drain_timeout: 5s, keep_images: 1}
  mailer:
    image: tidegate-commands:v1
    command: [hook, "0", "600000"]
    environment: {DB_URL: "the queue"}
    stop_grace_period: 1s
    deploy: {replicas: 2, update_config: {monitor: 1s}}
    x-tidegate: {worker: true}
"""
RATES = {"get_ka": 40.0, "get": 20.0}
ENOUGH_REQUESTS = 50  # to show that none is lost


@pytest.fixture
def file(stage: DemoStack) -> str:
    program("docker")
    stage.start({"tidegate-commands:v1": {"VERSION": "v1"}, "tidegate-commands:v2": {"VERSION": "v2"}})
    path = stage.home / "compose.yaml"
    path.write_text(COMPOSE.replace("LISTEN", stage.listen))
    return str(path)


def is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def test_from_the_plan_to_the_removal(stage: DemoStack, file: str) -> None:
    shop, mailer = stage.service, f"{stage.environment}/mailer"
    stage.tidegate("deploy", shop, "-f", file, "--set", "VERSION=v1")
    stage.tidegate("deploy", mailer, "-f", file, "--set", "VERSION=v1")
    deployment = (shop, "-f", file, "--set", "VERSION=v2")
    planned = stage.tidegate("plan", *deployment)
    assert "image: tidegate-commands:v1 → tidegate-commands:v2" in planned
    assert "secret-value" not in planned
    plan = re.search(r"--plan ([0-9a-f]+) ", planned)
    assert plan is not None, planned
    stage.tidegate("deploy", *deployment, "--plan", plan[1], "--until", "end")
    _restart_under_traffic(stage)
    _run_a_command(stage)
    _read_logs(stage, mailer)
    _remove(stage, mailer)


def _restart_under_traffic(stage: DemoStack) -> None:
    """Every instance is another one afterwards, and no request is lost."""
    before = {container["id"] for container in stage.containers()}
    stage.start_traffic(**RATES)
    eventually("there is traffic", lambda: (stage.traffic() or stage.finish_traffic()).requests > ENOUGH_REQUESTS)
    stage.tidegate("restart", stage.service, "-m", "a leak")
    counts = stage.finish_traffic()
    assert (counts.lost, counts.requests > ENOUGH_REQUESTS) == (0, True), counts
    assert len(stage.members()) == 2
    assert not stage.members() & before
    history = json.loads(stage.tidegate("history", stage.service, "-o", "json"))
    assert [(row["id"], row["state"]) for row in history] == [("v2-3", "live"), ("v2-2", "good"), ("v1-1", "good")]


def _run_a_command(stage: DemoStack) -> None:
    """In an instance, with its variables and the command's own exit code."""
    assert shutil.which("docker")
    shown = stage.tidegate("exec", stage.service, "--", "/app", "hook", "0", "1")
    assert "TIDEGATE_RELEASE=v2-3" in shown
    with pytest.raises(PartFailed, match="ended with 3"):
        stage.tidegate("exec", stage.service, "--", "/app", "hook", "3", "1")


def _read_logs(stage: DemoStack, mailer: str) -> None:
    """Of both instances, merged by time, each line once."""
    lines = [json.loads(line) for line in stage.tidegate("logs", mailer, "-o", "json").splitlines()]
    assert sorted(line["ordinal"] for line in lines if line["text"] == "DB_URL=the queue") == [0, 1]
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    page = stage.api(f"/v1/services/{mailer}/logs?lines=100")
    assert stage.api(f"/v1/services/{mailer}/logs?after={page['next']}")["lines"] == []


def _remove(stage: DemoStack, mailer: str) -> None:
    """No container, no listener, no entry: of a service with a proxy, and of one without."""
    assert is_listening(stage.listen)
    shown = stage.tidegate("remove", stage.service, "--yes", "-m", "end of life")
    assert f"{stage.service} is removed" in shown
    eventually("its address is free", lambda: not is_listening(stage.listen))
    assert {container["image"] for container in stage.containers()} == {"tidegate-commands:v1"}, "the mailer's"
    stage.tidegate("remove", mailer, "--yes")
    assert stage.containers() == []
    assert stage.api("/v1/services")["services"] == []
    engine = docker.from_env()
    try:
        assert not engine.containers.list(all=True, filters={"label": f"tidegate.environment={stage.environment}"})
    finally:
        engine.close()
