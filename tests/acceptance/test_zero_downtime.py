"""No request is lost by a switch, and none is executed twice, with an application that dies at once on SIGTERM."""

from __future__ import annotations

from pathlib import Path

from parts import DemoStack
from support.app_counts import sum_app_counts

COMPOSE = """\
services:
  shop:
    image: tidegate-acceptance:${VERSION}
    expose: ["8080"]
    environment: {SERVICE_MS: "5", ON_SIGTERM: exit, COUNTERS: /counters}
    volumes: ["COUNTERS:/counters"]
    stop_grace_period: 5s
    deploy: {replicas: 4, update_config: {parallelism: 1, order: start-first}}
    x-tidegate: {listen: "LISTEN", health: {path: /health}, drain_timeout: 20s, healthy_deadline: 60s}
"""
VERSIONS = ("v1", "v2")
ROLLOUTS, REPLICAS = 3, 4  # as many switches each as there are replicas
RELOADS_AFTER = (1, 2)


def test_twelve_switches_and_two_reloads_lose_nothing(stage: DemoStack) -> None:
    stage.start({f"tidegate-acceptance:{version}": {"VERSION": version} for version in VERSIONS})
    counters = stage.home / "counters"
    counters.mkdir()
    file = stage.home / "compose.yaml"
    file.write_text(COMPOSE.replace("COUNTERS:/", f"{counters}:/").replace("LISTEN", stage.listen))
    deploy(stage, file, "v1")
    stage.start_traffic(get_ka=120, get=60, post_ka=40, post=20, slow_gets=6, slow_posts=4)
    for number in range(1, ROLLOUTS + 1):
        deploy(stage, file, VERSIONS[number % 2])
        if number in RELOADS_AFTER:
            stage.reload_haproxy()
    seen = stage.finish_traffic()
    posts = sum_app_counts(counters).posts

    print(f"{ROLLOUTS * REPLICAS} switches, {len(RELOADS_AFTER)} reloads: {seen.by_outcome}; POSTs executed {posts}")
    assert seen.requests > 2_000, "too little traffic to show anything"
    assert seen.by_outcome == {"ok": seen.requests}, "every request by its outcome"
    assert seen.posts_sent == posts, "POSTs sent and POSTs executed"


def deploy(stage: DemoStack, file: Path, version: str) -> None:
    """One rollout to the end, which must be good."""
    stage.tidegate("deploy", f"{stage.environment}/shop", "-f", str(file), "--until", "end", "--set", f"VERSION={version}")
    report = stage.report()
    assert report["phase"] == "succeeded", report["reason"]
    assert [batch["lost"] for batch in report["steps"] if batch["lost"]] == [], "the proxy's own counters agree"
