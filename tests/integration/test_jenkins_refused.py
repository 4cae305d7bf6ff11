"""Requests that the service or the library refuses: each error gives the reason, nothing is started; and `force`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.api import compose
from support.fake_drivers import constant, digest
from support.library import Build, Jenkins, Step, deploy, promote, verify
from support.wait import eventually
from tidegate.errors import PlatformError

STEPS = {
    "tidegateDeploy": deploy(),
    "tidegateVerify": ("tidegateVerify", {"rollout": "ROLLOUT", "wait": 5}),
    "tidegatePromote": ("tidegatePromote", {"rollout": "ROLLOUT"}),
    "tidegateRollback": ("tidegateRollback", {"rollout": "ROLLOUT"}),
    "tidegatePipeline": ("tidegatePipeline", {"service": "demo/shop", "image": "shop:v3"}),
}


def waiting_rollout(jenkins: Jenkins) -> str:
    """The ID of another requester's rollout that waits for approval and has checks."""
    checks = "checks: [{name: slow, query: slow_seconds, max: 0.5, min_samples: 1}], bake: 1s, interval: 1s"
    jenkins.api.world.answer = constant(0.1)
    jenkins.api.deploy("v2", f"approval: {{after: [1]}}, drain_timeout: 1s, on_inconclusive: pause, {checks}")
    return str(jenkins.waiting()["id"])


@pytest.mark.parametrize("step", STEPS)
def test_a_wrong_token_and_one_without_the_scope_fail_at_once(jenkins: Jenkins, step: str) -> None:
    rollout = waiting_rollout(jenkins)
    name, given = STEPS[step]
    options = {key: rollout if value == "ROLLOUT" else value for key, value in given.items()}
    wrong = jenkins.build((name, options), credentials={"tidegate-token": "tg_" + "x" * 43})
    text = jenkins.expect(f"{step}: 401, a wrong token", wrong, "FAILURE")
    assert "401" in text
    assert wrong["sleeps"] == [], "a retry would not help"
    jenkins.scopes = ("read",)
    weak = jenkins.build((name, options))
    text = jenkins.expect(f"{step}: 403, the scope is missing", weak, "FAILURE")
    assert "403" in text
    assert "lacks the scope" in text
    assert weak["sleeps"] == []
    assert jenkins.latest()["phase"] == "running"


@pytest.mark.parametrize(
    ("scopes", "step", "missing"),
    [
        (("deploy",), deploy(), "rollback"),
        (("deploy", "promote"), deploy(onAbort="detach", onLive="supersede"), "rollback"),
        (("deploy", "rollback"), deploy(onBehalfOf="carol"), "vouch"),
        (("deploy", "rollback"), ("tidegatePipeline", {**deploy()[1], "gate": {}}), "promote"),
        (("deploy", "rollback", "promote"), ("tidegatePipeline", {**deploy()[1], "gate": {"submitter": "ops"}}), "vouch"),
    ],
)
def test_a_scope_that_a_later_stage_needs_is_missed_before_anything_moves(
    jenkins: Jenkins, scopes: tuple[str, ...], step: Step, missing: str
) -> None:
    before, jenkins.scopes = jenkins.count(), scopes
    text = jenkins.expect(f"deploy: without {missing}", jenkins.build(step), "FAILURE")
    assert f"lacks the scope {missing}" in text or f"the scope {missing}" in text
    assert jenkins.count() == before


def another_live_rollout(jenkins: Jenkins) -> Build:
    jenkins.api.deploy("v3", "approval: {after: [1]}")
    return jenkins.build(deploy())


def another_builds_rollout(jenkins: Jenkins) -> Build:
    jenkins.build(deploy())
    jenkins.number = 8
    return jenkins.build(deploy("v3"))


def an_older_build(jenkins: Jenkins) -> Build:
    body = {"compose": compose(), "variables": {"VERSION": "v3"}, "build": {"job": "team/shop", "number": 8}}
    jenkins.api.until(jenkins.api.post("/v1/services/demo/shop/rollouts", body).json()["id"], "succeeded")
    return jenkins.build(deploy())


def frozen(jenkins: Jenkins) -> Build:
    jenkins.api.call("PUT", "/v1/environments/demo/freeze", {"reason": "audit week"})
    return jenkins.build(deploy())


def bad_file(jenkins: Jenkins) -> Build:
    jenkins.compose = jenkins.compose.replace("replicas: 3", "replicas: three").replace("drain", "drian")
    return jenkins.build(deploy())


def unknown_service(jenkins: Jenkins) -> Build:
    return jenkins.build(("tidegateDeploy", {"service": "demo/cart", "image": "cart:v1"}))


def unknown_rollout(jenkins: Jenkins) -> Build:
    return jenkins.build(("tidegatePromote", {"rollout": "none"}))


def a_key_used_for_another_request(jenkins: Jenkins) -> Build:
    jenkins.compose = compose("drain_timeout: 1s")
    jenkins.build(deploy())
    return jenkins.build(deploy("v3"))


def no_earlier_release(jenkins: Jenkins) -> Build:
    return jenkins.build(("tidegateRollback", {"service": "demo/shop"}))


@pytest.mark.parametrize(
    ("run_build", "result", "message"),
    [
        (another_live_rollout, "FAILURE", "requested by admin"),
        (another_builds_rollout, "FAILURE", "requested by team/shop #7 http://ci/7/"),
        (an_older_build, "NOT_BUILT", "superseded"),
        (frozen, "FAILURE", "audit week"),
        (bad_file, "FAILURE", "services.shop.x-tidegate.drian_timeout"),
        (unknown_service, "FAILURE", "unknown-service"),
        (unknown_rollout, "FAILURE", "unknown-rollout"),
        (a_key_used_for_another_request, "FAILURE", "key-reused"),
        (no_earlier_release, "FAILURE", "no-good-release"),
    ],
)
def test_a_refusal_gives_the_reason(
    jenkins: Jenkins, run_build: Callable[[Jenkins], Build], result: str, message: str
) -> None:
    build = run_build(jenkins)
    text = jenkins.expect(f"refused: {run_build.__name__.replace('_', ' ')}", build, result)
    assert message in text
    assert build["sleeps"] == []


def test_an_older_build_cannot_deploy_after_a_newer_one(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s")
    jenkins.build(deploy())
    jenkins.number = 8
    jenkins.expect("deploy: by the next build", jenkins.build(deploy("v3")), "SUCCESS")
    jenkins.number = 7
    text = jenkins.expect("deploy: the older build again", jenkins.build(deploy("v4", stage="again")), "NOT_BUILT")
    assert "a newer build was first" in text
    assert "build 8 already requested" in text


# -- options -----------------------------------------------------------------------------------------------------------


def test_all_mistakes_in_the_options_are_reported_at_once(jenkins: Jenkins) -> None:
    mistaken = deploy(servcie="x", until="soon", patience="long", archive=True, file=None, force=True)
    build = jenkins.build(mistaken, files=None)
    text = jenkins.expect("deploy: mistaken options", build, "FAILURE")
    unknown = "unknown option servcie; the options are service, file"
    for mistake in (unknown, "until: expected verdict or approval or end, not soon"):
        assert mistake in text
    required = ("archive: requires a workspace", "reason: required with force")
    for mistake in ("patience: expected a whole number of seconds", *required):
        assert mistake in text
    assert build["requests"] == []


def test_mistakes_in_the_gate_are_reported_before_any_request(jenkins: Jenkins) -> None:
    build = jenkins.build(promote(timeout="soon", subitter="ops"))
    text = jenkins.expect("promote: mistaken gate", build, "FAILURE")
    assert "gate: timeout: expected minutes" in text
    assert "gate: unknown option subitter; the options are submitter, timeout" in text
    assert "rollout: missing, because no tidegateDeploy ran before in this build" in text


def test_a_verify_before_any_deploy(jenkins: Jenkins) -> None:
    text = jenkins.expect("verify: nothing was deployed", jenkins.build(verify()), "FAILURE")
    assert "no tidegateDeploy ran before in this build" in text


def test_a_missing_credential(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(credentials="tidegate-other"))
    assert "tidegate-other" in jenkins.expect("deploy: no such credential", build, "FAILURE")


def test_a_rollout_that_cannot_work(jenkins: Jenkins) -> None:
    jenkins.api.world.always["pin"] = PlatformError("Image shop:v2 not found.", retryable=False)
    text = jenkins.expect("deploy: it cannot work", jenkins.build(deploy()), "FAILURE")
    assert "demo/shop: Tidegate refused v2-2, nothing was changed: Image shop:v2 not found." in text
    assert jenkins.latest()["phase"] == "refused"


# -- quarantine and force ----------------------------------------------------------------------------------------------


def roll_back_v2(jenkins: Jenkins) -> None:
    """Deploy v2, which crashes under traffic."""
    rollout = jenkins.api.deploy("v2", "approval: {after: [1]}, drain_timeout: 1s")
    eventually("v2 waits for approval", lambda: jenkins.api.call("GET", f"/v1/rollouts/{rollout['id']}").json()["approval"])
    jenkins.api.world.crashing.add(rollout["new"])
    jenkins.api.until(rollout["id"], "rolled_back")
    jenkins.number = 8


def test_a_release_that_rolled_back_is_in_quarantine(jenkins: Jenkins) -> None:
    roll_back_v2(jenkins)
    by_digest = jenkins.build(("tidegateDeploy", {"service": "demo/shop", "image": digest("shop:v2")}))
    assert "(409 quarantined)" in jenkins.expect("deploy: in quarantine, by its digest", by_digest, "FAILURE")
    jenkins.number = 9
    rollouts = len(jenkins.api.call("GET", "/v1/rollouts").json()["rollouts"])
    text = jenkins.expect("deploy: in quarantine", jenkins.build(deploy()), "FAILURE")
    assert "(409 quarantined)" in text
    assert "1 new instance failed" in text, "what was found"
    assert "tidegate quarantine lift demo/shop v2-" in text
    assert len(jenkins.api.call("GET", "/v1/rollouts").json()["rollouts"]) == rollouts, "no rollout was created"


def test_force_requires_the_scope_and_is_audited(jenkins: Jenkins) -> None:
    roll_back_v2(jenkins)
    jenkins.api.call("PUT", "/v1/environments/demo/freeze", {"reason": "audit week"})
    weak = jenkins.build(deploy(force=True, reason="the shop is down"))
    text = jenkins.expect("deploy: force without its scope", weak, "FAILURE")
    assert "lacks the scope force" in text
    jenkins.scopes = (*jenkins.scopes, "force")
    build = jenkins.build(deploy(force=True, reason="the shop is down", onBehalfOf="carol"))
    jenkins.expect("deploy: by force, frozen and in quarantine", build, "SUCCESS")
    (entry,) = jenkins.audit("deploy by force")
    assert (entry["by"], entry["reason"], entry["build"]) == ("carol", "the shop is down", "team/shop #8")
    assert jenkins.latest()["forced"] is True


# -- wrong addresses ---------------------------------------------------------------------------------------------------


def test_an_address_of_something_else(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(server=f"{jenkins.api.url}/nothing/here"))
    assert "404" in jenkins.expect("deploy: a wrong address", build, "FAILURE")


def test_an_unknown_host_is_retried(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(server="http://tidegate.invalid", patience=20))
    text = jenkins.expect("deploy: an unknown host", build, "FAILURE")
    assert "UnknownHostException" in text
    assert len(build["sleeps"]) > 2
