"""The hourly cleanup of data older than the retention settings."""

from __future__ import annotations

import structlog

from tidegate.core.records import Retention
from tidegate.engine.background import BackgroundThread
from tidegate.errors import DriverError
from tidegate.ports import Clock
from tidegate.store_port import Store

logger = structlog.get_logger("tidegate.pruning")

INTERVAL_SECONDS = 3600.0
BATCH_PAUSE_SECONDS = 0.2  # between two batches, to let other writers in


class Pruner(BackgroundThread):
    """Prunes inside its `with` block, at the start and then every hour. Ages are in seconds; None keeps data for ever."""

    def __init__(self, store: Store, clock: Clock, samples_seconds: float | None, rollouts_seconds: float | None) -> None:
        super().__init__("pruner")
        self._store, self._clock = store, clock
        self._samples_seconds, self._rollouts_seconds = samples_seconds, rollouts_seconds

    def _run(self) -> None:
        if self._samples_seconds is None and self._rollouts_seconds is None:
            return
        while not self._stopping.is_set():
            try:
                self.prune()
            except DriverError as error:
                logger.warning("cannot delete old data", error=error.message)
            except Exception:
                logger.exception("pruning failed")
            self._stopping.wait(INTERVAL_SECONDS)

    def retention(self) -> Retention:
        """The points in time before which data is deleted now."""
        now = self._clock()
        ages = (self._samples_seconds, self._rollouts_seconds)
        return Retention(*(None if age is None else now - age for age in ages))

    def prune(self) -> tuple[int, int, int]:
        """Delete in batches until nothing is left or another engine prunes. Returns the numbers of samples, rollouts and
        releases deleted."""
        retention, samples, rollouts, releases = self.retention(), 0, 0, 0
        while not self._stopping.is_set():
            done = self._store.prune(retention)
            samples, rollouts, releases = samples + done.samples, rollouts + done.rollouts, releases + done.releases
            if not done.more:
                break
            self._stopping.wait(BATCH_PAUSE_SECONDS)
        if samples or rollouts:
            logger.info("deleted old data", samples=samples, rollouts=rollouts, releases=releases)
        return samples, rollouts, releases
