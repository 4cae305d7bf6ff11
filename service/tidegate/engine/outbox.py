"""The outbox: delivers the events of a rollout to the CI whose build requested it, in order and at least once.

Each environment with a CI has its own thread, so a CI that is slow or down delays neither a rollout nor the deliveries of
another environment. A delivery is recorded after it was made; a crash in between repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import structlog
from structlog.contextvars import bound_contextvars

from tidegate.core.model import Event, Rollout, Signal
from tidegate.core.records import Delivery
from tidegate.engine.background import BackgroundThread
from tidegate.engine.log_context import log_fields
from tidegate.errors import CIError, DriverError
from tidegate.ports import CI, Clock, Notice
from tidegate.store_port import Store

logger = structlog.get_logger("tidegate.outbox")

POLL_SECONDS = 0.5
LEASE_SECONDS = 60.0  # another engine's outbox takes a delivery over after this
INITIAL_PAUSE_SECONDS = 1.0  # after a failure; doubled with each further one
MAX_PAUSE_SECONDS = 300.0
MAX_AGE_SECONDS = 604_800.0  # of an event that cannot be delivered: a job that was deleted does not come back


class Outbox:
    """Delivers events inside its `with` block. `cis` is by environment; `address` is the public URL of this server."""

    def __init__(self, store: Store, cis: Mapping[str, CI], clock: Clock, address: str) -> None:
        parts = [(environment, ()) for environment in cis] + [("", tuple(cis))]
        self._threads = [_Deliveries(store, cis, clock, address, *part) for part in parts]

    def __enter__(self) -> Outbox:
        for thread in self._threads:
            thread.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.__exit__(kind, error, trace)


class _Deliveries(BackgroundThread):
    """The deliveries of one environment; of all but those `without`, which have no CI any more, if it is empty."""

    def __init__(
        self, store: Store, cis: Mapping[str, CI], clock: Clock, address: str, environment: str, without: tuple[str, ...]
    ) -> None:
        super().__init__(f"outbox {environment}")
        self._store, self._cis, self._clock, self._address = store, cis, clock, address
        self._environment, self._without = environment, without

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                delivery = self._store.next_delivery(LEASE_SECONDS, self._environment, self._without)
                if delivery is not None:
                    self._deliver(delivery)
                    continue
            except DriverError as error:
                logger.warning("cannot read the outbox", error=error.message)
            except Exception:  # a bug that one delivery triggers must not stop the others
                logger.exception("delivery to the CI failed unexpectedly")
            self._stopping.wait(POLL_SECONDS)

    def _deliver(self, delivery: Delivery) -> None:
        """Deliver the pending events of one rollout, up to the first that fails.

        Reads the events before the rollout, so that no event is newer: with the last one, the CI shows the rollout's end.
        """
        events = self._store.events(delivery.rollout, delivery.delivered)
        rollout, signals = self._store.load(delivery.rollout)
        with bound_contextvars(**log_fields(rollout)):
            self._deliver_events(delivery, events, rollout, signals)

    def _deliver_events(
        self, delivery: Delivery, events: Sequence[Event], rollout: Rollout, signals: tuple[Signal, ...]
    ) -> None:
        for event in events:
            if self._stopping.is_set():
                break
            try:
                self._deliver_event(rollout, event, signals)
            except CIError as error:
                if error.retryable and self._clock() - event.at < MAX_AGE_SECONDS:
                    self._postpone(delivery, event, error)
                    return
                logger.error("skipped an event that cannot be delivered", event=event.number, error=error.message)
            self._store.mark_delivered(rollout.id, event.number, LEASE_SECONDS)
        self._store.postpone_delivery(rollout.id, self._clock(), failed=False)

    def _deliver_event(self, rollout: Rollout, event: Event, signals: tuple[Signal, ...]) -> None:
        ci = self._cis.get(rollout.service.partition("/")[0])
        if ci is None or rollout.build is None:
            return  # the environment no longer has a CI
        link = f"{self._address}/v1/rollouts/{rollout.id}/report"
        ci.report(rollout.build, Notice(rollout, event, link, signals))

    def _postpone(self, delivery: Delivery, event: Event, error: CIError) -> None:
        pause = min(MAX_PAUSE_SECONDS, INITIAL_PAUSE_SECONDS * 2.0 ** min(delivery.failures, 10))
        fields = {"number": event.number, "pause_seconds": pause, "error": error.message}
        logger.warning("cannot deliver an event to the CI; will retry", **fields)
        self._store.postpone_delivery(delivery.rollout, self._clock() + pause, failed=True)
