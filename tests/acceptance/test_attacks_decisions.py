"""Attacks on decisions, and hurry: approvals before a verdict, a rollback of what is paused, a second rollback, a crash
loop that ends each time between two looks. On real Docker, HAProxy and Prometheus."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from parts import DemoStack, PartFailed
from support.wait import eventually

IMAGE = "tidegate-attacks"
COMPOSE = """\
services:
  shop:
    image: tidegate-attacks:${VERSION}
    expose: ["8080"]
    stop_grace_period: 1s
    deploy: {replicas: 1, update_config: {failure_action: pause}}
    x-tidegate:
      listen: "LISTEN"
      health: {path: /health}
      drain_timeout: 1s
      bake: ${BAKE:-0s}
      interval: 500ms
      MORE
"""


class Shop:
    """The shop on its stage, and what is done to it."""

    def __init__(self, stage: DemoStack) -> None:
        self.stage = stage
        stage.start({f"{IMAGE}:{version}": {"VERSION": version} for version in ("v1", "v2", "v3", "v4")})

    def deploy(self, version: str, more: str = "", bake: str = "0s") -> None:
        file = self.stage.home / "compose.yaml"
        file.write_text(COMPOSE.replace("LISTEN", self.stage.listen).replace("MORE", more))
        sets = ("--set", f"VERSION={version}", "--set", f"BAKE={bake}")
        self.stage.tidegate("deploy", self.stage.service, "-f", str(file), "--no-wait", *sets)

    def rollout(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stage.api(f"/v1/rollouts?service={self.stage.service}&limit=1")["rollouts"][0]
        return found

    def reach(self, what: str, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The latest rollout once it is there."""

        def found() -> dict[str, Any] | None:
            rollout = self.rollout()
            return rollout if condition(rollout) else None

        return dict(eventually(what, found) or {})

    def waits_for(self, kind: str) -> dict[str, Any]:
        return self.reach(f"it waits for {kind}", lambda rollout: (rollout["waiting_for"] or {}).get("kind") == kind)

    def refused(self, *words: str) -> str:
        """Why a command is refused."""
        with pytest.raises(PartFailed) as failed:
            self.stage.tidegate(*words)
        return str(failed.value)

    def served(self) -> str:
        with urllib.request.urlopen(f"http://{self.stage.listen}/", timeout=60) as response:
            return str(response.headers["X-Version"])


def test_decisions_hold_whatever_was_said_before(stage: DemoStack) -> None:
    """In one stage, since starting it takes longer than the rest."""
    shop = Shop(stage)
    shop.deploy("v1")
    assert stage.await_end() == "succeeded"
    answer_before_the_verdict(shop)
    roll_back_twice(shop)
    crash_between_two_looks(shop)


def answer_before_the_verdict(shop: Shop) -> None:
    stage, service = shop.stage, shop.stage.service
    query = "sum(haproxy_server_http_responses_total)"  # beyond its limit when this test says so
    check = f"{{name: requests, query: {query!r}, max: 40, min_samples: 1}}"
    shop.deploy("v2", f"approval: {{after: [1]}}\n      checks: [{check}]", bake="10m")
    shop.waits_for("bake")

    def promote_all() -> bool:
        try:
            stage.tidegate("promote", service, "--full", "-m", "all of it", "--no-wait")
        except PartFailed:  # a measurement came between reading and sending
            return False
        return True

    eventually("all steps are approved", promote_all)

    for _ in range(100):
        shop.served()
    asked = shop.waits_for("decision")
    assert (asked["verdict"]["outcome"], asked["cursor"], asked["approval"]["given"]) == ("FAIL", 0, [])
    assert "approvals of all steps answer no verdict" in shop.refused("promote", service, "--full", "-m", "all of it")
    stage.tidegate("pause", service, "-m", "what now?")
    stage.tidegate("rollback", asked["id"], "-m", "it burns")
    assert stage.await_end() == "rolled_back", "nobody had to resume it"
    assert shop.served() == "v1"


def roll_back_twice(shop: Shop) -> None:
    stage, service = shop.stage, shop.stage.service
    assert "is already rolled back to v1-1" in shop.refused("rollback", service, "-m", "in a hurry")
    shop.deploy("v3")
    assert stage.await_end() == "succeeded"
    stage.tidegate("freeze", stage.environment, "--reason", "incident")
    stage.tidegate("rollback", service, "-m", "it burns")
    assert shop.served() == "v1"
    assert "is already rolled back to v1-1" in shop.refused("rollback", service, "-m", "in a hurry")
    assert "is newer than v1-1" in shop.refused("rollback", service, "--to", "v3-3")
    assert "is frozen by" in shop.refused("scale", service, "2")
    stage.tidegate("thaw", stage.environment)
    assert shop.served() == "v1"


def crash_between_two_looks(shop: Shop) -> None:
    """Each time it is ready it ends: without checks, and less often than `max_restarts` until the bake is over."""
    shop.deploy("v4", bake="3s")
    shop.waits_for("bake")
    crash(shop, 1)
    crash(shop, 2)
    shop.reach("the bake is over", lambda rollout: "to stay ready" in (rollout["waiting_for"] or {}).get("reason", ""))
    crash(shop, 3)
    assert shop.stage.await_end() == "rolled_back"
    assert shop.served() == "v1"


def crash(shop: Shop, number: int) -> None:
    """Let the new instance end by itself, once it is ready again."""

    def ready() -> str:
        found = shop.stage.api(f"/v1/services/{shop.stage.service}/instances")["instances"] or []
        new = [each for each in found if each["release"].startswith("v4") and each["restarts"] == number - 1]
        return next((str(each["address"]) for each in new if each["state"] == "ready"), "")

    host, _, port = str(eventually("the new instance is ready", ready)).rpartition(":")
    line = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        line.request("GET", "/exit1")
        line.getresponse()
    except (OSError, http.client.HTTPException):
        return
    finally:
        line.close()
