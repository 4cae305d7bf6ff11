"""All the parts of a rollout, so that each of them can break: engines, database, disk, clock, Prometheus, proxy."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import parts
from parts import DemoStack
from processes import answers, unique_name
from support.clock import ShiftedClock
from support.disk import small_disk
from support.docker_host import Engine, RemoteMachine, remote_machine, running_engine
from support.haproxy import short_folder
from support.postgres import PostgresServer, running
from support.prerequisites import program
from support.wait import eventually

READY_SECONDS = 1.5
IMAGES = {f"tidegate-outages:{name}": {"VERSION": name, "READY": f"after:{READY_SECONDS}"} for name in ("v1", "v2")}
#: Many slow callers: those on a machine that is cut off wait for it, and the others must keep each instance busy.
TRAFFIC = {"get_ka": 40, "get": 20, "post_ka": 20, "post": 10, "slow_gets": 24, "slow_get_ms": 2500}
DISK_MEGABYTES = 256  # below 64 free ones Tidegate is not ready
ENDS = ("succeeded", "rolled_back", "failed", "refused")
SHORT_PATIENCE = {"METRICS": "1.5", "PLATFORM": "2"}  # shorter than an outage, so that one is seen as such
MAX_WAIT_SECONDS = 180.0
POLL_SECONDS = 0.05
NO_ANSWER_SECONDS = 1.0  # a server whose database hangs does not answer for longer
COMPOSE = """\
services:
  shop:
    image: tidegate-outages:${VERSION}
    expose: ["8080"]
    stop_grace_period: 5s
    deploy: {replicas: 2, update_config: {parallelism: 1, order: start-first}}
    x-tidegate:
      listen: "LISTEN"
      health: {path: /health}
      drain_timeout: 10s
      healthy_deadline: 20s
      bake: 3s
      interval: 1s
      control: 0
      CHECKS
"""
CHECKS = "checks: [{name: watched, query: sum(up), min: 1, min_samples: 2}]"


@dataclass
class OutageSetup:
    """A stage with one service, and what is below it. `disk` is the database's. SQLite goes by `clock` as well."""

    stage: DemoStack
    engines: Mapping[str, Engine]
    disk: Path
    clock: ShiftedClock
    database_clock: ShiftedClock
    server: PostgresServer | None = None
    machine: RemoteMachine | None = None

    # -- rollouts -----------------------------------------------------------------------------------------------------

    @property
    def serving(self) -> str:
        """The version of the release that serves."""
        return str(self.get(f"/v1/services/{self.stage.service}")["live"]).partition("-")[0]

    @property
    def other(self) -> str:
        """The version that does not serve."""
        return "v2" if self.serving == "v1" else "v1"

    def deploy(self, version: str, *, judged: bool = True) -> FollowedRollout:
        """Ask for it, and do not wait."""
        file = self.stage.home / "compose.yaml"
        file.write_text(COMPOSE.replace("LISTEN", self.stage.listen).replace("CHECKS", CHECKS if judged else ""))
        insisted = ("--force", "--reason", "it may have been turned back before")
        self.stage.tidegate(
            "deploy", self.stage.service, "-f", str(file), "--no-wait", "--set", f"VERSION={version}", *insisted
        )
        return FollowedRollout(self, version, str(self.newest()["id"]))

    def calm(self) -> None:
        """The clock is right, and what a test before this one left under way is turned back."""
        self.clock.show(0)
        self.database_clock.show(0)
        if (rollout := self.newest())["phase"] not in ENDS:
            left = FollowedRollout(self, self.other, str(rollout["id"]))
            left.roll_back()
            left.end()

    def newest(self) -> dict[str, Any]:
        """The latest rollout; waits for a server that does not answer."""
        found: dict[str, Any] = self.get(f"/v1/rollouts?service={self.stage.service}&limit=1")["rollouts"][0]
        return found

    def get(self, path: str) -> Any:
        """What the API answers, as soon as it does."""

        def answered() -> list[Any]:
            try:
                return [self.stage.api(path)]
            except OSError:
                return []

        return eventually(f"{path} is answered", answered, MAX_WAIT_SECONDS, poll_seconds=POLL_SECONDS)[0]

    def ready(self) -> str:
        """What /readyz says; empty when all is well."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.stage.state.ports['tidegate']}/readyz", timeout=NO_ANSWER_SECONDS
            ):
                return ""
        except urllib.error.HTTPError as error:
            return str(json.load(error)["detail"])
        except OSError as error:
            return f"no answer: {error}"

    # -- what is there ------------------------------------------------------------------------------------------------

    def containers(self) -> dict[str, str]:
        """Short id and version of every container, whatever its state."""
        found = {}
        for engine in self.engines.values():
            with engine.client() as client:
                for container in client.api.containers(all=True, filters={"label": "tidegate.image"}):
                    found[container["Id"][:12]] = container["Labels"]["tidegate.image"].rpartition(":")[2]
        return found

    def running(self) -> set[Path]:
        """The first process of every container that runs, as the system knows it: no engine has to answer for it."""
        found = set()
        for engine in self.engines.values():
            with engine.client() as client:
                for container in client.api.containers(filters={"label": "tidegate.image"}):
                    found.add(Path("/proc", str(client.api.inspect_container(container["Id"])["State"]["Pid"])))
        return found

    def logged(self) -> str:
        """The engine's log so far."""
        return (self.stage.home / "engine.log").read_text(errors="replace")

    def members(self) -> set[str] | None:
        """Whom HAProxy sends requests to, as it was told, whether it finds them well or not; None while it is dead."""
        try:
            told = self.stage.haproxy("show stat shop 4 -1").splitlines()
        except OSError:
            return None
        rows = [line.split(",") for line in told if line.startswith("shop,")]
        return {row[1].split(".")[2] for row in rows if not row[17].startswith(("MAINT", "DRAIN"))}

    def assert_intact(self) -> None:
        """Exactly the containers of what serves, and exactly these in the proxy."""
        found = self.containers()
        assert Counter(found.values()) == {self.serving: 2}, found
        assert set(found) == self.members()

    def image(self, tag: str, host: str) -> bytes:
        """As `docker save` gives it."""
        with self.engines[host].client() as client:
            return b"".join(client.api.get_image(tag))

    def load(self, tag: str, saved: bytes, host: str) -> None:
        """As `docker load` takes it."""
        with self.engines[host].client() as client:
            [image] = client.images.load(saved)
            image.tag(*tag.split(":"))

    def answers(self) -> Callable[[], bool]:
        """Whether the service does."""
        return answers(f"http://{self.stage.listen}/")


@dataclass
class FollowedRollout:
    """One rollout, followed through the API."""

    world: OutageSetup
    version: str
    id: str

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.world.get(f"/v1/rollouts/{self.id}/events")["events"]
        return found

    def messages(self) -> str:
        """Its events, one per line."""
        return "\n".join(f"{event['kind']}: {event['message']}" for event in self.events())

    def until(self, kind: str, step: int | None = None) -> dict[str, Any]:
        """The first event of this kind, as soon as it is there."""

        def found() -> dict[str, Any] | None:
            for event in self.events():
                if event["kind"] == kind and step in (None, event["data"].get("step")):
                    return event
            rollout = self.world.newest()
            assert rollout["phase"] not in ENDS, f"it ended as {rollout['phase']}, {rollout['reason']}"
            return None

        try:
            return eventually(f"an event {kind}", found, MAX_WAIT_SECONDS, poll_seconds=POLL_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.messages()}") from None

    def roll_back(self) -> None:
        """What a person asks for."""
        self.world.stage.api(f"/v1/rollouts/{self.id}/rollback", {"reason": "as the story goes"})

    def end(self) -> str:
        """The phase in which it ends."""

        def phase() -> str:
            found = str(self.world.newest()["phase"])
            return found if found in ENDS else ""

        try:
            return eventually("the rollout has ended", phase, 2 * MAX_WAIT_SECONDS, poll_seconds=POLL_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.world.newest()}\n{self.messages()}") from None


# -- building it ------------------------------------------------------------------------------------------------------


@contextmanager
def staged(engines: Mapping[str, Engine], disk: Path, hosts: Sequence[Mapping[str, str]]) -> Iterator[OutageSetup]:
    """The stage, not started yet, with its first engine as the one that the environment names."""
    for name in ("haproxy", "prometheus", "gcc"):
        program(name)
    environment = unique_name("outages")
    with pytest.MonkeyPatch.context() as patch, short_folder() as folder:
        patch.setattr(parts, "FIRST_PORTS", dict.fromkeys(parts.FIRST_PORTS, 0))
        patch.setenv("DOCKER_HOST", hosts[0]["url"])
        patch.setenv("TIDEGATE_ENGINE__POLL_SECONDS", "0.1")
        patch.setenv("TIDEGATE_ENGINE__DRIFT_INTERVAL_SECONDS", "1")
        for name, value in SHORT_PATIENCE.items():
            patch.setenv(f"TIDEGATE_ENVIRONMENTS__{environment.upper()}__{name}__TIMEOUT_SECONDS", value)
        folder.chmod(0o711)
        clock = ShiftedClock(folder / "clock")
        stage = DemoStack(folder / "stage", environment)
        stage.under = clock.under
        try:
            yield OutageSetup(stage, engines, disk, clock, clock)
        finally:
            stage.stop()


def started(world: OutageSetup, hosts: Sequence[Mapping[str, str]]) -> OutageSetup:
    """With its first release in place."""
    world.stage.start(IMAGES, engine_apart=True, hosts=hosts)
    first, *others = world.engines
    for tag in IMAGES:
        for host in others:
            world.load(tag, world.image(tag, first), host)
    world.stage.start_engine()
    assert world.deploy("v1").end() == "succeeded"
    return world


@contextmanager
def two_machines() -> Iterator[OutageSetup]:
    """PostgreSQL, and Docker engines here and on another machine, whose containers outlive them."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(DISK_MEGABYTES))
        disk.joinpath("pg").mkdir()
        folder = stack.enter_context(short_folder())
        folder.chmod(0o711)
        clock = ShiftedClock(folder / "clock")
        server = stack.enter_context(running(disk / "pg", clock.under))
        machine = stack.enter_context(remote_machine())
        near = stack.enter_context(running_engine("--live-restore"))
        far = stack.enter_context(
            running_engine("--live-restore", "--host", f"tcp://{machine.address}:2375", machine=machine)
        )
        hosts = [
            {"name": "near", "url": near.url},
            {"name": "far", "url": f"tcp://{machine.address}:2375", "address": machine.address},
        ]
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        name = stack.enter_context(server.database())
        patch.setenv("TIDEGATE_DATABASE", server.url(name))
        patch.setenv("TIDEGATE_ENGINE__LEASE_SECONDS", "3")
        world = stack.enter_context(staged({"near": near, "far": far}, disk, hosts))
        world.server, world.machine, world.database_clock = server, machine, clock
        yield started(world, hosts)


@contextmanager
def one_machine() -> Iterator[OutageSetup]:
    """SQLite, and a Docker engine that takes its containers along when it is stopped."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(DISK_MEGABYTES))
        near = stack.enter_context(running_engine())
        hosts = [{"name": "near", "url": near.url}]
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("TIDEGATE_DATABASE", f"sqlite:///{disk}/tidegate.db")
        yield started(stack.enter_context(staged({"near": near}, disk, hosts)), hosts)
