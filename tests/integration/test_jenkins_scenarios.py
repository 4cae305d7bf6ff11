"""The scenarios for a real controller, run against a FAKE one whose builds the harness simulates.

This tests the scenarios themselves: the jobs they create, the URLs they request, and what they expect of the service.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from support import pipeline_scenarios
from support.api import running
from support.controller import Controller, Library, folder_xml, pipeline_xml, secret_xml, trusting
from support.fake_jenkins_jobs import RECENT, PlayedJenkins
from support.library import Harness
from support.outbox import build_watcher, outbox
from support.pipeline_scenarios import PipelineScenario

LIBRARY = Library("https://git.example.com/team's/tidegate.git?a=1&b=<2>", "v1")


@pytest.fixture
def fake(harness: Harness, tmp_path: Path) -> Iterator[PlayedJenkins]:
    """A FAKE controller that simulates builds."""
    with PlayedJenkins(harness, tmp_path).running() as fake:
        yield fake


@pytest.fixture(params=["folder", "global"])
def here(request: pytest.FixtureRequest, fake: PlayedJenkins, tmp_path: Path) -> Iterator[PipelineScenario]:
    """With a folder library and with a global one."""
    controller = Controller(fake.url, fake.user, fake.token, patience_seconds=200.0)
    with ExitStack() as stack:
        api = stack.enter_context(running(tmp_path))
        stack.enter_context(api.engine())
        stack.enter_context(outbox(api, fake, tmp_path))
        stack.enter_context(build_watcher(api, fake, tmp_path))
        yield stack.enter_context(pipeline_scenarios.scenario(api, controller, LIBRARY, trusted=request.param == "global"))


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
def test_a_scenario(here: PipelineScenario, run_scenario: object) -> None:
    assert callable(run_scenario)
    run_scenario(here)


def test_everything_is_removed(here: PipelineScenario, fake: PlayedJenkins) -> None:
    assert set(fake.jobs) == {here.folder, here.job}
    here.controller.remove(here.job)
    assert set(fake.jobs) == {here.folder}
    if fake.scripts:
        here.controller.forget(LIBRARY)
        assert "it.name != 'tidegate'" in fake.scripts[-1]
    here.controller.make_pipeline(here.job, "echo 'again'")


def test_a_controller_that_restarts(here: PipelineScenario, fake: PlayedJenkins) -> None:
    """Simulated builds survive a restart of the fake. Only a real controller can show that it saves its builds."""

    def restart() -> None:
        super(PlayedJenkins, fake).stop()
        fake.start()

    pipeline_scenarios.restarted(here, restart)


def test_the_suite_for_a_real_controller_runs(fake: PlayedJenkins) -> None:
    """As a person starts it, with one scenario and the fake in place of the real controller."""
    variables = {"JENKINS_URL": fake.url, "JENKINS_USER": fake.user, "JENKINS_TOKEN": fake.token}
    variables |= {"JENKINS_LIBRARY_GIT": LIBRARY.remote, "JENKINS_RESTART_COMMAND": ""}
    suite = Path(__file__).parents[1] / "acceptance" / "test_real_jenkins.py"
    words = [sys.executable, "-m", "pytest", "-q", str(suite), "-k", "knows_us or (refused and global)"]
    done = subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


# -- job definitions -----------------------------------------------------------------------------------------------------


def test_job_definitions_contain_their_settings() -> None:
    script = "echo '<&>' // ü"
    pipeline = Xml.fromstring(pipeline_xml(script).removeprefix(RECENT))
    assert (pipeline.findtext("definition/script"), pipeline.findtext("definition/sandbox")) == (script, "true")
    folder = Xml.fromstring(folder_xml(LIBRARY).removeprefix(RECENT))
    (library,) = folder.iter("org.jenkinsci.plugins.workflow.libs.LibraryConfiguration")
    assert library.findtext("retriever/scm/remote") == LIBRARY.remote
    assert library.findtext("retriever/libraryPath") == "shared-library/"
    assert list(Xml.fromstring(folder_xml(None).removeprefix(RECENT)).iter("libraries")) == []
    assert Xml.fromstring(secret_xml("a<b").removeprefix(RECENT)).findtext("password") == "a<b"
    assert "new jenkins.plugins.git.GitSCMSource('https://git.example.com/team\\'s/tidegate.git" in trusting(LIBRARY)
