"""Which images `keep_images` allows to be removed: none that is in use, or that a rollback may need."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.fake_drivers import FakeEnvironment, a_release, a_service, claimed, digest, request_rollout, sqlite
from tidegate.core.image_retention import removable_images
from tidegate.core.model import Release, Service
from tidegate.core.phases import Phase
from tidegate.engine.image_pruner import ImagePruner
from tidegate.store.store import SqlStore

SHOP = a_service(keep_images=2)


def release(number: int, of: str = "") -> Release:
    return replace(a_release(SHOP, number), digest=of or f"sha256:{number}")


def ids(releases: tuple[Release, ...]) -> set[str]:
    return {one.id for one in releases}


def test_the_newest_and_the_needed_stay() -> None:
    releases = [release(number) for number in (6, 5, 4, 3, 2, 1)]
    assert ids(removable_images(releases, 2, {"v3-3"})) == {"v4-4", "v2-2", "v1-1"}


def test_an_image_that_two_releases_have_stays_with_the_newer() -> None:
    releases = [release(3, "sha256:same"), release(2), release(1, "sha256:same")]
    assert ids(removable_images(releases, 1, ())) == {"v2-2"}


def test_a_release_without_a_digest_has_no_image() -> None:
    assert removable_images([release(2), replace(release(1), digest="")], 1, ()) == ()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with sqlite(tmp_path, time.time) as made:
        yield made


def deploy(store: SqlStore, service: Service, number: int, *phases: Phase) -> None:
    """A rollout to the release of this number from the live one, which ends in the last phase."""
    rollout = request_rollout(store, service, number, time.time, old=number - 1 if number > 1 else None)
    claim = claimed(store)
    store.set_digest(service.key, f"v{number}-{number}", digest(f"{service.name}:{number}"), claim.fence, rollout)
    saved, _ = store.load(rollout)
    for phase in phases:
        finished = None if phase.live else time.time()
        saved = store.save(replace(saved, phase=phase, finished=finished), (), claim.fence)
    store.release(claim, time.time() if saved.phase.live else None)


SUCCEEDED = (Phase.RUNNING, Phase.SUCCEEDED)


def test_the_live_release_and_the_one_before_stay_however_old(store: SqlStore) -> None:
    world, shop = FakeEnvironment(time.time), replace(SHOP, keep_images=1)
    for number in (1, 2, 3):
        deploy(store, shop, number, *SUCCEEDED)
    for number in (4, 5):
        deploy(store, shop, number, Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    ImagePruner(store, {"demo": world.parts()}).prune("demo")
    assert set(world.removed_images) == {digest("shop:1"), digest("shop:4")}, "5 is the newest, 3 is live, 2 is before it"


def test_what_a_live_rollout_is_about_stays(store: SqlStore) -> None:
    world, shop = FakeEnvironment(time.time), replace(SHOP, keep_images=1)
    for number in (1, 2):
        deploy(store, shop, number, *SUCCEEDED)
    deploy(store, shop, 3, Phase.RUNNING)
    ImagePruner(store, {"demo": world.parts()}).prune("demo")
    assert world.removed_images == []


def test_an_image_of_another_service_stays(store: SqlStore) -> None:
    world, shop = FakeEnvironment(time.time), replace(SHOP, keep_images=1)
    for number in (1, 2, 3):
        deploy(store, shop, number, *SUCCEEDED)
    cart = a_service("cart")
    rollout = request_rollout(store, cart, 1, time.time)
    claim = claimed(store)
    store.set_digest(cart.key, "v1-1", digest("shop:1"), claim.fence, rollout)
    ImagePruner(store, {"demo": world.parts()}).prune("demo")
    assert world.removed_images == []


def test_a_service_without_the_key_keeps_all(store: SqlStore) -> None:
    world, shop = FakeEnvironment(time.time), replace(SHOP, keep_images=0)
    for number in range(1, 5):
        deploy(store, shop, number, *SUCCEEDED)
    ImagePruner(store, {"demo": world.parts()}).prune("demo")
    assert "remove images" not in world.calls
