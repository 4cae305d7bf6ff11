"""Builds that wait for their turn, and newer builds that take over from older ones of their job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import SHOP, RunningApi, compose, running
from support.wait import eventually

JOB, OTHER = "team/shop", "team/hotfix"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    """The API and an engine over a shop that serves v1."""
    with running(tmp_path) as made, made.engine():
        made.until(made.deploy("v1")["id"], "succeeded")
        yield made


def ask(api: RunningApi, number: int, on_live: str = "wait", job: str = JOB, options: str = "drain_timeout: 1s") -> Any:
    """Any answer to a build's deployment."""
    build = {"job": job, "number": number, "url": ""}
    body = {"compose": compose(options), "variables": {"VERSION": f"v{number}"}, "build": build, "on_live": on_live}
    return api.post(f"{SHOP}/rollouts", body)


def held(api: RunningApi, number: int, job: str = JOB) -> dict[str, Any]:
    """The rollout of a build, once it waits for a person."""
    rollout = ask(api, number, "fail", job, "approval: {after: [1]}, drain_timeout: 1s").json()["id"]

    def waiting() -> dict[str, Any] | None:
        now: dict[str, Any] = api.call("GET", f"/v1/rollouts/{rollout}").json()
        return now if now["approval"] else None

    return dict(eventually(f"{rollout} waits for a person", waiting) or {})


def position(answer: Any) -> int | None:
    assert (answer.status_code, answer.json()["code"]) == (409, "rollout-in-progress"), answer.text
    found: int | None = answer.json()["position"]
    return found


def roll_back(api: RunningApi, rollout: str) -> None:
    api.post(f"/v1/rollouts/{rollout}/rollback")
    api.until(rollout, "rolled_back")


def test_builds_have_their_turn_in_the_order_in_which_they_came(api: RunningApi) -> None:
    live = held(api, 2)["id"]
    first = ask(api, 9, job=OTHER)
    assert position(first) == 1
    assert first.json()["rollout"] == live
    assert f"rollout {live} is live. Position 1 of 1." in first.json()["detail"]
    assert [position(ask(api, 3)), position(ask(api, 9, job=OTHER)), position(ask(api, 3))] == [2, 1, 2]
    roll_back(api, live)
    behind = ask(api, 3)
    assert (position(behind), behind.json()["rollout"]) == (2, None), "the first one has its turn"
    created = ask(api, 9, job=OTHER)
    assert created.status_code == 202
    assert position(ask(api, 3)) == 1
    api.until(created.json()["id"], "succeeded")
    api.until(ask(api, 3).json()["id"], "succeeded")


def test_a_build_that_leaves_gives_its_place_away(api: RunningApi) -> None:
    live = held(api, 2)["id"]
    assert [position(ask(api, 9, job=OTHER)), position(ask(api, 3))] == [1, 2]
    path = f"{SHOP}/queue?job=team%2Fhotfix&number=9"
    assert api.call("DELETE", path, token=api.token_for("read")).status_code == 403
    assert [api.call("DELETE", path).status_code for _ in range(2)] == [204, 204]
    assert position(ask(api, 3)) == 1
    roll_back(api, live)
    assert ask(api, 3).status_code == 202


def test_a_newer_build_takes_over_from_an_older_one_of_its_job_at_its_gate(api: RunningApi) -> None:
    older = held(api, 2)["id"]
    assert position(ask(api, 3, "supersede")) == 1
    ended = api.until(older, "rolled_back")
    assert ended["rollback_cause"] == "superseded"
    assert ended["reason"].endswith("superseded by build 3 of team/shop")
    (entry,) = [one for one in api.call("GET", "/v1/audit").json()["entries"] if one["action"] == "supersede"]
    assert (entry["rollout"], entry["build"]) == (older, "team/shop #3")
    api.until(ask(api, 3, "supersede").json()["id"], "succeeded")
    assert api.call("GET", "/v1/quarantine").json()["releases"] == [], "no finding about the image"


def test_the_release_of_another_job_and_a_newer_build_are_never_superseded(api: RunningApi) -> None:
    live = held(api, 5, OTHER)["id"]
    assert position(ask(api, 9, "supersede")) == 1
    roll_back(api, live)
    assert api.call("GET", f"/v1/rollouts/{live}").json()["rollback_cause"] == "approval_rejected"
    newer = held(api, 12, OTHER)["id"]
    assert ask(api, 11, "supersede", OTHER).json()["position"] is not None
    assert api.call("GET", f"/v1/rollouts/{newer}").json()["phase"] == "running"


def test_a_rollout_that_moves_is_not_superseded_before_its_gate(api: RunningApi) -> None:
    rollout = ask(api, 2, "fail", options="bake: 1h, approval: {after: [1]}").json()["id"]

    def baking() -> bool:
        waiting = api.call("GET", f"/v1/rollouts/{rollout}").json()["waiting_for"]
        return waiting is not None and waiting["kind"] == "bake"

    eventually("it bakes", baking)
    assert [position(ask(api, 3, "supersede")) for _ in range(2)] == [1, 1]
    assert api.call("GET", f"/v1/rollouts/{rollout}").json()["phase"] == "running"


def test_an_older_build_in_the_queue_is_superseded_too(api: RunningApi) -> None:
    live = held(api, 9, OTHER)["id"]
    assert [position(ask(api, 3)), position(ask(api, 4, "supersede"))] == [1, 1]
    older = ask(api, 3)
    assert (older.status_code, older.json()["code"]) == (409, "superseded")
    assert "build 4 waits to deploy demo/shop" in older.json()["detail"]
    roll_back(api, live)
    assert ask(api, 4, "supersede").status_code == 202


def test_waiting_needs_a_build_and_superseding_the_right_to_roll_back(api: RunningApi) -> None:
    body = {"compose": compose(), "variables": {"VERSION": "v2"}, "on_live": "wait"}
    refused = api.post(f"{SHOP}/rollouts", body)
    assert (refused.status_code, [one["path"] for one in refused.json()["errors"]]) == (422, ["on_live"])
    body |= {"on_live": "supersede", "build": {"job": JOB, "number": 2}}
    token = api.token_for("deploy")
    weak = api.call("POST", f"{SHOP}/rollouts", body, token=token, headers={"Idempotency-Key": "weak"})
    assert (weak.status_code, "lacks the scope rollback" in weak.json()["detail"]) == (403, True)
