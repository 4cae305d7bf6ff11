"""How each call of the store comes to its one transaction, and by which clock it goes."""

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
SET_BACK_SECONDS = 10.0  # a slow answer looks like it for less; what is due later by less than that is no harm


class Transactions:
    """A database, and transactions in it. `common` is the clock that all engines share, instead of the database's own."""

    def __init__(
        self, url: str, clock: Clock = time.time, *, password_file: Path | None = None, common: Clock | None = None
    ) -> None:
        self._database = connect(url, password_file)
        self._clock = clock
        self._common = common
        self._clock_offset: float | None = None  # how far the shared clock was from one that only goes forward

    @contextmanager
    def _read(self, doing: str) -> Iterator[Connection]:
        with self._database.translated(doing), self._database.reading.begin() as connection:
            yield connection

    @contextmanager
    def _write(self, doing: str, *, lasting: bool = True) -> Iterator[Connection]:
        with self._database.translated(doing), self._database.write(lasting=lasting) as connection:
            yield connection

    def _lease(self, doing: str) -> AbstractContextManager[Connection]:
        """Who does what until when: of no use any more once the machine has failed."""
        return self._write(doing, lasting=False)

    def _now(self, connection: Connection) -> Time:
        """By the clock that all engines share."""
        if self._common is not None:
            return self._common()
        now = self._database.now(connection)
        return self._clock() if now is None else now

    def _ahead(self, now: Time) -> float:
        """How many seconds the shared clock, which says `now`, is ahead of ours."""
        return now - self._clock() if self._database.shared else 0.0

    def _clock_state(self, now: Time) -> tuple[float, bool]:
        """How far the shared clock, which says `now`, is from one that only goes forward, and whether it was set back."""
        offset, before = now - time.monotonic(), self._clock_offset
        shared = self._database.shared and self._common is None
        return offset, shared and before is not None and before - offset >= SET_BACK_SECONDS

    def _write_checked(self, doing: str, work: Callable[[Connection], T]) -> T:
        """When another transaction got in between, once more: the checks then see what that one wrote."""
        try:
            with self._write(doing) as connection:
                return work(connection)
        except Collision:
            with self._write(doing) as connection:
                return work(connection)


ALLOWED = "allowed: sqlite:///PATH, postgresql://USER@HOST/NAME"


def connect(url: str, password_file: Path | None = None) -> Database:
    """Open lazily: nothing is touched before the first transaction. Raises `InvalidSettings`, without a password in it."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidSettings([Problem("database", f"not a URL; {ALLOWED}")]) from None
    if parsed.drivername == "postgresql":
        return Postgres(parsed, password_file)
    if parsed.drivername != "sqlite":
        raise InvalidSettings([Problem("database", f"{parsed.drivername} is not supported; {ALLOWED}")])
    if password_file is not None:
        raise InvalidSettings([Problem("database_password_file", "SQLite has no password; leave it out")])
    return Sqlite(parsed)
