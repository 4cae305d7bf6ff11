"""The hourly removal of images that services with `keep_images` do not need any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from tidegate.core.image_retention import removable_images
from tidegate.core.model import Release
from tidegate.core.records import ReleaseRow, ServiceRow
from tidegate.engine.background import BackgroundThread
from tidegate.errors import DriverError
from tidegate.ports import Drivers
from tidegate.store_port import Store

logger = structlog.get_logger("tidegate.images")

INTERVAL_SECONDS = 3600.0
PAGE = 200


class ImagePruner(BackgroundThread):
    """Removes images inside its `with` block, at the start and then every hour."""

    def __init__(self, store: Store, environments: Mapping[str, Drivers]) -> None:
        super().__init__("image-pruner")
        self._store, self._environments = store, environments

    def _run(self) -> None:
        while not self._stopping.is_set():
            for environment in self._environments:
                try:
                    self.prune(environment)
                except DriverError as error:
                    logger.warning("cannot remove old images", environment=environment, error=error.message)
                except Exception:
                    logger.exception("removal of old images failed", environment=environment)
            self._stopping.wait(INTERVAL_SECONDS)

    def prune(self, environment: str) -> None:
        """Remove the images of one environment that no service of it needs."""
        rows = [row for row in self._store.services() if row.service.environment == environment]
        removable: dict[str, Release] = {}
        kept = set[str]()
        for row in rows:
            releases = [each.release for each in self._releases(row.service.key)]
            newest = row.service.keep_images or len(releases)
            mine = {release.digest: release for release in removable_images(releases, newest, self._needed(row))}
            removable |= mine
            kept |= {release.digest for release in releases} - set(mine)
        unneeded = [release for digest, release in removable.items() if digest not in kept]
        if unneeded and (removed := self._environments[environment].platform.remove_images(unneeded)):
            logger.info("removed old images", environment=environment, images=list(removed))

    def _releases(self, service: str) -> Sequence[ReleaseRow]:
        """All of them, newest first."""
        rows = list(self._store.releases(service, PAGE))
        while len(rows) % PAGE == 0 and (page := self._store.releases(service, PAGE, rows[-1].number if rows else None)):
            rows += page
        return rows

    def _needed(self, row: ServiceRow) -> set[str]:
        """The releases that run, and those that a rollback may start again."""
        key, needed = row.service.key, {row.live} if row.live else set[str]()
        before = self._store.last_good(key, needed)
        if before is not None:
            needed.add(before.release.id)
        if row.rollout is not None:
            rollout, _ = self._store.load(row.rollout)
            needed |= {rollout.new} | ({rollout.old} if rollout.old else set())
        return needed
