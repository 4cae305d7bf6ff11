"""The demo's real parts: images, HAProxy (owned by Tidegate), Prometheus, Tidegate itself, and the traffic."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import docker
from docker.errors import DockerException

from images import demo_image
from processes import PartFailed, answers, end, end_proxies, free_port, haproxy_pid, remove_containers, wait_for
from traffic import Counts, Load

TIDEGATE = Path(sys.executable).with_name("tidegate")
FIRST_PORTS = {"tidegate": 7070, "shop": 8001, "exporter": 8405, "engine": 7071, "prometheus": 9090}
REQUESTS_PER_SECOND = {"get_ka": 80.0, "get": 40.0, "post_ka": 30.0, "post": 20.0}
BASELINE_SECONDS = 4.0

SETTINGS = """\
database = "sqlite:///{home}/tidegate.db"
listen = "127.0.0.1:{tidegate}"

[environments.{environment}.platform]
driver = "docker"
hosts = [{hosts}]

[environments.{environment}.router]
{router}

[environments.{environment}.metrics]
driver = "prometheus"
url = "http://127.0.0.1:{prometheus}"
"""

ROUTERS = {
    "haproxy": """\
driver = "haproxy"
directory = "{home}/haproxy"
exporter = "127.0.0.1:{exporter}"
""",
    "nginx": """\
driver = "nginx"
directory = "{home}/nginx"
status = "127.0.0.1:{exporter}"
""",
    "envoy": """\
driver = "envoy"
directory = "{home}/envoy"
exporter = "127.0.0.1:{exporter}"
""",
}

PROMETHEUS = """\
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: haproxy
    static_configs: [{{targets: ["127.0.0.1:{exporter}"]}}]
  - job_name: tidegate
    static_configs: [{{targets: ["127.0.0.1:{tidegate}", "127.0.0.1:{engine}"]}}]
  - job_name: instances
    http_sd_configs:
      - url: http://127.0.0.1:{tidegate}/v1/discovery/prometheus
        refresh_interval: 2s
        authorization: {{type: Bearer, credentials_file: "{home}/token"}}
"""


@dataclass
class State:
    """The ports that the parts got, and the processes that run: part to process id."""

    ports: dict[str, int] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)


def _inline_table(values: Mapping[str, str]) -> str:
    """As TOML writes it."""
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items()) + " }"


class DemoStack:
    """All the parts of the demo under one folder."""

    def __init__(self, home: Path, environment: str) -> None:
        self.home = home
        self.environment = environment
        self.state = State()
        self.under: tuple[str, ...] = ()  # a command that runs Tidegate's own processes: `env`, say, with what it wants
        self._load: Load | None = None
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[list[str], Mapping[str, str]]] = {}

    @property
    def service(self) -> str:
        """The service's name as Tidegate knows it."""
        return f"{self.environment}/shop"

    @property
    def listen(self) -> str:
        """Where the shop is reached."""
        return f"127.0.0.1:{self.state.ports['shop']}"

    def addresses(self) -> str:
        """Where everything is, for a person."""
        at = self.state.ports
        return "\n".join(
            (
                f"  the shop      http://{self.listen}/",
                f"  Tidegate      http://127.0.0.1:{at['tidegate']}/v1/rollouts",
                f"  Prometheus    http://127.0.0.1:{at['prometheus']}/",
                f"  HAProxy       http://127.0.0.1:{at['exporter']}/metrics",
                f"  try           export TIDEGATE_SERVER=http://127.0.0.1:{at['tidegate']} "
                f"TIDEGATE_TOKEN_FILE={self.home}/token; {TIDEGATE} status {self.service}",
                "  stop it       make demo-stop",
            )
        )

    # -- starting ---------------------------------------------------------------------------------------------------

    def start(
        self,
        images: Mapping[str, Mapping[str, str]],
        *,
        engine_apart: bool = False,
        router: str = "haproxy",
        hosts: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Images (tag to environment), settings, Tidegate, Prometheus.

        `engine_apart`: the engine is a process of its own, to be started with `start_engine`. `router`: one of `ROUTERS`.
        `hosts`: the Docker engines; left out, the one that the environment names, on which the images are built.
        """
        self.home.mkdir(parents=True, mode=0o711)  # a proxy's workers go through; what is secret has its own mode
        self.state.ports = {name: free_port(port) for name, port in FIRST_PORTS.items()}
        engine = docker.from_env()
        try:
            for tag, environment in images.items():
                demo_image(engine, tag, environment)
            url = engine.api.base_url.replace("http+docker://localhost", "unix:///var/run/docker.sock")
        finally:
            engine.close()
        hosts = hosts or [{"name": "local", "url": os.environ.get("DOCKER_HOST", url)}]
        values = {
            **self.state.ports,
            "home": self.home,
            "environment": self.environment,
            "hosts": ", ".join(map(_inline_table, hosts)),
        }
        settings = SETTINGS.format(**values, router=ROUTERS[router].format(**values))
        (self.home / "tidegate.toml").write_text(settings)
        (self.home / "prometheus.yml").write_text(PROMETHEUS.format(**values))
        self._start_tidegate([] if engine_apart else ["--with-engine"])
        self._start_prometheus()

    def _start_tidegate(self, options: Sequence[str]) -> None:
        self.tidegate("db", "migrate", server=True)
        token = self.tidegate("token", "create", "demo", "--local", "--scope", "admin", server=True)
        (self.home / "token").touch(mode=0o600)
        (self.home / "token").write_text(token)
        self._spawn("tidegate", [*self.under, str(TIDEGATE), "serve", *options])
        wait_for("Tidegate", answers(f"http://127.0.0.1:{self.state.ports['tidegate']}/readyz"))

    def start_engine(self, name: str = "engine") -> None:
        """The engine as a process of its own; another name for each, where the database allows several.

        Prometheus scrapes the one named `engine`.
        """
        port = self.state.ports.get(name)
        metrics = {} if port is None else {"TIDEGATE_ENGINE__METRICS_LISTEN": f"127.0.0.1:{port}"}
        self._spawn(name, [*self.under, str(TIDEGATE), "engine"], metrics)

    def kill(self, name: str) -> None:
        """End a process of ours as a crash would: SIGKILL, without any cleanup."""
        child = self._children.pop(self.state.pids.pop(name))
        child.kill()
        child.wait()

    def restart_part(self, name: str) -> None:
        """Start what was killed once more, as its supervisor would."""
        self._spawn(name, *self._commands[name])

    def _start_prometheus(self) -> None:
        port = self.state.ports["prometheus"]
        self._spawn(
            "prometheus",
            [
                shutil.which("prometheus") or "prometheus",
                f"--config.file={self.home}/prometheus.yml",
                f"--storage.tsdb.path={self.home}/prometheus",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
        )
        wait_for("Prometheus", answers(f"http://127.0.0.1:{port}/-/ready"))

    def _spawn(self, name: str, command: list[str], variables: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start a part in a session of its own, so that --keep can leave it."""
        environment = {**self._environment(), **variables}
        with (self.home / f"{name}.log").open("ab") as log:
            part = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        self._children[part.pid], self._commands[name] = part, (command, variables)
        self.state.pids[name] = part.pid

    def _environment(self) -> dict[str, str]:
        port = self.state.ports["tidegate"]
        return {
            **os.environ,
            "TIDEGATE_SETTINGS": str(self.home / "tidegate.toml"),
            "TIDEGATE_SERVER": f"http://127.0.0.1:{port}",
            "TIDEGATE_TOKEN_FILE": str(self.home / "token"),
        }

    # -- Tidegate's own command ---------------------------------------------------------------------------------------

    def tidegate(self, *words: str, show: bool = False, server: bool = False) -> str:
        """Run the command line as a person would and return its output. A rollout that was rolled back is no error here."""
        command = [str(TIDEGATE), *words]
        if show:
            print("$ tidegate " + " ".join(words), flush=True)
            subprocess.run(command, env=self._environment(), check=False)
            return ""
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise PartFailed(f"tidegate {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def api(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What the API answers to a GET, or to a POST of this."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.state.ports['tidegate']}{path}", data)
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Bearer {(self.home / 'token').read_text().strip()}")
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def report(self) -> dict[str, Any]:
        """The report of the latest rollout."""
        found: dict[str, Any] = json.loads(self.tidegate("report", self.service, "-o", "json"))
        return found

    def await_end(self, seconds: float = 120.0) -> str:
        """The phase in which the latest rollout ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            newest = self.api(f"/v1/rollouts?service={self.service}&limit=1")["rollouts"][0]
            if newest["phase"] in ("succeeded", "rolled_back", "refused", "failed"):
                return str(newest["phase"])
            time.sleep(0.2)
        raise PartFailed(f"the rollout did not end within {seconds:g} s: {newest['phase']}, {newest['reason']}")

    def containers(self) -> list[dict[str, str]]:
        """Every container of this environment, whatever its state: short id and image."""
        engine = docker.from_env()
        try:
            found = engine.containers.list(all=True, filters={"label": f"tidegate.environment={self.environment}"})
            return [
                {"id": each.id[:12], "image": each.labels.get("tidegate.image", ""), "state": each.status} for each in found
            ]
        finally:
            engine.close()

    def scene(self) -> str:
        """What a person would look at first after a failure: the logs' ends, HAProxy's servers, the latest rollout."""
        parts = [(log.name, log.read_text(errors="replace")[-4000:]) for log in sorted(self.home.glob("*.log"))]
        asked = {
            "haproxy.cfg": lambda: (self.home / "haproxy" / "haproxy.cfg").read_text(),
            "show servers state": lambda: self.haproxy("show servers state"),
            "show stat": lambda: self.haproxy("show stat -1 4 -1"),
            "containers": lambda: json.dumps(self.containers(), indent=1),
            "report": lambda: json.dumps(self.report(), indent=1),
        }
        for name, ask in asked.items():
            try:
                parts.append((name, ask()))
            except (OSError, PartFailed, DockerException) as error:
                parts.append((name, f"not to be had: {error}"))
        return "\n".join(f"--- {name}\n{text}" for name, text in parts)

    def members(self, service: str = "shop") -> set[str]:
        """The short ids of the containers that HAProxy sends requests to, asked from HAProxy."""
        lines = self.haproxy(f"show stat {service} 4 -1").splitlines()
        rows = [line.split(",") for line in lines if line.startswith(f"{service},")]
        return {row[1].split(".")[2] for row in rows if row[17].startswith(("UP", "no check"))}

    def haproxy(self, command: str) -> str:
        """What HAProxy's own socket answers."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.home / "haproxy" / "admin.sock"))
            line.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: line.recv(65536), b"")).decode()

    def reload_haproxy(self) -> None:
        """What an administrator does: SIGUSR2 to the master process."""
        os.kill(haproxy_pid(self.home / "haproxy"), signal.SIGUSR2)

    # -- traffic --------------------------------------------------------------------------------------------------------

    def start_traffic(self, **rates: float) -> None:
        """Steady requests of every kind, until `finish_traffic`."""
        self._load = Load(self.listen, **(rates or REQUESTS_PER_SECOND))

    def traffic(self) -> Counts | None:
        """What was seen until now; None while there is none."""
        return self._load.counts if self._load else None

    def finish_traffic(self) -> Counts:
        """End it, and what it saw in all."""
        assert self._load is not None, "no traffic was started"
        load, self._load = self._load, None
        return load.finish()

    def await_baseline(self) -> None:
        """Let the proxy's counters show what is normal before anything is compared with it."""
        time.sleep(BASELINE_SECONDS)

    # -- stopping -------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Everything that was started: by process id, by Tidegate's labels, and nothing else."""
        with ExitStack() as stack:  # each of them also when one before it fails; the last one first
            stack.callback(shutil.rmtree, self.home, ignore_errors=True)
            if self.state.pids:
                stack.callback(remove_containers, self.environment)
            stack.callback(end_proxies, self.home)
            for pid in self.state.pids.values():
                stack.callback(end, pid, self._children.pop(pid, None))
            if self._load is not None:
                stack.callback(self.finish_traffic)
            self.state = State()
