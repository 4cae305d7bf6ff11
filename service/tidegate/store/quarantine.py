"""Releases in quarantine. Each function runs inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from tidegate.core.container import Container
from tidegate.core.records import ReleaseRow
from tidegate.errors import NotQuarantined
from tidegate.store import mapping
from tidegate.store.services import get_release
from tidegate.store.tables import releases, services

MAX_LISTED = 200


def find(connection: Connection, service: str, digest: str, container: Container) -> ReleaseRow | None:
    """The release with this digest and configuration that was quarantined last; None when one with both is live or was good
    since."""
    rows = _same(connection, service, digest, container)
    live = connection.execute(select(services.c.live).where(services.c.key == service)).scalar_one_or_none()
    good = max((row.good_at for row in rows if row.good_at is not None), default=0.0)
    bad = [(row.quarantined_at, row.number, row) for row in rows if row.quarantined_at is not None]
    if not bad or any(row.release.id == live for row in rows):
        return None
    at, _, latest = max(bad, key=lambda one: one[:2])
    return None if good > at else latest


def _same(connection: Connection, service: str, digest: str, container: Container) -> list[ReleaseRow]:
    query = select(releases).where(releases.c.service == service, releases.c.digest == digest)
    return [row for row in map(mapping.release_of, connection.execute(query)) if row.release.container == container]


def list_quarantined(connection: Connection, service: str | None) -> tuple[ReleaseRow, ...]:
    """The releases in quarantine, of this service or of all, the last one first; one for each image and configuration."""
    query = select(releases).where(releases.c.quarantined_at.is_not(None)).order_by(releases.c.quarantined_at.desc())
    if service is not None:
        query = query.where(releases.c.service == service)
    rows = map(mapping.release_of, connection.execute(query.limit(MAX_LISTED)))
    return tuple(row for row in rows if find(connection, *_key(row)) == row)


def lift(connection: Connection, service: str, release: str) -> ReleaseRow:
    """End the quarantine of this release's image with this configuration; returns the release as it was. Raises
    `UnknownService`, `NotQuarantined`."""
    row = get_release(connection, service, release)
    if find(connection, *_key(row)) is None:
        raise NotQuarantined(f"{service} {release} is not in quarantine. `tidegate quarantine list` shows what is.")
    for same in _same(connection, *_key(row)):
        place = (releases.c.service == service, releases.c.id == same.release.id)
        connection.execute(update(releases).where(*place).values(quarantined_at=None, quarantined_by="", finding=""))
    return row


def _key(row: ReleaseRow) -> tuple[str, str, Container]:
    return row.release.service, row.release.digest, row.release.container
