"""The rollouts that this engine holds, and the heartbeat that keeps them."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import structlog

from tidegate.core.records import Claim
from tidegate.errors import DriverError, LeaseLost
from tidegate.ports import Drivers, EngineStore

logger = structlog.get_logger("tidegate.engine")

RENEWALS_PER_LEASE = 3  # renewals in the time of one lease


class HeldLease:
    """One claim in our hands. Safe to use from the thread that drives it and from the heartbeat."""

    def __init__(self, claim: Claim, store: EngineStore, lease_seconds: float) -> None:
        self.claim = claim
        self.drivers: Drivers | None = None  # the drivers of its environment, once they are known
        self.log_fields: Mapping[str, str] = {"rollout": claim.rollout}  # for the log
        self._store, self._lease_seconds = store, lease_seconds
        self._lost = False

    def renew(self) -> None:
        """Hold it longer. Raises `LeaseLost`, `StoreError`."""
        try:
            self._store.renew(self.claim, self._lease_seconds)
        except LeaseLost:
            self._lost = True
            raise

    def guard(self) -> None:
        """Before each effect: raise `LeaseLost` unless the rollout is ours, `StoreError` while that cannot be written.

        It is a write even when the lease is young. A database that can be read only (a full disk, say) could not record
        what the effect did, so nothing is moved and nothing is stopped until it takes writes again.
        """
        if self._lost:
            raise LeaseLost(f"the lease on {self.claim.rollout} with fence {self.claim.fence} was lost")
        self.renew()


class Heartbeat:
    """Renews every lease that is held, also while its thread is busy with a long effect."""

    def __init__(self, lease_seconds: float) -> None:
        self._pause = lease_seconds / RENEWALS_PER_LEASE
        self._held: dict[str, HeldLease] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def add(self, held: HeldLease) -> None:
        """Keep it from now on."""
        with self._lock:
            self._held[held.claim.rollout] = held

    def drop(self, held: HeldLease) -> None:
        """It was given back, or lost."""
        with self._lock:
            if self._held.get(held.claim.rollout) is held:
                del self._held[held.claim.rollout]

    def _run(self) -> None:
        while not self._ending.wait(self._pause):
            with self._lock:
                present = tuple(self._held.values())
            for held in present:
                self._renew(held)

    def _renew(self, held: HeldLease) -> None:
        """What cannot be renewed now may be renewed at the next beat; before an effect the lease is asked in any case."""
        log = logger.bind(fence=held.claim.fence, **held.log_fields)
        try:
            held.renew()
        except LeaseLost:
            self.drop(held)  # silent: it may have been given back meanwhile; its own thread tells if not
        except DriverError as error:
            log.warning("a lease could not be renewed", error=error.message)
        except Exception:
            log.exception("a lease could not be renewed")
