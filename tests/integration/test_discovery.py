"""`GET /v1/discovery/prometheus`: what Prometheus is told, also while Docker does not answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.api import RunningApi, running
from support.wait import at_most, eventually
from tidegate.core.model import Instance
from tidegate.errors import PlatformError
from tidegate.web.discovery_cache import THREADS, DiscoveryCache

PATH = "/v1/discovery/prometheus"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


def told(api: RunningApi, query: str = "", **options: Any) -> list[dict[str, Any]]:
    answer = api.call("GET", PATH + query, **options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    found: list[dict[str, Any]] = answer.json()
    return found


def served(api: RunningApi) -> None:
    with api.engine():
        api.until(api.deploy()["id"], "succeeded")


def test_every_instance_is_a_target_with_its_release(api: RunningApi) -> None:
    assert told(api) == []
    served(api)
    found = told(api)
    assert [each["labels"]["ordinal"] for each in found] == ["0", "1", "2"]
    assert all(len(each["targets"]) == 1 and ":" in each["targets"][0] for each in found)
    kept = [{name: each["labels"][name] for name in ("environment", "service", "release")} for each in found]
    assert kept == [{"environment": "demo", "service": "shop", "release": "v1-1"}] * 3
    assert {each["labels"]["__meta_tidegate_role"] for each in found} == {"live"}
    for labels in (each["labels"] for each in found):
        meta = {name.removeprefix("__meta_tidegate_"): labels[name] for name in labels if name.startswith("__meta_")}
        assert {name: meta.pop(name) for name in ("environment", "service", "release", "ordinal")} == {
            name: labels[name] for name in labels if not name.startswith("__meta_")
        }
        assert set(meta) == {"version", "instance", "host", "role", "state"}
        assert (meta["version"], meta["state"]) == ("v1", "ready")


def test_roles_follow_a_rollout(api: RunningApi) -> None:
    served(api)
    with api.engine():
        path = f"/v1/rollouts/{api.deploy('v2', 'approval: {after: [1]}, drain_timeout: 1s')['id']}"
        eventually("it waits for a person", lambda: api.call("GET", path).json()["approval"])
        roles = {(each["labels"]["release"], each["labels"]["__meta_tidegate_role"]) for each in told(api)}
        assert roles == {("v1-1", "baseline"), ("v2-2", "candidate")}


def test_only_what_is_asked_for_and_may_be_read(api: RunningApi) -> None:
    served(api)
    assert len(told(api, "?environment=demo&service=shop")) == 3
    assert len(told(api, "?service=demo/shop")) == 3
    assert told(api, "?environment=live") == []
    assert told(api, token=api.token_for("read", services=("live/*",))) == []
    assert api.call("GET", PATH, token="").status_code == 401


def test_while_docker_does_not_answer_the_last_targets_stay(api: RunningApi) -> None:
    served(api)
    wanted, known = {"demo/shop": api.wiring.environments["demo"].platform}, DiscoveryCache()
    before = known.instances(wanted, 1_000.0)
    assert len(before["demo/shop"]) == 3
    api.world.always["instances"] = PlatformError("the engine is down")
    assert known.instances(wanted, 1_059.0) == before
    with pytest.raises(PlatformError, match="the engine is down"):
        known.instances(wanted, 1_061.0)


class Hanging:
    """A platform that does not answer until it is let go."""

    def __init__(self) -> None:
        self.free, self.asked = threading.Event(), list[str]()
        self.free.set()

    def instances(self, service: str, max_restarts: int = 0) -> tuple[Instance, ...]:
        self.asked.append(service)
        assert self.free.wait(300)
        return ()


def test_an_engine_that_hangs_holds_no_scrape_up() -> None:
    platform, known = Hanging(), DiscoveryCache()
    wanted: dict[str, Any] = {f"demo/shop{number}": platform for number in range(THREADS)}
    assert known.instances(wanted, 1_000.0) == dict.fromkeys(wanted, ())
    platform.free.clear()
    platform.asked.clear()
    try:
        with at_most(25, "two scrapes, a second each for all services together,"):  # one after the other: 32 s
            for at in (1_010.0, 1_020.0):
                assert known.instances(wanted, at) == dict.fromkeys(wanted, ())
        eventually("all were asked", lambda: len(platform.asked) >= len(wanted))
    finally:
        platform.free.set()
    assert sorted(platform.asked) == sorted(wanted), "nobody is asked again while the answer is to come"


def test_services_of_an_environment_that_is_gone_are_left_out(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    served(api)
    with monkeypatch.context() as patch:
        patch.delitem(api.wiring.environments, "demo")  # type: ignore[arg-type]  # it is a dictionary
        assert told(api) == []
    assert len(told(api)) == 3


def test_a_release_that_the_database_does_not_know_is_listed_all_the_same(api: RunningApi) -> None:
    served(api)
    with api.world.lock:
        (name, (instance, at)) = next(iter(api.world.started.items()))
        api.world.started[name] = replace(instance, release="v0-9"), at
    labels = [each["labels"] for each in told(api)]
    assert [each["__meta_tidegate_role"] for each in labels if each["release"] == "v0-9"] == ["left"]
    assert {each["release"]: each["__meta_tidegate_version"] for each in labels} == {"v0-9": "", "v1-1": "v1"}


def test_an_outage_that_nothing_is_known_before_is_an_error(api: RunningApi) -> None:
    served(api)
    api.world.always["instances"] = PlatformError("the engine is down")
    answer = api.call("GET", PATH)
    assert (answer.status_code, answer.json()["code"]) == (502, "platform-error")
    assert "the engine is down" in answer.text


def test_one_question_serves_those_that_ask_at_once(api: RunningApi) -> None:
    served(api)
    api.world.calls.clear()
    for _ in range(5):
        told(api)
    assert api.world.calls.count("instances") <= 1
