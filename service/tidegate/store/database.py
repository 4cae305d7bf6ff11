"""The base class of databases: transactions, and the translation of all errors to `StoreError`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tidegate.clock import Time
from tidegate.errors import StoreError

MIGRATE = "run `tidegate db migrate`"


class Collision(StoreError):
    """A conflict with another transaction."""


class Database(ABC):
    """A database. The engines `reading` and `writing` differ in how they begin transactions; they share one pool."""

    reading: Engine
    writing: Engine
    connections: int  # the maximum that one process opens
    #: Processes on several machines may use it at once, also of releases with different schemas.
    shared: bool
    #: What to do when it fails, as shown by `tidegate check`.
    fix: str
    #: The base class of the driver's errors, which may be raised directly, without SQLAlchemy's wrapper.
    raw: type[Exception]

    @abstractmethod
    def write(self, *, lasting: bool = True) -> AbstractContextManager[Connection]:
        """A write transaction, committed at the end of the block and rolled back when the block raises.

        One that is not `lasting` may be lost when the machine crashes, but never before an earlier one, and never when only
        the process crashes. A shared database makes every transaction durable.
        """

    @abstractmethod
    def create(self) -> None:
        """Create an empty database, where Tidegate does that."""

    @abstractmethod
    def migration(self) -> AbstractContextManager[Connection]:
        """A write transaction for a migration; concurrent migrations wait for each other."""

    @abstractmethod
    def alone(self, connection: Connection, number: int) -> bool:
        """Take the advisory lock `number` until the transaction ends; False when another process has it."""

    @abstractmethod
    def now(self, connection: Connection) -> Time | None:
        """The database's clock, if the database is shared by several machines; None: use the process's clock."""

    @abstractmethod
    def described(self, connection: Connection) -> str:
        """Its name, version and place, as shown to people."""

    def exists(self) -> bool:
        """Whether it was created; true if an administrator creates it."""
        return True

    @abstractmethod
    def shortage(self) -> tuple[str, str] | None:
        """A problem of a database that still accepts writes, and what to do about it; None when there is none."""

    def free_bytes(self) -> int | None:
        """Free bytes on its disk; None when unknown."""
        return None

    @abstractmethod
    def error(self, action: str, error: BaseException | None) -> StoreError:
        """The driver's error as a message for people, with whether a retry may succeed."""

    @abstractmethod
    def sole_engine(self) -> AbstractContextManager[None]:
        """Lock the database for one engine, if it allows only one. Raises `Refused` when another engine runs."""

    def close(self) -> None:
        """Close all connections."""
        self.reading.dispose()

    @contextmanager
    def translated(self, action: str) -> Iterator[None]:
        """Turn every error of the database and its libraries into a `StoreError`: "Cannot `action`: reason"."""
        try:
            yield
        except DBAPIError as error:
            raise self.error(action, error.orig) from error
        except self.raw as error:
            raise self.error(action, error) from error
        except PoolTimeout as error:
            raise StoreError(f"Cannot {action}: all {self.connections} connections are in use", retryable=True) from error
        except ValidationError as error:
            mistakes = "; ".join(
                f"{'.'.join(map(str, mistake['loc'][1:]))}: {mistake['msg']}" for mistake in error.errors()
            )
            raise StoreError(f"Cannot {action}: a stored value is invalid: {mistakes}", retryable=False) from error
        except (PydanticSerializationError, UnicodeError, OverflowError) as error:
            raise StoreError(f"Cannot {action}: a value cannot be stored: {error}", retryable=False) from error
        except SQLAlchemyError as error:
            raise StoreError(f"Cannot {action}: {error}", retryable=False) from error
        except OSError as error:
            raise StoreError(f"Cannot {action}: {error}", retryable=True) from error


def touch(connection: Connection) -> None:
    """A write that reaches the disk and changes nothing."""
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
