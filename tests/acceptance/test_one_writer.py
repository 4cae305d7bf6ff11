"""One instance with a volume: whatever happens to it, no two instances hold the lock in the volume, and no data is lost."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator

import docker
import pytest

from parts import DemoStack
from processes import unique_name
from support.wait import eventually

ROLLOUTS = int(os.environ.get("LOCK_ROLLOUTS", "3"))
COMPOSE = """\
services:
  shop:
    image: tidegate-writer:${VERSION}
    expose: ["8080"]
    environment: {LOCK: /data/lock}
    volumes: ["data:/data"]
    stop_grace_period: 5s
    x-tidegate: {listen: "LISTEN", health: {path: /health}, drain_timeout: 5s, healthy_deadline: 60s}
volumes:
  data: {name: "VOLUME"}
"""
WARNING = "Its instance writes to VOLUME, so it stops before the next one starts"
IMAGES = {f"tidegate-writer:{version}": {"VERSION": version} for version in ("v0", "v1", "v2")}
IMAGES["tidegate-writer:bad"] = {"VERSION": "bad", "READY": "never", "CRASH_AFTER": "0"}


class Writer:
    """The service on its stage."""

    def __init__(self, stage: DemoStack, volume: str) -> None:
        self.stage, self.volume = stage, volume
        self.file = stage.home / "compose.yaml"
        self.file.write_text(COMPOSE.replace("LISTEN", stage.listen).replace("VOLUME", volume))

    def deploy(self, version: str) -> str:
        self.stage.tidegate("deploy", self.stage.service, "-f", str(self.file), "--no-wait", "--set", f"VERSION={version}")
        return self.stage.await_end()

    def lines(self) -> list[str]:
        """A line for each process that had the lock, or did not get it."""
        engine = docker.from_env()
        try:
            chunks, _ = engine.containers.get(self.stage.containers()[0]["id"]).get_archive("/data/lock")
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                file = archive.extractfile("lock")
                assert file is not None
                return file.read().decode().splitlines()
        finally:
            engine.close()


@pytest.fixture
def volume() -> Iterator[str]:
    """A name; what has it in the end is removed."""
    name = unique_name("acceptance")
    yield name
    engine = docker.from_env()
    try:
        for found in engine.volumes.list(filters={"name": name}):
            found.remove(force=True)
    finally:
        engine.close()


@pytest.fixture
def writer(volume: str, stage: DemoStack) -> Writer:
    stage.start(IMAGES)
    return Writer(stage, volume)


def test_no_two_instances_hold_the_lock_and_the_data_stays(writer: Writer) -> None:
    stage = writer.stage
    assert writer.deploy("v0") == "succeeded"
    starts = 1
    for number in range(ROLLOUTS):
        bad = number % 3 == 1
        assert writer.deploy("bad" if bad else f"v{1 + number % 2}") == ("rolled_back" if bad else "succeeded")
        lines = writer.lines()
        assert not [line for line in lines if not line.startswith("taken ")]
        assert len(lines) >= starts + 1 + bad, "each start adds a line, and none is lost"
        starts = len(lines)
    warning = WARNING.replace("VOLUME", writer.volume)
    newest = stage.api(f"/v1/rollouts?service={stage.service}&limit=1")["rollouts"][0]
    assert newest["warnings"][0].startswith(warning)
    assert warning in stage.tidegate("events", stage.service)

    engine = docker.from_env()
    mine = {"label": f"tidegate.environment={stage.environment}"}
    [before] = [container["Id"] for container in engine.api.containers(filters=mine)]
    engine.api.kill(before)

    def is_replaced() -> bool:
        ids = [container["Id"] for container in engine.api.containers(filters=mine)]
        return bool(ids) and before not in ids

    eventually("a repair has replaced it", is_replaced)
    engine.close()
    assert stage.await_end() == "succeeded"
    assert [line.split()[0] for line in writer.lines()] == ["taken"] * (starts + 1)
