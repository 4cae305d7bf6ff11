"""The real thing for a person's story: Docker, HAProxy, Prometheus and Tidegate as its own processes."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

from parts import Stage
from support.need import missing, program

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep whether the test failed, for what is printed of its scene."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """All parts under the test's folder, not started yet; ended and cleared whatever happens.

    What they said last is printed for a test that failed.
    """
    for name in ("haproxy", "prometheus", "mtail", "gcc"):
        program(name)
    try:
        engine = docker.from_env(timeout=10)
        engine.ping()
        engine.close()
    except DockerException:
        missing("a Docker engine")
    made = Stage(tmp_path / "stage", f"acceptance{uuid.uuid4().hex[:6]}")
    try:
        yield made
    finally:
        if request.node.stash.get(FAILED, False):
            print(made.scene())
        made.stop()
