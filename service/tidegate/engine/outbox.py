"""The outbox: hands the events of rollouts to the CI whose builds asked for them, at least once and in order.

It runs beside the worker in a thread of its own, so a CI that is slow or down never holds a rollout up. What was delivered
is recorded after it was: a crash in between delivers once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from structlog.contextvars import bound_contextvars

from tidegate.core.model import Event, Rollout, Signal
from tidegate.core.records import Delivery
from tidegate.engine.beside import Beside
from tidegate.engine.context import context
from tidegate.errors import CIError, DriverError
from tidegate.ports import CI, Clock, Notice, Store

logger = structlog.get_logger("tidegate.outbox")

POLL_SECONDS = 0.5
LEASE_SECONDS = 60.0  # another engine's outbox takes a delivery over after this
FIRST_PAUSE_SECONDS = 1.0  # after a failure; doubled with each further one
LONGEST_PAUSE_SECONDS = 300.0


class Outbox(Beside):
    """Delivers while it is entered. `cis` by environment; `address` is where people reach this server."""

    def __init__(self, store: Store, cis: Mapping[str, CI], clock: Clock, address: str) -> None:
        super().__init__("outbox")
        self._store, self._cis, self._clock, self._address = store, cis, clock, address

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                delivery = self._store.next_delivery(LEASE_SECONDS)
                if delivery is not None:
                    self._deliver(delivery)
                    continue
            except DriverError as error:
                logger.warning("the outbox cannot work", error=error.message)
            except Exception:  # a mistake of ours with one delivery must not end those of all others
                logger.exception("the outbox failed")
            self._stopping.wait(POLL_SECONDS)

    def _deliver(self, delivery: Delivery) -> None:
        """The next events of one rollout, until one cannot be delivered now.

        The events are read before the rollout: with the last of them the CI shows the rollout's end, so none may be newer.
        """
        events = self._store.events(delivery.rollout, delivery.delivered)
        rollout, wishes = self._store.load(delivery.rollout)
        with bound_contextvars(**context(rollout)):
            self._tell_all(delivery, events, rollout, wishes)

    def _tell_all(self, delivery: Delivery, events: Sequence[Event], rollout: Rollout, wishes: tuple[Signal, ...]) -> None:
        for event in events:
            if self._stopping.is_set():
                break
            try:
                self._tell(rollout, event, wishes)
            except CIError as error:
                if error.retryable:
                    self._put_off(delivery, event, error)
                    return
                logger.error("the CI is not told of an event", event=event.number, error=error.message)
            self._store.delivered(rollout.id, event.number, LEASE_SECONDS)
        self._store.put_off(rollout.id, self._clock(), failed=False)

    def _tell(self, rollout: Rollout, event: Event, wishes: tuple[Signal, ...]) -> None:
        ci = self._cis.get(rollout.service.partition("/")[0])
        if ci is None or rollout.build is None:
            return  # the environment has none any more: there is nobody to tell
        link = f"{self._address}/v1/rollouts/{rollout.id}/report"
        ci.report(rollout.build, Notice(rollout, event, link, wishes))

    def _put_off(self, delivery: Delivery, event: Event, error: CIError) -> None:
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(delivery.failures, 10))
        told = {"number": event.number, "pause_seconds": pause, "error": error.message}
        logger.warning("the CI cannot be told yet", **told)
        self._store.put_off(delivery.rollout, self._clock() + pause, failed=True)
