"""What every store must tell those who watch the server; part of `StoreContract`."""

from __future__ import annotations

from dataclasses import replace

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
)
from tidegate.core import drift
from tidegate.core.build import Build
from tidegate.core.phases import Phase
from tidegate.core.records import EngineRow
from tidegate.store_port import Store

SHOP, CART = a_service(), a_service("cart")
STEPS = (Phase.RUNNING, Phase.SUCCEEDED)


def built(store: Store, number: int = 1) -> str:
    """A rollout of the shop that a build asked for."""
    rollout = replace(a_rollout(SHOP, number), build=Build("team/shop", number))
    assert store.create(rollout, SHOP, a_release(SHOP, number), a_key(rollout.id), an_event("created")) is None
    return rollout.id


class StatsContract:
    """Engines, and how all stands."""

    def test_engines_are_heard_until_they_leave(self, store: Store, clock: ManualClock) -> None:
        assert store.engines() == ()
        store.heartbeat("anna", "1.0")
        first = clock.now
        clock.forward(3)
        store.heartbeat("bert", "1.1")
        assert store.engines() == (EngineRow("bert", clock.now, "1.1"), EngineRow("anna", first, "1.0"))
        clock.forward(3)
        store.heartbeat("anna", "1.0")
        assert store.engines()[0] == EngineRow("anna", clock.now, "1.0")
        store.remove_engine("anna")
        store.remove_engine("nobody")
        assert [engine.owner for engine in store.engines()] == ["bert"]

    def test_an_engine_that_is_long_gone_is_forgotten(self, store: Store, clock: ManualClock) -> None:
        store.heartbeat("anna", "1.0")
        clock.forward(90_000)
        store.heartbeat("bert", "1.0")
        assert [engine.owner for engine in store.engines()] == ["bert"]

    def test_nothing_stands_in_an_empty_store(self, store: Store) -> None:
        found = store.stats()
        assert (found.live, found.approval_since, found.due_since, found.leases) == ({}, {}, None, 0)
        assert (found.undelivered, found.undelivered_since, found.engines) == (0, None, ())

    def test_live_rollouts_are_counted_by_environment_and_phase(self, store: Store) -> None:
        finish(store, begin(store, SHOP), *STEPS)
        begin(store, CART)
        begin(store, a_service("web", environment="live"))
        claim = claim_due(store)
        rollout, _ = store.load(claim.rollout)
        store.save(replace(rollout, phase=Phase.RUNNING, approval_since=7.0), (), claim.fence)
        found = store.stats()
        assert found.live == {("demo", "running"): 1, ("live", "pending"): 1}
        assert (found.approval_since, found.leases) == ({"demo": 7.0}, 1)

    def test_rollouts_that_need_attention_are_named(self, store: Store, clock: ManualClock) -> None:
        for service, ended in ((SHOP, Phase.FAILED), (CART, Phase.ROLLED_BACK)):
            rollout = begin(store, service)
            claim = claim_due(store)
            store.save(replace(rollout, phase=ended, finished=clock.now), (an_event(ended.value),), claim.fence)
        halted, back = store.rollouts(SHOP.key)[0].id, store.rollouts(CART.key)[0].id
        waiting = begin(store, a_service("web", environment="live")).id
        claim = claim_due(store)
        loaded, _ = store.load(claim.rollout)
        store.save(replace(loaded, phase=Phase.RUNNING, approval_since=7.0), (), claim.fence)
        wanted = {("approval", waiting, "live/web"), ("failed", halted, SHOP.key), ("rolled_back", back, CART.key)}
        assert {(one.state, one.rollout, one.service) for one in store.stats().attention} == wanted
        clock.forward(901)
        assert {one.state for one in store.stats().attention} == {"approval", "failed"}, "a rollback is no news for ever"
        begin(store, SHOP, 2)
        assert {one.state for one in store.stats().attention} == {"approval"}, "another rollout followed"

    def test_a_repair_that_gave_way_needs_no_attention(self, store: Store) -> None:
        finish(store, begin(store, SHOP), *STEPS)
        repair = drift.make_repair(SHOP, a_release(SHOP, 1), "repair", 1_000_010.0)
        assert store.create(repair, SHOP, None, a_key("repair"), an_event("created")) is None
        begin(store, SHOP, 2)
        assert store.load("repair")[0].phase is Phase.ROLLED_BACK
        assert store.stats().attention == ()

    def test_what_is_due_and_nobody_drives_is_overdue(self, store: Store, clock: ManualClock) -> None:
        begin(store, SHOP)
        due = clock.now
        clock.forward(30)
        assert store.stats().due_since == due
        claim = claim_due(store)
        assert (claim.due, store.stats().due_since) == (due, None)
        clock.forward(11)
        assert store.stats().due_since == due, "its owner vanished"
        store.release(claim_due(store), clock.now + 5)
        assert store.stats().due_since is None, "it waits, which is right"

    def test_what_the_ci_was_not_told_is_counted(self, store: Store) -> None:
        rollout = built(store)
        begin(store, CART)  # nobody's build
        claim = claim_due(store)
        store.add_events(rollout, (replace(an_event("later"), at=2_000_000.0),), claim.fence)
        found = store.stats()
        assert (found.undelivered, found.undelivered_since) == (1, an_event().at)
        store.mark_delivered(rollout, 1, 60.0)
        assert (store.stats().undelivered, store.stats().undelivered_since) == (1, 2_000_000.0)
        store.mark_delivered(rollout, 2, 60.0)
        assert (store.stats().undelivered, store.stats().undelivered_since) == (0, None)
