"""`kill -9` of the proxy in the middle of a rollout, whichever proxy it is: it comes back with the route as it was, and the
rollout ends right; with traffic before and after, of which nothing is lost by a switch."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any

import pytest

from parts import DemoStack
from support import envoy, haproxy, nginx
from support.wait import eventually
from tidegate.core.routing import Backend
from tidegate.drivers.routers.envoy.driver import EnvoyOptions, EnvoyRouter
from tidegate.drivers.routers.haproxy.driver import HAProxyRouter
from tidegate.drivers.routers.haproxy.options import HAProxyOptions
from tidegate.drivers.routers.nginx.driver import NginxOptions, NginxRouter
from tidegate.ports import Router

COMPOSE = """\
services:
  shop:
    image: tidegate-acceptance:${VERSION}
    expose: ["8080"]
    environment: {SERVICE_MS: "5", ON_SIGTERM: exit}
    stop_grace_period: 5s
    deploy: {replicas: 2, update_config: {parallelism: 1, order: start-first}}
    x-tidegate: {listen: "LISTEN", health: {path: /health}, drain_timeout: 10s, approval: {after: [1]}}
"""


def haproxy_of(stage: DemoStack) -> tuple[Router, Callable[[], None]]:
    router = HAProxyRouter(HAProxyOptions(directory=stage.home / "haproxy"), stage.environment)
    return router, lambda: haproxy.kill(router)


def nginx_of(stage: DemoStack) -> tuple[Router, Callable[[], None]]:
    status = f"127.0.0.1:{stage.state.ports['exporter']}"  # as in its settings: others would take effect
    router = NginxRouter(NginxOptions(directory=stage.home / "nginx", status=status), stage.environment)
    return router, lambda: nginx.kill(router, stage.home)


def envoy_of(stage: DemoStack) -> tuple[Router, Callable[[], None]]:
    router = EnvoyRouter(EnvoyOptions(directory=stage.home / "envoy"), stage.environment)
    return router, lambda: envoy.kill(router)


PROXIES = {"haproxy": haproxy_of, "nginx": nginx_of, "envoy": envoy_of}


def answered(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    line = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        line.request("GET", "/")
        return line.getresponse().status == 200
    except OSError:
        return False
    finally:
        line.close()


@pytest.mark.parametrize("name", list(PROXIES))
def test_killed_proxy(stage: DemoStack, name: str) -> None:
    stage.start({f"tidegate-acceptance:{version}": {"VERSION": version} for version in ("v1", "v2")}, router=name)
    router, kill = PROXIES[name](stage)
    shop = Backend("shop", stage.listen)
    file = stage.home / "compose.yaml"
    file.write_text(COMPOSE.replace("LISTEN", stage.listen))

    def deploy(version: str) -> None:
        words = ("--no-wait", "--set", f"VERSION={version}")
        stage.tidegate("deploy", stage.service, "-f", str(file), *words)

    def rollout() -> dict[str, Any]:
        found: dict[str, Any] = stage.api(f"/v1/rollouts?service={stage.service}&limit=1")["rollouts"][0]
        return found

    deploy("v1")
    assert stage.await_end() == "succeeded"
    stage.start_traffic(client="checking", get_ka=60, get=30, post_ka=20, post=10)
    deploy("v2")
    eventually("the rollout waits for a person", lambda: rollout()["approval"])
    before, members = stage.finish_traffic(), set(router.read(shop).members)
    kill()
    eventually("the engine has started it", lambda: answered(stage.listen))
    warning = "The proxy was down and has been restarted"
    eventually("the report says so", lambda: any(warning in note["message"] for note in stage.report()["notes"]))
    assert set(router.read(shop).members) == members
    stage.start_traffic(client="checking", get_ka=60, get=30, post_ka=20, post=10)
    stage.tidegate("promote", stage.service, "-m", "the proxy came back", "--no-wait")
    assert stage.await_end() == "succeeded"
    deploy("v1")
    eventually("the rollout waits for a person", lambda: rollout()["approval"])
    after = stage.finish_traffic()
    stage.tidegate("rollback", stage.service, "-m", "with a kill on the way", "--no-wait")
    kill()
    assert stage.await_end() == "rolled_back"
    assert {member.release for member in router.read(shop).members} == {rollout()["old"]}
    assert {container["image"] for container in stage.containers()} == {"tidegate-acceptance:v2"}
    print(f"{name}: {before.by_outcome}, {after.by_outcome}")
    assert before.by_outcome == {"ok": before.requests}
    assert after.by_outcome == {"ok": after.requests}
