"""Plans through the API and the command line: what would happen, what would refuse it, and that it is held to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import SHOP, RunningApi, compose, running
from support.command import Run, command
from tidegate.analysis.queries import Series
from tidegate.cli.exit_codes import ExitCode
from tidegate.clock import Window
from tidegate.core.phases import Phase
from tidegate.core.rollback_cause import RollbackCause


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


def body(version: str, options: str = "drain_timeout: 1s", **more: Any) -> dict[str, Any]:
    return {"compose": compose(options), "variables": {"VERSION": version}, **more}


def plan(api: RunningApi, version: str = "v2", options: str = "drain_timeout: 1s", **more: Any) -> dict[str, Any]:
    answer = api.call("POST", f"{SHOP}/plan", body(version, options, **more))
    assert answer.status_code == 200, answer.text
    assert "secret-value" not in answer.text, "values of variables may be secrets"
    planned: dict[str, Any] = answer.json()
    return planned


def codes(planned: dict[str, Any]) -> list[str]:
    return [refusal["code"] for refusal in planned["refusals"]]


def test_a_first_deployment(api: RunningApi) -> None:
    planned = plan(api, "v1")
    (service,) = planned["services"]
    assert (service["live"], service["image"], service["changes"]) == (None, "shop:v1", [])
    assert [(step["start"], step["stop"], step["route"]) for step in service["steps"]] == [({"new": 3}, {}, {"new": 3})]
    assert api.call("GET", "/v1/services").json()["services"] == [], "nothing is stored"


def test_the_steps_and_changes_of_an_update(api: RunningApi) -> None:
    api.finish("v1")
    planned = plan(api, options="drain_timeout: 1s, bake: 20s")
    (service,) = planned["services"]
    messages = [change["message"] for change in service["changes"]]
    assert messages == ["image: shop:v1 → shop:v2", "bake_seconds: 0 → 20", "policy.warmup_seconds: 0 → 6.67"]
    assert [(step["start"], step["stop"]) for step in service["steps"]] == [
        ({"new": 1}, {}),
        ({"new": 1}, {"v1-1": 1}),
        ({"new": 1}, {"v1-1": 1}),
        ({}, {"v1-1": 1}),
    ]
    assert any("shop:v2 is a tag" in warning for warning in service["warnings"])


def test_a_deployment_is_held_to_its_plan(api: RunningApi) -> None:
    api.finish("v1")
    planned = plan(api)
    answer = api.post(f"{SHOP}/rollouts", body("v2", plan=planned["id"]))
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": "v3"}, "image: shop:v2 → shop:v3"),
        ({"options": "drain_timeout: 2s"}, "policy.drain_timeout_seconds: 1 → 2"),
    ],
)
def test_another_deployment_is_refused_and_says_what_changed(
    api: RunningApi, changed: dict[str, str], message: str
) -> None:
    api.finish("v1")
    planned = plan(api)
    answer = api.post(f"{SHOP}/rollouts", body(**{"version": "v2", **changed}) | {"plan": planned["id"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "plan-changed")
    assert f"Changed since plan {planned['id']}: {message}. Run `tidegate plan demo/shop` again." == answer.json()["detail"]


def test_a_changed_secret_is_named_and_not_shown(api: RunningApi) -> None:
    planned = plan(api)
    text = compose().replace("secret-value", "another-secret")
    answer = api.post(f"{SHOP}/rollouts", {**body("v2"), "compose": text, "plan": planned["id"]})
    assert "environment.DB_URL changed" in answer.json()["detail"]
    assert "secret" not in answer.json()["detail"].replace("environment.DB_URL", "")


def test_a_plan_ends_when_another_release_is_live(api: RunningApi) -> None:
    api.finish("v1")
    planned = plan(api, "v3")
    api.finish("v2")
    answer = api.post(f"{SHOP}/rollouts", body("v3", plan=planned["id"]))
    assert "live release: v1-1 with 3 instances → v2-2 with 3 instances" in answer.json()["detail"]


def test_an_unknown_plan_is_refused(api: RunningApi) -> None:
    answer = api.post(f"{SHOP}/rollouts", body("v2", plan="abc123"))
    assert (answer.status_code, answer.json()["code"]) == (409, "plan-changed")


def test_all_mistakes_of_a_file_are_refusals(api: RunningApi) -> None:
    planned = plan(api, options="drain_timeout: never, bake: soon")
    assert (planned["id"], set(codes(planned))) == (None, {"invalid-spec"})
    paths = {refusal["path"] for refusal in planned["refusals"]}
    assert paths == {"services.shop.x-tidegate.drain_timeout", "services.shop.x-tidegate.bake"}


def test_everything_that_would_refuse_it_is_named_at_once(api: RunningApi) -> None:
    other = compose().replace("shop:", "cart:", 1)
    assert api.call("PUT", "/v1/services/demo/cart", {"compose": other, "variables": {"VERSION": "1"}}).ok
    api.deploy("v1")
    api.call("PUT", "/v1/environments/demo/freeze", {"reason": "holidays"})
    text = compose("listen: 8001, route: cart").replace("{listen: 8001, ", "{", 1)
    text = text.replace("    environment:", "    depends_on: [cart]\n    environment:")
    text += "  cart: {image: cart, x-tidegate: {}}\n"
    answer = api.call("POST", f"{SHOP}/plan", {"compose": text, "variables": {"VERSION": "v2"}}).json()
    assert set(codes(answer)) >= {"rollout-in-progress", "frozen", "route-taken", "dependency-missing"}
    assert answer["id"] is None
    assert answer["services"][0]["steps"], "the steps are shown all the same"


def test_a_freeze_does_not_refuse_a_forced_deployment(api: RunningApi) -> None:
    api.call("PUT", "/v1/environments/demo/freeze", {"reason": "holidays"})
    assert codes(plan(api)) == ["frozen"]
    assert codes(plan(api, force=True)) == []


def test_a_bake_that_is_too_short_is_a_warning(api: RunningApi) -> None:
    def scraped_every_minute(query: str, window: Window) -> tuple[Series, ...]:
        times = [window.end - 60.0 * back for back in range(5)]
        labels = {"__name__": "haproxy_server_http_responses_total", "proxy": "shop", "server": "v1-1-0", "code": "2xx"}
        return (Series(labels, tuple((at, 1000.0 * number) for number, at in enumerate(sorted(times)))),)

    checks = "bake: 20s, checks: [errors: {}]"
    api.world.answer = scraped_every_minute
    (service,) = plan(api, options=checks)["services"]
    assert any("the proxy is scraped every 60 s; set `bake:" in warning for warning in service["warnings"])
    api.world.answer = lambda query, window: ()
    (service,) = plan(api, options=checks)["services"]
    assert any("Whether the bake is long enough is unknown" in warning for warning in service["warnings"])


def test_a_tag_that_was_rolled_back_is_a_warning(api: RunningApi) -> None:
    api.finish("v1")
    rollout = api.deploy("v2")
    claim = api.wiring.store.claim("test", 30.0)
    assert claim is not None
    api.wiring.store.set_digest("demo/shop", "v2-2", f"sha256:{'2' * 64}", claim.fence, rollout["id"])
    api.wiring.store.release(claim, 0.0)
    api.save(rollout["id"], Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK, rollback_cause=RollbackCause.CHECKS)

    def risks(version: str, options: str = "drain_timeout: 1s") -> list[str]:
        (service,) = plan(api, version, options)["services"]
        return [warning for warning in service["warnings"] if "was rolled back" in warning]

    assert "as v2-2" in risks("v2")[0]
    assert risks("v3") == risks("v1") == []


def test_a_key_that_is_ignored_is_a_note(api: RunningApi) -> None:
    text = compose().replace("    environment:", "    container_name: shop\n    environment:")
    sent = {**body("v1"), "compose": text}
    (service,) = api.call("POST", f"{SHOP}/plan", sent).json()["services"]
    assert [note["field"] for note in service["notes"]] == ["services.shop.container_name"]
    assert api.call("POST", f"{SHOP}/validate", sent).json()["notes"] == service["notes"]


def test_a_plan_needs_the_right_to_deploy(api: RunningApi) -> None:
    token = api.token_for("read")
    assert api.call("POST", f"{SHOP}/plan", body("v1"), token=token).status_code == 403
    assert api.call("POST", f"{SHOP}/validate", body("v1"), token=token).status_code == 200


def test_a_file_is_validated_without_storing_it(api: RunningApi) -> None:
    good = api.call("POST", f"{SHOP}/validate", body("v1")).json()
    assert (good["valid"], good["problems"]) == (True, [])
    bad = api.call("POST", f"{SHOP}/validate", body("v1", "bake: soon")).json()
    assert (bad["valid"], [one["path"] for one in bad["problems"]]) == (False, ["services.shop.x-tidegate.bake"])
    assert api.call("GET", "/v1/services").json()["services"] == []


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def tidegate(api: RunningApi, tmp_path: Path) -> Run:
    (tmp_path / "compose.yaml").write_text(compose("drain_timeout: 1s, bake: 1s, approval: {after: [1]}"))
    return command(api, tmp_path)


def test_the_command_shows_a_plan_and_deploys_it(api: RunningApi, tidegate: Run) -> None:
    api.finish("v1")
    deployment = ("demo/shop", "-f", "compose.yaml", "--set", "VERSION=v2")
    shown = tidegate("plan", *deployment)
    assert shown.returncode == ExitCode.DONE, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "demo/shop: v1-1 → new release of shop:v2"
    assert "  image: shop:v1 → shop:v2" in lines
    assert "  1. start 1 of new; traffic to 2 of v1-1, 1 of new; bake 1 s; wait for approval" in lines
    assert "  4. traffic to 3 of new; drain and stop 1 of v1-1" in lines
    found = json.loads(tidegate("plan", *deployment, "-o", "json").stdout)["id"]
    refused = tidegate("deploy", *deployment, "--image", "shop:v3", "--plan", found, "--no-wait")
    assert (refused.returncode, "image: shop:v2 → shop:v3" in refused.stderr) == (ExitCode.REFUSED, True), refused.stderr
    done = tidegate("deploy", *deployment, "--plan", found, "--no-wait")
    assert done.returncode == ExitCode.DONE, done.stderr
    again = tidegate("plan", *deployment)
    assert (again.returncode, "has an unfinished rollout" in again.stdout) == (ExitCode.REFUSED, True)
