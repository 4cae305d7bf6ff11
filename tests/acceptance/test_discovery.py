"""The blocks of docs/discovery.md as they stand, on a real Prometheus, with real containers, through a rollout."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml

import parts
from parts import DemoStack
from support.wait import eventually

PAGE = Path(__file__).parents[2] / "docs" / "discovery.md"
COMPOSE = """\
services:
  shop:
    image: tidegate-discovery:${VERSION}
    expose: ["8080"]
    stop_grace_period: 2s
    deploy: {replicas: 2, update_config: {parallelism: 1, order: start-first}}
    x-tidegate: {listen: "LISTEN", health: {path: /health}, drain_timeout: 5s, approval: {after: HOLD}}
"""


def configuration(environment: str) -> str:
    """All of the page's jobs, and one more with its example of another port and path; as `DemoStack` wants it."""
    text = PAGE.read_text().replace("environment=production", f"environment={environment}")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    http, docker, haproxy = (job for block in blocks for job in block.get("scrape_configs", ()))
    (example,) = (block for block in blocks if "scrape_configs" not in block)
    docker["job_name"] = "docker"
    jobs = [http, docker, haproxy, {**http, **example, "job_name": "elsewhere"}]
    written = json.dumps({"scrape_configs": jobs})  # YAML, too
    for interval in ("scrape_interval", "refresh_interval"):
        written = written.replace(f'"{interval}": "5s"', f'"{interval}": "1s"')
    written = written.replace("{", "{{").replace("}", "}}").replace("/etc/prometheus/tidegate-token", "{home}/token")
    return written.replace("127.0.0.1:7070", "127.0.0.1:{tidegate}").replace("127.0.0.1:8405", "127.0.0.1:{exporter}")


class DiscoveredTargets:
    """What Prometheus has."""

    def __init__(self, stage: DemoStack) -> None:
        self._url = f"http://127.0.0.1:{stage.state.ports['prometheus']}/api/v1"

    def targets(self, job: str) -> list[dict[str, Any]]:
        """The active targets of a job."""
        with urlopen(f"{self._url}/targets?state=active", timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["activeTargets"]
        return [each for each in found if each["scrapePool"] == job]

    def serving(self, job: str) -> Counter[tuple[str, str]]:
        """(release, role) of the targets that answer; without a role where the job knows none."""
        answering = [target for target in self.targets(job) if target["health"] == "up"]
        role = "__meta_tidegate_role"
        return Counter((each["labels"]["release"], each["discoveredLabels"].get(role, "")) for each in answering)

    def series(self, query: str) -> list[dict[str, str]]:
        """The labels of what a query finds now."""
        with urlopen(f"{self._url}/query?query={quote(query)}", timeout=60) as answer:
            return [each["metric"] for each in json.load(answer)["data"]["result"]]


def deploy(stage: DemoStack, version: str, *, hold: str) -> None:
    """Ask for it, and do not wait."""
    file = stage.home / f"{version}.yaml"
    file.write_text(COMPOSE.replace("LISTEN", stage.listen).replace("HOLD", hold))
    stage.tidegate("deploy", stage.service, "-f", str(file), "--no-wait", "--set", f"VERSION={version}")


def held(stage: DemoStack) -> bool:
    rollout = stage.api(f"/v1/rollouts?service={stage.service}&limit=1")["rollouts"][0]
    return any(
        event["kind"] == "waiting_for_approval" for event in stage.api(f"/v1/rollouts/{rollout['id']}/events")["events"]
    )


def test_prometheus_follows_a_rollout(stage: DemoStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PROMETHEUS", configuration(stage.environment))
    stage.start({f"tidegate-discovery:{version}": {"VERSION": version} for version in ("v1", "v2")})
    seen = DiscoveredTargets(stage)
    deploy(stage, "v1", hold="[]")
    assert stage.await_end() == "succeeded"
    eventually("Tidegate's discovery finds v1", lambda: seen.serving("instances") == {("v1-1", "live"): 2})
    eventually("Docker's discovery finds v1", lambda: seen.serving("docker") == {("v1-1", ""): 2})
    the_first_release_is_told(stage, seen)
    deploy(stage, "v2", hold="[1]")
    eventually("the rollout waits for a person", lambda: held(stage))
    eventually(
        "Tidegate's discovery finds both",
        lambda: set(seen.serving("instances")) == {("v1-1", "baseline"), ("v2-2", "candidate")},
    )
    eventually("Docker's discovery finds both", lambda: set(seen.serving("docker")) == {("v1-1", ""), ("v2-2", "")})
    stage.tidegate("promote", stage.service, "-m", "seen in Prometheus")
    assert stage.await_end() == "succeeded"
    eventually("Tidegate's discovery finds v2", lambda: seen.serving("instances") == {("v2-2", "live"): 2})
    eventually("Docker's discovery finds v2", lambda: seen.serving("docker") == {("v2-2", ""): 2})


def the_first_release_is_told(stage: DemoStack, seen: DiscoveredTargets) -> None:
    """With the labels that the checks need, however it was found; and nothing else of Tidegate's."""
    own = {"environment": stage.environment, "service": "shop", "release": "v1-1"}
    for job in ("instances", "docker"):
        labels = sorted((target["labels"] for target in seen.targets(job)), key=lambda each: str(each["ordinal"]))
        addresses = [label.pop("instance") for label in labels]
        assert labels == [{**own, "job": job, "ordinal": ordinal} for ordinal in ("0", "1")]
        assert len(set(addresses)) == 2
        query = f'http_requests_total{{job="{job}",release="v1-1",code="200"}}'
        eventually(f"{job}: both are scraped", lambda query=query: len(seen.series(query)) == 2)
    for target in seen.targets("elsewhere"):
        assert re.fullmatch(r"http://[\d.]+:9102/internal/metrics", target["scrapeUrl"])
        assert target["labels"]["version"] == "v1"
    query = 'haproxy_server_http_responses_total{release="v1-1",code="2xx"}'
    eventually("both have responses", lambda: sorted(each["ordinal"] for each in seen.series(query)) == ["0", "1"])
