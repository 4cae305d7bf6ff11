"""A FAKE Jenkins, a build in it, and the driver that reports the build's rollout to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support.fake_jenkins import JOB, FakeBuild, FakeJenkins, Logs, subject
from tidegate.drivers.ci.jenkins.driver import JenkinsCI


@pytest.fixture
def fake() -> Iterator[FakeJenkins]:
    """A running FAKE Jenkins."""
    with FakeJenkins().running() as running:
        yield running


@pytest.fixture
def token(tmp_path: Path, fake: FakeJenkins) -> Path:
    """A file with the user's API token."""
    file = tmp_path / "token"
    file.write_text(f"{fake.token}\n")
    return file


@pytest.fixture
def build(fake: FakeJenkins) -> FakeBuild:
    """Build 12 of the job, which requested the rollout."""
    return fake.build(JOB, 12)


@pytest.fixture
def ci(fake: FakeJenkins, token: Path) -> JenkinsCI:
    """The driver under test."""
    return subject(fake, token)


@pytest.fixture
def logs() -> Iterator[Logs]:
    """The log lines of the test."""
    with capture_logs() as captured:
        yield captured
