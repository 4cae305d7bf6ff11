"""The stories that are told to a real controller where there is one, told to a FAKE one whose builds the harness plays.

So all that they do is tried: the jobs that they make, the addresses that they ask, and what they expect of the service.
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
from support.outbox import outbox
from support.pipeline_scenarios import PipelineScenario

LIBRARY = Library("https://git.example.com/team's/tidegate.git?a=1&b=<2>", "v1")


@pytest.fixture
def fake(harness: Harness, tmp_path: Path) -> Iterator[PlayedJenkins]:
    """It runs."""
    with PlayedJenkins(harness, tmp_path).running() as made:
        yield made


@pytest.fixture(params=["folder", "global"])
def here(request: pytest.FixtureRequest, fake: PlayedJenkins, tmp_path: Path) -> Iterator[PipelineScenario]:
    """With each kind of library."""
    controller = Controller(fake.url, fake.user, fake.token, patience_seconds=200.0)
    with ExitStack() as stack:
        api = stack.enter_context(running(tmp_path))
        stack.enter_context(api.engine())
        stack.enter_context(outbox(api, fake, tmp_path))
        yield stack.enter_context(pipeline_scenarios.scenario(api, controller, LIBRARY, trusted=request.param == "global"))


@pytest.mark.parametrize(
    "run_scenario", [pipeline_scenarios.approved_elsewhere, pipeline_scenarios.refused, pipeline_scenarios.aborted]
)
def test_a_scenario(here: PipelineScenario, run_scenario: object) -> None:
    assert callable(run_scenario)
    run_scenario(here)


def test_nothing_is_left_behind(here: PipelineScenario, fake: PlayedJenkins) -> None:
    assert set(fake.jobs) == {here.folder, here.job}
    here.controller.remove(here.job)
    assert set(fake.jobs) == {here.folder}
    if fake.scripts:
        here.controller.forget(LIBRARY)
        assert "it.name != 'tidegate'" in fake.scripts[-1]
    here.controller.make_pipeline(here.job, "echo 'again'")


def test_a_controller_that_comes_back_goes_on_where_it_was(here: PipelineScenario, fake: PlayedJenkins) -> None:
    """What is played is not lost when the fake is away: that a real one keeps its builds is for the real one to show."""

    def away() -> None:
        super(PlayedJenkins, fake).stop()
        fake.start()

    pipeline_scenarios.restarted(here, away)


def test_the_suite_for_a_real_controller_runs(fake: PlayedJenkins) -> None:
    """As it is started by hand, with one story and the fake in the place of the real one."""
    told = {"JENKINS_URL": fake.url, "JENKINS_USER": fake.user, "JENKINS_TOKEN": fake.token}
    told |= {"JENKINS_LIBRARY_GIT": LIBRARY.remote, "JENKINS_RESTART_COMMAND": ""}
    suite = Path(__file__).parents[1] / "acceptance" / "test_real_jenkins.py"
    words = [sys.executable, "-m", "pytest", "-q", str(suite), "-k", "knows_us or (refused and global)"]
    done = subprocess.run(words, env={**os.environ, **told}, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


# -- what jobs are made of -----------------------------------------------------------------------------------------------


def test_what_is_made_says_what_was_meant() -> None:
    script = "echo '<&>' // ü"
    pipeline = Xml.fromstring(pipeline_xml(script).removeprefix(RECENT))
    assert (pipeline.findtext("definition/script"), pipeline.findtext("definition/sandbox")) == (script, "true")
    made = Xml.fromstring(folder_xml(LIBRARY).removeprefix(RECENT))
    (library,) = made.iter("org.jenkinsci.plugins.workflow.libs.LibraryConfiguration")
    assert library.findtext("retriever/scm/remote") == LIBRARY.remote
    assert library.findtext("retriever/libraryPath") == "shared-library/"
    assert list(Xml.fromstring(folder_xml(None).removeprefix(RECENT)).iter("libraries")) == []
    assert Xml.fromstring(secret_xml("a<b").removeprefix(RECENT)).findtext("secret") == "a<b"
    assert "new jenkins.plugins.git.GitSCMSource('https://git.example.com/team\\'s/tidegate.git" in trusting(LIBRARY)
