"""The real thing for a person's story: Docker, HAProxy, Prometheus and Tidegate as its own processes."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import docker
import pytest
from docker.errors import DockerException

import parts
from parts import DemoStack
from processes import unique_name
from support.haproxy import short_folder
from support.prerequisites import missing, program

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep whether the test failed, for what is printed of its scene."""
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[DemoStack]:
    """All parts under the test's folder, not started yet; ended and cleared whatever happens.

    What they said last is printed for a test that failed.
    """
    for name in ("haproxy", "prometheus", "gcc"):
        program(name)
    try:
        engine = docker.from_env(timeout=60)
        engine.ping()
        engine.close()
    except DockerException:
        missing("a Docker engine")
    monkeypatch.setattr(parts, "FIRST_PORTS", dict.fromkeys(parts.FIRST_PORTS, 0))  # several stages stand at a time
    with short_folder() as folder:
        folder.chmod(0o711)  # for a proxy's workers, which are another user's
        made = DemoStack(folder / "stage", unique_name("acceptance"))
        try:
            yield made
        finally:
            if request.node.stash.get(FAILED, False):
                print(made.scene())
            made.stop()
