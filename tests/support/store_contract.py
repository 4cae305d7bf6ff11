"""What every store must do. Derive a class from `StoreContract` and give it a `store` fixture."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.store_build_contract import BuildContract
from support.store_drift_contract import DriftContract
from support.store_fixtures import (
    ManualClock,
    a_key,
    a_release,
    a_rollout,
    a_service,
    an_event,
    begin,
    finish,
    run_concurrently,
)
from support.store_group_contract import GroupContract
from support.store_lease_contract import ClaimContract, FenceContract, SaveContract, SignalContract
from support.store_lifecycle_contract import LifecycleContract
from support.store_pruning_contract import PruneContract
from support.store_stats_contract import StatsContract
from tidegate.core.model import Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.records import ServiceRow, Token
from tidegate.core.rollback_cause import RollbackCause
from tidegate.errors import (
    KeyReused,
    Refused,
    RolloutInProgress,
    RouteTaken,
    StoreError,
    UnknownRollout,
    UnknownService,
    VersionConflict,
)
from tidegate.store_port import Store

SHOP = a_service()


class ServiceContract:
    """Services and releases."""

    def test_a_service_is_read_back_as_it_was_put(self, store: Store) -> None:
        assert store.put_service(SHOP) == ServiceRow(SHOP, 1) == store.get_service(SHOP.key)

    def test_putting_it_again_counts_only_when_it_changed(self, store: Store) -> None:
        store.put_service(SHOP)
        assert store.put_service(SHOP).version == 1
        bigger = replace(SHOP, replicas=9)
        assert store.put_service(bigger) == ServiceRow(bigger, 2)

    def test_a_stale_version_is_refused(self, store: Store) -> None:
        store.put_service(SHOP, version=0)
        with pytest.raises(VersionConflict, match="version 1"):
            store.put_service(replace(SHOP, replicas=9), version=0)
        with pytest.raises(VersionConflict):
            store.put_service(a_service("cart"), version=1)
        assert store.put_service(replace(SHOP, replicas=9), version=1).version == 2

    def test_a_route_has_one_owner_per_environment(self, store: Store) -> None:
        store.put_service(SHOP)
        with pytest.raises(RouteTaken, match="demo/shop"):
            store.put_service(a_service("cart", route="shop"))
        store.put_service(a_service("cart", route="shop", environment="live"))
        assert [row.service.key for row in store.services()] == ["demo/shop", "live/cart"]

    def test_services_without_a_proxy_have_no_route_to_own(self, store: Store) -> None:
        workers = [replace(a_service(name), backend=None) for name in ("mail", "sync")]
        for worker in workers:
            store.put_service(worker)
        assert [row.service for row in store.services()] == workers

    def test_the_unknown_is_an_error(self, store: Store) -> None:
        with pytest.raises(UnknownService, match="demo/none"):
            store.get_service("demo/none")
        with pytest.raises(UnknownService, match="v1-1"):
            store.get_release(SHOP.key, "v1-1")

    def test_numbers_grow_per_service_and_are_never_given_twice(self, store: Store) -> None:
        assert [store.next_number("demo/shop"), store.next_number("demo/shop"), store.next_number("demo/cart")] == [1, 2, 1]
        taken = run_concurrently(*[lambda: store.next_number("demo/shop")] * 8)
        assert sorted(number for number in taken if isinstance(number, int)) == [3, 4, 5, 6, 7, 8, 9, 10]

    def test_last_good_is_the_newest_that_was_not_turned_back(self, store: Store, clock: ManualClock) -> None:
        assert store.last_good(SHOP.key) is None
        for number in (1, 2, 3):
            finish(store, begin(store, SHOP, number), Phase.RUNNING, Phase.SUCCEEDED)
            clock.forward(1)
        finish(store, begin(store, SHOP, 4), Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        good, other = store.last_good(SHOP.key), store.last_good(SHOP.key, ["v3-3"])
        assert good is not None
        assert other is not None
        assert (good.release, good.number) == (a_release(SHOP, 3), 3)
        assert other.release.id == "v2-2"

    def test_releases_are_listed_the_newest_first(self, store: Store) -> None:
        for number in (1, 2, 3):
            finish(store, begin(store, SHOP, number), Phase.RUNNING, Phase.SUCCEEDED)
        assert [row.number for row in store.releases(SHOP.key)] == [3, 2, 1]
        assert [row.number for row in store.releases(SHOP.key, limit=1)] == [3]
        assert store.releases("demo/none") == ()

    def test_a_good_release_that_is_turned_back_later_is_good_no_more(self, store: Store, clock: ManualClock) -> None:
        finish(store, begin(store, SHOP), Phase.RUNNING, Phase.SUCCEEDED)
        clock.forward(1)
        again = replace(a_rollout(SHOP, 1), id="again")
        assert store.create(again, SHOP, None, a_key("again"), an_event()) is None
        bad = replace(again, rollback_cause=RollbackCause.HEALTH)
        finish(store, bad, Phase.RUNNING, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        assert store.last_good(SHOP.key) is None


class CreateContract:
    """How a rollout comes to be."""

    def test_everything_is_there_afterwards(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        assert store.load(rollout.id) == (rollout, ())
        assert store.get_service(SHOP.key) == ServiceRow(SHOP, 1, None, rollout.id)
        row = store.get_release(SHOP.key, "v1-1")
        assert (row.release, row.number, row.created) == (a_release(SHOP, 1), 1, clock.now)
        assert [(event.number, event.kind) for event in store.events(rollout.id)] == [(1, "created")]
        assert store.verdicts(rollout.id) == ()

    def test_the_last_events_of_many_are_told_at_once(self, store: Store) -> None:
        first, second = begin(store, SHOP), begin(store, a_service("cart"))
        store.signal(second.id, Signal(SignalKind.PAUSE, 1.0, "ada", "why"))
        assert store.last_events({first.id, second.id, "unknown"}) == {first.id: 1, second.id: 2}
        assert store.last_events(()) == {}

    def test_the_same_key_is_answered_again(self, store: Store) -> None:
        begin(store, SHOP)
        other = replace(a_rollout(SHOP, 2), id="other")
        key = replace(a_key("shop-1"), response="not this")
        assert store.create(other, SHOP, a_release(SHOP, 2), key, an_event()) == a_key("shop-1")
        with pytest.raises(UnknownRollout):
            store.load("other")
        with pytest.raises(UnknownService):
            store.get_release(SHOP.key, "v2-2")

    def test_the_same_key_with_another_body_is_refused(self, store: Store) -> None:
        begin(store, SHOP)
        with pytest.raises(KeyReused, match="shop-1"):
            store.create(a_rollout(SHOP, 2), SHOP, a_release(SHOP, 2), a_key("shop-1", "other body"), an_event())

    def test_the_same_key_of_another_scope_is_another_key(self, store: Store) -> None:
        begin(store, SHOP)
        cart = a_service("cart")
        key = replace(a_key("shop-1"), scope="someone else")
        assert store.create(a_rollout(cart, 1), cart, a_release(cart, 1), key, an_event()) is None

    def test_one_key_at_once_makes_one_rollout(self, store: Store) -> None:
        def create(number: int) -> object:
            rollout = replace(a_rollout(SHOP, 1), id=f"r{number}")
            key = replace(a_key("build-7"), response=rollout.id)
            return store.create(rollout, SHOP, a_release(SHOP, 1), key, an_event())

        answers = run_concurrently(*(lambda number=number: create(number) for number in range(6)))
        (made,) = store.rollouts()
        assert answers.count(None) == 1
        assert [answer for answer in answers if answer is not None] == [replace(a_key("build-7"), response=made.id)] * 5

    def test_a_service_has_one_live_rollout(self, store: Store) -> None:
        first = begin(store, SHOP)
        changed = replace(SHOP, replicas=9)
        with pytest.raises(RolloutInProgress, match=first.id):
            store.create(a_rollout(SHOP, 2), changed, a_release(SHOP, 2), a_key("2"), an_event())
        assert store.get_service(SHOP.key).service == SHOP, "a refused request changed the service"
        finish(store, first, Phase.RUNNING, Phase.SUCCEEDED)
        # what was refused was not recorded under its key either
        assert store.create(a_rollout(SHOP, 2), changed, a_release(SHOP, 2), a_key("2"), an_event()) is None

    def test_of_many_at_once_one_is_made(self, store: Store) -> None:
        answers = run_concurrently(*(lambda number=number: begin(store, SHOP, number) for number in range(1, 7)))
        assert sorted(type(answer).__name__ for answer in answers) == ["Rollout"] + ["RolloutInProgress"] * 5
        assert len(store.rollouts()) == 1

    def test_a_taken_route_is_refused(self, store: Store) -> None:
        store.put_service(SHOP)
        cart = a_service("cart", route="shop")
        with pytest.raises(RouteTaken, match="demo/shop"):
            store.create(a_rollout(cart, 1), cart, a_release(cart, 1), a_key("1"), an_event())
        with pytest.raises(UnknownService):
            store.get_service(cart.key)

    def test_an_unknown_release_is_refused(self, store: Store) -> None:
        with pytest.raises(UnknownService, match="v1-1"):
            store.create(a_rollout(SHOP, 1), SHOP, None, a_key("1"), an_event())

    def test_a_rollout_and_a_service_that_do_not_belong_together_are_refused(self, store: Store) -> None:
        with pytest.raises(StoreError, match="belong"):
            store.create(a_rollout(SHOP, 1), a_service("cart"), a_release(SHOP, 1), a_key("1"), an_event())


class ReadContract:
    """Lists."""

    def test_rollouts_are_paged_from_the_newest(self, store: Store) -> None:
        cart = a_service("cart")
        for number in (1, 2, 3):
            finish(store, begin(store, SHOP, number), Phase.RUNNING, Phase.SUCCEEDED)
            finish(store, begin(store, cart, number), Phase.FAILED)
        begin(store, SHOP, 4)

        def ids(**wanted: object) -> list[str]:
            return [rollout.id for rollout in store.rollouts(**wanted)]  # type: ignore[arg-type]  # passed through

        assert ids() == ["shop-4", "cart-3", "shop-3", "cart-2", "shop-2", "cart-1", "shop-1"]
        assert ids(limit=2) == ["shop-4", "cart-3"]
        assert ids(limit=2, before="cart-3") == ["shop-3", "cart-2"]
        assert ids(before="shop-1") == []
        assert ids(service="demo/cart") == ["cart-3", "cart-2", "cart-1"]
        assert ids(service="demo/shop", phase=Phase.SUCCEEDED, before="shop-3") == ["shop-2", "shop-1"]
        assert ids(phase=Phase.PENDING) == ["shop-4"]

    def test_an_unknown_rollout_is_an_error_and_not_an_empty_answer(self, store: Store) -> None:
        begin(store, SHOP)
        for ask in (store.load, store.events, store.verdicts, lambda rollout: store.rollouts(before=rollout)):
            with pytest.raises(UnknownRollout, match="none-1"):
                ask("none-1")


class TokenContract:
    """API tokens."""

    def test_a_token_is_found_by_its_digest(self, store: Store) -> None:
        token = Token("t1", "jenkins", "d" * 64, ("deploy", "read"), ("demo/*",), created=5.0, expires=9.0)
        store.add_token(token)
        assert store.tokens() == (token,)
        assert store.token("d" * 64) == token
        assert store.token("e" * 64) is None

    def test_its_use_is_recorded_within_a_minute(self, store: Store, clock: ManualClock) -> None:
        store.add_token(Token("t1", "jenkins", "d", ("read",)))
        first = clock.now
        store.token("d")
        clock.forward(10)
        store.token("d")
        assert store.tokens()[0].last_used in (first, clock.now)
        clock.forward(60)
        store.token("d")
        assert store.tokens()[0].last_used == clock.now

    def test_two_of_one_name_of_id_or_secret_are_refused(self, store: Store) -> None:
        store.add_token(Token("t1", "jenkins", "d", ("read",)))
        with pytest.raises(Refused):
            store.add_token(Token("t1", "other", "e", ("read",)))
        with pytest.raises(Refused):
            store.add_token(Token("t2", "other", "d", ("read",)))

    def test_a_dropped_token_is_gone(self, store: Store) -> None:
        store.add_token(Token("t1", "jenkins", "d", ("read",)))
        store.delete_token("t1")
        assert store.token("d") is None
        with pytest.raises(Refused, match="t1"):
            store.delete_token("t1")


class StoreContract(
    LifecycleContract,
    ClaimContract,
    FenceContract,
    SaveContract,
    SignalContract,
    ServiceContract,
    CreateContract,
    ReadContract,
    TokenContract,
    GroupContract,
    PruneContract,
    DriftContract,
    StatsContract,
    BuildContract,
):
    """The whole exam. `store` must be empty, migrated, and tell the time by `clock`."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """Stands still until a test sets it forward."""
        return ManualClock()

    @pytest.fixture
    def store(self, clock: ManualClock) -> Store:
        """Override this."""
        raise NotImplementedError

    def test_migrating_and_checking_again_change_nothing(self, store: Store) -> None:
        begin(store, SHOP)
        store.migrate()
        assert [line.status for line in store.check()] == ["ok"]
        assert len(store.rollouts()) == 1
