"""`GET /v1/discovery/prometheus`: what Prometheus is told, also while Docker does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import Running, running
from tidegate.errors import PlatformError
from tidegate.web.discovered import Discovered

PATH = "/v1/discovery/prometheus"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as made:
        yield made


def told(api: Running, query: str = "", **options: Any) -> list[dict[str, Any]]:
    answer = api.call("GET", PATH + query, **options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    found: list[dict[str, Any]] = answer.json()
    return found


def served(api: Running) -> None:
    with api.engine():
        api.until(api.deploy()["id"], "succeeded")


def test_every_instance_is_a_target_with_its_release(api: Running) -> None:
    assert told(api) == []
    served(api)
    found = told(api)
    assert [each["labels"]["ordinal"] for each in found] == ["0", "1", "2"]
    assert all(len(each["targets"]) == 1 and ":" in each["targets"][0] for each in found)
    kept = [{name: each["labels"][name] for name in ("environment", "service", "release")} for each in found]
    assert kept == [{"environment": "demo", "service": "shop", "release": "v1-1"}] * 3
    assert {each["labels"]["__meta_tidegate_role"] for each in found} == {"live"}


def test_roles_follow_a_rollout(api: Running) -> None:
    served(api)
    with api.engine():
        rollout, kinds = api.deploy("v2", "hold: [1], drain: 1s"), set[str]()
        while "held" not in kinds:
            events = api.call("GET", f"/v1/rollouts/{rollout['id']}/events").json()["events"]
            kinds = {each["kind"] for each in events}
        roles = {(each["labels"]["release"], each["labels"]["__meta_tidegate_role"]) for each in told(api)}
        assert roles == {("v1-1", "baseline"), ("v2-2", "candidate")}


def test_only_what_is_asked_for_and_may_be_read(api: Running) -> None:
    served(api)
    assert len(told(api, "?environment=demo&service=shop")) == 3
    assert len(told(api, "?service=demo/shop")) == 3
    assert told(api, "?environment=live") == []
    assert told(api, token=api.token_for("read", services=("live/*",))) == []
    assert api.call("GET", PATH, token="").status_code == 401


def test_while_docker_does_not_answer_the_last_targets_stay(api: Running) -> None:
    served(api)
    platform, known = api.wiring.environments["demo"].platform, Discovered()
    before = known.instances(platform, "demo/shop", 1_000.0)
    assert len(before) == 3
    api.world.always["instances"] = PlatformError("the engine is down")
    assert known.instances(platform, "demo/shop", 1_059.0) == before
    with pytest.raises(PlatformError, match="the engine is down"):
        known.instances(platform, "demo/shop", 1_061.0)


def test_an_outage_that_nothing_is_known_before_is_an_error(api: Running) -> None:
    served(api)
    api.world.always["instances"] = PlatformError("the engine is down")
    answer = api.call("GET", PATH)
    assert (answer.status_code, answer.json()["code"]) == (502, "platform-error")
    assert "the engine is down" in answer.text


def test_one_question_serves_those_that_ask_at_once(api: Running) -> None:
    served(api)
    api.world.calls.clear()
    for _ in range(5):
        told(api)
    assert api.world.calls.count("instances") <= 1
