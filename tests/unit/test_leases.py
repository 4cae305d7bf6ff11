"""The lease is asked for before each effect, in a way that also shows that the effect could be recorded."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.core.records import Claim
from tidegate.engine.leases import HeldLease
from tidegate.errors import LeaseLost, StoreError

LEASE_SECONDS = 1000.0  # so that no lease is anywhere near its end


class OneLease:
    """The only call of a store that `HeldLease` makes; `error` is raised by it."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.renewals = 0

    def renew(self, claim: Claim, ttl_seconds: float) -> None:
        assert (claim.fence, ttl_seconds) == (7, LEASE_SECONDS)
        self.renewals += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def store() -> Any:
    return OneLease()


@pytest.fixture
def held(store: Any) -> HeldLease:
    return HeldLease(Claim("shop-1", 7, 0.0, "engine"), store, LEASE_SECONDS)


def test_each_effect_is_preceded_by_a_write(held: HeldLease, store: Any) -> None:
    held.guard()
    held.guard()
    assert store.renewals == 2


def test_no_effect_while_the_database_takes_no_writes(held: HeldLease, store: Any) -> None:
    held.guard()
    store.error = StoreError("the disk is full")
    with pytest.raises(StoreError, match="the disk is full"):
        held.guard()
    store.error = None
    held.guard()


def test_a_lease_that_is_lost_stays_lost(held: HeldLease, store: Any) -> None:
    store.error = LeaseLost("another engine drives it")
    with pytest.raises(LeaseLost):
        held.guard()
    store.error = None
    with pytest.raises(LeaseLost):
        held.guard()
    assert store.renewals == 1, "it is not asked again"
