"""One service that is slow or greedy stops no other: pulls that never end, instances that hang, requests that grow."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from contextlib import closing
from typing import Any

import pytest

from parts import DemoStack, PartFailed
from processes import free_port
from support.wait import eventually

IMAGE = "tidegate-acceptance-limits"
SERVICE = """\
services:
  NAME:
    image: ${IMAGE}
    expose: ["8080"]
    OPTIONS
    x-tidegate: {listen: "${LISTEN}", drain_timeout: 1s, health: {path: /health}}
"""
SLOW = [f"slow{number}" for number in range(4)]  # as many as the engine has threads


def deploy(stage: DemoStack, name: str, image: str, listen: str, *words: str, options: str = "") -> dict[str, Any]:
    """A deployment; the newest rollout of the service afterwards."""
    file = stage.home / f"{name}.yaml"
    file.write_text(SERVICE.replace("NAME", name).replace("OPTIONS", options))
    service = f"{stage.environment}/{name}"
    stage.tidegate("deploy", service, "-f", str(file), f"--set=IMAGE={image}", f"--set=LISTEN={listen}", *words)
    return newest(stage, name)


def newest(stage: DemoStack, name: str) -> dict[str, Any]:
    found: dict[str, Any] = stage.api(f"/v1/rollouts?service={stage.environment}/{name}&limit=1")["rollouts"][0]
    return found


def is_ready(stage: DemoStack) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{stage.state.ports['tidegate']}/readyz", timeout=60) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError:
        return False


def test_one_service_stops_no_other(stage: DemoStack) -> None:
    """In one stage, since starting it takes longer than the rest."""
    stage.start({f"{IMAGE}:{version}": {"VERSION": version} for version in ("v1", "v2")})
    deploy(stage, "shop", f"{IMAGE}:v1", stage.listen, "--until", "end")
    refuse_a_request_that_grows(stage)
    deploy_while_four_pulls_never_end(stage)


def refuse_a_request_that_grows(shop: DemoStack) -> None:
    """1 KB that would become 10^18 bytes."""
    (shop.home / "grow.env").write_text("A=xxxxxxxxxxxxxxxx\n" + "A=${A}${A}\n" * 56)
    with pytest.raises(PartFailed, match="come to more than 1,048,576 characters"):
        deploy(shop, "grow", f"{IMAGE}:v1", f"127.0.0.1:{free_port()}", options="env_file: grow.env")
    assert is_ready(shop)


def deploy_while_four_pulls_never_end(shop: DemoStack) -> None:
    """A registry that accepts connections and never answers: Docker waits for it as long as Tidegate does."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        registry = f"127.0.0.1:{silent.getsockname()[1]}"
        for name in SLOW:
            deploy(shop, name, f"{registry}/{name}:v1", f"127.0.0.1:{free_port()}", "--no-wait")

        def pulls() -> bool:
            waits = [newest(shop, name)["waiting_for"] for name in SLOW]
            return all(wait and wait["reason"].startswith("Pulling image") for wait in waits)

        eventually("all four say what they wait for", pulls)
        assert deploy(shop, "shop", f"{IMAGE}:v2", shop.listen, "--until", "end")["phase"] == "succeeded"
        shop.tidegate("rollback", shop.service)
        assert newest(shop, "shop")["phase"] == "succeeded", "back to the release before"
        with urllib.request.urlopen(f"http://{shop.listen}/", timeout=60) as response:
            assert response.headers["X-Version"] == "v1"
        assert {newest(shop, name)["phase"] for name in SLOW} == {"pending"}, json.dumps(newest(shop, SLOW[0]))
        assert is_ready(shop)
        shop.tidegate("rollback", f"{shop.environment}/{SLOW[0]}")
        assert newest(shop, SLOW[0])["phase"] == "rolled_back", "while its image is still being pulled"
    eventually("the others end without an image", lambda: {newest(shop, name)["phase"] for name in SLOW[1:]} == {"refused"})
