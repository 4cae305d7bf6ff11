"""The shared library's deploy, verify, rollback and pipeline steps against a live service, with every outcome.

The library's steps, their requests, the API and its engine are real. Jenkins' own steps are simulated by the harness in
`shared-library/test`, and a fake platform and router in memory run the instances.
"""

from __future__ import annotations

import subprocess
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from support.api import compose
from support.fake_drivers import constant
from support.library import CHECKED, Jenkins, Step, approves, command, deploy, java, promote, verify
from support.wait import eventually, pause

GOOD, BAD = constant(0.1), constant(2.0)  # values for a check whose limit is 0.5


def test_deploy_ends_at_the_approval(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy())
    jenkins.expect("deploy: to the approval", build, "SUCCESS")
    assert build["returned"]["waiting"] == "approval"
    assert build["returned"]["rollout"] == build["env"]["TIDEGATE_ROLLOUT"] == jenkins.latest()["id"]
    assert jenkins.latest()["build"] == {"job": "team/shop", "number": 7, "url": "http://ci/7/", "on_end": None}


@pytest.mark.parametrize(
    ("options", "on_end"),
    [
        ({"onBuildEnd": "pause"}, "pause"),
        ({"onAbort": "detach"}, "detach"),
        ({"onAbort": "detach", "onBuildEnd": "rollback"}, "rollback"),
    ],
)
def test_the_build_says_what_its_end_means(jenkins: Jenkins, options: dict[str, str], on_end: str) -> None:
    jenkins.expect(f"deploy: {options}", jenkins.build(deploy(**options)), "SUCCESS")
    assert jenkins.latest()["build"]["on_end"] == on_end


def test_deploy_without_an_approval_ends_when_the_release_is_live(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s")
    build = jenkins.build(deploy())
    jenkins.expect("deploy: to the end", build, "SUCCESS")
    assert (build["returned"]["phase"], build["returned"]["approvals"]) == ("succeeded", [])


def test_the_same_stage_again_follows_the_same_rollout(jenkins: Jenkins) -> None:
    first = jenkins.build(deploy())
    again = jenkins.build(deploy(), promote(), script=[approves()])
    jenkins.expect("deploy: the same stage again, as after a restart", again, "SUCCESS")
    assert again["env"]["TIDEGATE_ROLLOUT"] == first["env"]["TIDEGATE_ROLLOUT"]
    assert jenkins.count() == 2


def test_without_an_agent_the_compose_file_comes_from_the_repository(jenkins: Jenkins) -> None:
    text = compose("drain_timeout: 1s").replace("    environment:", "    env_file: app.env\n    environment:")
    repository = {"shop/compose.yaml": text, "shop/app.env": "COLOUR=blau\n"}
    options = deploy(file="shop/compose.yaml", files=["app.env"])
    restart = [{"restart": {"step": "readTrusted"}}]
    build = jenkins.build(options, files=None, repository=repository, script=restart)
    jenkins.expect("deploy: without an agent, and Jenkins restarts while it reads", build, "SUCCESS")
    release = jenkins.api.wiring.store.get_release("demo/shop", jenkins.latest()["new"]).release
    assert release.container.environment["COLOUR"] == "blau"


def test_a_release_that_never_becomes_ready_fails_the_build_with_the_reason(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s, healthy_deadline: 2s")
    jenkins.api.world.never_ready.add("v2-2")
    build = jenkins.build(deploy(archive=True))
    text = jenkins.expect("deploy: rolled back, it is never ready", build, "FAILURE")
    assert "v2-2 was rolled back" in text
    assert "v2-2/0 did not become ready within 2 s" in text
    assert "    v2-2/0: is starting\n" in text
    (suite,) = Xml.fromstring(build["written"]["tidegate-checks.xml"])
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")


def add_checks(jenkins: Jenkins, value: Any = None, approval: str = "approval: {after: [1]}") -> None:
    """Add a check to the Compose file of later builds; `value` is what the metrics return, None: nothing."""
    jenkins.compose = compose(f"{approval}, drain_timeout: 1s, {CHECKED}")
    if value is not None:
        jenkins.api.world.answer = value


def test_checks_that_pass_are_shown_as_tests_of_the_build(jenkins: Jenkins) -> None:
    add_checks(jenkins, GOOD)
    build = jenkins.build(deploy(), verify(archive=True))
    jenkins.expect("verify: PASS", build, "SUCCESS")
    assert build["returned"]["verdict"] == "PASS"
    assert build["archived"] == ["tidegate.json, tidegate-checks.xml"]
    (suite,) = Xml.fromstring(build["written"]["tidegate-checks.xml"])
    cases = {str(case.get("name")): case[0].tag for case in suite}
    assert cases == {"rollout": "skipped", "step 1: slow": "system-out"}


def test_checks_that_fail_roll_back_and_fail_the_build(jenkins: Jenkins) -> None:
    add_checks(jenkins, BAD)
    build = jenkins.build(deploy(archive=True))
    text = jenkins.expect("deploy: rolled back, the checks say FAIL", build, "FAILURE")
    assert "slow" in text
    assert "Requests: " in text
    assert jenkins.latest()["phase"] == "rolled_back"
    (suite,) = Xml.fromstring(build["written"]["tidegate-checks.xml"])
    (case,) = [case for case in suite if case.get("name") == "step 1: slow"]
    assert case[0].tag == "failure"
    assert str(case[0].get("message")) in text, "the same message"


def test_checks_that_fail_while_it_waits_fail_the_next_stage(jenkins: Jenkins) -> None:
    add_checks(jenkins, GOOD)
    jenkins.build(deploy())
    jenkins.api.world.answer = BAD
    text = jenkins.expect("verify: FAIL", jenkins.build(deploy(), verify()), "FAILURE")
    assert "v2-2 was rolled back" in text
    assert "slow" in text


def test_inconclusive_checks_make_the_build_unstable(jenkins: Jenkins) -> None:
    add_checks(jenkins)
    build = jenkins.build(deploy(), verify(archive=True))
    jenkins.expect("verify: INCONCLUSIVE", build, "UNSTABLE")
    assert build["returned"]["verdict"] == "INCONCLUSIVE"
    (suite,) = Xml.fromstring(build["written"]["tidegate-checks.xml"])
    assert [case[0].tag for case in suite] == ["skipped", "skipped"]


def test_a_step_without_checks_is_unstable(jenkins: Jenkins) -> None:
    text = jenkins.expect("verify: nothing to judge", jenkins.build(deploy(), verify()), "UNSTABLE")
    assert "has no checks" in text


def test_pipeline_approved_at_the_gate(jenkins: Jenkins) -> None:
    add_checks(jenkins, GOOD)
    options = deploy()[1] | {"gate": {"timeout": "1h"}, "onBehalfOf": True}
    build = jenkins.build(("tidegatePipeline", options), script=[approves()], causes=[{"userId": "bob"}])
    jenkins.expect("pipeline: approved", build, "SUCCESS")
    assert [approval["by"] for approval in build["returned"]["approvals"]] == ["alice"]
    assert (jenkins.latest()["requested_by"], jenkins.latest()["phase"]) == ("bob", "succeeded")
    assert [entry["by"] for entry in jenkins.audit("verify")] == ["deploy-promote-rollback-vouch"]
    assert "PASS" in build["inputs"][0]["heading"]


def test_pipeline_with_an_inconclusive_verdict_accepted_by_a_person(jenkins: Jenkins) -> None:
    add_checks(jenkins, approval="approval: {after: [3]}")
    options = deploy()[1] | {"gate": True, "wait": 20}
    build = jenkins.build(("tidegatePipeline", options), script=[approves()] * 4)
    text = jenkins.expect("pipeline: inconclusive, and accepted by a person", build, "UNSTABLE")
    assert "although its checks did not pass" in text
    assert "although its checks did not pass?" in build["inputs"][0]["heading"]
    assert jenkins.latest()["phase"] == "succeeded"


def test_pipeline_with_a_bad_release(jenkins: Jenkins) -> None:
    add_checks(jenkins, BAD)
    options = deploy()[1] | {"gate": True}
    build = jenkins.build(("tidegatePipeline", options))
    jenkins.expect("pipeline: rolled back", build, "FAILURE")
    assert build["inputs"] == []


def test_rollback_of_a_service(jenkins: Jenkins) -> None:
    jenkins.api.until(jenkins.api.deploy("v2")["id"], "succeeded")
    build = jenkins.build(("tidegateRollback", {"service": "demo/shop", "reason": "complaints"}))
    jenkins.expect("rollback: to the release before", build, "SUCCESS")
    assert jenkins.latest()["image"] == "shop:v1"
    again = jenkins.build(("tidegateRollback", {"service": "demo/shop", "stage": "again"}))
    jenkins.expect("rollback: of a service that is already rolled back", again, "SUCCESS")
    assert again["returned"]["rollout"] == build["returned"]["rollout"]


def test_rollback_of_the_builds_own_rollout(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(), ("tidegateRollback", {"reason": "smoke test failed"}))
    jenkins.expect("rollback: of the live rollout", build, "SUCCESS")
    assert build["returned"]["phase"] == "rolled_back"
    again = jenkins.build(("tidegateRollback", {"rollout": build["returned"]["rollout"]}))
    jenkins.expect("rollback: of one that has already rolled back", again, "SUCCESS")


def test_an_unsuccessful_build_rolls_back_all_that_it_has_started(jenkins: Jenkins) -> None:
    """`post { unsuccessful { tidegateRollback() } }`, when another step has failed between the stages."""
    undo: Step = ("tidegateRollback", {})
    build = jenkins.build(deploy(), undo)
    jenkins.expect("rollback: of the build's live rollout", build, "SUCCESS")
    assert jenkins.latest()["phase"] == "rolled_back"
    jenkins.number = 8
    build = jenkins.build(undo)
    assert "This build has no rollout to roll back" in jenkins.expect("rollback: nothing was deployed", build, "SUCCESS")


def test_what_has_succeeded_stays_when_the_build_is_unstable(jenkins: Jenkins) -> None:
    add_checks(jenkins, approval="approval: {after: [3]}")
    options = deploy()[1] | {"gate": True, "wait": 20}
    build = jenkins.build(("tidegatePipeline", options), ("tidegateRollback", {}), script=[approves()] * 4)
    text = jenkins.expect("rollback: unstable, but live", build, "UNSTABLE")
    assert "v2-2 is live and stays" in text
    assert jenkins.latest()["phase"] == "succeeded"


def test_what_the_build_has_detached_from_is_not_rolled_back(jenkins: Jenkins) -> None:
    """The gate times out with `onTimeout: 'detach'`, and `post` runs."""
    jenkinsfile = """
        tidegateDeploy service: 'demo/shop', file: 'compose.yaml', variables: [VERSION: 'v2']
        try {
            tidegatePromote gate: [timeout: '2s', onTimeout: 'detach']
        } finally {
            tidegateRollback()
        }
    """
    build = jenkins.build(jenkinsfile=jenkinsfile, script=[{"input": {"expire": True}}])
    text = jenkins.expect("rollback: after onTimeout: 'detach'", build, "FAILURE")
    assert len(jenkins.audit("detach")) == 1, "the service knows that the end of the build has no consequence"
    assert "This build has no rollout to roll back" in text
    assert jenkins.waiting()["phase"] == "running"


def test_a_rollout_of_other_credentials_is_left_to_their_stage(jenkins: Jenkins) -> None:
    """Staging and production have a token each, and a `post` each."""
    token = jenkins.api.token_for("deploy", "rollback", "promote", "vouch")
    jenkinsfile = """
        tidegateDeploy service: 'demo/shop', file: 'compose.yaml', variables: [VERSION: 'v2']
        currentBuild.result = 'FAILURE'
        tidegateRollback credentials: 'live'
    """
    other = jenkins.api.token_for("rollback", services=("live/*",))
    build = jenkins.build(jenkinsfile=jenkinsfile, credentials={"tidegate-token": token, "live": other})
    text = jenkins.expect("rollback: with the credentials of another environment", build, "FAILURE")
    assert "is left alone: Tidegate refused: No rollout" in text
    assert build["error"] is None
    assert jenkins.waiting()["phase"] == "running"


def test_rollback_of_a_finished_rollout_is_refused_with_the_alternative(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s")
    build = jenkins.build(deploy(), ("tidegateRollback", {}))
    assert "tidegateRollback service: 'demo/shop'" in jenkins.expect("rollback: too late", build, "FAILURE")


# -- aborted builds, and a service that does not respond ---------------------------------------------------------------


def test_an_aborted_build_rolls_back(jenkins: Jenkins) -> None:
    jenkins.api.world.never_ready.add("v2-2")
    abort = [{"abort": {"step": "httpRequest", "match": "GET .*/events.*wait", "call": 2}}]
    jenkins.expect("deploy: the build is aborted", jenkins.build(deploy(), script=abort), "ABORTED")
    jenkins.api.until(jenkins.latest()["id"], "rolled_back")
    (entry,) = jenkins.audit("rollback")
    assert "team/shop #7 was aborted" in entry["reason"]


def test_a_build_aborted_during_the_request_rolls_back(jenkins: Jenkins) -> None:
    jenkins.api.world.never_ready.add("v2-2")
    post = {"step": "httpRequest", "match": "POST .*/rollouts"}
    lost = [{"restart": post}, {"abort": {**post, "call": 2}}]
    jenkins.expect("deploy: aborted before the response came", jenkins.build(deploy(), script=lost), "ABORTED")
    jenkins.api.until(jenkins.latest()["id"], "rolled_back")


def test_an_aborted_build_with_detach_leaves_the_rollout_alone(jenkins: Jenkins) -> None:
    jenkins.api.world.ready_after = 1.0
    abort = [{"abort": {"step": "httpRequest", "match": "GET .*/events.*wait", "call": 2}}]
    build = jenkins.build(deploy(onAbort="detach"), script=abort)
    jenkins.expect("deploy: aborted, onAbort: 'detach'", build, "ABORTED")
    assert jenkins.waiting()["phase"] == "running"
    assert jenkins.audit("rollback") == []


def test_an_aborted_verify_rolls_back(jenkins: Jenkins) -> None:
    add_checks(jenkins, GOOD)
    abort = [{"abort": {"step": "httpRequest", "match": "GET .*/events", "call": 1}}]
    jenkins.build(deploy())
    build = jenkins.build(("tidegateVerify", {"rollout": jenkins.latest()["id"]}), script=[])
    assert build["result"] == "SUCCESS"
    later = [{"abort": {"step": "httpRequest", "match": "POST .*/verify"}}]
    for script in (abort, later):
        build = jenkins.build(("tidegateVerify", {"rollout": jenkins.latest()["id"]}), script=script)
        assert build["result"] == "ABORTED"
    jenkins.expect("verify: the build is aborted", build, "ABORTED")


def test_a_service_that_is_down_for_a_minute_causes_a_delay(jenkins: Jenkins) -> None:
    """One second of the library's pauses takes 0.02 real seconds, so five seconds contain minutes of them."""
    jenkins.api.world.never_ready.add("v2-2")

    def interrupt() -> None:
        eventually("the rollout begins", lambda: jenkins.latest()["new"] == "v2-2")
        jenkins.api.server.stop()
        pause(5.0, "the build retries")
        jenkins.api.server.start()
        jenkins.api.world.never_ready.clear()

    build = jenkins.build(deploy(patience=3000), meanwhile=interrupt)
    text = jenkins.expect("deploy: the service is down for a minute", build, "SUCCESS")
    assert "Tidegate responds again" in text
    assert sum(build["sleeps"]) > 60
    assert jenkins.count() == 2


def test_a_service_that_stays_down_fails_the_build_after_patience(jenkins: Jenkins) -> None:
    jenkins.api.server.stop()
    try:
        build = jenkins.build(deploy(patience=60))
    finally:
        jenkins.api.server.start()
    text = jenkins.expect("deploy: the service stays down", build, "FAILURE")
    assert f"No response from Tidegate at {jenkins.api.url} for 60 s" in text
    assert build["sleeps"][:5] == [1, 2, 4, 8, 15]


def test_texts_in_any_alphabet(jenkins: Jenkins) -> None:
    """Also when the plugin guesses another encoding than JSON's, and when a long text is cut within a character."""
    reason = "größer " + "🚢" * 1100
    build = jenkins.build(deploy(reason=reason), promote(), script=[approves(reason="schön 🚢")])
    text = jenkins.expect("deploy: reasons with umlauts and emoji", build, "SUCCESS")
    assert "Approved by alice: schön 🚢" in text
    (entry,) = [entry for entry in jenkins.audit("deploy") if entry["by"] != "admin"]
    assert entry["reason"].startswith("größer 🚢")
    assert entry["reason"].endswith("🚢...")
    assert [entry["reason"] for entry in jenkins.audit("promote")] == ["schön 🚢"]
    jenkins.api.call("PUT", "/v1/environments/demo/freeze", {"reason": "Prüfung 🚢"})
    jenkins.number = 8
    assert "Prüfung 🚢" in jenkins.expect("deploy: frozen, with an umlaut", jenkins.build(deploy("v3")), "FAILURE")


def test_every_step_keeps_the_conventions() -> None:
    words = command("convention.groovy")
    done = subprocess.run(words, env=java(), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_that_the_compose_file_refers_to_are_sent(jenkins: Jenkins) -> None:
    text = compose("drain_timeout: 1s").replace("    environment:", "    env_file: app.env\n    environment:")
    files = {"shop/compose.yaml": text, "shop/app.env": "COLOUR=blau\n"}
    build = jenkins.build(deploy(file="shop/compose.yaml", files=["app.env"]), files=files)
    jenkins.expect("deploy: with the files that the Compose file refers to", build, "SUCCESS")
    release = jenkins.api.wiring.store.get_release("demo/shop", jenkins.latest()["new"]).release
    assert release.container.environment["COLOUR"] == "blau"
    assert "blau" not in "\n".join(build["echo"])


def test_a_failed_hook_is_reported_with_its_output(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s, hooks: {pre_promote: smoke}")
    jenkins.api.world.statuses["pre_promote"] = 3
    text = jenkins.expect("deploy: rolled back, a hook failed", jenkins.build(deploy()), "FAILURE")
    assert "pre_promote failed: exit status 3" in text
    assert "pre_promote says hello" in text


# -- while another rollout is live ---------------------------------------------------------------------------------------


def test_a_build_waits_for_its_turn_and_says_where_it_stands(jenkins: Jenkins) -> None:
    jenkins.build(deploy())
    live, jenkins.job, jenkins.number = jenkins.waiting()["id"], "team/hotfix", 3
    jenkins.compose = compose("drain_timeout: 1s")

    poll, before = f"GET /v1/rollouts/{live}/events?after=0&wait=", len(jenkins.api.server.asked)

    def decide() -> None:
        eventually("it waits", lambda: any(line.startswith(poll) for line in jenkins.api.server.asked[before:]))
        jenkins.api.post(f"/v1/rollouts/{live}/rollback")

    build = jenkins.build(deploy(onLive="wait", until="end"), meanwhile=decide)
    text = jenkins.expect("deploy: onLive: 'wait'", build, "SUCCESS")
    assert f"build 3 of team/hotfix waits to deploy demo/shop: rollout {live} is live. Position 1 of 1." in text


def test_a_newer_build_takes_over_and_the_older_one_is_not_built(jenkins: Jenkins) -> None:
    older = jenkins.build(deploy())
    jenkins.waiting()
    first, jenkins.number = jenkins.latest()["id"], 8
    compose_of_older, jenkins.compose = jenkins.compose, compose("drain_timeout: 1s")
    newer = jenkins.build(deploy(onLive="supersede", until="end"))
    jenkins.expect("deploy: onLive: 'supersede'", newer, "SUCCESS")
    jenkins.number, jenkins.compose = 7, compose_of_older
    env = {"TIDEGATE_ROLLOUT": older["env"]["TIDEGATE_ROLLOUT"]}
    again = jenkins.build(("tidegatePromote", {"rollout": env["TIDEGATE_ROLLOUT"], "gate": {"submitter": "ops"}}))
    text = jenkins.expect("promote: superseded by a newer build", again, "NOT_BUILT")
    assert "superseded by build 8 of team/shop" in text
    assert jenkins.api.call("GET", f"/v1/rollouts/{first}").json()["rollback_cause"] == "superseded"
