"""The leases that this engine holds on rollouts, and the thread that renews them."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import structlog

from tidegate.core.records import Claim
from tidegate.errors import DriverError, LeaseLost
from tidegate.ports import Drivers
from tidegate.store_port import EngineStore

logger = structlog.get_logger("tidegate.engine")

RENEWALS_PER_LEASE = 3  # in the duration of one lease


class HeldLease:
    """The lease on one claimed rollout. The thread that drives the rollout and the heartbeat may both use it."""

    def __init__(self, claim: Claim, store: EngineStore, lease_seconds: float) -> None:
        self.claim = claim
        self.drivers: Drivers | None = None  # the drivers of the rollout's environment, once loaded
        self.log_fields: Mapping[str, str] = {"rollout": claim.rollout}
        self._store, self._lease_seconds = store, lease_seconds
        self._lost = False

    def renew(self) -> None:
        """Extend the lease. Raises `LeaseLost`, `StoreError`."""
        try:
            self._store.renew(self.claim, self._lease_seconds)
        except LeaseLost:
            self._lost = True
            raise

    def guard(self) -> None:
        """Check the lease before an effect: raises `LeaseLost` when it is lost, `StoreError` when it cannot be renewed.

        Always writes, even when the lease is fresh: a read-only database (for example on a full disk) could not record the
        effect, so nothing may change until it accepts writes again.
        """
        if self._lost:
            raise LeaseLost(
                f"Lease on {self.claim.rollout} (fencing token {self.claim.fence}) is lost; another engine drives it."
            )
        self.renew()


class Heartbeat:
    """Renews all leases of this engine, also while their threads are busy with long effects."""

    def __init__(self, lease_seconds: float) -> None:
        self._pause = lease_seconds / RENEWALS_PER_LEASE
        self._leases: dict[str, HeldLease] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def add(self, lease: HeldLease) -> None:
        """Renew this lease from now on."""
        with self._lock:
            self._leases[lease.claim.rollout] = lease

    def drop(self, lease: HeldLease) -> None:
        """Stop renewing this lease: it was released or lost."""
        with self._lock:
            if self._leases.get(lease.claim.rollout) is lease:
                del self._leases[lease.claim.rollout]

    def _run(self) -> None:
        while not self._ending.wait(self._pause):
            with self._lock:
                present = tuple(self._leases.values())
            for lease in present:
                self._renew(lease)

    def _renew(self, lease: HeldLease) -> None:
        """Renew one lease. A failure is retried with the next heartbeat; `guard` checks the lease before each effect."""
        log = logger.bind(fence=lease.claim.fence, **lease.log_fields)
        try:
            lease.renew()
        except LeaseLost:
            self.drop(lease)  # not logged: it may just have been released; otherwise its own thread logs it
        except DriverError as error:
            log.warning("cannot renew the lease", error=error.message)
        except Exception:
            log.exception("cannot renew the lease")
