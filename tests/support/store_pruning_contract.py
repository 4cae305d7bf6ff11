"""What every store must do when it forgets what is old; part of `StoreContract`."""

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
)
from tidegate.analysis.measurement import Measurement
from tidegate.core.model import Release
from tidegate.core.phases import Phase
from tidegate.core.records import NewRollout, Pruned, Retention
from tidegate.errors import UnknownRollout, UnknownService
from tidegate.store_port import Store

SHOP, CART = a_service(), a_service("cart")
EVERYTHING = Retention(1e12, 1e12)
MEASUREMENT = Measurement(1_000_000.0, 0, 1_000_000.0, 1_000_000.0, True, 1, False, (), ())


def measured_rollout(store: Store, number: int, old: Release | None = None) -> str:
    """A rollout of the shop that was measured once and succeeded."""
    rollout = begin(store, SHOP, number, old)
    claim = claim_due(store)
    running = store.save(replace(rollout, phase=Phase.RUNNING), (an_event(),), claim.fence, measurement=MEASUREMENT)
    store.save(replace(running, phase=Phase.SUCCEEDED), (an_event(),), claim.fence)
    store.release(claim, None)
    return rollout.id


def prune_all(store: Store, retention: Retention) -> tuple[int, int, int]:
    """Until there is no more: samples, rollouts, releases."""
    found = [0, 0, 0]
    for _ in range(20):
        done = store.prune(retention)
        found = [found[0] + done.samples, found[1] + done.rollouts, found[2] + done.releases]
        if not done.more:
            return found[0], found[1], found[2]
    raise AssertionError("it does not come to an end")


class PruneContract:
    """What is forgotten, and what never is."""

    def test_nothing_is_forgotten_unless_it_is_asked_for(self, store: Store) -> None:
        measured_rollout(store, 1)
        assert store.prune(Retention(None, None)) == Pruned(0, 0, 0, more=False)

    def test_samples_go_by_their_own_age(self, store: Store, clock: ManualClock) -> None:
        first = measured_rollout(store, 1)
        second = begin(store, SHOP, 2, a_release(SHOP, 1))
        claim = claim_due(store)
        store.save(replace(second, phase=Phase.RUNNING), (), claim.fence, measurement=MEASUREMENT)
        assert store.prune(Retention(1.0, None), dry_run=True) == Pruned(0, 0, 0, more=False)
        assert store.prune(Retention(1e12, None), dry_run=True) == Pruned(1, 0, 0, more=True)
        assert len(store.measurements(first)) == 1
        assert prune_all(store, Retention(1e12, None)) == (1, 0, 0)
        assert store.measurements(first) == ()
        assert len(store.measurements(second.id)) == 1, "of a live rollout"
        assert len(store.events(first)) == 3

    def test_old_rollouts_go_with_all_that_belongs_to_them(self, store: Store, clock: ManualClock) -> None:
        ids = [measured_rollout(store, 1)]
        ids += [measured_rollout(store, number, a_release(SHOP, number - 1)) for number in range(2, 14)]
        live = begin(store, SHOP, 14, a_release(SHOP, 13))
        assert store.prune(Retention(None, 1.0)).rollouts == 0, "none is that old"
        assert store.prune(EVERYTHING, dry_run=True) == Pruned(13, 4, 0, more=True)
        # the live one is one of the ten newest; the fourth's release is told of by the fifth
        assert prune_all(store, EVERYTHING) == (13, 4, 3)
        assert [rollout.id for rollout in store.rollouts()] == [live.id, *reversed(ids[4:])]
        for gone in ids[:4]:
            for ask in (store.load, store.events, store.verdicts, store.measurements):
                with pytest.raises(UnknownRollout):
                    ask(gone)
        assert [row.number for row in store.releases(SHOP.key)] == list(range(14, 3, -1))
        with pytest.raises(UnknownService):
            store.get_release(SHOP.key, "v1-1")
        assert store.find_answer(a_key(ids[0])) is None
        assert claim_due(store).fence == 14, "fences go on"

    def test_what_serves_and_the_last_good_ones_stay(self, store: Store, clock: ManualClock) -> None:
        for number in range(1, 8):
            clock.forward(1)
            measured_rollout(store, number, a_release(SHOP, number - 1) if number > 1 else None)
        for number in range(8, 20):
            clock.forward(1)
            rollout = begin(store, SHOP, number, a_release(SHOP, 7))
            finish(store, rollout, Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        assert prune_all(store, EVERYTHING)[1] == 9
        assert [row.number for row in store.releases(SHOP.key)] == [*range(19, 9, -1), 7, 6, 5, 4, 3]
        assert store.get_service(SHOP.key).live == "v7-7"
        good = store.last_good(SHOP.key, ["v7-7"])
        assert good is not None
        assert good.release.id == "v6-6"

    def test_a_rollout_whose_group_still_goes_on_stays(self, store: Store, clock: ManualClock) -> None:
        shop, cart = (replace(a_rollout(service, 1), group="both") for service in (SHOP, CART))
        other = NewRollout(cart, CART, a_release(CART, 1), an_event("created"))
        store.create(shop, SHOP, a_release(SHOP, 1), a_key("both"), an_event("created"), others=[other])
        for claim in (claim_due(store), claim_due(store)):
            if claim.rollout == shop.id:
                store.save(replace(shop, phase=Phase.FAILED, finished=1.0), (), claim.fence)
                store.release(claim, None)
        for number in range(2, 13):
            finish(store, begin(store, SHOP, number), Phase.FAILED)
        prune_all(store, EVERYTHING)
        kept = [rollout.id for rollout in store.rollouts(service=SHOP.key)]
        assert kept == [f"shop-{number}" for number in range(12, 2, -1)] + ["shop-1"]
