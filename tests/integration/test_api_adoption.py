"""Import of what Docker Compose runs, and release back to it, over the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import RunningApi, running
from tidegate.core.compose import ComposeContainer
from tidegate.core.phases import Phase

SHOP = "/v1/services/demo/shop"
COMPOSE = """\
name: books
services:
  shop:
    image: shop:v1
    ports: ["8000:8080"]
    x-tidegate: {health: {path: /health}}
"""
RUNNING = ComposeContainer(
    "local", "running", id="c1", image="shop:v1", digest="sha256:1", published=((8080, "0.0.0.0:8000"),)
)
OTHER = ComposeContainer("local", "running", id="c2", image="shop:v0", digest="sha256:0")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running(tmp_path) as made:
        yield made


def body(**more: str) -> dict[str, Any]:
    return {"compose": COMPOSE, "listen": "127.0.0.1:18000", **more}


def test_running_containers_become_the_first_release(api: RunningApi) -> None:
    api.world.compose["books", "shop"] = [RUNNING]
    answer = api.post(f"{SHOP}/import", body(reason="moving"))
    assert answer.status_code == 202, answer.text
    rollout = answer.json()
    assert (rollout["old"], rollout["new"], rollout["image"]) == (None, "v1-1", "shop:v1")
    assert [(step["fleet"], step["route"]) for step in rollout["steps"]] == [({"v1-1": 1}, {"v1-1": 1})]
    assert api.wiring.store.get_release("demo/shop", "v1-1").release.digest == "sha256:1"
    stored, _ = api.wiring.store.load(rollout["id"])
    assert stored.backend is not None
    assert (stored.backend.listen, stored.next_listen) == ("127.0.0.1:18000", "")
    assert stored.adopted is not None
    assert (stored.adopted.containers, stored.adopted.next_listen) == (("c1",), "8000")

    api.save(rollout["id"], Phase.RUNNING, Phase.SUCCEEDED)
    again = api.post(f"{SHOP}/import", body())
    assert (again.status_code, again.json()["code"]) == (409, "refused")
    first = api.post(f"{SHOP}/rollouts", {"compose": COMPOSE}).json()
    stored, _ = api.wiring.store.load(first["id"])
    assert stored.backend is not None
    assert (stored.backend.listen, stored.next_listen) == ("127.0.0.1:18000", "8000"), "the container has the port"


@pytest.mark.parametrize(
    ("containers", "more", "status", "text"),
    [
        ([], {}, 409, "Run docker compose -p books up -d shop"),
        ([ComposeContainer("local", "exited", exit_status=0)], {}, 409, "no container of shop runs"),
        ([RUNNING, OTHER], {}, 409, "different images"),
        ([RUNNING], {"listen": ""}, 422, "0.0.0.0:8000 is published by the container of shop"),
        ([RUNNING], {"listen": "127.0.0.1:8000"}, 422, "set another address"),
        ([RUNNING], {"listen": "nowhere"}, 422, "a port such as 8001"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    api: RunningApi, containers: list[ComposeContainer], more: dict[str, str], status: int, text: str
) -> None:
    api.world.compose["books", "shop"] = containers
    answer = api.post(f"{SHOP}/import", body(**more))
    assert answer.status_code == status, answer.text
    assert text in answer.text


def test_only_what_was_imported_is_released(api: RunningApi) -> None:
    api.world.compose["books", "shop"] = [RUNNING]
    imported = api.post(f"{SHOP}/import", body()).json()
    api.save(imported["id"], Phase.RUNNING, Phase.SUCCEEDED)
    answer = api.post(f"{SHOP}/release", {"reason": "back"})
    assert answer.status_code == 202, answer.text
    rollout, _ = api.wiring.store.load(answer.json()["id"])
    assert (rollout.kind.value, rollout.adopted) == ("remove", None), "Compose's container is no instance any more"
