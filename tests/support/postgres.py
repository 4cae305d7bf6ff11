"""A PostgreSQL server of the tests' own: a temporary directory, a unix socket, nothing flushed to the disk.

The schema is brought up to date once, in a template; each test gets a copy of it, or a used copy that was emptied.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import psycopg
import pytest

from support.prerequisites import missing
from support.wait import eventually, exit_status
from tidegate.store.store import SqlStore
from tidegate.store.tables import metadata

OWNER = "tidegate"
KEEPER = "keeper"
TABLES = ", ".join(metadata.tables)
OPTIONS = {
    "listen_addresses": "", "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off",
    "shared_buffers": "16MB", "max_connections": "60", "autovacuum": "off", "lc_messages": "C",
}  # fmt: skip


@cache
def programs() -> Path:
    """Where Debian keeps the server's programs, or where the path has them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("postgres")
    if not found and on_path is None:
        missing("a PostgreSQL server")
    return found[-1].parent if found else Path(str(on_path)).parent


def unprivileged(*command: str) -> list[str]:
    """The server refuses to run as root."""
    if os.geteuid():
        return list(command)
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]


class PostgresServer:
    """One server; `start` and `stop` as often as a test likes."""

    def __init__(self, home: Path, under: Sequence[str] = (), **options: str) -> None:
        self._under = under
        self.home, self.data, self.options = home, home / "data", OPTIONS | options
        self._numbers = itertools.count(1)
        self._spare: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        home.chmod(0o755)
        self.data.mkdir(mode=0o700)
        self.own(self.data)
        self.own(home)
        command = unprivileged(
            str(programs() / "initdb"), "-D", str(self.data), "-U", OWNER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N"
        )
        subprocess.run(command, check=True, capture_output=True, cwd="/")

    def own(self, path: Path) -> None:
        """Give it to the user whose server it is."""
        if not os.geteuid():
            shutil.chown(path, "nobody", "nogroup")

    def start(self) -> None:
        """Returns once it answers."""
        settings = [f"--{name}={value}" for name, value in self.options.items()]
        command = unprivileged(
            *self._under,
            str(programs() / "postgres"),
            "-D",
            str(self.data),
            f"--unix_socket_directories={self.home}",
            *settings,
        )
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        ready = [str(programs() / "pg_isready"), "-q", "-h", str(self.home), "-d", "postgres"]
        try:
            eventually(
                "PostgreSQL is ready",
                lambda: subprocess.run(ready, check=False).returncode == 0,
                process=self._process,
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(self.home / 'log').read_text()}") from None

    def stop(self, how: int = signal.SIGINT) -> None:
        """SIGINT: at once, breaking every connection. It may have ended by itself."""
        if self._process is not None:
            self._process.send_signal(how)
            exit_status(self._process)
            self._process = None

    def processes(self) -> list[int]:
        """All that it has now, one for each connection among them."""
        assert self._process is not None
        main = self._process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]

    def url(self, database: str, user: str = OWNER) -> str:
        """As the settings name it."""
        return f"postgresql://{user}@/{database}?host={self.home}"

    def connected(self, database: str = "postgres") -> psycopg.Connection:
        """To be used as a block."""
        return psycopg.connect(host=str(self.home), user=OWNER, dbname=database, autocommit=True)

    def run(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """As an administrator would; what it answers."""
        with self.connected(database) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def empty(self) -> str:
        """The name of a new database without tables."""
        name = f"test{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return name

    def keeper(self) -> str:
        """The name of a new database without tables, in which the role `keeper` owns a schema and has no other right."""
        name = self.empty()
        if not self.run(f"SELECT 1 FROM pg_roles WHERE rolname = '{KEEPER}'"):
            self.run(f"CREATE ROLE {KEEPER} LOGIN")
        self.run(f"REVOKE ALL ON SCHEMA public FROM public; CREATE SCHEMA AUTHORIZATION {KEEPER}", name)
        return name

    def prepare(self) -> None:
        """Make the template."""
        self.run("CREATE DATABASE prepared")
        with closing(SqlStore(self.url("prepared"))) as store:
            store.migrate()

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a copy of the template; emptied afterwards for the next, which is ten times as quick as a new copy.

        Who changes its schema takes an `empty` one.
        """
        if not self._spare:
            name = f"test{next(self._numbers)}"
            self.run(f"CREATE DATABASE {name} TEMPLATE prepared")
            self._spare.append(name)
        name = self._spare.pop()
        yield name
        self.run(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'")
        self.run(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE", name)
        self._spare.append(name)


@contextmanager
def running(place: Path | None = None, under: Sequence[str] = (), **options: str) -> Iterator[PostgresServer]:
    """A server for this block, with the template made; in a new folder below `place`, the system's for such if left out.
    `under`: a command that runs it."""
    programs()
    home = Path(tempfile.mkdtemp(prefix="tidegate-pg-", dir=place))  # short: a socket's path may have 107 characters
    server = PostgresServer(home, under, **options)
    try:
        server.start()
        server.prepare()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One for all tests."""
    with running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A new database with the present schema."""
    with postgres.database() as name:
        yield postgres.url(name)
