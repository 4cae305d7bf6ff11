"""Through the API and the command line: drift that is shown and repaired, scaling, and who gives way to whom."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.api import SHOP, RunningApi, compose, running
from support.wait import eventually
from tidegate.cli.exit_codes import ExitCode
from tidegate.core.phases import Phase

TIDEGATE = Path(sys.executable).with_name("tidegate")
DRIFT_INTERVAL_SECONDS = 0.1


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


@pytest.fixture
def tended(api: RunningApi) -> Iterator[RunningApi]:
    """The shop serves three of v1, and is watched."""
    with api.engine(drift_interval_seconds=DRIFT_INTERVAL_SECONDS):
        api.until(api.deploy()["id"], "succeeded")
        yield api


def shop(api: RunningApi) -> dict[str, Any]:
    found: dict[str, Any] = api.call("GET", SHOP).json()
    return found


def latest(api: RunningApi) -> dict[str, Any]:
    found: dict[str, Any] = api.call("GET", f"{SHOP}/rollouts?limit=1").json()["rollouts"][0]
    return found


def is_repaired(api: RunningApi) -> bool:
    newest = latest(api)
    return newest["kind"] == "repair" and newest["phase"] == "succeeded"


def remove_one(api: RunningApi) -> None:
    """As `docker rm -f` does."""
    with api.world.lock:
        api.world.started.popitem()


def scale(api: RunningApi, replicas: object, key: str = "", **more: Any) -> Any:
    return api.post(f"{SHOP}/scale", {"replicas": replicas, "reason": "a sale", **more}, key=key)


def tidegate(api: RunningApi, *words: str) -> subprocess.CompletedProcess[str]:
    own = {"TIDEGATE_SERVER": api.url, "TIDEGATE_TOKEN": api.token, "COLUMNS": "200"}
    command = [str(TIDEGATE), *words]
    return subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False, timeout=60)


def test_what_vanished_comes_back_by_itself(tended: RunningApi) -> None:
    remove_one(tended)
    eventually("a repair succeeds", lambda: is_repaired(tended))
    repair = latest(tended)
    assert (repair["requested_by"], repair["old"], repair["new"]) == ("tidegate", "v1-1", "v1-1")
    assert tended.world.serving() == ["v1-1"] * 3
    eventually("there is no drift", lambda: shop(tended)["drift"] is None)
    report = tended.call("GET", f"/v1/rollouts/{repair['id']}/report").json()
    assert "repair of v1-1 succeeded" in report["summary"]


def test_by_policy_it_is_shown_until_somebody_asks(api: RunningApi) -> None:
    with api.engine(drift_interval_seconds=DRIFT_INTERVAL_SECONDS):
        api.until(api.deploy(options="drain_timeout: 1s, repair: show")["id"], "succeeded")
        remove_one(api)
        drift = eventually("the drift is shown", lambda: shop(api)["drift"])
        assert (drift["state"], drift["message"]) == ("shown", "1 of v1-1 missing; 1 in the proxy that no longer runs")
        told = tidegate(api, "status", "demo/shop")
        assert "drift (shown)" in told.stdout, told.stderr
        done = tidegate(api, "repair", "demo/shop", "--reason", "it was me")
        assert done.returncode == ExitCode.DONE, done.stderr
        assert "repair of v1-1" in done.stdout
        eventually("there is no drift", lambda: shop(api)["drift"] is None)
    assert api.world.serving() == ["v1-1"] * 3


def test_up_and_down_and_what_is_kept_of_it(tended: RunningApi) -> None:
    asked = scale(tended, 5, key="sale")
    assert asked.status_code == 202, asked.text
    assert scale(tended, 5, key="sale").json()["id"] == asked.json()["id"]
    done = tended.until(asked.json()["id"], "succeeded")
    assert (done["kind"], done["old"], done["new"]) == ("scale", "v1-1", "v1-1")
    assert tended.world.serving() == ["v1-1"] * 5
    assert (shop(tended)["replicas"], shop(tended)["live_release"]["replicas"]) == (5, 5)
    less = tidegate(tended, "scale", "demo/shop", "2")
    assert less.returncode == ExitCode.DONE, less.stderr
    assert sorted(each.ordinal for each in tended.world.present()) == [0, 1], "the highest ordinals leave"
    assert shop(tended)["replicas"] == 2
    tended.until(tended.post(f"{SHOP}/rollouts", {"image": "shop:v2"}).json()["id"], "succeeded")
    assert tended.world.serving() == ["v2-2"] * 2, "a deploy of the stored definition keeps the number"
    tended.until(tended.deploy("v3")["id"], "succeeded")
    assert tended.world.serving() == ["v3-3"] * 3, "one with a file follows the file"


def test_more_that_never_become_ready_leave_again(api: RunningApi) -> None:
    with api.engine():
        api.until(api.deploy(options="drain_timeout: 1s, healthy_deadline: 8s")["id"], "succeeded")
        api.world.ready_after = 3600.0
        before = {each.id for each in api.world.present()}
        with api.world.lock:
            for name, (instance, at) in list(api.world.started.items()):
                api.world.started[name] = (instance, at - 7200.0)
        turned = api.until(scale(api, 5).json()["id"], "rolled_back")
    assert "did not become ready within 8 s" in turned["reason"]
    assert {each.id for each in api.world.present()} == before
    assert shop(api)["replicas"] == 3
    assert shop(api)["releases"][0]["quarantined_at"] is None


def test_a_repair_gives_way_to_a_deploy_a_scaling_and_a_rollback(api: RunningApi) -> None:
    for version in ("v1", "v2"):
        api.finish(version)
    for ask in (lambda: api.post(f"{SHOP}/rollback").json(), lambda: api.deploy("v3"), lambda: scale(api, 4).json()):
        repair = api.post(f"{SHOP}/repair").json()
        assert shop(api)["live_rollout"]["kind"] == "repair"
        other = ask()
        assert shop(api)["rollout"] == other["id"]
        ended = api.call("GET", f"/v1/rollouts/{repair['id']}").json()
        assert (ended["phase"], other["id"] in ended["reason"]) == ("rolled_back", True)
        assert api.post(f"{SHOP}/repair").status_code == 409
        assert scale(api, 4).json()["code"] == "rollout-in-progress"
        api.call("POST", f"/v1/rollouts/{other['id']}/rollback", {}, headers={"Idempotency-Key": other["id"]})
        api.save(other["id"], Phase.ROLLED_BACK)


def test_a_freeze_blocks_more_instances_and_nothing_else(tended: RunningApi) -> None:
    tended.call("PUT", "/v1/environments/demo/freeze", {"reason": "Christmas"})
    assert tended.post(f"{SHOP}/rollouts", {"image": "shop:v2"}).json()["code"] == "frozen"
    more = scale(tended, 4)
    assert (more.status_code, more.json()["code"]) == (409, "frozen")
    assert more.json()["detail"].endswith("Wait until the freeze ends, or scale with --force")
    weak = tended.token_for("deploy")
    body = {"replicas": 4, "force": True, "reason": "a sale"}
    refused = tended.call("POST", f"{SHOP}/scale", body, token=weak, headers={"Idempotency-Key": "weak"})
    assert (refused.status_code, refused.json()["code"]) == (403, "not-allowed")
    tended.until(scale(tended, 4, force=True).json()["id"], "succeeded")
    tended.until(scale(tended, 2).json()["id"], "succeeded")
    remove_one(tended)
    eventually("a repair succeeds", lambda: is_repaired(tended))
    assert tended.world.serving() == ["v1-1"] * 2


def test_what_cannot_be_asked(api: RunningApi) -> None:
    assert scale(api, 3).status_code == 404
    api.call("PUT", SHOP, {"compose": compose(), "variables": {"VERSION": "v1"}})
    assert scale(api, 3).json()["code"] == "no-live-release"
    assert api.post(f"{SHOP}/repair").json()["code"] == "no-live-release"
    api.finish("v1")
    for wrong in (0, -1, 1001, "3", 2.5, None):
        assert scale(api, wrong).status_code == 422
    options = {"headers": {"Idempotency-Key": "k"}, "token": api.token_for("read", "rollback", "promote")}
    for what, body in (("scale", {"replicas": 3}), ("repair", {})):
        assert api.call("POST", f"{SHOP}/{what}", body, **options).status_code == 403


def test_a_scaling_stays_where_the_last_rollout_led(tended: RunningApi) -> None:
    stored = compose("drain_timeout: 1s, route: elsewhere")
    assert tended.call("PUT", SHOP, {"compose": stored, "variables": {"VERSION": "v9"}}, headers={"If-Match": '"1"'}).ok
    tended.until(scale(tended, 4).json()["id"], "succeeded")
    assert tended.world.serving("shop") == ["v1-1"] * 4
    assert "elsewhere" not in tended.world.routed
    assert (shop(tended)["route"], shop(tended)["image"], shop(tended)["replicas"]) == ("elsewhere", "shop:v9", 4)


def test_stop_first_needs_more_than_one_batch(api: RunningApi) -> None:
    text = compose().replace("parallelism: 1", "parallelism: 2, order: stop-first")
    rollout = api.post(f"{SHOP}/rollouts", {"compose": text, "variables": {"VERSION": "v1"}}).json()
    api.save(rollout["id"], Phase.RUNNING, Phase.SUCCEEDED)
    refused = scale(api, 2)
    assert refused.status_code == 422
    assert "would stop all instances at once" in refused.json()["detail"]
    assert scale(api, 3).status_code == 202


def test_a_proxy_that_a_look_at_the_page_started_again_is_told_in_the_log(api: RunningApi) -> None:
    with api.engine():
        api.until(api.deploy()["id"], "succeeded")
    api.world.proxy_ended = True
    with capture_logs() as said:
        assert api.call("GET", f"{SHOP}/instances").ok
    assert ("proxy was down and has been restarted", "demo/shop") in [(each["event"], each.get("service")) for each in said]
