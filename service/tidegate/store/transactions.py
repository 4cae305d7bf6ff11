"""The transactions of the store, and the clock that they use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError

from tidegate.clock import Time
from tidegate.errors import InvalidSettings, Problem
from tidegate.ports import Clock
from tidegate.store.database import Collision, Database
from tidegate.store.postgres import Postgres
from tidegate.store.sqlite import Sqlite

T = TypeVar("T")
SET_BACK_SECONDS = 10.0  # smaller differences may come from a slow response, and delay due times harmlessly


class Transactions:
    """A database and its transactions. `common` replaces the database's clock as the one that all engines share."""

    def __init__(
        self, url: str, clock: Clock = time.time, *, password_file: Path | None = None, common: Clock | None = None
    ) -> None:
        self._database = connect(url, password_file)
        self._clock = clock
        self._common = common
        self._clock_offset: float | None = None  # from the shared clock to the monotonic clock, last time

    @contextmanager
    def _read(self, action: str) -> Iterator[Connection]:
        with self._database.translated(action), self._database.reading.begin() as connection:
            yield connection

    @contextmanager
    def _write(self, action: str, *, lasting: bool = True) -> Iterator[Connection]:
        with self._database.translated(action), self._database.write(lasting=lasting) as connection:
            yield connection

    def _lease(self, action: str) -> AbstractContextManager[Connection]:
        """A write transaction for leases, which need not survive a crash of the machine."""
        return self._write(action, lasting=False)

    def _now(self, connection: Connection) -> Time:
        """The time of the clock that all engines share."""
        if self._common is not None:
            return self._common()
        now = self._database.now(connection)
        return self._clock() if now is None else now

    def _ahead(self, now: Time) -> float:
        """How many seconds the shared clock, at `now`, is ahead of this process's clock."""
        return now - self._clock() if self._database.shared else 0.0

    def _clock_state(self, now: Time) -> tuple[float, bool]:
        """The offset of the shared clock, at `now`, from the monotonic clock, and whether the shared clock was set back."""
        offset, before = now - time.monotonic(), self._clock_offset
        shared = self._database.shared and self._common is None
        return offset, shared and before is not None and before - offset >= SET_BACK_SECONDS

    def _write_checked(self, action: str, work: Callable[[Connection], T]) -> T:
        """Run `work` in a write transaction; after a collision once more, with checks that see the other transaction."""
        try:
            with self._write(action) as connection:
                return work(connection)
        except Collision:
            with self._write(action) as connection:
                return work(connection)


ALLOWED = "allowed: sqlite:///PATH, postgresql://USER@HOST/NAME"


def connect(url: str, password_file: Path | None = None) -> Database:
    """The database of a URL; nothing is opened before the first transaction. Raises `InvalidSettings`; its message has no
    password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidSettings([Problem("database", f"not a URL; {ALLOWED}")]) from None
    if parsed.drivername == "postgresql":
        return Postgres(parsed, password_file)
    if parsed.drivername != "sqlite":
        raise InvalidSettings([Problem("database", f"{parsed.drivername} is not supported; {ALLOWED}")])
    if password_file is not None:
        raise InvalidSettings([Problem("database_password_file", "SQLite has no password; remove this setting")])
    return Sqlite(parsed)
