"""Blue-green as people use it: a preview with smoke tests against it, one switch, the old colour warm for a way back in one
switch, and then gone; with traffic all the while, of which nothing is lost."""

from __future__ import annotations

import http.client
import time
from typing import Any

import pytest

from parts import DemoStack
from processes import free_port
from support.wait import eventually

COMPOSE = """\
services:
  shop:
    image: tidegate-colours:${VERSION}
    expose: ["8080"]
    environment: {SERVICE_MS: "5", ON_SIGTERM: exit, DB_URL: "shop@database"}
    stop_grace_period: 5s
    deploy: {replicas: 2}
    x-tidegate:
      listen: "LISTEN"
      health: {path: /health}
      strategy: blue_green
      drain_timeout: 10s
      keep_old: ${KEEP}
      preview: {listen: "PREVIEW", header: "X-Shop-Preview: green"}
      probe: {path: /, every: 200ms}
      hooks:
        pre_deploy: hook 0 200
        pre_promote: {command: ["smoke", "${VERSION}"], network: host, timeout: 120s}
        post_promote: hook ${AFTER} 0
        on_rollback: {command: hook 0 0, release: old}
"""
IMAGES = {f"tidegate-colours:{version}": {"VERSION": version} for version in ("v1", "v2", "v3")}
IMAGES["tidegate-colours:liar"] = {"VERSION": "somebody else"}


def asked(address: str, **headers: str) -> str:
    """Which version answers there."""
    host, _, port = address.rpartition(":")
    line = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        line.request("GET", "/", headers={name.replace("_", "-"): value for name, value in headers.items()})
        return line.getresponse().headers.get("X-Version", "nobody")
    finally:
        line.close()


class Colours:
    """The shop on its stage."""

    def __init__(self, stage: DemoStack) -> None:
        self.stage = stage
        self.preview = f"127.0.0.1:{free_port()}"
        self.file = stage.home / "compose.yaml"
        self.file.write_text(COMPOSE.replace("LISTEN", stage.listen).replace("PREVIEW", self.preview))

    def deploy(self, version: str, after: str = "0", keep: str = "5s") -> None:
        """Ask for it, and do not wait."""
        words = ("--no-wait", "--set", f"VERSION={version}", "--set", f"AFTER={after}", "--set", f"KEEP={keep}")
        self.stage.tidegate("deploy", self.stage.service, "-f", str(self.file), *words)

    def rollout(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stage.api(f"/v1/rollouts?service={self.stage.service}&limit=1")["rollouts"][0]
        return found

    def held(self) -> dict[str, Any]:
        """The rollout, once a person is waited for."""
        eventually("the rollout waits for a person", lambda: self.rollout()["approval"])
        return self.rollout()

    def keeping(self) -> bool:
        """Whether the old colour is kept warm now."""
        now = self.rollout()
        return bool(now["steps"][now["cursor"]]["gate"]["keep_old"] and now["marks"]["step_ready"])

    def colours(self) -> list[str]:
        """The versions of all containers."""
        return sorted(container["image"].rpartition(":")[2] for container in self.stage.containers())


@pytest.fixture
def shop(stage: DemoStack) -> Colours:
    stage.start(IMAGES)
    made = Colours(stage)
    made.deploy("v1")
    assert stage.await_end() == "succeeded", stage.tidegate("events", stage.service)
    return made


def test_blue_green(shop: Colours) -> None:
    """In one stage, since starting it takes longer than each of the two."""
    fail_the_smoke_test_before_any_request_comes(shop)
    look_at_a_colour_before_it_serves_and_keep_the_old_one_for_the_way_back(shop)


def look_at_a_colour_before_it_serves_and_keep_the_old_one_for_the_way_back(shop: Colours) -> None:
    stage = shop.stage
    stage.start_traffic(get_ka=60, get=30, post_ka=20, post=10, slow_gets=3, slow_posts=2)

    shop.deploy("v2", keep="1h")
    waiting = shop.held()
    assert asked(stage.listen) == "v1", "the new colour takes no traffic"
    assert asked(shop.preview) == "v2", "and is reached at the preview's address"
    assert asked(stage.listen, X_Shop_Preview="green") == "v2", "and by its header"
    assert [(task["name"], task["state"]) for task in waiting["tasks"]] == [
        ("pre_deploy", "passed"),
        ("pre_promote", "passed"),
    ]
    assert any("pre_promote: passed" in line for line in waiting["approval"]["evidence"])

    stage.tidegate("promote", stage.service, "-m", "smoke tests are good", "--no-wait")
    eventually("the old colour is kept", shop.keeping)
    assert asked(stage.listen) == "v2"
    assert shop.colours() == ["v1", "v1", "v2", "v2"], "the old colour is kept warm"
    begun = time.monotonic()
    stage.tidegate("rollback", stage.service, "-m", "customers complain", "--no-wait")
    eventually("the old colour answers", lambda: asked(stage.listen) == "v1")
    back_seconds = time.monotonic() - begun
    assert stage.await_end() == "rolled_back"
    assert shop.colours() == ["v1", "v1"]
    switches = [batch for batch in stage.report()["steps"] if batch["phase"] == "rolling_back"]
    assert all("started" not in switch["actions"] for switch in switches), "turning back was one switch"

    shop.deploy("v3", after="1")
    shop.held()
    stage.tidegate("promote", stage.service, "-m", "good this time", "--no-wait")
    assert stage.await_end() == "succeeded"
    assert shop.colours() == ["v3", "v3"]
    assert [task["state"] for task in shop.rollout()["tasks"]] == ["passed", "passed", "warned"]
    assert asked(shop.preview) == "nobody", "the preview is closed again"

    seen = stage.finish_traffic()
    print(f"the way back took {back_seconds:.2f} s; {seen.by_outcome}")
    assert seen.by_outcome == {"ok": seen.requests}


def fail_the_smoke_test_before_any_request_comes(shop: Colours) -> None:
    stage = shop.stage
    stage.start_traffic(get_ka=60, post=10)
    shop.deploy("liar")
    assert stage.await_end() == "rolled_back"
    seen = stage.finish_traffic()
    report = stage.report()
    assert "pre_promote failed: exit status 1" in report["reason"]
    assert report["exposed_at"] is None
    assert shop.colours() == ["v1", "v1"]
    assert seen.by_outcome == {"ok": seen.requests}
    events = stage.api(f"/v1/rollouts/{report['rollout']}/events")["events"]
    log = [event for event in events if event["kind"] == "task_ended"]
    assert "x-version: somebody else" in log[1]["data"]["log"].lower(), "what the hook printed is in the story"
    assert [each["data"]["task"] for each in log] == ["pre_deploy", "pre_promote", "on_rollback"]


FAMILY = """\
services:
  shop:
    image: tidegate-colours:${VERSION}
    expose: ["8080"]
    x-tidegate: {listen: "LISTEN", health: {path: /health}, group: true, drain_timeout: 5s, healthy_deadline: 120s}
  cart:
    image: tidegate-colours:${CART}
    expose: ["8080"]
    x-tidegate: {listen: "OTHER", health: {path: /health}, group: true, drain_timeout: 5s, healthy_deadline: "${DEADLINE}"}
"""


def test_services_of_one_file_are_promoted_and_turned_back_as_one(stage: DemoStack) -> None:
    stage.start({**IMAGES, "tidegate-colours:never": {"VERSION": "never", "READY": "never"}})
    other, file = f"127.0.0.1:{free_port()}", stage.home / "family.yaml"
    file.write_text(FAMILY.replace("LISTEN", stage.listen).replace("OTHER", other))

    def deploy(version: str, cart: str, deadline: str = "120s") -> list[str]:
        variables = {"VERSION": version, "CART": cart, "DEADLINE": deadline}
        words = [word for name, value in variables.items() for word in ("--set", f"{name}={value}")]
        stage.tidegate("deploy", stage.service, "-f", str(file), "--no-wait", *words)
        first = stage.await_end()
        eventually("the other one ends", lambda: both()[1]["phase"] not in ("pending", "running", "rolling_back"))
        return [first, both()[1]["phase"]]

    def both() -> list[dict[str, Any]]:
        names = (f"{stage.environment}/{name}" for name in ("shop", "cart"))
        return [stage.api(f"/v1/rollouts?service={name}&limit=1")["rollouts"][0] for name in names]

    assert deploy("v1", "v1") == ["succeeded", "succeeded"]
    stage.start_traffic(get_ka=40, post=10)
    assert deploy("v2", "v2") == ["succeeded", "succeeded"]
    assert (asked(stage.listen), asked(other)) == ("v2", "v2")
    assert deploy("v3", "never", "8s") == ["rolled_back", "rolled_back"]
    assert f"{stage.environment}/cart, in the same group, rolled back: " in both()[0]["reason"]
    assert (asked(stage.listen), asked(other)) == ("v2", "v2")
    seen = stage.finish_traffic()
    assert seen.by_outcome == {"ok": seen.requests}
