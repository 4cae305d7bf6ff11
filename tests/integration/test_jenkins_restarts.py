"""Builds that Jenkins interrupts, loses or restarts, and how few steps a build needs: the library against a live service.

The harness plays what a real controller does: a step that runs in the background throws when the controller is back, a lost
build runs no further line, and each step is recorded.
"""

from __future__ import annotations

import pytest

from support.api import compose
from support.fake_drivers import constant
from support.library import CHECKED, Jenkins, approves, deploy, promote, verify


@pytest.mark.parametrize("match", ["POST .*/rollouts", "GET .*/events.*wait", "GET .*/rollouts/[^/]*$"])
def test_a_lost_response_starts_no_second_rollout(jenkins: Jenkins, match: str) -> None:
    build = jenkins.build(deploy(), script=[{"restart": {"step": "httpRequest", "match": match}}])
    jenkins.expect(f"deploy: Jenkins restarts during {match}", build, "SUCCESS")
    assert jenkins.count() == 2


@pytest.mark.parametrize(
    ("step", "match"),
    [
        ("readFile", ""),
        ("httpRequest", "POST .*/rollouts"),
        ("httpRequest", "GET .*/events.*wait"),
        ("httpRequest", "POST .*/verify"),
        ("httpRequest", "GET .*/report"),
        ("writeFile", ""),
        ("archiveArtifacts", ""),
    ],
)
def test_a_step_that_a_restart_has_interrupted_is_repeated(jenkins: Jenkins, step: str, match: str) -> None:
    """Steps that run in the background cannot be resumed: they throw when Jenkins is back. Here three restarts in a row."""
    jenkins.compose = compose(f"approval: {{after: [1]}}, drain_timeout: 1s, {CHECKED}")
    jenkins.api.world.answer = constant(0.1)
    script = [{"restart": {"step": step, "match": match, "call": call}} for call in (1, 2, 3)]
    build = jenkins.build(deploy(), verify(archive=True), script=script)
    text = jenkins.expect(f"deploy and verify: Jenkins restarts during {step} {match}".strip(), build, "SUCCESS")
    assert text.count("Jenkins restarted during this step. Repeating it.") == 3
    assert "No response from Tidegate" not in text, "the service has always responded"
    assert jenkins.count() == 2


def test_a_build_that_vanishes_leaves_a_rollout_that_its_stage_finds_again(jenkins: Jenkins) -> None:
    """Killed with its controller, or deleted: no line of the pipeline runs after that."""
    jenkins.api.world.ready_after = 0.5
    gone = jenkins.build(deploy(), script=[{"vanish": {"step": "httpRequest", "match": "GET .*/events"}}])
    jenkins.expect("deploy: the build vanishes", gone, "VANISHED")
    jenkins.number = 8
    text = jenkins.expect("deploy: while a lost build's rollout is live", jenkins.build(deploy("v3")), "FAILURE")
    assert "requested by team/shop #7" in text
    jenkins.number = 7
    again = jenkins.build(deploy(), promote(), script=[approves()])
    jenkins.expect("deploy: the lost build's stage again", again, "SUCCESS")
    assert jenkins.count() == 2


def test_a_quiet_wait_adds_few_steps_to_the_build(jenkins: Jenkins) -> None:
    """Jenkins keeps each step with its log. Three hours in which nothing happens."""
    build = jenkins.build(deploy(), script=[], quiet=3 * 3600)
    jenkins.expect("deploy: three quiet hours", build, "SUCCESS")
    assert build["quiet"]["seconds"] >= 3 * 3600
    assert 0 < build["quiet"]["nodes"] < 3 * 15


def test_a_proxy_that_ends_long_polls_is_respected(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), quiet=1800, proxy=60)
    text = jenkins.expect("deploy: behind a proxy with a timeout of 60 s", build, "SUCCESS")
    assert "No response from Tidegate" not in text, "a poll that is cut off is no outage"
    assert build["quiet"]["cut"] == 2
    assert build["quiet"]["nodes"] <= 1800 / 55 + 4


def test_a_few_steps_suffice_for_a_whole_deployment(jenkins: Jenkins) -> None:
    """A page of events is one step, whatever it has."""
    build = jenkins.build(deploy(), promote(), script=[approves()])
    jenkins.expect("deploy and promote: the steps of the build", build, "SUCCESS")
    assert build["nodes"]["echo"] <= build["nodes"]["httpRequest"] + 5
    assert sum(build["nodes"].values()) < 60, build["nodes"]


def test_an_old_build_restarted_from_a_stage_says_what_is_live(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s")
    old = jenkins.build(deploy())["returned"]["rollout"]
    jenkins.number = 8
    jenkins.build(deploy("v3"))
    jenkins.number = 9
    for step, options in (("tidegatePromote", {"gate": {}}), ("tidegateVerify", {})):
        build = jenkins.build((step, {"rollout": old, **options}))
        text = jenkins.expect(f"{step}: of an old build, restarted from this stage", build, "FAILURE")
        assert "demo/shop: v2-2 is no longer live: v3-3 is, deployed by team/shop #8" in text
        assert "v2-2 is live" not in text
