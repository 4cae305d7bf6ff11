"""What every database has in common: transactions, and an error of our own for whatever goes wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from alembic.util import CommandError
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tidegate.clock import Time
from tidegate.errors import StoreError

MIGRATE = "run `tidegate db migrate`"


class Collision(StoreError):
    """Another transaction got in the way."""


class Database(ABC):
    """An open database: `reading` and `writing` begin their transactions as fits; both share one pool."""

    reading: Engine
    writing: Engine
    connections: int  # the most that one process opens
    #: Programs on several machines may be at work on it at once: engines, and others that know another schema.
    shared: bool
    #: What a person does when it does not work.
    fix: str
    #: The base of its driver's errors, which come through where SQLAlchemy is not between.
    raw: type[Exception]

    @abstractmethod
    def write(self, *, lasting: bool = True) -> AbstractContextManager[Connection]:
        """A transaction that writes; committed at the end of the block, rolled back when it raises.

        One that is not `lasting` may be lost when the machine fails, but not before one that came earlier, and not when the
        process fails. Where other machines have seen it by then, it lasts all the same.
        """

    @abstractmethod
    def create(self) -> None:
        """Make an empty database where that is ours to do."""

    @abstractmethod
    def migration(self) -> AbstractContextManager[Connection]:
        """A transaction that writes, as the only one that changes the schema: it waits for others, and they for it."""

    @abstractmethod
    def alone(self, connection: Connection, number: int) -> bool:
        """Whether nobody else does the work of this number; until the transaction ends, nobody else does."""

    @abstractmethod
    def now(self, connection: Connection) -> Time | None:
        """The database's own clock, where programs on several machines meet at it; None: the program's own will do."""

    @abstractmethod
    def described(self, connection: Connection) -> str:
        """Its name, version and place, for people."""

    @abstractmethod
    def shortage(self) -> tuple[str, str] | None:
        """What is wrong already or soon, though it can be written to, and what to do."""

    def free_bytes(self) -> int | None:
        """What is free on its disk; None where nobody here can tell."""
        return None

    @abstractmethod
    def error(self, doing: str, error: BaseException | None) -> StoreError:
        """What the driver's error means, for people, and whether waiting can help."""

    @abstractmethod
    def sole_engine(self) -> AbstractContextManager[None]:
        """Be the only engine, where only one is allowed. Raises `Refused` when there is another."""

    def close(self) -> None:
        """Close all connections."""
        self.reading.dispose()

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Whatever the database and its libraries raise becomes a `StoreError` that says what was being done."""
        try:
            yield
        except DBAPIError as error:
            raise self.error(doing, error.orig) from error
        except self.raw as error:
            raise self.error(doing, error) from error
        except PoolTimeout as error:
            raise StoreError(f"{doing}: all {self.connections} connections are in use", retryable=True) from error
        except ValidationError as error:
            mistakes = "; ".join(
                f"{'.'.join(map(str, mistake['loc'][1:]))}: {mistake['msg']}" for mistake in error.errors()
            )
            raise StoreError(f"{doing}: a stored value cannot be read: {mistakes}", retryable=False) from error
        except (PydanticSerializationError, UnicodeError, OverflowError) as error:
            raise StoreError(f"{doing}: a value cannot be stored: {error}", retryable=False) from error
        except (SQLAlchemyError, CommandError) as error:
            raise StoreError(f"{doing}: {error}", retryable=False) from error
        except OSError as error:
            raise StoreError(f"{doing}: {error}", retryable=True) from error


def touch(connection: Connection) -> None:
    """A write that goes to the disk and changes nothing."""
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
