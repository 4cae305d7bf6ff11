"""Through the API: previews and tasks before a gate, a colour that is kept, and services that are rolled out as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import SHOP, RunningApi, running
from support.wait import eventually

BOTH = """\
services:
  shop:
    image: shop:${VERSION}
    expose: ["8080"]
    x-tidegate: {listen: 8001, health: {path: /health}, group: true, OPTIONS}
  worker:
    image: worker:${VERSION}
    expose: ["8080"]
    x-tidegate: {listen: 8002, health: {path: /health}, group: true, route: worker, OPTIONS}
  database:
    image: postgres:15
"""
GROUP = "drain_timeout: 1s, strategy: blue_green"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made, made.engine():
        yield made


def ask(api: RunningApi, version: str, options: str = GROUP, service: str = "shop", **more: Any) -> Any:
    """Both, by one of them."""
    body = {"compose": BOTH.replace("OPTIONS", options), "variables": {"VERSION": version}, **more}
    return api.post(f"/v1/services/demo/{service}/rollouts", body)


def latest(api: RunningApi, service: str) -> dict[str, Any]:
    found: dict[str, Any] = api.call("GET", f"/v1/services/demo/{service}/rollouts?limit=1").json()["rollouts"][0]
    return found


def both(api: RunningApi, *phases: str) -> list[dict[str, Any]]:
    """Both rollouts, once they are in one of these phases."""
    return [api.until(latest(api, name)["id"], *phases) for name in ("shop", "worker")]


def held(api: RunningApi, rollout: str) -> dict[str, Any]:
    """The rollout, once a person is waited for."""
    after = 0
    for _ in range(100):
        found: dict[str, Any] = api.call("GET", f"/v1/rollouts/{rollout}").json()
        if found["approval"]:
            return found
        after = api.call("GET", f"/v1/rollouts/{rollout}/events?after={after}&wait=1").json()["last"]
    raise AssertionError(f"not held: {found}")


def approve(api: RunningApi, rollout: dict[str, Any], token: str = "") -> Any:
    body = {"binding": rollout["approval"]["binding"]}
    more = {"token": token} if token else {}
    return api.call(
        "POST", f"/v1/rollouts/{rollout['id']}/promote", body, headers={"Idempotency-Key": rollout["id"]}, **more
    )


def test_both_are_brought_up_promoted_and_finished_as_one(api: RunningApi) -> None:
    assert ask(api, "v1").status_code == 202
    first = both(api, "succeeded")
    assert first[0]["group"] == first[1]["group"] == first[0]["id"]
    ask(api, "v2", service="worker")
    waiting = [held(api, latest(api, name)["id"]) for name in ("shop", "worker")]
    assert [each["marks"]["waiting_for_approval"] is not None for each in waiting] == [True, True]
    assert approve(api, waiting[0]).status_code == 202
    done = both(api, "succeeded")
    assert [each["image"] for each in done] == ["shop:v2", "worker:v2"]
    assert [api.world.serving(name) for name in ("shop", "worker")] == [["v2-2"], ["v2-2"]]


def test_one_that_never_stands_turns_both_back(api: RunningApi) -> None:
    ask(api, "v1")
    both(api, "succeeded")
    api.world.never_ready.add("v2-2")
    body = f"{GROUP}, healthy_deadline: 1s"
    ask(api, "v2", body)
    told = {each["service"]: each["reason"] for each in both(api, "rolled_back")}
    assert sum("together with" in reason for reason in told.values()) <= 1
    assert all(api.world.serving(name) == ["v1-1"] for name in ("shop", "worker"))


def test_nobody_approves_what_they_may_not(api: RunningApi) -> None:
    ask(api, "v1")
    both(api, "succeeded")
    ask(api, "v2")
    shop = held(api, latest(api, "shop")["id"])
    held(api, latest(api, "worker")["id"])
    only = api.token_for("promote", services=("demo/shop",))
    refused = approve(api, shop, only)
    assert refused.status_code == 403
    assert "demo/worker" in refused.json()["detail"]
    narrow = api.token_for("deploy", "force", "rollback", "vouch", services=("demo/shop",))
    requests = {name: f"/v1/rollouts/{shop['id']}/{name}" for name in ("pause", "resume", "rollback")}
    for path in (*requests.values(), f"{SHOP}/rollback"):
        answer = api.call("POST", path, token=narrow, headers={"Idempotency-Key": path})
        assert (answer.status_code, "but not for demo/worker" in answer.json()["detail"]) == (403, True), path
    forced = {"force": True, "reason": "hurry"}
    assert api.call("POST", f"/v1/rollouts/{shop['id']}/promote", forced, token=narrow).status_code == 403
    assert {latest(api, name)["paused"] for name in ("shop", "worker")} == {False}


def test_together_needs_the_file_and_another_service(api: RunningApi) -> None:
    alone = BOTH.replace("OPTIONS", GROUP).replace("group: true, route: worker, ", "route: worker, ")
    answer = api.post(f"{SHOP}/rollouts", {"compose": alone, "variables": {"VERSION": "v1"}})
    assert answer.status_code == 422
    assert "no other service" in answer.text
    ask(api, "v1")
    both(api, "succeeded")
    without = api.post(f"{SHOP}/rollouts", {"image": "shop:v2"})
    assert without.status_code == 422
    assert "send the Compose file" in without.text


def test_the_gate_shows_preview_and_tasks_and_a_failed_one_turns_back(api: RunningApi) -> None:
    options = (
        "drain_timeout: 1s, strategy: blue_green, preview: {listen: 8003, header: 'X-Preview: blue'}, "
        "hooks: {pre_deploy: migrate up, pre_promote: {command: [smoke], timeout: 30s}}"
    )
    api.until(api.deploy("v1", options)["id"], "succeeded")
    shown = held(api, api.deploy("v2", options)["id"])
    assert shown["preview"] == {"listen": "8003", "header": "X-Preview: blue"}
    assert [(each["name"], each["state"]) for each in shown["tasks"]] == [
        ("pre_deploy", "passed"),
        ("pre_promote", "passed"),
    ]
    evidence = "\n".join(shown["approval"]["evidence"])
    assert "at 8003 or with the header X-Preview: blue" in evidence
    assert "pre_promote: passed" in evidence
    api.post(f"/v1/rollouts/{shown['id']}/rollback")
    api.until(shown["id"], "rolled_back")
    api.world.statuses["pre_promote"] = 7
    failed = api.until(api.deploy("v3", options)["id"], "rolled_back")
    assert "pre_promote failed: exit status 7" in failed["reason"]
    for token, shown_to in (("deploy", True), ("read", False), ("rollback", False)):
        path = f"/v1/rollouts/{failed['id']}/events"
        found = api.call("GET", path, token=api.token_for(token)).json()["events"]
        ends = [each["data"] for each in found if each["kind"] == "task_ended"]
        assert [data["state"] for data in ends] == ["passed", "failed"]
        assert {"log" in data for data in ends} == {shown_to}, "a hook may print what its release can read"
        report = api.call("GET", f"/v1/rollouts/{failed['id']}/report", token=api.token_for(token)).json()
        assert any(task["log"] for task in report["tasks"]) is shown_to, "in the report, too"


def test_an_approval_ends_the_keeping_of_the_old_colour(api: RunningApi) -> None:
    options = "drain_timeout: 1s, strategy: blue_green, keep_old: 1h"
    api.until(api.deploy("v1", options)["id"], "succeeded")
    rollout = held(api, api.deploy("v2", options)["id"])
    approve(api, rollout)

    def now() -> dict[str, Any]:
        found: dict[str, Any] = api.call("GET", f"/v1/rollouts/{rollout['id']}").json()
        assert found["phase"] == "running"
        return found

    eventually("the old colour is kept", lambda: (found := now())["steps"][found["cursor"]]["gate"]["keep_old"])
    assert {each.release for each in api.world.present()} == {"v1-1", "v2-2"}

    def answer() -> int:
        headers = {"Idempotency-Key": "enough", "If-Match": f'"{now()["version"]}"'}
        path = f"/v1/rollouts/{rollout['id']}/promote"
        return int(api.call("POST", path, {"reason": "seen enough"}, headers=headers).status_code)

    eventually("the approval is of the newest version", lambda: answer() != 412)
    api.until(rollout["id"], "succeeded")
    assert {each.release for each in api.world.present()} == {"v2-2"}
