"""What every store must do for plans, the history of releases, and services that are removed; part of `StoreContract`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.store_fixtures import ManualClock, a_key, a_rollout, a_service, an_event, begin, finish
from tidegate.core import drift
from tidegate.core.model import Rollout
from tidegate.core.phases import Phase
from tidegate.core.records import DeploymentPlan, PlannedService
from tidegate.errors import ListenTaken, RouteTaken, UnknownService, VersionConflict
from tidegate.store.plans import MAX_AGE_SECONDS
from tidegate.store_port import Store

SHOP, CART = a_service(), a_service("cart")
SUCCEEDED = (Phase.RUNNING, Phase.SUCCEEDED)


def begin_removal(store: Store) -> Rollout:
    """Of the shop, whose live release is the first one."""
    release = store.get_release(SHOP.key, "v1-1").release
    rollout = drift.make_removal(SHOP, release, "away", 1_000_002.0, "eva", live=True)
    assert store.create(rollout, SHOP, None, a_key("away"), drift.created_event(rollout, "removal")) is None
    return rollout


class LifecycleContract:
    """The cases."""

    def test_a_plan_is_kept_for_a_week(self, store: Store, clock: ManualClock) -> None:
        plan = DeploymentPlan("p1", SHOP.key, clock(), (PlannedService(SHOP, "v1-1", 3), PlannedService(CART, None)))
        store.add_plan(plan)
        assert (store.find_plan("p1"), store.find_plan("p2")) == (plan, None)
        clock.forward(MAX_AGE_SECONDS + 1)
        assert store.find_plan("p1") is None

    def test_conflicts_are_found_without_storing_anything(self, store: Store) -> None:
        finish(store, begin(store, SHOP), *SUCCEEDED)
        assert SHOP.backend is not None
        rival = replace(CART, backend=replace(SHOP.backend, listen=SHOP.backend.listen))
        assert [type(error) for error in store.find_conflicts(rival)] == [RouteTaken, ListenTaken]
        assert store.find_conflicts(SHOP) == ()
        assert [row.service.key for row in store.services()] == [SHOP.key]

    def test_a_rollout_has_the_definition_that_it_was_requested_with(self, store: Store) -> None:
        finish(store, begin(store, SHOP), *SUCCEEDED)
        store.put_service(replace(SHOP, bake_seconds=99.0))
        assert store.get_definition("shop-1") == SHOP

    def test_each_release_has_the_rollout_that_created_it(self, store: Store) -> None:
        finish(store, begin(store, SHOP, 1), *SUCCEEDED)
        finish(store, begin(store, SHOP, 2), *SUCCEEDED)
        back = replace(a_rollout(SHOP, 1), id="back")
        assert store.create(back, SHOP, None, a_key("back"), an_event("created")) is None
        created = store.created_by(SHOP.key, ["v1-1", "v2-2", "v9-9"])
        assert {release: rollout.id for release, rollout in created.items()} == {"v1-1": "shop-1", "v2-2": "shop-2"}

    def test_a_removed_service_is_unknown_and_its_name_and_route_are_free(self, store: Store) -> None:
        finish(store, begin(store, SHOP), *SUCCEEDED)
        finish(store, begin_removal(store), *SUCCEEDED)
        with pytest.raises(UnknownService):
            store.get_service(SHOP.key)
        assert store.services() == store.watched_services("demo") == ()
        assert SHOP.backend is not None
        store.put_service(replace(CART, backend=SHOP.backend))
        assert [rollout.id for rollout in store.rollouts(SHOP.key)] == ["away", "shop-1"]
        store.remove_service(CART.key)
        with pytest.raises(VersionConflict):
            store.put_service(SHOP, version=1)
        row = store.put_service(SHOP, version=0)
        assert (row.live, row.version) == (None, 2), "the version of what was there before names nothing"

    def test_a_removal_that_is_rolled_back_changes_nothing(self, store: Store) -> None:
        finish(store, begin(store, SHOP), *SUCCEEDED)
        finish(store, begin_removal(store), Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        row = store.get_service(SHOP.key)
        assert (row.live, row.rollout) == ("v1-1", None)
        assert store.get_release(SHOP.key, "v1-1").quarantined_at is None
