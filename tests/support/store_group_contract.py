"""What every store must do for rollouts that are promoted and turned back as one; part of `StoreContract`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.store_fixtures import a_key, a_release, a_rollout, a_service, an_event, begin, claim_due
from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.clock import Window
from tidegate.core.approvals import approval_binding
from tidegate.core.hooks import Hook, TaskRun, TaskState
from tidegate.core.model import (
    FailureAction,
    Rollout,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Gate
from tidegate.core.records import NewRollout
from tidegate.errors import RolloutInProgress, UnknownRollout, VersionConflict
from tidegate.store_port import Store

SHOP, CART = a_service(), a_service("cart")


def create_group(store: Store) -> tuple[Rollout, Rollout]:
    """The shop's and the cart's, whose first steps wait for each other."""
    shop, cart = (replace(a_rollout(service, 1), group="shop-1") for service in (SHOP, CART))
    point = Gate(approval="promote", group_point=1)
    shop, cart = (replace(each, plan=(replace(each.plan[0], gate=point), *each.plan)) for each in (shop, cart))
    other = NewRollout(cart, CART, a_release(CART, 1), an_event("created"))
    key = a_key("together")
    assert store.create(shop, SHOP, a_release(SHOP, 1), key, an_event("created"), others=[other]) is None
    return shop, cart


def signals(store: Store, rollout: str) -> list[tuple[SignalKind, int | None]]:
    """What was asked of it."""
    return [(each.kind, each.step) for each in store.load(rollout)[1]]


class GroupContract:
    """Groups, and what is recorded of tasks."""

    def test_all_of_a_group_are_created_or_none(self, store: Store) -> None:
        begin(store, CART)
        other = NewRollout(replace(a_rollout(CART, 2), group="g"), CART, a_release(CART, 2), an_event("created"))
        shop = replace(a_rollout(SHOP, 1), group="g")
        with pytest.raises(RolloutInProgress, match="cart"):
            store.create(shop, SHOP, a_release(SHOP, 1), a_key("k"), an_event("created"), others=[other])
        with pytest.raises(UnknownRollout):
            store.load(shop.id)

    def test_peers_are_the_others_of_the_group(self, store: Store) -> None:
        shop, cart = create_group(store)
        assert store.peers(shop.id, shop.group) == (cart,)
        assert store.peers(cart.id, cart.group) == (shop,)

    def test_each_of_a_group_is_driven_by_itself(self, store: Store) -> None:
        create_group(store)
        assert {claim_due(store).rollout, claim_due(store).rollout} == {"shop-1", "cart-1"}

    @pytest.mark.parametrize("kind", [SignalKind.ROLLBACK, SignalKind.PAUSE, SignalKind.FORCE])
    def test_a_wish_is_for_all(self, store: Store, kind: SignalKind) -> None:
        shop, cart = create_group(store)
        store.signal(shop.id, Signal(kind, 1.0, "ada", "why"))
        assert signals(store, shop.id) == signals(store, cart.id) == [(kind, None)]
        assert store.load(cart.id)[0].paused is (kind is SignalKind.PAUSE)
        assert store.events(cart.id)[-1].data["by"] == "ada"

    def test_an_approval_is_for_all_that_wait_at_the_same_point(self, store: Store) -> None:
        shop, cart = create_group(store)
        store.signal(shop.id, Signal(SignalKind.PROMOTE, 1.0, "ada", "why", 0))
        assert signals(store, cart.id) == [(SignalKind.PROMOTE, 0)]

    def test_an_approval_is_not_for_one_that_stands_elsewhere(self, store: Store) -> None:
        shop, cart = create_group(store)
        for claim in (claim_due(store), claim_due(store)):
            if claim.rollout == cart.id:
                store.save(replace(cart, phase=Phase.RUNNING, cursor=1), (), claim.fence)
        store.signal(shop.id, Signal(SignalKind.PROMOTE, 1.0, "ada", "why", 0))
        assert signals(store, cart.id) == []

    def test_an_approval_answers_no_verdict_of_another(self, store: Store) -> None:
        shop, cart = create_group(store)
        failed = Verdict(Outcome.FAIL, 2.0, Window(1.0, 2.0), (), "judged", False)
        policy = replace(cart.policy, failure_action=FailureAction.PAUSE)
        for claim in (claim_due(store), claim_due(store)):
            if claim.rollout == cart.id:
                store.save(replace(cart, phase=Phase.RUNNING, policy=policy, verdict=failed), (), claim.fence)
        store.signal(shop.id, Signal(SignalKind.PROMOTE, 3.0, "ada", "why", 0))
        assert signals(store, cart.id) == []
        with pytest.raises(VersionConflict):
            store.signal(cart.id, Signal(SignalKind.PROMOTE, 3.0, "ada", "why", 0, binding=approval_binding(cart)))

    def test_one_that_is_over_is_left_alone(self, store: Store) -> None:
        shop, cart = create_group(store)
        for claim in (claim_due(store), claim_due(store)):
            if claim.rollout == cart.id:
                running = store.save(replace(cart, phase=Phase.RUNNING), (), claim.fence)
                store.save(replace(running, phase=Phase.SUCCEEDED, finished=2.0), (), claim.fence)
        store.signal(shop.id, Signal(SignalKind.ROLLBACK, 3.0, "ada"))
        assert signals(store, cart.id) == []

    def test_hooks_and_what_came_of_them_are_kept(self, store: Store) -> None:
        hooks = {"pre_deploy": Hook(("migrate", "up"), environment={"A": "b"}, timeout_seconds=5.0)}
        rollout = replace(a_rollout(SHOP, 1), hooks=hooks)
        store.create(rollout, SHOP, a_release(SHOP, 1), a_key("k"), an_event("created"))
        claim = claim_due(store)
        run = TaskRun("pre_deploy", TaskState.PASSED, 1.0, 2.5, "it succeeded")
        store.save(replace(rollout, tasks=(run,), group_point=1), (), claim.fence)
        found, _ = store.load(rollout.id)
        assert (found.hooks, found.tasks, found.group_point) == (hooks, (run,), 1)
