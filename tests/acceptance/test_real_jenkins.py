"""The pipeline's stories on a real Jenkins: with the library as a trusted global one, and as a sandboxed one of a folder.

    JENKINS_URL=http://jenkins:8080 JENKINS_USER=admin JENKINS_TOKEN=… JENKINS_LIBRARY_GIT=https://…/tidegate.git \\
        make test ARGS=tests/acceptance/test_real_jenkins.py

- `JENKINS_URL`, `JENKINS_USER`, `JENKINS_TOKEN`: the controller, and a user's API token; an administrator's for the global
  library.
- `JENKINS_LIBRARY_GIT`, `JENKINS_LIBRARY_VERSION`: where the controller gets the library from; a branch, tag, commit.
- `JENKINS_RESTART_COMMAND`: restarts the controller, or kills and starts it; run by the shell while builds are under way.
- `TIDEGATE_HOST`: the address at which the controller reaches this machine; by default the one that leads to it.

The service, its engine and its CI driver are real; what runs the instances is a small world in memory. All that is made in
Jenkins is in one folder for each story, and removed. `tests/integration/test_jenkins_scenarios.py` tells it to a fake.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import jenkins
import pytest

from support import pipeline_scenarios
from support.api import running
from support.controller import Controller, Library
from support.outbox import build_watcher, outbox
from support.pipeline_scenarios import PipelineScenario

URL = os.environ.get("JENKINS_URL", "")
REMOTE = os.environ.get("JENKINS_LIBRARY_GIT", "")
RESTART = os.environ.get("JENKINS_RESTART_COMMAND", "")
WITHOUT = "JENKINS_URL is not set: no Jenkins is installed here, also in CI; the same stories are told to a fake one"

pytestmark = [pytest.mark.skipif(not URL, reason=WITHOUT), pytest.mark.timeout(1200)]


def way_to(url: str) -> str:
    """Our own address on the way to this server, at which it can reach us."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))  # sends nothing
        return str(probe.getsockname()[0])


@pytest.fixture(params=["folder", "global"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PipelineScenario]:
    """A pipeline that is not started yet, with each kind of library."""
    if not REMOTE:
        pytest.skip("JENKINS_LIBRARY_GIT is not set: the controller has nowhere to get the library from")
    user, token = os.environ["JENKINS_USER"], os.environ["JENKINS_TOKEN"]
    version, trusted = os.environ.get("JENKINS_LIBRARY_VERSION", "main"), request.param == "global"
    library = Library(REMOTE, version, "tidegate-acceptance" if trusted else "tidegate")
    controller = Controller(URL, user, token)
    if trusted and not controller.administers():
        pytest.skip(f"{user} may not use the script console: a global library cannot be made")
    with ExitStack() as stack:
        api = stack.enter_context(running(tmp_path, host=os.environ.get("TIDEGATE_HOST") or way_to(URL)))
        stack.enter_context(api.engine())
        stack.enter_context(outbox(api, controller, tmp_path))
        stack.enter_context(build_watcher(api, controller, tmp_path))
        yield stack.enter_context(pipeline_scenarios.scenario(api, controller, library, trusted=trusted))


@pytest.mark.parametrize(
    "run_scenario",
    [
        pipeline_scenarios.failed_between_stages,
        pipeline_scenarios.approved_elsewhere,
        pipeline_scenarios.evidence_changes,
        pipeline_scenarios.approved_in_jenkins,
        pipeline_scenarios.refused,
        pipeline_scenarios.aborted,
    ],
)
def test_a_scenario(here: PipelineScenario, run_scenario: Callable[[PipelineScenario], None]) -> None:
    run_scenario(here)


@pytest.mark.skipif(not RESTART, reason="JENKINS_RESTART_COMMAND is not set: nobody may restart this controller")
def test_a_restart_of_the_controller_costs_a_pause(here: PipelineScenario) -> None:
    def restart() -> None:
        subprocess.run(RESTART, shell=True, check=True, timeout=300)
        here.controller.eventually("Jenkins comes back", lambda: here.controller.shown(here.job))

    pipeline_scenarios.restarted(here, restart)


def test_the_controller_knows_us() -> None:
    """Before all: a wrong address or token is told plainly."""
    found = jenkins.Jenkins(URL, os.environ["JENKINS_USER"], os.environ["JENKINS_TOKEN"], timeout=60).get_whoami()
    assert found["id"].lower() == os.environ["JENKINS_USER"].lower()
