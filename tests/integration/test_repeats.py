"""Restart and retry through the API and the command line, with the real engine, and what was deployed before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.api import SHOP, RunningApi, compose, running
from support.command import Run, command
from tidegate.cli.exit_codes import ExitCode
from tidegate.core.phases import Phase
from tidegate.core.rollback_cause import RollbackCause


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


@pytest.fixture
def tidegate(api: RunningApi, tmp_path: Path) -> Iterator[Run]:
    (tmp_path / "compose.yaml").write_text(compose())
    with api.engine():
        yield command(api, tmp_path)


def deploy(tidegate: Run, version: str) -> int:
    return tidegate("deploy", "demo/shop", "-f", "compose.yaml", "--set", f"VERSION={version}").returncode


def history(tidegate: Run) -> list[tuple[str, str, str]]:
    rows = json.loads(tidegate("history", "demo/shop", "-o", "json").stdout)
    return [(row["id"], row["state"], row["image"]) for row in rows]


def test_a_restart_replaces_every_instance_of_the_same_image(api: RunningApi, tidegate: Run) -> None:
    assert deploy(tidegate, "v1") == ExitCode.DONE
    before = {instance.id for instance in api.world.present()}
    done = tidegate("restart", "demo/shop", "-m", "a leak")
    assert (done.returncode, "v1-2 is live" in done.stdout) == (ExitCode.DONE, True), done.stderr
    after = api.world.present()
    assert len(after) == 3
    assert not before & {instance.id for instance in after}
    releases = api.call("GET", f"{SHOP}/releases").json()["releases"]
    assert len({release["digest"] for release in releases}) == 1, "the image is not resolved again"
    assert history(tidegate) == [("v1-2", "live", "shop:v1"), ("v1-1", "good", "shop:v1")]


def test_a_restart_keeps_a_definition_that_is_not_deployed_yet(api: RunningApi, tidegate: Run) -> None:
    deploy(tidegate, "v1")
    tidegate("apply", "demo/shop", "-f", "compose.yaml", "--set", "VERSION=v2")
    assert tidegate("restart", "demo/shop").returncode == ExitCode.DONE
    service = api.call("GET", SHOP).json()
    assert (service["image"], service["live_release"]["image"]) == ("shop:v2", "shop:v1")


def test_a_rollback_after_a_restart_goes_to_another_image(tidegate: Run) -> None:
    deploy(tidegate, "v1")
    deploy(tidegate, "v2")
    assert tidegate("restart", "demo/shop").returncode == ExitCode.DONE
    back = tidegate("rollback", "demo/shop")
    assert (back.returncode, "v1-1 is live" in back.stdout) == (ExitCode.DONE, True), back.stderr


def test_a_rollback_names_any_release_of_the_history(tidegate: Run) -> None:
    for version in ("v1", "v2", "v3"):
        deploy(tidegate, version)
    back = tidegate("rollback", "demo/shop", "--to", "v1-1")
    assert (back.returncode, history(tidegate)[-1][:2]) == (ExitCode.DONE, ("v1-1", "live")), back.stderr


def test_a_freeze_refuses_a_restart_without_force(tidegate: Run) -> None:
    deploy(tidegate, "v1")
    tidegate("freeze", "demo", "--reason", "holidays")
    refused = tidegate("restart", "demo/shop")
    assert (refused.returncode, "or restart with --force" in refused.stderr) == (ExitCode.REFUSED, True)
    assert tidegate("restart", "demo/shop", "--force", "-m", "it hangs").returncode == ExitCode.DONE


def test_a_restart_needs_a_live_release(tidegate: Run) -> None:
    tidegate("apply", "demo/shop", "-f", "compose.yaml", "--set", "VERSION=v1")
    refused = tidegate("restart", "demo/shop")
    assert (refused.returncode, "has no live release" in refused.stderr) == (ExitCode.REFUSED, True)


def test_a_retry_repeats_a_rollout_that_was_rolled_back(api: RunningApi, tidegate: Run) -> None:
    deploy(tidegate, "v1")
    api.world.never_ready.add("v2-2")
    rollout = api.deploy("v2", "drain_timeout: 1s, healthy_deadline: 1s")
    api.until(rollout["id"], "rolled_back")
    assert history(tidegate)[0][:2] == ("v2-2", "failed")
    done = tidegate("retry", rollout["id"])
    assert (done.returncode, "v2-3 is live" in done.stdout) == (ExitCode.DONE, True), done.stderr
    assert history(tidegate)[0] == ("v2-3", "live", "shop:v2")


def test_a_retry_of_a_quarantined_release_needs_force(api: RunningApi) -> None:
    api.finish("v1")
    rollout = api.deploy("v2")
    store = api.wiring.store
    claim = store.claim("test", 30.0)
    assert claim is not None
    store.set_digest("demo/shop", "v2-2", f"sha256:{'2' * 64}", claim.fence, rollout["id"])
    store.release(claim, 0.0)
    api.save(rollout["id"], Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK, rollback_cause=RollbackCause.CHECKS)
    refused = api.post(f"/v1/rollouts/{rollout['id']}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "quarantined")
    body = {"force": True, "reason": "the database was down"}
    again = api.post(f"/v1/rollouts/{rollout['id']}/retry", body)
    assert (again.status_code, again.json()["image"], again.json()["new"]) == (202, "shop:v2", "v2-3")


def test_a_retry_has_the_definition_of_its_rollout_and_not_a_later_one(api: RunningApi) -> None:
    api.finish("v1")
    refused = api.deploy("v2", "drain_timeout: 7s, bake: 9s")
    api.save(refused["id"], Phase.REFUSED)
    again = api.post(f"/v1/rollouts/{refused['id']}/retry")
    assert again.status_code == 202, again.text
    assert again.json()["steps"][0]["gate"]["bake_seconds"] == 9
    secret = api.wiring.store.get_definition(again.json()["id"])
    assert secret is not None
    assert secret.container.environment == {"DB_URL": "secret-value"}, "the release has it"


@pytest.mark.parametrize(
    ("phases", "message"),
    [((Phase.RUNNING, Phase.SUCCEEDED), "it succeeded"), ((Phase.RUNNING,), "has an unfinished rollout")],
)
def test_only_what_failed_is_repeated(api: RunningApi, phases: tuple[Phase, ...], message: str) -> None:
    rollout = api.deploy("v1")
    api.save(rollout["id"], *phases)
    refused = api.post(f"/v1/rollouts/{rollout['id']}/retry")
    assert (refused.status_code, message in refused.json()["detail"]) == (409, True), refused.text


def test_releases_are_listed_in_pages(api: RunningApi) -> None:
    for version in ("v1", "v2", "v3"):
        api.finish(version)
    first = api.call("GET", f"{SHOP}/releases?limit=2")
    assert [release["id"] for release in first.json()["releases"]] == ["v3-3", "v2-2"]
    second = api.call("GET", first.links["next"]["url"]).json()
    assert [(release["id"], release["requested_by"]) for release in second["releases"]] == [("v1-1", "admin")]
    assert api.call("GET", f"{SHOP}/releases?cursor=djE").status_code == 422


def test_environments_are_listed_with_their_freezes(api: RunningApi) -> None:
    api.finish("v1")
    api.call("PUT", "/v1/environments/live/freeze", {"reason": "holidays"})
    found = api.call("GET", "/v1/environments").json()["environments"]
    assert [(each["name"], each["services"]) for each in found] == [("demo", 1), ("live", 0)]
    assert found[1]["freeze"]["reason"] == "holidays"
    of_one = api.call("GET", "/v1/environments", token=api.token_for("read", services=("demo/*",))).json()
    assert [each["name"] for each in of_one["environments"]] == ["demo"]


def test_status_without_a_name_lists_all_services(tidegate: Run) -> None:
    deploy(tidegate, "v1")
    shown = tidegate("status")
    assert (shown.returncode, shown.stdout) == (ExitCode.DONE, tidegate("services").stdout)
    assert "demo/shop" in shown.stdout
    assert "demo" in tidegate("environments").stdout
