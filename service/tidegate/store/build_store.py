"""The part of the store that is about the builds of a CI. `store_port.Store` documents the methods."""

from __future__ import annotations

from collections.abc import Collection

from tidegate.clock import Time
from tidegate.core.records import Delivery
from tidegate.store import deliveries
from tidegate.store.transactions import Transactions


class BuildStore(Transactions):
    """Deliveries to the CI."""

    def next_delivery(self, ttl_seconds: float, environment: str = "", without: Collection[str] = ()) -> Delivery | None:
        with self._write("find events to deliver") as connection:
            now = self._now(connection)
            return deliveries.claim(connection, now + ttl_seconds, now, environment, without)

    def mark_delivered(self, rollout: str, number: int, lease_seconds: float) -> None:
        with self._write(f"record a delivery of {rollout}") as connection:
            deliveries.record(connection, rollout, number, self._now(connection) + lease_seconds)

    def postpone_delivery(self, rollout: str, due: Time, *, failed: bool) -> None:
        with self._write(f"postpone deliveries of {rollout}") as connection:
            ahead = self._ahead(self._now(connection))
            deliveries.postpone_delivery(connection, rollout, due + ahead, failed=failed)
