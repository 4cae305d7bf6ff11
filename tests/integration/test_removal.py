"""Removal of a service through the API and the command line, with the real engine: nothing of it is left."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import SHOP, RunningApi, compose, running
from support.command import TIDEGATE, Run, command
from support.wait import eventually
from tidegate.cli.exit_codes import ExitCode
from tidegate.errors import RouterError


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made, made.engine():
        yield made


@pytest.fixture
def tidegate(api: RunningApi, tmp_path: Path) -> Run:
    (tmp_path / "compose.yaml").write_text(compose())
    return command(api, tmp_path)


def live(api: RunningApi, version: str = "v1", options: str = "drain_timeout: 1s") -> None:
    api.until(api.deploy(version, options)["id"], "succeeded")


def remove(api: RunningApi, query: str = "") -> dict[str, Any]:
    answer = api.call("DELETE", f"{SHOP}?{query}")
    assert answer.status_code == 202, answer.text
    rollout: dict[str, Any] = answer.json()
    return rollout


def test_nothing_is_left_and_the_history_stays(api: RunningApi, tidegate: Run) -> None:
    live(api)
    done = tidegate("remove", "demo/shop", "--yes", "-m", "end of life")
    assert (done.returncode, "demo/shop is removed" in done.stdout) == (ExitCode.DONE, True), done.stderr
    assert (api.world.present(), api.world.routed, api.world.removed) == ([], {}, ["shop"])
    assert api.call("GET", SHOP).status_code == 404
    assert api.call("GET", "/v1/services").json()["services"] == []
    first, second = api.call("GET", "/v1/rollouts?service=demo/shop").json()["rollouts"]
    assert (first["kind"], first["phase"], second["phase"]) == ("remove", "succeeded", "succeeded")
    assert "demo/shop removal" in api.call("GET", f"/v1/rollouts/{first['id']}/report").json()["summary"]
    entry = api.call("GET", "/v1/audit").json()["entries"][0]
    assert (entry["action"], entry["reason"]) == ("remove", "end of life")


def test_the_route_and_the_name_are_free_again(api: RunningApi) -> None:
    live(api)
    api.until(remove(api)["id"], "succeeded")
    other = compose("drain_timeout: 1s, route: shop").replace("shop:", "cart:", 1)
    assert api.call("PUT", "/v1/services/demo/cart", {"compose": other, "variables": {"VERSION": "1"}}).status_code == 201
    assert api.call("DELETE", "/v1/services/demo/cart").status_code == 204
    body = {"compose": compose(), "variables": {"VERSION": "v2"}}
    assert api.call("PUT", SHOP, body, headers={"If-None-Match": "*"}).status_code == 201
    live(api, "v2")
    assert api.call("GET", SHOP).json()["live"] == "v2-2"


def test_a_worker_without_a_proxy_is_removed(api: RunningApi) -> None:
    text = "services: {shop: {image: worker, deploy: {replicas: 2}, x-tidegate: {worker: true}}}"
    rollout = api.post(f"{SHOP}/rollouts", {"compose": text})
    assert rollout.status_code == 202, rollout.text
    api.until(rollout.json()["id"], "succeeded")
    api.until(remove(api)["id"], "succeeded")
    assert (api.world.present(), api.world.removed) == ([], [])


def test_requests_in_flight_are_waited_for(api: RunningApi) -> None:
    live(api, options="drain_timeout: 1h")
    api.world.in_flight["v1-1"] = 1
    rollout = remove(api)["id"]

    def drains() -> bool:
        waiting = api.call("GET", f"/v1/rollouts/{rollout}").json()["waiting_for"]
        return waiting is not None and waiting["kind"] == "drain"

    eventually("the removal waits for the drain", drains)
    assert len(api.world.present()) == 3
    with api.world.lock:
        api.world.draining.update(dict.fromkeys(api.world.draining, 0))
    api.until(rollout, "succeeded")


def test_a_removal_may_be_rolled_back(api: RunningApi) -> None:
    live(api, options="drain_timeout: 1h")
    api.world.in_flight["v1-1"] = 1
    rollout = remove(api)["id"]
    eventually("the route is empty", lambda: not api.world.serving())
    api.world.in_flight.clear()
    assert api.post(f"/v1/rollouts/{rollout}/rollback").status_code == 202
    with api.world.lock:
        api.world.draining.update(dict.fromkeys(api.world.draining, 0))
    api.until(rollout, "rolled_back")
    assert api.world.serving() == ["v1-1"] * 3
    assert api.call("GET", SHOP).json()["live"] == "v1-1"


def test_a_proxy_that_cannot_be_cleaned_up_now_is_tried_again(api: RunningApi) -> None:
    live(api)
    api.world.faults["remove"] = [RouterError("the proxy does not answer")]
    api.until(remove(api)["id"], "succeeded")
    assert api.world.removed == ["shop"]


def test_a_sick_instance_is_no_obstacle(api: RunningApi) -> None:
    live(api)
    api.world.crashing.add("v1-1")
    api.until(remove(api)["id"], "succeeded")
    assert api.world.present() == []


def test_what_was_never_deployed_is_removed_at_once(api: RunningApi, tidegate: Run) -> None:
    tidegate("apply", "demo/shop", "-f", "compose.yaml", "--set", "VERSION=v1")
    done = tidegate("remove", "demo/shop", "--yes")
    assert (done.returncode, "never deployed" in done.stdout) == (ExitCode.DONE, True), done.stderr
    assert api.call("GET", SHOP).status_code == 404


def test_a_service_that_others_need_is_not_removed(api: RunningApi) -> None:
    live(api)
    text = compose("drain_timeout: 1s, listen: 8002").replace("{listen: 8001, ", "{").replace("shop:", "cart:", 1)
    text = (
        text.replace("    environment:", "    depends_on: [shop]\n    environment:")
        + "  shop: {image: shop, x-tidegate: {}}\n"
    )
    body = {"compose": text, "variables": {"VERSION": "v1"}}
    cart = api.post("/v1/services/demo/cart/rollouts", body)
    assert cart.status_code == 202, cart.text
    api.until(cart.json()["id"], "succeeded")
    refused = api.call("DELETE", SHOP)
    assert (refused.status_code, "demo/cart depends on it" in refused.json()["detail"]) == (409, True)
    api.until(remove(api, "force=true&reason=both+go")["id"], "succeeded")


def test_a_freeze_and_a_live_rollout_refuse_a_removal(api: RunningApi) -> None:
    live(api)
    api.call("PUT", "/v1/environments/demo/freeze", {"reason": "holidays"})
    assert api.call("DELETE", SHOP).json()["code"] == "frozen"
    api.call("DELETE", "/v1/environments/demo/freeze")
    api.until(api.deploy("v2", "drain_timeout: 1s, approval: {after: [1]}")["id"], "running")
    assert api.call("DELETE", SHOP).json()["code"] == "rollout-in-progress"


def test_a_removal_needs_the_right_to_deploy(api: RunningApi) -> None:
    live(api)
    assert api.call("DELETE", SHOP, token=api.token_for("read")).status_code == 403


def test_a_repeated_request_removes_once(api: RunningApi) -> None:
    live(api)
    key = {"Idempotency-Key": "once"}
    first = api.call("DELETE", SHOP, headers=key).json()
    api.until(first["id"], "succeeded")
    again = api.call("DELETE", SHOP, headers=key)
    assert (again.json()["id"], again.headers["Idempotency-Replayed"]) == (first["id"], "true")


def test_the_command_does_not_remove_without_an_answer(api: RunningApi, tidegate: Run) -> None:
    live(api)
    refused = tidegate("remove", "demo/shop")
    assert (refused.returncode, "Add --yes" in refused.stderr) == (ExitCode.USAGE, True)
    assert on_a_terminal(api, "n\n")[0] == ExitCode.REFUSED
    code, shown = on_a_terminal(api, "y\n")
    assert "Remove demo/shop: 3 instances of v1-1 stop, and nothing listens on 8001 any more?" in shown
    assert code == ExitCode.DONE
    assert api.call("GET", SHOP).status_code == 404


def on_a_terminal(api: RunningApi, answer: str) -> tuple[int, str]:
    """The exit code, and what was asked."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TIDEGATE_SERVER": api.url, "TIDEGATE_TOKEN": api.token}
    try:
        with subprocess.Popen(
            [str(TIDEGATE), "remove", "demo/shop"],
            env=environment,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as asking:
            os.write(ours, answer.encode())
            _, shown = asking.communicate(timeout=60)
            return asking.returncode, shown
    finally:
        os.close(ours)
        os.close(theirs)
