"""SQLite: one file, one machine, one engine.

Write transactions start with BEGIN IMMEDIATE, so that rows cannot change between a read and a write. PostgreSQL uses FOR
UPDATE SKIP LOCKED in the same statements, which SQLAlchemy omits for SQLite.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event

from tidegate.clock import Time
from tidegate.errors import InvalidSettings, Problem, Refused, StoreError
from tidegate.store.database import MIGRATE, Collision, Database

BUSY_SECONDS = 10.0  # how long a writer waits for another one
MIGRATION_SECONDS = 600.0  # how long a migration waits for another one
POOL_SIZE = 8  # connections kept open; further threads open one for each transaction
MAX_CONNECTIONS = 64
MIN_FREE_BYTES = 64 * 1024 * 1024  # `tidegate check` fails below this: the write-ahead log alone may grow by megabytes

#: Messages by primary result code, of errors after which a retry may succeed.
_RETRYABLE = {
    sqlite3.SQLITE_BUSY: f"another process kept the database locked for more than {BUSY_SECONDS:g} s",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_IOERR: "an I/O error occurred on the disk",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened; check its directory and permissions",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
}
_PERMANENT = {
    sqlite3.SQLITE_READONLY: "the database is read-only; check the permissions of the file and its directory",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged; restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
}


class Sqlite(Database):
    """An SQLite file. Nothing is opened before the first transaction.

    SQLite allows one writer at a time, and a waiting writer polls with growing pauses. The threads of one process therefore
    queue for the lock `turn`; only different processes compete for the file.
    """

    connections = MAX_CONNECTIONS
    shared = False
    fix = "check the file, its permissions and its disk, then run `tidegate check` again"
    raw = sqlite3.Error

    def __init__(self, url: URL) -> None:
        """Raises `InvalidSettings`."""
        self.path = path = file_of(url)
        self.turn = Lock()
        self.reading = create_engine(
            f"sqlite:///{path}",
            pool_size=POOL_SIZE,
            max_overflow=MAX_CONNECTIONS - POOL_SIZE,
            pool_timeout=BUSY_SECONDS,
            connect_args={"timeout": BUSY_SECONDS},
            hide_parameters=True,  # tracebacks go to the log, and stored values may be secret
        )

        @event.listens_for(self.reading, "do_connect")
        def refuse_to_create(*_: object) -> None:
            # SQLite would create an empty file for a mistyped path.
            if not path.exists():
                raise StoreError(f"No database at {path}; {MIGRATE}", retryable=False)

        event.listen(self.reading, "connect", _prepare)
        event.listen(self.reading, "begin", _begin)
        self.writing = self.reading.execution_options(begin="BEGIN IMMEDIATE", synchronous="FULL")
        self._passing = self.reading.execution_options(begin="BEGIN IMMEDIATE", synchronous="NORMAL")

    @contextmanager
    def write(self, *, lasting: bool = True) -> Iterator[Connection]:
        if not self.turn.acquire(timeout=BUSY_SECONDS):
            text = f"Cannot write to the database: other threads of this process held it for more than {BUSY_SECONDS:g} s"
            raise StoreError(text, retryable=True)
        try:
            with (self.writing if lasting else self._passing).begin() as connection:
                yield connection
        finally:
            self.turn.release()

    def create(self) -> None:
        """Create the file, readable only by its owner: it contains the environment variables of containers."""
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """Waits long for another migration: giving up early would only restart the service in a loop."""
        with self.turn, self.writing.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.execute(f"PRAGMA busy_timeout = {MIGRATION_SECONDS * 1000:.0f}")
            try:
                with connection.begin():
                    yield connection
            finally:
                raw.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")

    def alone(self, connection: Connection, number: int) -> bool:
        return True

    def now(self, connection: Connection) -> Time | None:
        return None

    def described(self, connection: Connection) -> str:
        return f"SQLite {sqlite3.sqlite_version} at {self.path}"

    def exists(self) -> bool:
        return self.path.exists()

    def shortage(self) -> tuple[str, str] | None:
        if not self.path.exists():
            return f"{self.path} does not exist", MIGRATE
        free = self.free_bytes()
        if free < MIN_FREE_BYTES:
            what = f"{self.path}: only {free // 1024**2} MiB are free on its disk"
            return what, f"free some space: at least {MIN_FREE_BYTES // 1024**2} MiB are needed"
        return None

    def free_bytes(self) -> int:
        """Free bytes on the disk of the file."""
        space = os.statvfs(self.path.parent)
        return space.f_bavail * space.f_frsize

    def error(self, action: str, error: BaseException | None) -> StoreError:
        """The error by SQLite's result code; without one it is not retryable."""
        if isinstance(error, sqlite3.IntegrityError):
            return Collision(f"Cannot {action}: {error}", retryable=False)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code; the other bits only refine it
        if code in _RETRYABLE:
            return StoreError(f"Cannot {action}: {_RETRYABLE[code]} ({error})", retryable=True)
        if code in _PERMANENT:
            return StoreError(f"Cannot {action}: {_PERMANENT[code]} ({error})", retryable=False)
        if str(error).startswith(("no such table", "no such column")):
            return StoreError(f"Cannot {action}: the schema is out of date ({error}); {MIGRATE}", retryable=False)
        return StoreError(f"Cannot {action}: {error}", retryable=False)

    @contextmanager
    def sole_engine(self) -> Iterator[None]:
        """Lock a file next to the database; the system releases the lock when the process ends for any reason."""
        lock = self.path.with_name(self.path.name + ".engine")
        with self.translated("lock the database for one engine"):
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            _lock(handle, lock, self.path)
            yield
        finally:
            os.close(handle)  # the file is kept: after removing it, two engines could lock different files of the same name


def file_of(url: URL) -> Path:
    """The path in `sqlite:///…`. Raises `InvalidSettings` when there is none."""
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:") or url.query:
        what = "the path of a file is required, for example sqlite:////var/lib/tidegate/tidegate.db"
        raise InvalidSettings([Problem("database", what)])
    return Path(str(url.database)).absolute()


def _prepare(connection: Any, _: object) -> None:
    """Settings of one SQLite connection."""
    connection.isolation_level = None  # otherwise the sqlite3 module begins transactions by itself
    connection.execute("PRAGMA foreign_keys = ON")
    (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal != "wal":  # a network file system, for example
        text = "The file system of the database does not support a write-ahead log; move the database to a local disk"
        raise StoreError(text, retryable=False)


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if "synchronous" in options:  # FULL: durable on return; NORMAL: durable with the next FULL commit
        connection.exec_driver_sql(f"PRAGMA synchronous = {options['synchronous']}")
    connection.exec_driver_sql(options.get("begin", "BEGIN"))


def _lock(handle: int, lock: Path, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
        message = f"Another engine (process {holder}, lock file {lock}) already uses {path}. Stop it first."
        raise Refused(f"{message} SQLite allows one engine; PostgreSQL allows any number.") from error
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
