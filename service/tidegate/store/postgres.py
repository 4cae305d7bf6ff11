"""PostgreSQL: any number of engines and servers, on any number of machines.

Nothing waits for ever: the server limits statements and locks, the client limits the wait for a silent server. Reads see
one snapshot; writes lock the rows that they depend on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event, text

from tidegate.clock import Time
from tidegate.errors import InvalidSettings, Problem, StoreError
from tidegate.store.database import MIGRATE, Collision, Database

CONNECT_SECONDS = 5
LOCK_SECONDS = 5.0  # waiting for another transaction
STATEMENT_SECONDS = 10.0
IDLE_SECONDS = 5.0  # in a transaction: an engine that is stopped must not keep its locks for as long as a lease
SILENCE_SECONDS = 15  # the system closes a connection to a silent peer after this
MIGRATION_SECONDS = 600.0  # for one statement of a migration, and waiting for another `tidegate db migrate`
POOL_SIZE = 8  # connections kept open; further threads open one for each transaction
MAX_CONNECTIONS = 32
ENCODING = "UTF8"
RECREATE = "Create it with `createdb --encoding UTF8 --template template0`."
MIGRATION_LOCK = 0x7469_6465  # an advisory lock number that nothing else uses
#: The options allowed in the URL's query; most others of libpq are set here.
OPTIONS = ("host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "target_session_attrs")

_CONNECT_OPTIONS = {
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "tidegate",
    "options": f"-c statement_timeout={STATEMENT_SECONDS:g}s -c lock_timeout={LOCK_SECONDS:g}s"
    f" -c idle_in_transaction_session_timeout={IDLE_SECONDS:g}s",
    "keepalives_idle": SILENCE_SECONDS // 3,
    "keepalives_interval": SILENCE_SECONDS // 3,
    "keepalives_count": 2,
    "tcp_user_timeout": SILENCE_SECONDS * 1000,
}

#: Messages by SQLSTATE, or its first two characters, of errors after which a retry may succeed.
_RETRYABLE = {
    "08": "the connection was lost",
    "25006": "the server is read-only; point `database` at the primary, or free space on its disk",
    "25P03": "the transaction was idle for too long",
    "53100": "the server's disk is full; free some space",
    "53200": "the server is out of memory",
    "53300": "the server accepts no more connections; raise its max_connections, or run fewer processes",
    "55P03": f"another transaction held a lock for more than {LOCK_SECONDS:g} s",
    "57014": f"the statement took more than {STATEMENT_SECONDS:g} s",
    "57P": "the server is stopping or starting",
    "58": "an I/O error occurred on the server",
}
_PERMANENT = {
    "22": "a value cannot be stored",
    "28": "the server rejected this role; check the password and pg_hba.conf",
    "3D000": "the database does not exist; create it with `createdb`",
    "42501": "the role lacks a privilege; make it the owner of its schema with `CREATE SCHEMA AUTHORIZATION role`",
    "42703": f"the schema is out of date; {MIGRATE}",
    "42P01": f"the schema is out of date; {MIGRATE}",
    "3F000": "there is no schema for the tables; create one with `CREATE SCHEMA AUTHORIZATION role`",
    "XX": "the database is damaged; restore a backup",
}
#: SQLSTATEs by messages of servers that refuse a connection; the client library has no SQLSTATE for these.
_REFUSALS = {
    "no password supplied": "28",
    "no pg_hba.conf entry": "28",
    "authentication failed": "28",
    "is not permitted to log in": "28",
    "permission denied for database": "28",
    "too many clients": "53300",
    "too many connections": "53300",
    "remaining connection slots": "53300",
    "is starting up": "57P",
    "is shutting down": "57P",
    "in recovery mode": "57P",
    "session is read-only": "25006",
    "server is in hot standby": "25006",
    'FATAL:  role "': "28",
    'FATAL:  database "': "3D000",
}


class Postgres(Database):
    """A PostgreSQL server. Nothing is opened before the first transaction; each connection reads `password_file` again."""

    connections = MAX_CONNECTIONS
    shared = True
    fix = "check the server, its log and the `database` setting, then run `tidegate check` again"

    def __init__(self, url: URL, password_file: Path | None) -> None:
        """Raises `InvalidSettings`."""
        driver = _driver()
        self.raw = driver.Error
        _validate(url, password_file)
        self._place = f"{url.host or url.query.get('host') or 'the local socket'}/{url.database}"
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=POOL_SIZE,
            max_overflow=MAX_CONNECTIONS - POOL_SIZE,
            pool_timeout=STATEMENT_SECONDS,
            pool_pre_ping=True,  # a restart of the server makes no call fail
            connect_args=_CONNECT_OPTIONS,
            isolation_level="READ COMMITTED",
            hide_parameters=True,  # tracebacks go to the log, and stored values may be secret
        )

        @event.listens_for(engine, "do_connect")
        def open_patiently(_: object, __: object, arguments: list[Any], options: dict[str, Any]) -> Any:
            password = {} if password_file is None else {"password": _password(password_file)}
            options["cursor_factory"] = driver.PlainCursor
            connection = driver.TimeLimitedConnection.connect(*arguments, **options, **password)
            encoding = connection.info.parameter_status("server_encoding")
            if encoding != ENCODING:
                connection.close()
                text = f"The database {self._place} has the encoding {encoding}; {ENCODING} is required, because names and"
                raise StoreError(f"{text} messages may have any character. {RECREATE}", retryable=False)
            return connection

        @event.listens_for(engine, "checkout")
        def obey_the_server(connection: Any, *_: object) -> None:
            # After a read-only transaction SQLAlchemy sets READ WRITE, which would override a read-only server.
            connection.read_only = None

        self.writing = engine
        self.reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def write(self, *, lasting: bool = True) -> Iterator[Connection]:
        with self.writing.begin() as connection:
            yield connection

    def create(self) -> None:
        """Does nothing: the administrator of the server creates the database."""

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        with self.write() as connection:
            raw: Any = connection.connection.driver_connection
            raw.patience_seconds = MIGRATION_SECONDS + LOCK_SECONDS
            connection.execute(text(f"SET LOCAL statement_timeout = '{MIGRATION_SECONDS:g}s'"))
            connection.execute(text(f"SET LOCAL lock_timeout = '{MIGRATION_SECONDS:g}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": MIGRATION_LOCK})
            # A statement waiting for a table lock blocks all later ones, so the wait must be short.
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS:g}s'"))
            yield connection

    def alone(self, connection: Connection, number: int) -> bool:
        query = text("SELECT pg_try_advisory_xact_lock(:number)")
        return bool(connection.execute(query, {"number": number}).scalar_one())

    def now(self, connection: Connection) -> Time | None:
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())::float8")).scalar_one())

    def described(self, connection: Connection) -> str:
        version = connection.execute(text("SHOW server_version")).scalar_one()
        return f"PostgreSQL {version.split()[0]} at {self._place}"

    def shortage(self) -> tuple[str, str] | None:
        return None

    def error(self, action: str, error: BaseException | None) -> StoreError:
        """The error by its SQLSTATE, with the first line only: details quote rows, which contain environment variables."""
        line = _first_line(error)
        state = getattr(error, "sqlstate", None) or next((code for words, code in _REFUSALS.items() if words in line), "")
        if state in ("40001", "40P01"):
            return Collision(f"Cannot {action}: conflict with another transaction ({line})", retryable=True)
        if state.startswith("23"):
            return Collision(f"Cannot {action}: {line}", retryable=False)
        for known, retryable in ((_RETRYABLE, True), (_PERMANENT, False)):
            for code in (state, state[:3], state[:2]):
                if code in known:
                    return StoreError(f"Cannot {action}: {known[code]} ({line})", retryable=retryable)
        if not state and isinstance(error, self.raw) and type(error).__name__ in ("OperationalError", "ConnectionTimeout"):
            return StoreError(f"Cannot {action}: no connection to {self._place} ({line})", retryable=True)
        return StoreError(f"Cannot {action}: {line}", retryable=False)

    @contextmanager
    def sole_engine(self) -> Iterator[None]:
        """PostgreSQL allows any number of engines."""
        yield


def _driver() -> ModuleType:
    """The module that needs psycopg. Raises `InvalidSettings` when psycopg is not installed."""
    try:
        from tidegate.store import postgres_connection
    except ImportError as error:
        what = f"PostgreSQL requires psycopg ({error}); run pip install 'tidegate[postgres]'"
        raise InvalidSettings([Problem("database", what)]) from error
    return postgres_connection


def _validate(url: URL, password_file: Path | None) -> None:
    """Raises `InvalidSettings` with all problems of the settings."""
    problems = []
    if not url.database:
        problems.append(Problem("database", "the database name is missing; for example postgresql://tidegate@db/tidegate"))
    unknown = sorted(set(url.query) - set(OPTIONS))
    if unknown:
        problems.append(Problem("database", f"unknown options {', '.join(unknown)}; allowed: {', '.join(OPTIONS)}"))
    if url.password is not None and password_file is not None:
        problems.append(Problem("database_password_file", "the URL already has a password; remove one of the two"))
    if problems:
        raise InvalidSettings(problems)


def _password(file: Path) -> str:
    try:
        return file.read_text().strip("\r\n")
    except (OSError, UnicodeError) as error:
        raise StoreError(f"Cannot read database_password_file {file}: {error}", retryable=False) from error


def _first_line(error: BaseException | None) -> str:
    """The server's primary message, or the first line of the client's."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    lines = str(primary or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
