"""Secrets stay where they belong: planted wherever one can be, and looked for wherever one could get out.

A real `tidegate serve --with-engine` with real containers behind a real HAProxy; Prometheus and Jenkins are a server that
refuses everything, and repeats all that it was sent.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from processes import end_proxies, free_port, remove_containers, unique_name
from support.images import demo_image, engine_client, remove_images
from support.prerequisites import program
from support.wait import eventually, exit_status
from tidegate.errors import InvalidSettings, StoreError
from tidegate.settings import load
from tidegate.store.store import SqlStore
from tidegate.web.auth import new_token
from tidegate.wiring import build

TIDEGATE = Path(sys.executable).with_name("tidegate")
PLANTED = {
    name: f"planted-{name}-{uuid.uuid4().hex}"
    for name in ("variable", "environment", "env-file", "secret", "config", "hook", "jenkins", "prometheus", "tls-key")
}
SETTINGS = """\
database = "sqlite:///{home}/tidegate.db"
listen = "127.0.0.1:{port}"
[log]
level = "debug"
[engine]
poll_seconds = 0.1
[environments.{name}]
platform = {{ driver = "docker", hosts = [{{ name = "local", url = "{docker}" }}] }}
router = {{ driver = "haproxy", directory = "{home}/haproxy", exporter = "127.0.0.1:{exporter}" }}
ci = {{ driver = "jenkins", url = "http://127.0.0.1:{echo}", user = "u", token_file = "{home}/token" }}
[environments.{name}.metrics]
driver = "prometheus"
url = "http://127.0.0.1:{echo}"
username = "u"
password_file = "{home}/password"
timeout_seconds = 1.0
[environments.tls]
router = {{ driver = "haproxy", directory = "{home}/tls", exporter = "127.0.0.1:{other}" }}
[environments.tls.platform]
driver = "docker"
[[environments.tls.platform.hosts]]
name = "far"
url = "tcp://127.0.0.1:{echo}"
tls = {{ ca = "{home}/key", cert = "{home}/key", key = "{home}/key" }}
"""
COMPOSE = f"""\
services:
  shop:
    image: NAME:${{VERSION}}
    expose: ["8080"]
    stop_grace_period: 1s
    env_file: app.env
    environment: {{FROM_VARIABLE: "${{PASSWORD}}", WRITTEN: "{PLANTED["environment"]}"}}
    secrets: [key]
    configs: [settings]
    x-tidegate: {{listen: "LISTEN", health: {{path: /health}}, drain_timeout: 1s, MORE}}
secrets: {{key: {{file: key.txt}}}}
configs: {{settings: {{content: "{PLANTED["config"]}"}}}}
"""
HOOK = f"hooks: {{pre_deploy: {{entrypoint: [/nothing-there], command: [x], environment: {{TOKEN: {PLANTED['hook']}}}}}}}"
CHECK = (
    "bake: 2s, interval: 500ms, warmup: 0s, on_inconclusive: rollback, max_extensions: 0, checks: [{errors: {margin: 1%}}]"
)


class Repeating(http.server.BaseHTTPRequestHandler):
    """Refuses everything, and says what it was sent."""

    def do_GET(self) -> None:
        said = f"<body>{self.path} {dict(self.headers)}</body>".encode()
        self.send_response(500)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class SecretsInstallation:
    """The server, its environment and its client."""

    def __init__(self, home: Path, echo: int) -> None:
        self.home, self.name, self.port = home, unique_name("secrets"), free_port()
        self.listen = f"127.0.0.1:{free_port()}"
        values = {"home": home, "name": self.name, "port": self.port, "echo": echo}
        values |= {"exporter": free_port(), "other": free_port()}
        values["docker"] = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        for file, secret in (("password", "prometheus"), ("token", "jenkins"), ("key", "tls-key")):
            (home / file).write_text(PLANTED[secret])
        self.settings, self.temporary = home / "tidegate.toml", home / "tmp"
        self.settings.write_text(SETTINGS.format(**values))
        self.temporary.mkdir()
        store = SqlStore(f"sqlite:///{home}/tidegate.db")
        store.migrate()
        self.secret, token = new_token("admin", ["admin"], ["*"], 1.0)
        store.add_token(token)
        store.close()
        self.environ = {**os.environ, "TMPDIR": str(self.temporary)}
        with (home / "log").open("wb") as log:
            command = [str(TIDEGATE), "serve", "--with-engine", "--settings", str(self.settings)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environ)
        self.told: dict[str, str] = {}

    def call(self, method: str, path: str, body: object = None) -> requests.Response:
        """A request; its answer is one of the places to look at."""
        headers = {"Authorization": f"Bearer {self.secret}", "Idempotency-Key": uuid.uuid4().hex}
        url = f"http://127.0.0.1:{self.port}{path}"
        answer = requests.request(method, url, json=body, headers=headers, timeout=60)
        self.told[f"{method} {path} #{len(self.told)}"] = f"{answer.text} {answer.headers}"
        return answer

    def deploy(self, version: str, more: str = "keep_old: 0s", **odd: Any) -> str:
        """A rollout, to its end; how it ended."""
        text = COMPOSE.replace("NAME", self.name).replace("LISTEN", self.listen).replace("MORE", more)
        body = {
            "compose": text,
            "variables": {"VERSION": version, "PASSWORD": PLANTED["variable"]},
            "files": {"app.env": f"FILED={PLANTED['env-file']}\n", "key.txt": PLANTED["secret"]},
            "build": {"job": "shop", "number": len(self.told) + 1},
        }
        made = self.call("POST", f"/v1/services/{self.name}/shop/rollouts", body | odd)
        if made.status_code != 202:
            return str(made.status_code)
        path = f"/v1/rollouts/{made.json()['id']}"
        final = ("succeeded", "rolled_back", "failed", "refused")
        phase: str = eventually(
            "the rollout ends", lambda: now if (now := self.call("GET", path).json()["phase"]) in final else None
        )
        for part in ("", "/events", "/report", "/junit", "/record"):
            self.call("GET", path + part)
        return phase

    def processes(self) -> dict[str, str]:
        """The command lines of the server and of all that it started."""
        found, todo = {}, [self.process.pid]
        while todo:
            pid = todo.pop()
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                found[f"process {pid}"] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                todo += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        for pid in Path(self.home / "haproxy").glob("*.pid"):
            found[f"process {pid}"] = Path(f"/proc/{pid.read_text().strip()}/cmdline").read_text()
        return found

    def files(self) -> dict[str, str]:
        """The log, the proxy's files, what is left in the temporary folder."""
        places = [self.home / "log", *(self.home / "haproxy").rglob("*"), *self.temporary.rglob("*")]
        return {str(each): each.read_text(errors="replace") for each in places if each.is_file()}

    def close(self) -> None:
        self.process.terminate()
        try:
            exit_status(self.process)
        finally:
            self.process.kill()
            end_proxies(self.home)
            remove_containers(self.name)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[SecretsInstallation]:
    program("haproxy")
    program("gcc")
    client = engine_client()
    echo = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Repeating)
    threading.Thread(target=echo.serve_forever).start()
    made = SecretsInstallation(tmp_path, echo.server_port)
    try:
        for version in ("v1", "v2"):
            demo_image(client, f"{made.name}:{version}", {"VERSION": version})
        yield made
    finally:
        made.close()
        remove_images(client, f"{made.name}:")
        client.close()
        echo.shutdown()
        echo.server_close()


def test_no_secret_gets_out(installation: SecretsInstallation) -> None:
    eventually("the server is ready", lambda: _is_ready(installation))
    assert installation.deploy("v1") == "succeeded"
    assert installation.deploy("v2", CHECK) in ("rolled_back", "failed"), "nobody could be asked how it does"
    forced = {"force": True, "reason": "its quarantine would refuse it"}
    assert installation.deploy("v2", HOOK, **forced) in ("rolled_back", "failed"), "the hook could not be run"
    for odd in (
        {"variables": {"PASSWORD": [PLANTED["variable"]]}},
        {"variables": {PLANTED["variable"] + "\n": "x"}},
        {"files": {"app.env": f"no {PLANTED['env-file']}"}},
        {"files": {"key.txt": {"base64": PLANTED["secret"]}}},
        {"files": {"app.env": {"text": PLANTED["env-file"]}}},
        {"compose": [COMPOSE]},
        {"compose": COMPOSE.replace("environment: {", "environment: {A: [1], ")},
        {"compose": COMPOSE.replace("content: ", "content: [5], x: ")},
    ):
        assert installation.deploy("v1", **odd) == "422", odd
    installation.call("POST", f"/v1/services/{installation.name}/shop/rollback", {})
    service = f"/v1/services/{installation.name}/shop"
    for path in ("/v1/services", service, f"{service}/instances", f"{service}/rollouts", "/v1/rollouts", "/v1/audit"):
        assert installation.call("GET", path).status_code == 200
    for path in ("/v1/tokens", "/v1/freezes", "/v1/discovery/prometheus", "/metrics", "/readyz", "/openapi.json"):
        assert installation.call("GET", path).status_code == 200
    places = installation.told | installation.processes() | _labels(installation)
    command = [str(TIDEGATE), "check", "--settings", str(installation.settings)]
    for more in ([], ["-o", "json"]):
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, env=installation.environ, timeout=60, check=False
        )
        places[f"check {more}"] = done.stdout + done.stderr
        assert "prometheus" in done.stdout
        assert "Traceback" not in done.stderr

    def log_names_jenkins() -> bool:
        log = _log(installation)
        return '"CIError' in log or "Jenkins" in log

    eventually("the log says something of Jenkins", log_names_jenkins)
    places |= installation.files()
    assert len(places) > 50
    secrets = PLANTED | {"token": installation.secret}
    secrets |= {
        f"sent-{name}": base64.b64encode(f"u:{PLANTED[name]}".encode()).decode() for name in ("jenkins", "prometheus")
    }
    found = [(name, place) for place, text in places.items() for name, secret in secrets.items() if secret in text]
    assert found == []


def _is_ready(installation: SecretsInstallation) -> bool:
    try:
        return installation.call("GET", "/readyz").status_code == 200
    except requests.ConnectionError:
        return False


def _log(installation: SecretsInstallation) -> str:
    return (installation.home / "log").read_text()


def _labels(installation: SecretsInstallation) -> dict[str, str]:
    """All that the engine tells of the containers but their variables, which are theirs."""
    with closing(docker.from_env()) as engine:
        found = engine.containers.list(all=True, filters={"label": f"tidegate.environment={installation.name}"})
        told = {}
        for each in found:
            config = {name: value for name, value in each.attrs["Config"].items() if name != "Env"}
            told[f"container {each.name}"] = json.dumps([each.name, config, each.attrs["Mounts"]])
    assert told
    return told


DOCKER = 'environments.a.platform = { driver = "docker", hosts = [{ name = "x" }] }\n'


@pytest.mark.parametrize(
    "text",
    [
        'database = "postgresql://u:SECRET@127.0.0.1:1/x"',
        'database = "nonsense://u:SECRET@x"',
        'address = "http://u:SECRET@ h"',
        'environments.a.platform = { driver = "docker", hosts = [{ name = "x", url = "tcp://u:SECRET@h:1" }] }',
        DOCKER + 'environments.a.metrics = { driver = "prometheus", url = "http://u:SECRET@h" }',
        DOCKER + 'environments.a.metrics = { driver = "prometheus", url = "http://h", password = "SECRET" }',
        DOCKER + 'environments.a.ci = { driver = "jenkins", url = "http://u:SECRET@h", user = "u" }',
        DOCKER + 'environments.a.ci = { driver = "jenkins", url = "http://h", token = "SECRET", user = "u" }',
    ],
)
def test_no_mistake_in_the_settings_is_shown_with_its_secret(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.toml").write_text(text.replace("SECRET", "planted-secret"))
    with pytest.raises((InvalidSettings, StoreError)) as wrong:
        build(load(tmp_path / "s.toml", {})).store.migrate()
    assert "planted-secret" not in wrong.value.message
