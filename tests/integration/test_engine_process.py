"""`tidegate engine` as a process, on real containers behind a real HAProxy: its clean end, its sudden end, its twin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from processes import end_proxies, free_port, remove_containers, unique_name
from support.haproxy import short_folder
from support.images import demo_image, engine_client, remove_images
from support.prerequisites import program
from support.wait import eventually, exit_status
from tidegate.core import planner
from tidegate.core.container import Container, Health
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Policy, Release, Rollout, Service
from tidegate.core.phases import Phase
from tidegate.core.records import Idempotency
from tidegate.core.report.build import Report, build_report
from tidegate.core.routing import Backend
from tidegate.store.store import SqlStore

TIDEGATE = Path(sys.executable).with_name("tidegate")
REPLICAS = 3
SETTINGS = """\
database = "sqlite:///{home}/tidegate.db"
listen = "127.0.0.1:0"
[engine]
lease_seconds = 60.0
poll_seconds = 0.1
[environments.{name}.platform]
driver = "docker"
hosts = [{{ name = "local", url = "{docker}" }}]
[environments.{name}.router]
driver = "haproxy"
mode = "owned"
directory = "{home}/haproxy"
exporter = "127.0.0.1:{exporter}"
"""


class EngineInstallation:
    """A database, an environment of its own, and engine processes."""

    def __init__(self, home: Path) -> None:
        self.home, self.name = home, unique_name("engine")
        self.listen = f"127.0.0.1:{free_port()}"
        self.store = SqlStore(f"sqlite:///{home}/tidegate.db")
        self.store.migrate()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.number = 0
        self.old: Release | None = None
        url = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        values = {"home": home, "name": self.name, "docker": url, "exporter": free_port()}
        (home / "tidegate.toml").write_text(SETTINGS.format(**values))

    def engine(self) -> subprocess.Popen[bytes]:
        """One more."""
        with (self.home / "engine.log").open("ab") as log:
            made = subprocess.Popen(
                [str(TIDEGATE), "engine", "--settings", str(self.home / "tidegate.toml")], stdout=log, stderr=log
            )
        self.processes.append(made)
        return made

    def ask(self, version: str) -> str:
        """A rollout to this version, recorded as the API would."""
        self.number += 1
        container = Container(8080, health=Health("/health"), stop_grace_seconds=5.0)
        service = Service(
            self.name, "shop", f"{self.name}:{version}", REPLICAS, container, Backend("shop", self.listen),
            policy=Policy(drain_timeout_seconds=5.0, healthy_deadline_seconds=120.0),
        )  # fmt: skip
        new = Release(f"{version}-{self.number}", service.key, service.image, REPLICAS, container)
        old = self.old
        rollout = Rollout(
            id=f"{self.name}-{self.number}",
            service=service.key,
            old=old.id if old else None,
            new=new.id,
            plan=planner.make_plan(service, old, new),
            backend=service.backend,
            created=time.time(),
            old_replicas=REPLICAS if old else 0,
            policy=service.policy,
        )
        self.store.create(rollout, service, new, Idempotency("", "", ""), Event(EventKind.CREATED, "asked", time.time()))
        self.old = new
        return rollout.id

    def until(self, rollout: str, kind: EventKind) -> None:
        """An event of this kind is there."""
        try:
            eventually(
                f"{rollout} has an event {kind}", lambda: kind in [event.kind for event in self.store.events(rollout)]
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(self.home / 'engine.log').read_text()[-3000:]}") from None

    def ended(self, rollout: str) -> Report:
        """Its report, once it is at its end, which must be good."""
        self.until(rollout, EventKind.SUCCEEDED)
        return build_report(self.store.load(rollout)[0], self.store.events(rollout), self.store.verdicts(rollout))

    def containers(self) -> list[str]:
        """The releases of all containers, whatever their state."""
        with closing(docker.from_env()) as engine:
            found = engine.containers.list(all=True, filters={"label": f"tidegate.environment={self.name}"})
            return [each.labels["tidegate.release"] for each in found]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        try:
            for process in self.processes:
                exit_status(process)
            self.store.close()
        finally:
            end_proxies(self.home)
            remove_containers(self.name)


@pytest.fixture
def installation() -> Iterator[EngineInstallation]:
    program("haproxy")
    program("gcc")
    client = engine_client()
    with short_folder() as home:  # the path of HAProxy's socket has at most 97 characters
        made = EngineInstallation(home)
        tags = [f"{made.name}:{version}" for version in ("v1", "v2")]
        try:
            for tag in tags:
                demo_image(client, tag, {"VERSION": tag.rpartition(":")[2]})
            yield made
        finally:
            made.close()
            remove_images(client, f"{made.name}:")
            client.close()


def test_sigterm_finishes_the_effect_and_gives_the_rollout_back(installation: EngineInstallation) -> None:
    engine = installation.engine()
    installation.ended(installation.ask("v1"))
    rollout = installation.ask("v2")
    installation.until(rollout, EventKind.TRAFFIC_CONFIRMED)
    engine.send_signal(signal.SIGTERM)
    assert exit_status(engine) == 0
    claim = installation.store.claim("probe", 600.0)
    assert claim is not None, "given back, without waiting for its lease to run out"
    installation.store.release(claim, time.time())

    installation.engine()
    found = installation.ended(rollout)
    assert installation.store.load(rollout)[0].takeovers == 0
    assert [each.kind for each in found.notes] == []
    assert sorted(installation.containers()) == ["v2-2"] * REPLICAS


def test_after_sigkill_another_process_goes_on(installation: EngineInstallation) -> None:
    engine = installation.engine()
    installation.ended(installation.ask("v1"))
    rollout = installation.ask("v2")
    installation.until(rollout, EventKind.STARTED)
    engine.kill()
    exit_status(engine)
    installation.engine()
    found = installation.ended(rollout)
    assert installation.store.load(rollout)[0].takeovers >= 1
    assert EventKind.TAKEN_OVER in [each.kind for each in found.notes]
    assert (found.phase, found.lost) == (Phase.SUCCEEDED, 0)
    assert sorted(installation.containers()) == ["v2-2"] * REPLICAS


def test_a_second_engine_on_the_same_file_is_refused(installation: EngineInstallation) -> None:
    installation.engine()
    installation.ended(installation.ask("v1"))
    second = installation.engine()
    assert exit_status(second) != 0
    assert "SQLite allows one engine" in (installation.home / "engine.log").read_text()
    assert installation.processes[0].poll() is None
