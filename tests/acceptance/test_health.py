"""Applications that become sick while they serve, on real Docker and proxies: during a bake, while a person is waited for,
while the old release is kept, and long after the rollout; with what the service's clients get meanwhile."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any

import docker

from parts import DemoStack
from support.wait import eventually

COMPOSE = """\
services:
  shop:
    image: tidegate-health:${VERSION}
    expose: ["8080"]
    environment: {SERVICE_MS: "1", ON_SIGTERM: exit}
    stop_grace_period: 1s
    deploy: {replicas: 2, update_config: {parallelism: 2}}
    x-tidegate:
      listen: "LISTEN"
      health: {path: /health}
      drain_timeout: 5s
      healthy_deadline: 15s
      bake: ${BAKE}
      strategy: STRATEGY
      keep_old: ${KEEP}
"""
IMAGES = {f"tidegate-health:{version}": {"VERSION": version} for version in ("v1", "v2")}
ROUND = 20  # requests, each over a new connection: with two instances all of one kind only if one of them gets none


def get(address: str, path: str = "/") -> tuple[int, str]:
    """Status and version; 0 when there is no response."""
    host, _, port = address.rpartition(":")
    line = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        line.request("GET", path)
        response = line.getresponse()
        return response.status, response.headers.get("X-Version", "")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        line.close()


class Shop:
    """The shop on its stage."""

    def __init__(self, stage: DemoStack, router: str, strategy: str) -> None:
        stage.start(IMAGES, router=router)
        self.stage = stage
        self.file = stage.home / "compose.yaml"
        self.file.write_text(COMPOSE.replace("LISTEN", stage.listen).replace("STRATEGY", strategy))

    def deploy(self, version: str, bake: str = "0s", keep: str = "0s") -> None:
        words = ("--no-wait", "--set", f"VERSION={version}", "--set", f"BAKE={bake}", "--set", f"KEEP={keep}")
        self.stage.tidegate("deploy", self.stage.service, "-f", str(self.file), *words)

    def rollout(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stage.api(f"/v1/rollouts?service={self.stage.service}&limit=1")["rollouts"][0]
        return found

    def reach(self, what: str, condition: Callable[[dict[str, Any]], object]) -> None:
        """Wait until the latest rollout is there."""
        eventually(what, lambda: condition(self.rollout()))

    def instances(self, release: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.stage.api(f"/v1/services/{self.stage.service}/instances")["instances"] or []
        return [each for each in found if each["release"].startswith(release)]

    def make_sick(self, release: str, path: str = "/sick") -> None:
        """Every instance of the release answers 503 from now on, to its health check as well."""
        for instance in self.instances(release):
            assert get(instance["address"], path) == (200, release)

    def answers(self) -> set[tuple[int, str]]:
        """What a round of new clients gets."""
        return {get(self.stage.listen) for _ in range(ROUND)}

    def events(self, kind: str) -> list[str]:
        """The messages of the latest rollout."""
        events = self.stage.api(f"/v1/rollouts/{self.rollout()['id']}/events")["events"]
        return [event["message"] for event in events if event["kind"] == kind]


def test_sick_during_the_bake_and_after_the_rollout(stage: DemoStack) -> None:
    shop = Shop(stage, "nginx", "rolling")
    shop.deploy("v1")
    assert stage.await_end() == "succeeded"
    old = {each["id"] for each in shop.instances("v1")}

    shop.deploy("v2", bake="10m")
    shop.reach("v2 bakes", lambda rollout: (rollout["waiting_for"] or {}).get("kind") == "bake")
    assert (200, "v2") in shop.answers()
    get(shop.instances("v2")[0]["address"], "/sick")
    assert stage.await_end() == "rolled_back"
    reason = shop.rollout()["reason"]
    assert reason.startswith("1 new instance became unhealthy (v2-2/0): GET /health answered 503")
    assert shop.answers() == {(200, "v1")}
    assert {each["id"] for each in shop.instances()} == old, "no healthy instance of the old release was stopped"

    sick, well = shop.instances()
    get(sick["address"], "/sick")
    eventually("the sick one gets no requests", lambda: shop.answers() == {(200, "v1")})
    row = stage.api(f"/v1/services/{stage.service}")
    assert (row["unhealthy"], row["live_rollout"]["kind"]) == (1, "repair")
    assert "1 unhealthy" in stage.tidegate("services")
    assert shop.events("instance_unhealthy")[0].startswith(f"{sick['release']}/{sick['ordinal']} is not ready: GET /health")
    assert get(sick["address"], "/well")[0] == 200
    assert stage.await_end() == "succeeded"
    assert {each["id"] for each in shop.instances() if each["receives_traffic"]} == old, "back, and not restarted"

    engine, earlier = docker.from_env(), shop.rollout()["id"]
    try:
        engine.containers.get(sick["id"]).kill("SIGSTOP")
        shop.reach("a repair begins", lambda rollout: rollout["id"] != earlier)
        eventually("the one that hangs has left the proxy", lambda: shop.events("traffic_shifted"))
        assert shop.answers() == {(200, "v1")}
        eventually("it is replaced", lambda: sick["id"] not in {each["id"] for each in shop.instances()})
    finally:
        engine.close()
    assert stage.await_end() == "succeeded"
    assert len(shop.instances()) == 2
    assert well["id"] in {each["id"] for each in shop.instances()}


def test_sick_while_waiting_for_approval_and_while_the_old_release_is_kept(stage: DemoStack) -> None:
    shop = Shop(stage, "haproxy", "blue_green")
    shop.deploy("v1")
    assert stage.await_end() == "succeeded"
    old = {each["id"] for each in shop.instances("v1")}

    shop.deploy("v2")
    shop.reach("it waits for a person", lambda rollout: rollout["approval"])
    shop.make_sick("v2")
    assert stage.await_end() == "rolled_back", "it was never switched"
    assert "became unhealthy" in shop.rollout()["reason"]
    assert shop.answers() == {(200, "v1")}

    shop.deploy("v2", keep="1h")
    shop.reach("it waits for a person", lambda rollout: rollout["approval"])
    stage.tidegate("promote", stage.service, "-m", "looks good", "--no-wait")
    shop.reach("the old release is kept", lambda rollout: rollout["steps"][rollout["cursor"]]["gate"]["keep_old"])
    assert shop.answers() == {(200, "v2")}
    shop.make_sick("v2")
    eventually("the old release serves", lambda: shop.answers() == {(200, "v1")})
    assert stage.await_end() == "rolled_back"
    assert {each["id"] for each in shop.instances()} == old
