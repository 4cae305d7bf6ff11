"""The part of the store that is about the builds of a CI. `store_port.Store` documents the methods."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from tidegate.clock import Time
from tidegate.core.build_queue import Turn, WaitingBuild
from tidegate.core.build_watch import BuildWatch
from tidegate.core.model import Event
from tidegate.core.records import AuditEntry, Delivery
from tidegate.store import build_queue, build_watches, deliveries, rollouts, signals
from tidegate.store.transactions import Transactions


class BuildStore(Transactions):
    """Deliveries to the CI, builds whose rollouts are watched, and builds that wait for their turn."""

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

    def next_build_watch(
        self, ttl_seconds: float, environment: str = "", without: Collection[str] = ()
    ) -> BuildWatch | None:
        with self._write("find builds to watch") as connection:
            now = self._now(connection)
            return build_watches.claim(connection, now + ttl_seconds, now, environment, without)

    def record_build_watch(
        self, watch: BuildWatch, due: Time, events: Sequence[Event] = (), *, audit: AuditEntry | None = None
    ) -> None:
        with self._write(f"record the build of {watch.rollout}") as connection:
            build_watches.record(connection, watch, due + self._ahead(self._now(connection)))
            rollouts.add_events(connection, watch.rollout, events)
            signals.record_audit(connection, audit)

    def end_build_watch(self, rollout: str) -> None:
        with self._write(f"end the watch on the build of {rollout}") as connection:
            build_watches.end(connection, rollout)

    def note_build_poll(self, rollout: str) -> None:
        with self._write(f"record a poll of the build of {rollout}") as connection:
            build_watches.note_poll(connection, rollout, self._clock())

    def take_turn(self, asking: WaitingBuild) -> Turn:
        def take(connection: Connection) -> Turn:
            return build_queue.take_turn(connection, asking, self._now(connection))

        return self._write_checked(f"queue {asking.build.label}", take)

    def leave_queue(self, service: str, job: str, number: int) -> None:
        with self._write(f"remove build {number} of {job} from the queue") as connection:
            build_queue.leave(connection, service, job, number)
