"""What differs between databases: connecting, beginning a transaction, naming an error, and one engine at a time.

SQLite so far. A write begins with BEGIN IMMEDIATE, so that what it reads cannot change before it writes; elsewhere the
same statements say FOR UPDATE SKIP LOCKED, which SQLite's compiler leaves out.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from alembic.util import CommandError
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tidegate.errors import InvalidSettings, Problem, Refused, StoreError

BUSY_SECONDS = 10.0  # how long a writer waits for another one
POOL_SIZE = 8  # connections kept open; more threads than that open theirs for one transaction
MOST_CONNECTIONS = 64
MIGRATE = "run `tidegate migrate`"

#: SQLite's primary result codes after which the same call may succeed: what to tell a person.
_PASSING = {
    sqlite3.SQLITE_BUSY: f"another process kept the database locked for more than {BUSY_SECONDS:g} s",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_FULL: "the disk is full: make room",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened: look at its directory and its permissions",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
}
_LASTING = {
    sqlite3.SQLITE_READONLY: "the database cannot be written: look at the permissions of the file and its directory",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged: restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
}


class Collision(StoreError):
    """A row of another transaction got in the way."""


@dataclass(frozen=True)
class Database:
    """An open database: `reading` and `writing` begin their transactions as fits; both share one pool.

    SQLite has one writer at a time, and one that waits looks again after growing pauses. So the threads of a process
    queue at `turn` instead, and only processes meet in the file.
    """

    reading: Engine
    writing: Engine
    path: Path
    turn: Lock = field(default_factory=Lock)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; committed at the end of the block, rolled back when it raises."""
        if not self.turn.acquire(timeout=BUSY_SECONDS):
            raise StoreError(f"other threads of this process wrote for more than {BUSY_SECONDS:g} s", retryable=True)
        try:
            with self.writing.begin() as connection:
                yield connection
        finally:
            self.turn.release()

    def close(self) -> None:
        """Close all connections."""
        self.reading.dispose()


def sqlite_path(url: str) -> Path:
    """The file behind `sqlite:///…`. Raises `InvalidSettings` for anything else."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidSettings([Problem("database", "not a URL; like sqlite:////var/lib/tidegate/tidegate.db")]) from error
    if parsed.get_backend_name() != "sqlite":
        found = f"{parsed.get_backend_name()} is not supported; allowed: sqlite:///PATH"
        raise InvalidSettings([Problem("database", found)])
    if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:") or parsed.query:
        raise InvalidSettings(
            [Problem("database", "the path of a file is needed, like sqlite:////var/lib/tidegate/tidegate.db")]
        )
    return Path(str(parsed.database)).absolute()


def connect(url: str) -> Database:
    """Open lazily: nothing is touched before the first transaction. Raises `InvalidSettings`."""
    path = sqlite_path(url)
    engine = create_engine(
        f"sqlite:///{path}",
        pool_size=POOL_SIZE,
        max_overflow=MOST_CONNECTIONS - POOL_SIZE,
        pool_timeout=BUSY_SECONDS,
        connect_args={"timeout": BUSY_SECONDS},
        hide_parameters=True,  # an error's trace goes to the log, and what is stored may be secret
    )

    @event.listens_for(engine, "do_connect")
    def refuse_to_create(*_: object) -> None:
        # SQLite would make an empty file out of a mistyped path.
        if not path.exists():
            raise StoreError(f"no database at {path}: {MIGRATE}", retryable=False)

    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    writing = engine.execution_options(begin="BEGIN IMMEDIATE")
    return Database(reading=engine, writing=writing, path=path)


def _prepare(connection: Any, _: object) -> None:
    """Settings of one SQLite connection."""
    connection.isolation_level = None  # or the sqlite3 module begins transactions by its own rules
    connection.execute("PRAGMA foreign_keys = ON")
    (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if journal != "wal":  # a network file system, for one, cannot
        raise StoreError("the database's file system does not allow a write-ahead log: use a local disk", retryable=False)
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def create_file(path: Path) -> None:
    """Make an empty database, readable by nobody else: it holds what containers get as environment."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Whatever the database and its libraries raise becomes a `StoreError` that says what was being done."""
    try:
        yield
    except IntegrityError as error:
        raise Collision(f"{doing}: {error.orig}", retryable=False) from error
    except DBAPIError as error:
        raise _named(doing, error.orig) from error
    except sqlite3.Error as error:
        raise _named(doing, error) from error
    except PoolTimeout as error:
        raise StoreError(f"{doing}: all {MOST_CONNECTIONS} connections are in use", retryable=True) from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
        raise StoreError(f"{doing}: a stored value cannot be read: {found}", retryable=False) from error
    except PydanticSerializationError as error:
        raise StoreError(f"{doing}: a value cannot be stored: {error}", retryable=False) from error
    except (UnicodeError, OverflowError) as error:
        raise StoreError(f"{doing}: a value cannot be stored: {error}", retryable=False) from error
    except (SQLAlchemyError, CommandError) as error:
        raise StoreError(f"{doing}: {error}", retryable=False) from error
    except OSError as error:
        raise StoreError(f"{doing}: {error}", retryable=True) from error


def _named(doing: str, error: BaseException | None) -> StoreError:
    """By SQLite's result code; without one nothing says that waiting would help."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it only refines
    if code in _PASSING:
        return StoreError(f"{doing}: {_PASSING[code]} ({error})", retryable=True)
    if code in _LASTING:
        return StoreError(f"{doing}: {_LASTING[code]} ({error})", retryable=False)
    if str(error).startswith(("no such table", "no such column")):
        return StoreError(f"{doing}: the schema is not up to date ({error}): {MIGRATE}", retryable=False)
    return StoreError(f"{doing}: {error}", retryable=False)


@contextmanager
def exclusive_engine(url: str) -> Iterator[None]:
    """Be the only engine on this database, from here to the end of the block.

    On SQLite a lock file beside the database says so; the system drops the lock when the process ends, however it ends.
    Raises `Refused` when another engine has it, `StoreError` when the file cannot be made.
    """
    path = sqlite_path(url)
    lock = path.with_name(path.name + ".engine")
    with translated("locking the database for one engine"):
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _take(handle, lock, path)
        yield
    finally:
        os.close(handle)  # the file stays: removing it would let two engines lock two files of one name


def _take(handle: int, lock: Path, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
        message = f"an engine runs on {path} already (process {holder}; lock file {lock}): stop it first"
        raise Refused(f"{message}. SQLite allows one engine.") from error
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
