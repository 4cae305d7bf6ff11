"""What every store must do for services between rollouts, and for rollouts that stay with a release; part of
`StoreContract`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.store_fixtures import (
    ManualClock,
    a_key,
    a_release,
    a_rollout,
    a_service,
    an_event,
    begin,
    claim_due,
    finish,
    run_concurrently,
)
from tidegate.core import drift
from tidegate.core.model import Rollout, Service
from tidegate.core.phases import Phase
from tidegate.core.records import Drift, DriftState, NewRollout
from tidegate.errors import LeaseLost, RolloutInProgress
from tidegate.store_port import Store

SHOP, CART = a_service(), a_service("cart")
DRIFT = Drift("1 of v1-1 missing", 5.0, DriftState.SEEN)


def create_live_service(store: Store, service: Service = SHOP) -> None:
    """Release 1 serves."""
    finish(store, begin(store, service), Phase.RUNNING, Phase.SUCCEEDED)


def repairing(store: Store, name: str = "repair") -> Rollout:
    """A repair of it was asked for."""
    rollout = drift.make_repair(SHOP, a_release(SHOP, 1), name, 1_000_010.0)
    assert store.create(rollout, SHOP, None, a_key(name), an_event("created")) is None
    return rollout


def scaling(replicas: int, release: int = 1) -> Rollout:
    """Not stored yet."""
    return drift.make_scaling(SHOP, a_release(SHOP, release), replicas, "scale", 1_000_010.0, "ada")


class DriftContract:
    """Looks, drift, repairs that give way, scaling."""

    def test_an_event_between_rollouts_is_added_to_the_last_one_once(self, store: Store) -> None:
        store.add_late_event(SHOP.key, an_event("nobody has it"))
        create_live_service(store)
        last = store.rollouts(SHOP.key)[0].id
        before = len(store.events(last))
        for _ in range(2):
            store.add_late_event(SHOP.key, an_event("late"))
        assert [event.number for event in store.events(last)][before:] == [before + 1]
        repairing(store)
        store.add_late_event(SHOP.key, an_event("during a rollout"))
        assert (len(store.events(last)), len(store.events("repair"))) == (before + 1, 1)

    def test_a_service_is_watched_while_it_runs_and_can_be_made_due(self, store: Store, clock: ManualClock) -> None:
        create_live_service(store)
        begin(store, CART, 1)
        store.put_service(a_service("stored"))
        assert {*store.watched_services("demo")} == {SHOP.key, CART.key}
        assert store.next_drift_check("demo", 60.0) is not None
        assert store.next_drift_check("demo", 60.0) is None
        store.observe_soon(SHOP.key)
        assert store.next_drift_check("demo", 60.0) is not None
        claim = claim_due(store)
        store.release(claim, clock() + 60.0)
        assert store.claim("bert", 15.0) is None
        store.observe_soon(CART.key)
        claim = claim_due(store)
        store.observe_soon(CART.key)
        store.release(claim, clock() + 60.0)
        assert claim_due(store).rollout == claim.rollout, "also when it was noticed while an engine drove it"

    def test_a_service_is_given_out_once_in_a_while(self, store: Store, clock: ManualClock) -> None:
        create_live_service(store)
        create_live_service(store, CART)
        given = [store.next_drift_check("demo", 5.0) for _ in range(3)]
        assert {each.service.key for each in given if each} == {SHOP.key, CART.key}
        assert given[2] is None
        assert store.next_drift_check("elsewhere", 5.0) is None
        clock.forward(5.0)
        assert store.next_drift_check("demo", 5.0) is not None

    def test_two_that_look_at_once_do_not_get_the_same(self, store: Store) -> None:
        create_live_service(store)
        found = run_concurrently(*[lambda: store.next_drift_check("demo", 5.0)] * 4)
        assert [each is None for each in found].count(False) == 1

    def test_one_that_serves_nothing_or_is_driven_is_not_given_out(self, store: Store) -> None:
        store.put_service(CART)
        create_live_service(store)
        begin(store, SHOP, 2, a_release(SHOP, 1))
        assert store.next_drift_check("demo", 5.0) is None

    def test_what_was_found_is_kept_until_something_is_asked_for(self, store: Store) -> None:
        create_live_service(store)
        store.set_drift(SHOP.key, DRIFT)
        assert store.get_service(SHOP.key).drift == store.services()[0].drift == DRIFT
        repairing(store)
        assert store.get_service(SHOP.key).drift == DRIFT
        begin(store, SHOP, 2, a_release(SHOP, 1))
        assert store.get_service(SHOP.key).drift is None
        store.set_drift(SHOP.key, DRIFT)
        assert store.get_service(SHOP.key).drift is None, "what is seen in the middle of a rollout is its doing"

    def test_a_repair_gives_way_at_once(self, store: Store) -> None:
        create_live_service(store)
        repairing(store)
        claim = claim_due(store)
        row = store.get_service(SHOP.key)
        assert (row.rollout, row.repairing) == ("repair", True)
        deploy = begin(store, SHOP, 2, a_release(SHOP, 1))
        row = store.get_service(SHOP.key)
        assert (row.rollout, row.repairing) == (deploy.id, False)
        ended, _ = store.load("repair")
        assert ended.phase is Phase.ROLLED_BACK
        assert deploy.id in ended.reason
        assert store.events("repair")[-1].kind == "superseded"
        for late in (
            lambda: store.renew(claim, 10.0),
            lambda: store.add_events("repair", [an_event()], claim.fence),
            lambda: store.save(replace(ended, phase=Phase.RUNNING), (), claim.fence),
        ):
            with pytest.raises(LeaseLost):
                late()
        assert claim_due(store).fence > claim.fence, "a router refuses what the repair's engine still writes"

    def test_it_goes_on_where_the_other_one_is_refused(self, store: Store) -> None:
        create_live_service(store)
        repairing(store)
        begin(store, CART)
        other = a_rollout(SHOP, 2, a_release(SHOP, 1))
        cart = NewRollout(a_rollout(CART, 2), CART, a_release(CART, 2), an_event())
        with pytest.raises(RolloutInProgress, match="cart"):
            store.create(other, SHOP, a_release(SHOP, 2), a_key("k"), an_event(), others=[cart])
        assert store.load("repair")[0].phase is Phase.PENDING

    def test_a_repair_does_not_drive_anything_else_out(self, store: Store) -> None:
        create_live_service(store)
        repairing(store)
        with pytest.raises(RolloutInProgress, match="repair"):
            repairing(store, "another")
        begin(store, SHOP, 2, a_release(SHOP, 1))
        with pytest.raises(RolloutInProgress, match="shop-2"):
            repairing(store, "late")

    def test_a_repair_says_nothing_of_its_release(self, store: Store) -> None:
        create_live_service(store)
        before = store.get_release(SHOP.key, "v1-1")
        finish(store, repairing(store), Phase.RUNNING, Phase.FAILED)
        finish(store, repairing(store, "again"), Phase.RUNNING, Phase.SUCCEEDED)
        assert store.get_release(SHOP.key, "v1-1") == before

    def test_a_scaling_counts_when_it_succeeded(self, store: Store) -> None:
        create_live_service(store)
        store.put_service(replace(SHOP, image="shop:v9"))
        store.create(scaling(7), SHOP, None, a_key("k"), an_event("created"))
        assert store.get_service(SHOP.key).service.replicas == SHOP.replicas
        finish(store, store.load("scale")[0], Phase.RUNNING, Phase.SUCCEEDED)
        assert store.get_service(SHOP.key).service == replace(SHOP, image="shop:v9", replicas=7)
        assert store.get_release(SHOP.key, "v1-1").release.replicas == 7

    def test_a_scaling_that_was_turned_back_changes_nothing(self, store: Store) -> None:
        create_live_service(store)
        store.create(scaling(7), SHOP, None, a_key("k"), an_event("created"))
        finish(store, store.load("scale")[0], Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        assert store.get_service(SHOP.key).service == SHOP
        row = store.get_release(SHOP.key, "v1-1")
        assert (row.release.replicas, row.quarantined_at) == (SHOP.replicas, None)

    def test_what_was_made_for_another_release_or_number_is_refused(self, store: Store) -> None:
        create_live_service(store)
        late = scaling(5)
        finish(store, _stored(store, scaling(7)), Phase.RUNNING, Phase.SUCCEEDED)
        with pytest.raises(RolloutInProgress, match="came first"):
            store.create(replace(late, id="late"), SHOP, None, a_key("l"), an_event())
        finish(store, begin(store, SHOP, 2, a_release(SHOP, 1)), Phase.RUNNING, Phase.SUCCEEDED)
        with pytest.raises(RolloutInProgress, match="came first"):
            repairing(store)


def _stored(store: Store, rollout: Rollout) -> Rollout:
    store.create(rollout, SHOP, None, a_key(rollout.id), an_event("created"))
    return rollout
