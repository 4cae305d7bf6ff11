"""A service that Docker Compose runs comes under Tidegate with traffic at its published port, and goes back."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest

from parts import DemoStack
from processes import free_port
from support.wait import eventually

COMPOSE = """\
name: PROJECT
services:
  shop:
    image: tidegate-import:${VERSION:-v1}
    ports: ["127.0.0.1:PORT:8080"]
    stop_grace_period: 5s
    depends_on:
      migrate: {condition: service_completed_successfully}
      db: {condition: service_started}
    x-tidegate: {health: {path: /health}, drain_timeout: 10s, healthy_deadline: 60s}
  migrate:
    image: tidegate-import:${VERSION:-v1}
    entrypoint: ["/app", "hook", "0", "10"]
  db:
    image: tidegate-import:v1
"""
VERSIONS = ("v1", "v2")


class Project:
    """A Compose project, as `docker compose up` leaves it: a shop with a published port, and a database."""

    def __init__(self, stage: DemoStack) -> None:
        self.stage, self.name = stage, stage.environment
        self.port, self.other_port = free_port(), free_port()
        self.engine = docker.from_env()
        self.file = stage.home / "compose.yaml"
        self.file.write_text(COMPOSE.replace("PROJECT", self.name).replace("PORT", str(self.port)))
        self.shop = self._run("shop", {"8080/tcp": ("127.0.0.1", self.port)})
        self.database = self._run("db", {})

    def _run(self, service: str, ports: dict[str, tuple[str, int]]) -> str:
        compose = {"project": self.name, "service": service, "container-number": "1", "oneoff": "False"}
        container = self.engine.containers.run(
            "tidegate-import:v1",
            detach=True,
            name=f"{self.name}-{service}-1",
            ports=ports,
            labels={f"com.docker.compose.{key}": value for key, value in compose.items()},
        )
        return str(container.id)[:12]

    def tidegate(self, *words: str) -> str:
        return self.stage.tidegate(words[0], self.stage.service, *words[1:])

    def import_(self) -> None:
        listen = f"127.0.0.1:{self.other_port}"
        self.tidegate("import", "-f", str(self.file), "-p", self.name, "--listen", listen)

    def deploy(self, version: str) -> None:
        self.tidegate("deploy", "-f", str(self.file), "--set", f"VERSION={version}", "--until", "end")
        assert self.stage.report()["phase"] == "succeeded", self.stage.report()["reason"]

    def close(self) -> None:
        for container in self.engine.containers.list(
            all=True, filters={"label": f"com.docker.compose.project={self.name}"}
        ):
            container.remove(force=True, v=True)
        self.engine.close()


@pytest.fixture
def project(stage: DemoStack) -> Iterator[Project]:
    stage.start({f"tidegate-import:{version}": {"VERSION": version} for version in VERSIONS})
    made = Project(stage)
    eventually("the shop answers", lambda: connects(made.port))
    try:
        yield made
    finally:
        made.close()


def connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as line:
        line.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return line.recv(12).endswith(b"200")
    return False


@contextlib.contextmanager
def redirected(port: int, to: int) -> Iterator[None]:
    """The rule of the tutorial: new connections to the published port go to the proxy."""
    rule = ["-p", "tcp", "-d", "127.0.0.1", "--dport", str(port), "-j", "REDIRECT", "--to-ports", str(to)]
    subprocess.run(["iptables", "-w", "-t", "nat", "-I", "OUTPUT", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run(["iptables", "-w", "-t", "nat", "-D", "OUTPUT", *rule], check=True)


def test_no_request_is_lost_from_compose_to_the_second_release(project: Project) -> None:
    stage = project.stage
    stage.state.ports["shop"] = project.port
    stage.start_traffic(get=80.0, post=20.0)
    project.import_()
    [instance] = stage.api(f"/v1/services/{stage.service}/instances")["instances"]
    assert (instance["id"], instance["state"], instance["receives_traffic"]) == (project.shop, "ready", True)
    with redirected(project.port, project.other_port):
        project.deploy("v2")
    project.deploy("v1")
    seen = stage.finish_traffic()
    assert seen.requests > 100
    assert seen.by_outcome == {"ok": seen.requests}
    assert not connects(project.other_port), "the proxy has the published port alone"
    report = stage.report()
    assert [task["name"] for task in report["tasks"]] == ["job-migrate"]
    running = {container.id[:12] for container in project.engine.containers.list()}
    assert project.shop not in running
    assert project.database in running, "it is not Tidegate's"


def test_it_goes_back_untouched_and_the_gap_without_the_rule_is_short(project: Project) -> None:
    project.import_()
    project.tidegate("release")
    assert connects(project.port)
    assert not connects(project.other_port)
    assert project.engine.containers.get(project.shop).status == "running"

    project.import_()
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(project.deploy, "v2")
        eventually("the container leaves the port", lambda: not connects(project.port), poll_seconds=0.002)
        closed = time.monotonic()
        eventually("the proxy has the port", lambda: connects(project.port), poll_seconds=0.002)
        print(f"without the rule, the port was closed for about {1000 * (time.monotonic() - closed):.0f} ms")
        deploying.result()
    assert connects(project.port)
    assert connects(project.other_port), "until the next deployment"
