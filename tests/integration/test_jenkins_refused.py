"""What the service or the library refuses: each tells why, starts nothing, and names the way out; and what force is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.api import compose
from support.fake_drivers import constant, digest
from support.library import Build, Jenkins, deploy, promote, verify

STEPS = {
    "tidegateDeploy": deploy(),
    "tidegateVerify": ("tidegateVerify", {"rollout": "ROLLOUT", "wait": 5}),
    "tidegatePromote": ("tidegatePromote", {"rollout": "ROLLOUT"}),
    "tidegateRollback": ("tidegateRollback", {"rollout": "ROLLOUT"}),
    "tidegatePipeline": ("tidegatePipeline", {"service": "demo/shop", "image": "shop:v3"}),
}


def held(jenkins: Jenkins) -> str:
    """The id of a rollout of somebody else that waits for approval and is judged."""
    checks = "checks: [{name: slow, query: slow_seconds, max: 0.5, min_samples: 1}], bake: 1s, interval: 1s"
    jenkins.api.world.answer = constant(0.1)
    jenkins.api.deploy("v2", f"approval: {{after: [1]}}, drain_timeout: 1s, on_inconclusive: pause, {checks}")
    return str(jenkins.waiting()["id"])


@pytest.mark.parametrize("step", STEPS)
def test_a_wrong_token_and_one_without_the_scope_fail_at_once(jenkins: Jenkins, step: str) -> None:
    rollout = held(jenkins)
    name, given = STEPS[step]
    options = {key: rollout if value == "ROLLOUT" else value for key, value in given.items()}
    wrong = jenkins.build((name, options), credentials={"tidegate-token": "tg_" + "x" * 43})
    text = jenkins.ends(f"{step}: 401, a wrong token", wrong, "FAILURE")
    assert "401" in text
    assert wrong["sleeps"] == [], "asking again helps nobody"
    jenkins.scopes = ("read",)
    weak = jenkins.build((name, options))
    text = jenkins.ends(f"{step}: 403, the scope is missing", weak, "FAILURE")
    assert "403" in text
    assert "lacks the scope" in text
    assert weak["sleeps"] == []
    assert jenkins.latest()["phase"] == "running"


def another_under_way(jenkins: Jenkins) -> Build:
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


def a_key_used_for_something_else(jenkins: Jenkins) -> Build:
    jenkins.compose = compose("drain_timeout: 1s")
    jenkins.build(deploy())
    return jenkins.build(deploy("v3"))


def nothing_to_go_back_to(jenkins: Jenkins) -> Build:
    return jenkins.build(("tidegateRollback", {"service": "demo/shop"}))


@pytest.mark.parametrize(
    ("play", "result", "told"),
    [
        (another_under_way, "FAILURE", "asked for by admin"),
        (another_builds_rollout, "FAILURE", "asked for by team/shop #7 http://ci/7/"),
        (an_older_build, "NOT_BUILT", "superseded"),
        (frozen, "FAILURE", "audit week"),
        (bad_file, "FAILURE", "services.shop.x-tidegate.drian_timeout"),
        (unknown_service, "FAILURE", "unknown-service"),
        (unknown_rollout, "FAILURE", "unknown-rollout"),
        (a_key_used_for_something_else, "FAILURE", "key-reused"),
        (nothing_to_go_back_to, "FAILURE", "nothing-to-roll-back-to"),
    ],
)
def test_what_is_refused_says_why(jenkins: Jenkins, play: Callable[[Jenkins], Build], result: str, told: str) -> None:
    build = play(jenkins)
    text = jenkins.ends(f"refused: {play.__name__.replace('_', ' ')}", build, result)
    assert told in text
    assert build["sleeps"] == []


def test_a_newer_build_takes_over_once_the_older_one_is_through(jenkins: Jenkins) -> None:
    jenkins.compose = compose("drain_timeout: 1s")
    jenkins.build(deploy())
    jenkins.number = 8
    jenkins.ends("deploy: by the next build", jenkins.build(deploy("v3")), "SUCCESS")
    jenkins.number = 7
    text = jenkins.ends("deploy: the older build once more", jenkins.build(deploy("v4", stage="again")), "NOT_BUILT")
    assert "a newer build came first" in text
    assert "build 8 has asked" in text


# -- options -----------------------------------------------------------------------------------------------------------


def test_all_mistakes_in_the_options_are_told_at_once(jenkins: Jenkins) -> None:
    mistaken = deploy(servcie="x", until="soon", patience="long", archive=True, file=None, force=True)
    build = jenkins.build(mistaken, files=None)
    text = jenkins.ends("deploy: mistaken options", build, "FAILURE")
    for each in ("no option servcie; the options are service, file", "until: verdict or approval or end, not soon"):
        assert each in text
    for each in ("patience: a whole number of seconds", "archive: needs a workspace", "reason: needed with force"):
        assert each in text
    assert build["requests"] == []


def test_a_mistake_in_the_gate_is_told_before_anything_happens(jenkins: Jenkins) -> None:
    build = jenkins.build(promote(timeout="soon", subitter="ops"))
    text = jenkins.ends("promote: mistaken gate", build, "FAILURE")
    assert "gate: timeout: minutes" in text
    assert "gate: there is no subitter; there are submitter, timeout" in text
    assert "rollout: no tidegateDeploy of this build came before" in text


def test_a_verify_before_any_deploy_says_what_is_missing(jenkins: Jenkins) -> None:
    text = jenkins.ends("verify: nothing was deployed", jenkins.build(verify()), "FAILURE")
    assert "no tidegateDeploy of this build came before" in text


def test_a_credential_that_is_not_there(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(credentials="tidegate-other"))
    assert "tidegate-other" in jenkins.ends("deploy: no such credential", build, "FAILURE")


# -- quarantine and force ----------------------------------------------------------------------------------------------


def turned_back(jenkins: Jenkins) -> None:
    """v2 was tried and turned back, and could stand now."""
    jenkins.compose = compose("drain_timeout: 1s, healthy_deadline: 1s")
    jenkins.api.world.never_ready.add("v2-2")
    jenkins.build(deploy())
    assert jenkins.latest()["phase"] == "rolled_back"
    jenkins.number = 8


def test_what_was_turned_back_is_in_quarantine(jenkins: Jenkins) -> None:
    turned_back(jenkins)
    by_digest = jenkins.build(("tidegateDeploy", {"service": "demo/shop", "image": digest("shop:v2")}))
    assert "(409 quarantined)" in jenkins.ends("deploy: in quarantine, by its digest", by_digest, "FAILURE")
    jenkins.number = 9
    text = jenkins.ends("deploy: in quarantine", jenkins.build(deploy()), "FAILURE")
    assert "quarantine" in text
    assert jenkins.api.world.present("v2-3") == [], "it was never started"


def test_force_takes_the_scope_and_leaves_a_loud_line(jenkins: Jenkins) -> None:
    turned_back(jenkins)
    jenkins.api.call("PUT", "/v1/environments/demo/freeze", {"reason": "audit week"})
    weak = jenkins.build(deploy(force=True, reason="the shop is down"))
    text = jenkins.ends("deploy: force without its scope", weak, "FAILURE")
    assert "lacks the scope force" in text
    jenkins.scopes = (*jenkins.scopes, "force")
    build = jenkins.build(deploy(force=True, reason="the shop is down", onBehalfOf="carol"))
    jenkins.ends("deploy: by force, frozen and in quarantine", build, "SUCCESS")
    (line,) = jenkins.audit("deploy by force")
    assert (line["by"], line["reason"], line["build"]) == ("carol", "the shop is down", "team/shop #8")
    assert jenkins.latest()["forced"] is True


# -- the service speaks another encoding than it says, or is somebody else ---------------------------------------------


def test_an_address_where_something_else_answers(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(server=f"{jenkins.api.url}/nothing/here"))
    assert "404" in jenkins.ends("deploy: a wrong address", build, "FAILURE")


def test_an_unknown_host_is_asked_again_for_a_while(jenkins: Jenkins) -> None:
    build = jenkins.build(deploy(server="http://tidegate.invalid", patience=20))
    text = jenkins.ends("deploy: an unknown host", build, "FAILURE")
    assert "UnknownHostException" in text
    assert len(build["sleeps"]) > 2
