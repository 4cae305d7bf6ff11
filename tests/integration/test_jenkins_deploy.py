"""The shared library's deploy, verify, rollback and pipeline against a live service: each in each outcome.

The library's steps are real, and so are their requests, the API and its engine; Jenkins' own steps are played by the
harness in `shared-library/test`, and what runs the instances is a small world in memory.
"""

from __future__ import annotations

import subprocess
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from support.api import compose
from support.fake_drivers import constant
from support.library import CHECKED, Jenkins, clicks, command, deploy, java, promote, verify
from support.wait import eventually, pause

GOOD, BAD = constant(0.1), constant(2.0)  # of a check whose limit is 0.5


def test_a_deploy_ends_at_the_hold(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy())
    jenkins.ends("deploy: to the hold", build, "SUCCESS")
    assert build["returned"]["waiting"] == "approval"
    assert build["returned"]["rollout"] == build["env"]["TIDEGATE_ROLLOUT"] == jenkins.latest()["id"]
    assert "waits for a person" in build["description"]
    assert jenkins.latest()["build"] == {"job": "team/shop", "number": 7, "url": "http://ci/7/"}


def test_a_deploy_without_a_hold_ends_with_the_release_in_service(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s")
    build = jenkins.build(deploy())
    jenkins.ends("deploy: to the end", build, "SUCCESS")
    assert (build["returned"]["phase"], build["returned"]["approvals"]) == ("succeeded", [])


def test_the_same_stage_again_attaches_to_the_same_rollout(jenkins: Jenkins) -> None:
    first = jenkins.build(deploy())
    again = jenkins.build(deploy(), promote(), script=[clicks()])
    jenkins.ends("deploy: the same stage again, as after a restart", again, "SUCCESS")
    assert again["env"]["TIDEGATE_ROLLOUT"] == first["env"]["TIDEGATE_ROLLOUT"]
    assert jenkins.count() == 2


@pytest.mark.parametrize("match", ["POST .*/rollouts", "GET .*/events.*wait", "GET .*/rollouts/[^/]*$"])
def test_an_answer_that_is_lost_starts_no_second_rollout(jenkins: Jenkins, match: str) -> None:
    build = jenkins.build(deploy(), script=[{"restart": {"step": "httpRequest", "match": match}}])
    jenkins.ends(f"deploy: Jenkins restarts during {match}", build, "SUCCESS")
    assert jenkins.count() == 2


def test_a_release_that_never_stands_fails_the_build_with_the_reason(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s, healthy_deadline: 2s")
    jenkins.api.world.never_ready.add("v2-2")
    build = jenkins.build(deploy(archive=True))
    text = jenkins.ends("deploy: rolled back, it is never ready", build, "FAILURE")
    assert "v2-2 was turned back" in text
    assert "not ready" in text
    assert "rolled back" in build["description"]
    (suite,) = Xml.fromstring(build["written"]["tidegate-checks.xml"])
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")


def checked(jenkins: Jenkins, answer: Any = None, hold: str = "approval: {after: [1]}") -> None:
    """From now on what the builds deploy is judged, and the metrics say this; nothing, where it is not told."""
    jenkins.compose = compose(f"{hold}, drain_timeout: 1s, {CHECKED}")
    if answer is not None:
        jenkins.api.world.answer = answer


def test_checks_that_pass_are_shown_as_tests_of_the_build(jenkins: Jenkins) -> None:
    checked(jenkins, GOOD)
    build = jenkins.build(deploy(), verify(archive=True))
    jenkins.ends("verify: PASS", build, "SUCCESS")
    assert build["returned"]["verdict"] == "PASS"
    assert build["archived"] == ["tidegate.json, tidegate-checks.xml"]
    (suite,) = Xml.fromstring(build["written"]["tidegate-checks.xml"])
    cases = {str(each.get("name")): each[0].tag for each in suite}
    assert cases == {"rollout": "skipped", "step 1: slow": "system-out"}


def test_checks_that_fail_turn_back_and_fail_the_build(jenkins: Jenkins) -> None:
    checked(jenkins, BAD)
    build = jenkins.build(deploy(archive=True))
    text = jenkins.ends("deploy: rolled back, the checks say FAIL", build, "FAILURE")
    assert "slow" in text
    assert "requests seen " in text
    assert jenkins.latest()["phase"] == "rolled_back"
    (suite,) = Xml.fromstring(build["written"]["tidegate-checks.xml"])
    (case,) = [each for each in suite if each.get("name") == "step 1: slow"]
    assert case[0].tag == "failure"
    assert str(case[0].get("message")) in text, "the same sentence"


def test_checks_that_fail_while_it_waits_fail_the_next_stage(jenkins: Jenkins) -> None:
    checked(jenkins, GOOD)
    jenkins.build(deploy())
    jenkins.api.world.answer = BAD
    text = jenkins.ends("verify: FAIL", jenkins.build(deploy(), verify()), "FAILURE")
    assert "v2-2 was turned back" in text
    assert "slow" in text


def test_checks_that_cannot_say_make_the_build_unstable(jenkins: Jenkins) -> None:
    checked(jenkins)
    build = jenkins.build(deploy(), verify(archive=True))
    jenkins.ends("verify: INCONCLUSIVE", build, "UNSTABLE")
    assert build["returned"]["verdict"] == "INCONCLUSIVE"
    (suite,) = Xml.fromstring(build["written"]["tidegate-checks.xml"])
    assert [each[0].tag for each in suite] == ["skipped", "skipped"]


def test_a_step_that_asks_no_checks_is_no_pass(jenkins: Jenkins) -> None:
    text = jenkins.ends("verify: nothing to judge", jenkins.build(deploy(), verify()), "UNSTABLE")
    assert "asks no checks" in text


def test_the_whole_way_in_one_step(jenkins: Jenkins) -> None:
    checked(jenkins, GOOD)
    options = deploy()[1] | {"gate": {"timeout": "1h"}, "onBehalfOf": True}
    build = jenkins.build(("tidegatePipeline", options), script=[clicks()], causes=[{"userId": "bob"}])
    jenkins.ends("pipeline: approved", build, "SUCCESS")
    assert [each["by"] for each in build["returned"]["approvals"]] == ["alice"]
    assert (jenkins.latest()["requested_by"], jenkins.latest()["phase"]) == ("bob", "succeeded")
    assert [each["by"] for each in jenkins.audit("verify")] == ["deploy-promote-rollback-vouch"]
    assert "PASS" in build["inputs"][0]["message"]


def test_the_whole_way_when_a_person_accepts_what_is_not_known(jenkins: Jenkins) -> None:
    checked(jenkins, hold="approval: {after: [3]}")
    options = deploy()[1] | {"gate": True, "wait": 20}
    build = jenkins.build(("tidegatePipeline", options), script=[clicks()] * 4)
    text = jenkins.ends("pipeline: inconclusive, and accepted by a person", build, "UNSTABLE")
    assert "could not clear it" in text
    assert "The checks could not clear it" in build["inputs"][0]["message"]
    assert jenkins.latest()["phase"] == "succeeded"


def test_the_whole_way_when_it_is_bad(jenkins: Jenkins) -> None:
    checked(jenkins, BAD)
    options = deploy()[1] | {"gate": True}
    build = jenkins.build(("tidegatePipeline", options))
    jenkins.ends("pipeline: rolled back", build, "FAILURE")
    assert build["inputs"] == []


def test_a_rollback_in_one_line(jenkins: Jenkins) -> None:
    jenkins.api.until(jenkins.api.deploy("v2")["id"], "succeeded")
    build = jenkins.build(("tidegateRollback", {"service": "demo/shop", "reason": "complaints"}))
    jenkins.ends("rollback: to the release before", build, "SUCCESS")
    assert jenkins.latest()["image"] == "shop:v1"


def test_a_rollback_of_the_builds_own_rollout(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), ("tidegateRollback", {"reason": "smoke test failed"}))
    jenkins.ends("rollback: of the live rollout", build, "SUCCESS")
    assert build["returned"]["phase"] == "rolled_back"
    again = jenkins.build(("tidegateRollback", {"rollout": build["returned"]["rollout"]}))
    jenkins.ends("rollback: of one that has turned back already", again, "SUCCESS")


def test_a_rollback_of_one_that_serves_is_refused_with_the_way_out(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s")
    build = jenkins.build(deploy(), ("tidegateRollback", {}))
    assert "tidegateRollback service: 'demo/shop'" in jenkins.ends("rollback: too late", build, "FAILURE")


# -- aborted, and a service that is away -------------------------------------------------------------------------------


def test_an_aborted_build_asks_for_the_way_back(jenkins: Jenkins) -> None:
    jenkins.api.world.never_ready.add("v2-2")
    abort = [{"abort": {"step": "httpRequest", "match": "GET .*/events.*wait", "call": 2}}]
    jenkins.ends("deploy: the build is aborted", jenkins.build(deploy(), script=abort), "ABORTED")
    jenkins.api.until(jenkins.latest()["id"], "rolled_back")
    (asked,) = jenkins.audit("rollback")
    assert "team/shop #7 was aborted" in asked["reason"]


def test_a_build_that_is_aborted_while_it_asks_leaves_nothing_behind(jenkins: Jenkins) -> None:
    jenkins.api.world.never_ready.add("v2-2")
    lost = [{"restart": {"step": "httpRequest", "match": "POST .*/rollouts"}}, {"abort": {"step": "sleep"}}]
    jenkins.ends("deploy: aborted before the answer came", jenkins.build(deploy(), script=lost), "ABORTED")
    jenkins.api.until(jenkins.latest()["id"], "rolled_back")


def test_an_aborted_build_that_is_detached_leaves_the_rollout_alone(jenkins: Jenkins) -> None:
    jenkins.api.world.ready_after = 1.0
    abort = [{"abort": {"step": "httpRequest", "match": "GET .*/events.*wait", "call": 2}}]
    build = jenkins.build(deploy(onAbort="detach"), script=abort)
    jenkins.ends("deploy: aborted, onAbort: 'detach'", build, "ABORTED")
    assert jenkins.waiting()["phase"] == "running"
    assert jenkins.audit("rollback") == []


def test_an_aborted_verify_asks_for_the_way_back(jenkins: Jenkins) -> None:
    checked(jenkins, GOOD)
    abort = [{"abort": {"step": "httpRequest", "match": "GET .*/events", "call": 1}}]
    jenkins.build(deploy())
    build = jenkins.build(("tidegateVerify", {"rollout": jenkins.latest()["id"]}), script=[])
    assert build["result"] == "SUCCESS"
    later = [{"abort": {"step": "httpRequest", "match": "POST .*/verify"}}]
    for script in (abort, later):
        build = jenkins.build(("tidegateVerify", {"rollout": jenkins.latest()["id"]}), script=script)
        assert build["result"] == "ABORTED"
    jenkins.ends("verify: the build is aborted", build, "ABORTED")


def test_a_service_that_is_away_for_a_minute_costs_a_pause(jenkins: Jenkins) -> None:
    """A pause of the library lasts 0.02 real seconds for each second: in five seconds there are several minutes of them."""
    jenkins.api.world.never_ready.add("v2-2")

    def away() -> None:
        eventually("the rollout begins", lambda: jenkins.latest()["new"] == "v2-2")
        jenkins.api.server.stop()
        pause(5.0, "the build asks again and again")
        jenkins.api.server.start()
        jenkins.api.world.never_ready.clear()

    build = jenkins.build(deploy(patience=3000), meanwhile=away)
    text = jenkins.ends("deploy: the service is away for a minute", build, "SUCCESS")
    assert "Tidegate answers again" in text
    assert sum(build["sleeps"]) > 60
    assert jenkins.count() == 2


def test_a_service_that_stays_away_ends_the_build_when_its_patience_does(jenkins: Jenkins) -> None:
    jenkins.api.server.stop()
    try:
        build = jenkins.build(deploy(patience=60))
    finally:
        jenkins.api.server.start()
    text = jenkins.ends("deploy: the service stays away", build, "FAILURE")
    assert "gave no answer for 60 s" in text
    assert build["sleeps"][:5] == [1, 2, 4, 8, 15]


def test_texts_come_through_in_any_alphabet(jenkins: Jenkins) -> None:
    """Also where the plugin guesses another encoding than JSON's own, and where a long one is cut within a character."""
    reason = "größer " + "🚢" * 300
    build = jenkins.build(deploy(reason=reason), promote(), script=[clicks(reason="schön 🚢")])
    text = jenkins.ends("deploy: reasons with umlauts and emoji", build, "SUCCESS")
    assert "Approved by alice: schön 🚢" in text
    (asked,) = [each for each in jenkins.audit("deploy") if each["by"] != "admin"]
    assert asked["reason"].startswith("größer 🚢")
    assert asked["reason"].endswith("🚢...")
    assert [each["reason"] for each in jenkins.audit("promote")] == ["schön 🚢"]
    jenkins.api.call("PUT", "/v1/environments/demo/freeze", {"reason": "Prüfung 🚢"})
    jenkins.number = 8
    assert "Prüfung 🚢" in jenkins.ends("deploy: frozen, with an umlaut", jenkins.build(deploy("v3")), "FAILURE")


def test_every_step_keeps_the_conventions() -> None:
    words = command("convention.groovy")
    done = subprocess.run(words, env=java(), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_beside_the_compose_file_come_with_it(jenkins: Jenkins) -> None:
    text = compose("drain_timeout: 1s").replace("    environment:", "    env_file: app.env\n    environment:")
    files = {"shop/compose.yaml": text, "shop/app.env": "COLOUR=blau\n"}
    build = jenkins.build(deploy(file="shop/compose.yaml", files=["app.env"]), files=files)
    jenkins.ends("deploy: with the files that the Compose file names", build, "SUCCESS")
    release = jenkins.api.wiring.store.get_release("demo/shop", jenkins.latest()["new"]).release
    assert release.container.environment["COLOUR"] == "blau"
    assert "blau" not in "\n".join(build["echo"])


def test_a_failed_hook_is_told_with_what_it_printed(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s, hooks: {pre_promote: smoke}")
    jenkins.api.world.statuses["pre_promote"] = 3
    text = jenkins.ends("deploy: rolled back, a hook failed", jenkins.build(deploy()), "FAILURE")
    assert "pre_promote failed: exit status 3" in text
    assert "pre_promote says hello" in text
