"""A build of Jenkins beside a live service, and the table of what became of all builds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import library
from support.api import running
from support.library import Harness, Jenkins
from tidegate.settings import DriverSettings, EnvironmentSettings, RouterSettings, Settings

ROLES = {"release-managers": ["alice", "bob"]}


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """The Groovy that plays all builds."""
    with library.harness(tmp_path_factory.mktemp("groovy")) as made:
        yield made


@pytest.fixture
def jenkins(tmp_path: Path, harness: Harness, record_property: Callable[[str, object], None]) -> Iterator[Jenkins]:
    """A build over a shop that serves v1, in an environment that knows roles."""
    driver = DriverSettings(driver="docker")
    environment = EnvironmentSettings(platform=driver, router=RouterSettings(driver="haproxy"), roles=ROLES)
    with running(tmp_path, settings=Settings(environments={"demo": environment})) as api, api.engine():
        api.until(api.deploy("v1")["id"], "succeeded")
        yield Jenkins(api, harness, record_property, tmp_path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The outcomes of the shared library's steps, also where all is well."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.getreports(kind) if each.when == "call"]
    lines = library.table(reports)
    if lines:
        terminalreporter.section("the shared library: each step in each outcome")
        terminalreporter.line("\n".join(lines))
