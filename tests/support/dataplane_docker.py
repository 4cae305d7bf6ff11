"""What the data-plane benchmark needs of Docker: containers, and the two usual ways of replacing them without Tidegate.

Both stand behind an HAProxy in a container that finds its servers by Docker's own DNS, asked once a second: Swarm with
`--endpoint-mode dnsrr` (its routing mesh needs IPVS), and a reference procedure for Compose on one host: start double, wait
until healthy, stop the old ones.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker

from images import demo_image
from processes import wait_for
from support.wait import eventually
from tidegate.core.routing import Member

IMAGE, CHECKED, PROXY = (f"tidegate-dataplane:{tag}" for tag in ("app", "checked", "proxy"))
LABEL = "tidegate-dataplane"
#: The same as in Tidegate's own file, but for the DNS.
BY_DNS = """\
global
  maxconn 8000
resolvers docker
  nameserver dns 127.0.0.11:53
  timeout resolve 1s
  timeout retry 1s
  hold valid 1s
  hold obsolete 0s
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 10s
  http-reuse safe
  retries 3
  option redispatch 1
frontend in
  bind *:8001
  default_backend shop
backend shop
  balance roundrobin
  server-template app 16 app:8080 resolvers docker init-addr none
"""


def run(*words: str) -> str:
    """A command of Docker; ends the benchmark when it fails."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise SystemExit(f"docker {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def build_images(client: docker.DockerClient) -> None:
    """The application, without and with a HEALTHCHECK, and the HAProxy of this machine."""
    environment = {"ON_SIGTERM": "exit", "VERSION": "bench", "COUNTERS": "/counters"}
    demo_image(client, IMAGE, environment)
    demo_image(client, CHECKED, environment, healthcheck="1s")
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    libraries = re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", program], capture_output=True, text=True).stdout)
    files = {path: Path(path).resolve().read_bytes() for path in [*libraries, program]}
    files |= {"/haproxy.cfg": BY_DNS.encode()}
    lines = ["FROM scratch", *(f"COPY files{path} {path}" for path in files)]
    lines.append(f'ENTRYPOINT ["{program}", "-db", "-f", "/haproxy.cfg"]')
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in {
            "Dockerfile": "\n".join(lines).encode(),
            **{f"files{p}": c for p, c in files.items()},
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    packed.seek(0)
    client.images.build(fileobj=packed, custom_context=True, tag=PROXY, rm=True, forcerm=True)


class Containers:
    """Instances as containers. `network`: one of their own, in which all are known as `app`."""

    def __init__(self, counters: Path, image: str = IMAGE, network: str = "") -> None:
        self._client = docker.from_env()
        self._api: Any = self._client.api
        self._counters, self._image, self._network = counters, image, network
        self._background = ThreadPoolExecutor(max_workers=4)

    def start(self, number: int) -> list[Member]:
        """So many more, once all answer."""
        members = list(self._background.map(lambda _: self._start(), range(number)))
        for member in members:
            wait_for(member.address, lambda at=member.address: _answers(at), pause_seconds=0.005)
        return members

    def _start(self) -> Member:
        made = self._api.create_container(
            self._image,
            labels={LABEL: "1"},
            host_config=self._api.create_host_config(
                binds=[f"{self._counters}:/counters"], network_mode=self._network or "default"
            ),
            networking_config=self._api.create_networking_config(
                {self._network: self._api.create_endpoint_config(aliases=["app"])}
            )
            if self._network
            else None,
        )
        self._api.start(made["Id"])
        networks = self._api.inspect_container(made["Id"])["NetworkSettings"]["Networks"]
        address = networks[self._network or "bridge"]["IPAddress"]
        return Member(made["Id"][:12], "bench", 0, f"{address}:8080")

    def healthy(self, member: Member) -> bool:
        """What the image's HEALTHCHECK says."""
        return bool(self._api.inspect_container(member.instance)["State"]["Health"]["Status"] == "healthy")

    def stop(self, members: list[Member]) -> None:
        """SIGTERM, and remove them."""
        list(self._background.map(self._stop, members))

    def _stop(self, member: Member) -> None:
        self._api.stop(member.instance, timeout=60)
        self._api.remove_container(member.instance)

    def close(self) -> None:
        """Leave nothing behind."""
        self._background.shutdown(wait=True)
        for container in self._client.containers.list(all=True, filters={"label": LABEL}):
            container.remove(force=True)
        self._client.close()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=60) as probe:
            probe.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return probe.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


class DockerRollout:
    """Start double, wait until Docker calls them healthy (asked once a second), stop the old ones at once."""

    def __init__(self, containers: Containers, network: str, replicas: int) -> None:
        self._containers, self._replicas = containers, replicas
        self._serving = containers.start(replicas)
        self._proxy = run("run", "-d", "--network", network, "--label", f"{LABEL}=1", PROXY)
        shown = json.loads(run("inspect", self._proxy))[0]["NetworkSettings"]["Networks"][network]
        self.address = f"{shown['IPAddress']}:8001"
        wait_for("the proxy", lambda: _answers(self.address))

    def update(self) -> float | None:
        before, self._serving = self._serving, self._containers.start(self._replicas)
        eventually("all are healthy", self._all_healthy, poll_seconds=1.0)
        self._containers.stop(before)
        return None

    def _all_healthy(self) -> bool:
        return all(self._containers.healthy(instance) for instance in self._serving)


class SwarmService:
    """`docker service update`, all replicas at a time, new before old, a HEALTHCHECK of 1 s, monitor and delay 0."""

    def __init__(self, counters: Path, name: str, replicas: int) -> None:
        self._name, self._replicas, self._number = name, replicas, 0
        words = ["--name", name, "--network", f"name={name},alias=app", "--endpoint-mode", "dnsrr"]
        words += ["--replicas", str(replicas), "--mount", f"type=bind,src={counters},dst=/counters"]
        words += ["--update-parallelism", str(replicas), "--update-order", "start-first", "--update-monitor", "0s"]
        run("service", "create", "-q", "-d", "--no-resolve-image", "--update-delay", "0s", *words, CHECKED)
        self._proxy = run("run", "-d", "--network", name, "--label", f"{LABEL}=1", PROXY)
        shown = json.loads(run("network", "inspect", "docker_gwbridge"))[0]["Containers"][self._proxy]
        self.address = f"{shown['IPv4Address'].partition('/')[0]}:8001"
        wait_for("the proxy", lambda: _answers(self.address), 60)

    def update(self) -> float | None:
        before, self._number = self._tasks(), self._number + 1
        run("service", "update", "-q", "-d", "--no-resolve-image", "--env-add", f"NUMBER={self._number}", self._name)

        def done() -> bool:
            status = json.loads(run("service", "inspect", self._name))[0].get("UpdateStatus", {})
            return status.get("State") == "completed" and not before & self._tasks()

        wait_for("Swarm", done, 120)
        return None

    def _tasks(self) -> set[str]:
        return set(run("ps", "-q", "--filter", f"label=com.docker.swarm.service.name={self._name}").split())


@contextmanager
def swarm(counters: Path, replicas: int) -> Iterator[SwarmService]:
    """Of one node, for this benchmark alone; left at the end, which removes the service and its network."""
    name = f"tidegate-dataplane-{uuid.uuid4().hex[:6]}"
    run("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        run("network", "create", "-d", "overlay", "--attachable", name)
        yield SwarmService(counters, name, replicas)
    finally:
        _remove_labelled()
        subprocess.run(["docker", "service", "rm", name], capture_output=True, check=False)
        run("swarm", "leave", "--force")


@contextmanager
def rollout(counters: Path, replicas: int) -> Iterator[DockerRollout]:
    """On a network of its own, which is removed at the end."""
    name = f"tidegate-dataplane-{uuid.uuid4().hex[:6]}"
    run("network", "create", name)
    containers = Containers(counters, CHECKED, name)
    try:
        yield DockerRollout(containers, name, replicas)
    finally:
        containers.close()
        run("network", "rm", name)


def _remove_labelled() -> None:
    for part in run("ps", "-aq", "--filter", f"label={LABEL}").split():
        run("rm", "-f", part)
