"""The real thing for a person's story: Docker, HAProxy, Prometheus and Tidegate as its own processes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

from parts import Stage
from support.need import missing, program


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """All parts under the test's folder, not started yet; ended and cleared whatever happens."""
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
        if os.environ.get("TIDEGATE_SHOW_LOGS"):
            for log in made.home.glob("*.log"):
                print(f"--- {log.name}\n{log.read_text()[-4000:]}")
        made.stop()
