"""SQLite: one file, one machine, one engine.

A write begins with BEGIN IMMEDIATE, so that what it reads cannot change before it writes; elsewhere the same statements
say FOR UPDATE SKIP LOCKED, which SQLite's compiler leaves out.
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
POOL_SIZE = 8  # connections kept open; more threads than that open theirs for one transaction
MAX_CONNECTIONS = 64
MIN_FREE_BYTES = 64 * 1024 * 1024  # below this `check` warns: the write-ahead log alone may grow by megabytes

#: Primary result codes after which the same call may succeed: what to tell a person.
_RETRYABLE = {
    sqlite3.SQLITE_BUSY: f"another process kept the database locked for more than {BUSY_SECONDS:g} s",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_FULL: "the disk is full: make room",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened: look at its directory and its permissions",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
}
_PERMANENT = {
    sqlite3.SQLITE_READONLY: "the database cannot be written: look at the permissions of the file and its directory",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged: restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
}


class Sqlite(Database):
    """A file. Nothing is touched before the first transaction.

    SQLite has one writer at a time, and one that waits looks again after growing pauses. So the threads of a process
    queue at `turn` instead, and only processes meet in the file.
    """

    connections = MAX_CONNECTIONS
    shared = False
    fix = "look at the file, its permissions and its disk, then check again"
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
            hide_parameters=True,  # an error's trace goes to the log, and what is stored may be secret
        )

        @event.listens_for(self.reading, "do_connect")
        def refuse_to_create(*_: object) -> None:
            # SQLite would make an empty file out of a mistyped path.
            if not path.exists():
                raise StoreError(f"no database at {path}: {MIGRATE}", retryable=False)

        event.listen(self.reading, "connect", _prepare)
        event.listen(self.reading, "begin", _begin)
        self.writing = self.reading.execution_options(begin="BEGIN IMMEDIATE", synchronous="FULL")
        self._passing = self.reading.execution_options(begin="BEGIN IMMEDIATE", synchronous="NORMAL")

    @contextmanager
    def write(self, *, lasting: bool = True) -> Iterator[Connection]:
        if not self.turn.acquire(timeout=BUSY_SECONDS):
            raise StoreError(f"other threads of this process wrote for more than {BUSY_SECONDS:g} s", retryable=True)
        try:
            with (self.writing if lasting else self._passing).begin() as connection:
                yield connection
        finally:
            self.turn.release()

    def create(self) -> None:
        """Readable by nobody else: it holds what containers get as environment."""
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """Whoever has waited in vain for one that is under way would end, and be started again in vain."""
        with self.turn, self.writing.connect() as connection:
            held: Any = connection.connection.driver_connection
            held.execute(f"PRAGMA busy_timeout = {MIGRATION_SECONDS * 1000:.0f}")
            try:
                with connection.begin():
                    yield connection
            finally:
                held.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")

    def alone(self, connection: Connection, number: int) -> bool:
        return True

    def now(self, connection: Connection) -> Time | None:
        return None

    def described(self, connection: Connection) -> str:
        return f"SQLite {sqlite3.sqlite_version} at {self.path}"

    def shortage(self) -> tuple[str, str] | None:
        if not self.path.exists():
            return f"{self.path} does not exist", MIGRATE
        free = self.free_bytes()
        if free < MIN_FREE_BYTES:
            what = f"{self.path}: only {free // 1024**2} MiB are free on its disk"
            return what, f"make room: {MIN_FREE_BYTES // 1024**2} MiB at the least"
        return None

    def free_bytes(self) -> int:
        """As `database.Database` says."""
        space = os.statvfs(self.path.parent)
        return space.f_bavail * space.f_frsize

    def error(self, doing: str, error: BaseException | None) -> StoreError:
        """By SQLite's result code; without one nothing says that waiting would help."""
        if isinstance(error, sqlite3.IntegrityError):
            return Collision(f"{doing}: {error}", retryable=False)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it only refines
        if code in _RETRYABLE:
            return StoreError(f"{doing}: {_RETRYABLE[code]} ({error})", retryable=True)
        if code in _PERMANENT:
            return StoreError(f"{doing}: {_PERMANENT[code]} ({error})", retryable=False)
        if str(error).startswith(("no such table", "no such column")):
            return StoreError(f"{doing}: the schema is not up to date ({error}): {MIGRATE}", retryable=False)
        return StoreError(f"{doing}: {error}", retryable=False)

    @contextmanager
    def sole_engine(self) -> Iterator[None]:
        """A lock file beside the database says so; the system drops the lock when the process ends, however it ends."""
        lock = self.path.with_name(self.path.name + ".engine")
        with self.translated("locking the database for one engine"):
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            _lock(handle, lock, self.path)
            yield
        finally:
            os.close(handle)  # the file stays: removing it would let two engines lock two files of one name


def file_of(url: URL) -> Path:
    """The file behind `sqlite:///…`. Raises `InvalidSettings` where there is none."""
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:") or url.query:
        what = "the path of a file is needed, like sqlite:////var/lib/tidegate/tidegate.db"
        raise InvalidSettings([Problem("database", what)])
    return Path(str(url.database)).absolute()


def _prepare(connection: Any, _: object) -> None:
    """Settings of one SQLite connection."""
    connection.isolation_level = None  # or the sqlite3 module begins transactions by its own rules
    connection.execute("PRAGMA foreign_keys = ON")
    (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal != "wal":  # a network file system, for one, cannot
        raise StoreError("the database's file system does not allow a write-ahead log: use a local disk", retryable=False)


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if "synchronous" in options:  # FULL: a commit is on the disk when it returns; NORMAL: it will be with the next FULL one
        connection.exec_driver_sql(f"PRAGMA synchronous = {options['synchronous']}")
    connection.exec_driver_sql(options.get("begin", "BEGIN"))


def _lock(handle: int, lock: Path, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
        message = f"an engine runs on {path} already (process {holder}; lock file {lock}): stop it first"
        raise Refused(f"{message}. SQLite allows one engine; PostgreSQL allows any number.") from error
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
