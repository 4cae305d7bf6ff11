"""Who may let a rollout on, and what keeps it back: approvals, older builds, freezes, quarantine, force, the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import SHOP, RunningApi, compose, running
from support.fake_drivers import constant
from support.wait import eventually
from tidegate.core.phases import Phase
from tidegate.errors import PlatformError
from tidegate.settings import DriverSettings, EnvironmentSettings, Settings

ROLES = {"release-managers": ["alice", "bob", "carol"], "two": ["alice", "bob"]}
JOB = "team/shop/feature%2Fnew"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    """An API whose environments know roles."""
    driver = DriverSettings(driver="docker")
    environment = EnvironmentSettings(platform=driver, roles=ROLES)
    with running(tmp_path, settings=Settings(environments={"demo": environment})) as made:
        yield made


def waiting(api: RunningApi, rollout: str, step: int = 0) -> dict[str, Any]:
    """The rollout once it waits for a person at this step or a later one."""

    def found() -> dict[str, Any] | None:
        now: dict[str, Any] = api.call("GET", f"/v1/rollouts/{rollout}").json()
        assert now["phase"] in ("pending", "running"), f"{now['phase']}: {now['reason']}"
        return now if now["approval"] and now["cursor"] >= step else None

    return dict(eventually(f"{rollout} waits for a person", found) or {})


def held(api: RunningApi, options: str = "approval: {after: [1]}") -> dict[str, Any]:
    """A rollout over v1 that waits for approval after its first batch."""
    api.until(api.deploy("v1")["id"], "succeeded")
    return waiting(api, api.deploy("v2", options)["id"])


def promote(api: RunningApi, rollout: dict[str, Any], **body: Any) -> Any:
    """An approval for what was seen."""
    binding = rollout["approval"]["binding"] if rollout["approval"] else "0" * 16
    return api.post(f"/v1/rollouts/{rollout['id']}/promote", {"binding": binding, **body})


def deploy(api: RunningApi, version: str, **more: Any) -> Any:
    """Any answer to a deploy."""
    body = {"compose": compose(), "variables": {"VERSION": version}, **more}
    return api.post(f"{SHOP}/rollouts", body)


# -- approvals ----------------------------------------------------------------------------------------------------------


def test_a_hold_tells_what_it_takes_and_what_speaks_for_it(api: RunningApi) -> None:
    with api.engine():
        rollout = held(api, "approval: {after: [1], roles: [two], needed: 2, requester: false}")
    approval = rollout["approval"]
    assert (approval["kind"], approval["step"], approval["needed"], approval["given"]) == ("approval", 0, 2, [])
    assert (approval["roles"], approval["requester_may_approve"], approval["on_expiry"]) == (["two"], False, "rollback")
    assert approval["expires"] > rollout["marks"]["waiting_for_approval"]
    assert rollout["digest"]
    assert rollout["image"] == "shop:v2"
    told = "\n".join(approval["evidence"])
    assert rollout["digest"] in told
    assert "shop:v2" in told
    assert "no verdict" in told


def test_as_many_different_people_as_are_needed_let_it_on(api: RunningApi) -> None:
    with api.engine():
        rollout = held(api, "approval: {after: [1], roles: [two], needed: 2}")
        hidden = promote(api, rollout, on_behalf_of="ali\u034fce")
        assert (hidden.status_code, "U+034F" in hidden.text) == (422, True)
        first = promote(api, rollout, on_behalf_of="alice", reason="looks good")
        assert first.status_code == 202
        assert [(each["by"], each["via"], each["reason"]) for each in first.json()["approval"]["given"]] == [
            ("alice", "admin", "looks good")
        ]
        for spelling in ("alice", "ALICE", " Alice ", "\uff21lice"):
            again = promote(api, rollout, on_behalf_of=spelling)
            assert (again.status_code, again.json()["code"]) == (409, "illegal-move")
            assert "alice" in again.json()["detail"]
        stranger = promote(api, rollout, on_behalf_of="carol")
        assert (stranger.status_code, stranger.json()["code"]) == (403, "may-not-approve")
        assert "two" in stranger.json()["detail"]
        assert promote(api, rollout, on_behalf_of="bob").status_code == 202
        assert api.until(rollout["id"], "succeeded")["approval"] is None


def test_who_asked_may_not_approve_where_that_is_wanted(api: RunningApi) -> None:
    with api.engine():
        api.until(api.deploy("v1")["id"], "succeeded")
        body = {"compose": compose("approval: {after: [1], requester: false}"), "variables": {"VERSION": "v2"}}
        answer = api.post(f"{SHOP}/rollouts", {**body, "on_behalf_of": "alice"})
        assert (answer.json()["requested_by"], answer.json()["requested_via"]) == ("alice", "admin")
        rollout = waiting(api, answer.json()["id"])
        for spelling in ("alice", "Alice ", "\uff21lice"):
            refused = promote(api, rollout, on_behalf_of=spelling)
            assert (refused.status_code, refused.json()["code"]) == (403, "may-not-approve")
        assert promote(api, rollout, on_behalf_of="bob").status_code == 202
        api.until(rollout["id"], "succeeded")


def test_only_a_token_that_may_vouch_speaks_for_a_person(api: RunningApi) -> None:
    with api.engine():
        rollout = held(api)
        plain, vouching = api.token_for("promote"), api.token_for("promote", "vouch")
        body = {"binding": rollout["approval"]["binding"], "on_behalf_of": "alice"}
        path = f"/v1/rollouts/{rollout['id']}/promote"
        refused = api.call("POST", path, body, token=plain)
        assert (refused.status_code, refused.json()["code"]) == (403, "not-allowed")
        assert "vouch" in refused.json()["detail"]
        assert api.call("POST", path, body, token=vouching).status_code == 202


def test_an_approval_is_for_the_digest_the_plan_and_the_step_that_were_seen(api: RunningApi) -> None:
    with api.engine():
        rollout = held(api, "approval: {after: [1, 2]}")
        assert promote(api, rollout).status_code == 202
        now = waiting(api, rollout["id"], step=1)
        late = promote(api, rollout)
        assert (late.status_code, late.json()["code"]) == (412, "stale")
        bare = api.post(f"/v1/rollouts/{rollout['id']}/promote", {})
        assert (bare.status_code, bare.json()["code"]) == (428, "if-match-required")
        assert promote(api, now).status_code == 202
        api.until(rollout["id"], "succeeded")


@pytest.mark.parametrize("early", [{}, {"full": True}], ids=["of the step", "of all steps"])
def test_an_approval_during_the_bake_does_not_answer_a_later_verdict(api: RunningApi, early: dict[str, Any]) -> None:
    checks = "checks: [{query: up, max: 0.5, min_samples: 1, name: slow}]"
    options = f"bake: 10m, interval: 100ms, approval: {{after: [1]}}, {checks}"
    pausing = compose(options).replace("update_config: {", "update_config: {failure_action: pause, ")
    assert pausing != compose(options)
    with api.engine():
        api.until(api.deploy("v1")["id"], "succeeded")
        api.world.answer = constant(0.1)
        body = {"compose": pausing, "variables": {"VERSION": "v2"}}
        rollout = api.post(f"{SHOP}/rollouts", body).json()["id"]
        path = f"/v1/rollouts/{rollout}"

        def approved_while_it_bakes() -> bool:
            now = api.call("GET", path)
            if (now.json()["waiting_for"] or {}).get("kind") != "bake":
                return False
            return bool(api.post(f"{path}/promote", early, If_Match=now.headers["ETag"]).status_code == 202)

        eventually("it is approved while it bakes", approved_while_it_bakes)
        api.world.answer = constant(2.0)
        asked = waiting(api, rollout)
        assert (asked["approval"]["kind"], asked["verdict"]["outcome"], asked["cursor"]) == ("decision", "FAIL", 0)
        assert asked["approval"]["given"] == []
        assert promote(api, asked, full=True).json()["detail"].endswith("approvals of all steps answer no verdict")
        assert promote(api, asked, reason="known").status_code == 202
        eventually("it continues", lambda: api.call("GET", path).json()["cursor"] > 0)


@pytest.mark.parametrize(("action", "phase"), [("rollback", "rolled_back"), ("promote", "succeeded")])
def test_a_hold_that_nobody_answers_ends_as_was_wanted(api: RunningApi, action: str, phase: str) -> None:
    with api.engine():
        api.until(api.deploy("v1")["id"], "succeeded")
        rollout = api.deploy("v2", f"approval: {{after: [1], expires: 300ms, on_expiry: {action}}}")
        assert api.until(rollout["id"], "succeeded", "rolled_back")["phase"] == phase


def test_a_hold_that_nobody_could_open_is_refused_at_the_start(api: RunningApi) -> None:
    for options, path in (
        ("approval: {roles: [nobody]}", "approval.roles"),
        ("approval: {roles: [two], needed: 3}", "approval.needed"),
        ("approval: {on_expiry: shrug}", "approval.on_expiry"),
    ):
        answer = api.post(f"{SHOP}/rollouts", {"compose": compose(options), "variables": {"VERSION": "v1"}})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-spec"), answer.text
        assert [each["path"] for each in answer.json()["errors"]] == [f"services.shop.x-tidegate.{path}"]


# -- builds ---------------------------------------------------------------------------------------------------------------


def test_an_older_build_cannot_overtake_a_newer_one(api: RunningApi) -> None:
    newer = deploy(api, "v2", build={"job": JOB, "number": 12, "url": "http://ci/12/"}).json()
    assert newer["build"] == {"job": JOB, "number": 12, "url": "http://ci/12/", "on_end": None}
    api.save(newer["id"], Phase.RUNNING, Phase.SUCCEEDED)
    older = deploy(api, "v1", build={"job": JOB, "number": 11})
    assert (older.status_code, older.json()["code"], older.json()["rollout"]) == (409, "superseded", newer["id"])
    assert "12" in older.json()["detail"]
    assert JOB in older.json()["detail"]
    assert deploy(api, "v3", build={"job": "another", "number": 1}).status_code == 202


def test_while_the_newer_one_is_under_way_the_older_is_told_of_it_first(api: RunningApi) -> None:
    newer = deploy(api, "v2", build={"job": JOB, "number": 12}).json()
    assert deploy(api, "v1", build={"job": JOB, "number": 11}).json()["code"] == "superseded"
    later = deploy(api, "v3", build={"job": JOB, "number": 13})
    assert (later.status_code, later.json()["code"], later.json()["rollout"]) == (409, "rollout-in-progress", newer["id"])


# -- freezes --------------------------------------------------------------------------------------------------------------


def freeze(api: RunningApi, **body: Any) -> Any:
    """Freeze the demo."""
    return api.call("PUT", "/v1/environments/demo/freeze", {"reason": "audit week", **body})


def test_a_freeze_keeps_back_the_start_and_tells_why(api: RunningApi) -> None:
    assert freeze(api, on_behalf_of="alice").json()["by"] == "alice"
    refused = deploy(api, "v1")
    assert (refused.status_code, refused.json()["code"]) == (409, "frozen")
    assert "alice" in refused.json()["detail"]
    assert "audit week" in refused.json()["detail"]
    assert [each["environment"] for each in api.call("GET", "/v1/freezes").json()["freezes"]] == ["demo"]
    assert api.call("DELETE", "/v1/environments/demo/freeze").status_code == 204
    assert api.call("GET", "/v1/freezes").json()["freezes"] == []
    assert deploy(api, "v1").status_code == 202


def test_a_freeze_keeps_back_the_next_batch_and_no_way_back(api: RunningApi) -> None:
    with api.engine():
        rollout = held(api)
        freeze(api)
        assert promote(api, rollout).status_code == 202
        eventually("it is frozen", lambda: "frozen" in told(api, rollout["id"]))
        assert told(api, rollout["id"]).count("frozen") == 1
        assert api.call("GET", f"/v1/rollouts/{rollout['id']}").json()["cursor"] == 0
        assert api.post(f"/v1/rollouts/{rollout['id']}/rollback").status_code == 202
        api.until(rollout["id"], "rolled_back")


def told(api: RunningApi, rollout: str) -> list[str]:
    """The kinds of its events."""
    return [each["kind"] for each in api.call("GET", f"/v1/rollouts/{rollout}/events").json()["events"]]


def test_a_freeze_ends_by_itself(api: RunningApi) -> None:
    freeze(api, hours=1e-9)
    assert deploy(api, "v1").status_code == 202


def test_freezing_takes_its_scope_in_that_environment(api: RunningApi) -> None:
    for token in (api.token_for("deploy"), api.token_for("freeze", services=("live/*",))):
        answer = api.call("PUT", "/v1/environments/demo/freeze", {"reason": "no"}, token=token)
        assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed")
    assert api.call("PUT", "/v1/environments/nowhere/freeze", {"reason": "no"}).status_code == 404


# -- force ----------------------------------------------------------------------------------------------------------------


def test_force_takes_its_scope_and_a_reason(api: RunningApi) -> None:
    freeze(api)
    silent = deploy(api, "v1", force=True)
    assert (silent.status_code, [each["path"] for each in silent.json()["errors"]]) == (422, ["reason"])
    body = {"compose": compose(), "variables": {"VERSION": "v1"}, "force": True, "reason": "shop is down"}
    weak = api.call("POST", f"{SHOP}/rollouts", body, token=api.token_for("deploy"), headers={"Idempotency-Key": "weak"})
    assert (weak.status_code, weak.json()["code"]) == (403, "not-allowed")
    assert deploy(api, "v1", force=True, reason="shop is down").json()["forced"] is True


def test_force_skips_bakes_and_holds_to_the_end(api: RunningApi) -> None:
    with api.engine():
        api.until(api.deploy("v1")["id"], "succeeded")
        rollout = api.deploy("v2", "approval: {after: [1, 2, 3]}, bake: 1h")
        silent = api.post(f"/v1/rollouts/{rollout['id']}/promote", {"force": True})
        assert (silent.status_code, [each["path"] for each in silent.json()["errors"]]) == (422, ["reason"])
        assert api.post(f"/v1/rollouts/{rollout['id']}/promote", {"force": True, "reason": "fire"}).status_code == 202
        api.until(rollout["id"], "succeeded")
        assert "forced" in told(api, rollout["id"])


def quarantined(api: RunningApi) -> dict[str, Any]:
    """A rollout to v2 that was rolled back because its instances crashed under traffic."""
    bad = held(api)
    api.world.crashing.add(bad["new"])
    ended = api.until(bad["id"], "rolled_back")
    assert ended["rollback_cause"] == "health"
    return ended


def test_what_was_found_bad_is_refused_before_a_rollout_exists(api: RunningApi) -> None:
    with api.engine():
        bad = quarantined(api)
        before = len(api.call("GET", "/v1/rollouts").json()["rollouts"])
        for refused in (deploy(api, "v2"), api.post(f"{SHOP}/rollouts", {"image": bad["digest"]})):
            assert (refused.status_code, refused.json()["code"]) == (409, "quarantined")
            found = refused.json()["detail"]
            assert f"rollout {bad['id']} rolled back {bad['new']} at 20" in found
            assert bad["reason"].rstrip(".") in found
            assert found.endswith(f"tidegate quarantine lift demo/shop {bad['new']} --reason WHY")
        assert len(api.call("GET", "/v1/rollouts").json()["rollouts"]) == before
        api.world.always["find_digest"] = PlatformError("The registry does not answer.")
        later = api.until(api.deploy("v2")["id"], "refused")
        assert "is in quarantine with this configuration" in later["reason"], "an engine refuses what a pull resolves"
        assert "started" not in told(api, later["id"])
        del api.world.always["find_digest"]
        changed = {"compose": compose().replace("secret-value", "another"), "variables": {"VERSION": "v2"}}
        api.until(api.post(f"{SHOP}/rollouts", changed).json()["id"], "succeeded")
        assert deploy(api, "v2").status_code == 409
        forced = deploy(api, "v2", force=True, reason="it was the database").json()
        api.until(forced["id"], "succeeded")
        api.until(api.deploy("v3")["id"], "succeeded")
        api.until(api.deploy("v2")["id"], "succeeded")  # it was good since


def test_a_quarantine_is_listed_and_lifted_with_a_reason(api: RunningApi) -> None:
    with api.engine():
        bad = quarantined(api)
        (listed,) = api.call("GET", "/v1/quarantine?service=demo/shop").json()["releases"]
        assert (listed["service"], listed["release"], listed["image"]) == ("demo/shop", bad["new"], "shop:v2")
        assert (listed["rollout"], listed["finding"]) == (bad["id"], bad["reason"])
        other = api.token_for("read", services=("live/*",))
        assert api.call("GET", "/v1/quarantine", token=other).json()["releases"] == []
        assert api.call("GET", "/v1/quarantine?service=demo/shop", token=other).status_code == 403
        path = f"{SHOP}/releases/{bad['new']}/lift-quarantine"
        weak = api.call("POST", path, {"reason": "database"}, token=api.token_for("deploy"))
        assert (weak.status_code, "lacks the scope force" in weak.json()["detail"]) == (403, True)
        assert api.call("POST", path, {}).status_code == 422, "a reason is required"
        lifted = api.call("POST", path, {"reason": "it was the database", "on_behalf_of": "eva"})
        assert (lifted.status_code, lifted.json()["finding"]) == (200, bad["reason"])
        assert api.call("GET", "/v1/quarantine").json()["releases"] == []
        again = api.call("POST", path, {"reason": "twice"})
        assert (again.status_code, again.json()["code"]) == (409, "not-quarantined")
        (entry,) = [one for one in api.call("GET", "/v1/audit").json()["entries"] if "quarantine" in one["action"]]
        assert (entry["by"], entry["action"]) == ("eva", f"lift quarantine of {bad['new']}")
        assert (entry["subject"], entry["reason"]) == ("demo/shop", "it was the database")
        api.until(api.deploy("v2")["id"], "succeeded")


def test_a_person_and_silence_are_no_finding_about_the_image(api: RunningApi) -> None:
    with api.engine():
        api.until(api.deploy("v1")["id"], "succeeded")
        rejected = waiting(api, api.deploy("v2", "approval: {after: [1]}")["id"])
        api.post(f"/v1/rollouts/{rejected['id']}/rollback", {"reason": "not today"})
        expired = "approval: {after: [1], expires: 1s}"
        causes = [api.until(rejected["id"], "rolled_back")["rollback_cause"]]
        causes.append(api.until(api.deploy("v2", expired)["id"], "rolled_back")["rollback_cause"])
        assert causes == ["approval_rejected", "approval_expired"]
        assert api.call("GET", "/v1/quarantine").json()["releases"] == []
        api.until(api.deploy("v2")["id"], "succeeded")


# -- audit ----------------------------------------------------------------------------------------------------------------


def test_the_audit_log_tells_who_on_whose_word_when_why_and_from_where(api: RunningApi) -> None:
    with api.engine():
        rollout = held(api)
        promote(api, rollout, on_behalf_of="alice", reason="looks good")
        api.until(rollout["id"], "succeeded")
    freeze(api)
    entries = api.call("GET", "/v1/audit").json()["entries"]
    assert [each["action"] for each in entries] == ["freeze", "promote", "deploy", "deploy"]
    given = entries[1]
    assert (given["by"], given["via"], given["reason"]) == ("alice", "admin", "looks good")
    assert (given["subject"], given["rollout"], given["source"]) == ("demo/shop", rollout["id"], "127.0.0.1")
    assert given["request"]
    first = api.call("GET", "/v1/audit?limit=1").json()
    second = api.call("GET", f"/v1/audit?limit=1&cursor={first['next']}").json()
    assert [each["action"] for each in first["entries"] + second["entries"]] == ["freeze", "promote"]


def test_the_audit_log_is_shown_as_far_as_the_token_may_read(api: RunningApi) -> None:
    deploy(api, "v1")
    freeze(api)
    token = api.token_for("read", services=("demo/*",))
    assert [each["action"] for each in api.call("GET", "/v1/audit", token=token).json()["entries"]] == ["deploy"]
    other = api.token_for("read", services=("live/*",))
    assert api.call("GET", "/v1/audit", token=other).json()["entries"] == []
    assert api.call("GET", "/v1/audit?subject=demo/shop", token=other).status_code == 403


def test_nothing_is_audited_twice_when_it_is_repeated(api: RunningApi) -> None:
    body = {"compose": compose(), "variables": {"VERSION": "v1"}}
    for _ in range(2):
        assert api.post(f"{SHOP}/rollouts", body, key="same").status_code == 202
    assert len(api.call("GET", "/v1/audit").json()["entries"]) == 1
