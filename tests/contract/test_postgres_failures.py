"""What goes wrong with PostgreSQL: a server that is down, hangs, is full, read-only or not ours; and what it is told by."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from random import randint
from typing import Any

import pytest
from sqlalchemy import text

from support.clock import ShiftedClock
from support.haproxy import short_folder
from support.postgres import KEEPER, PostgresServer, running
from support.prerequisites import program
from support.store_fixtures import a_service, an_event, begin, claim_due, finish
from support.wait import at_most, eventually
from tidegate.core.phases import Phase
from tidegate.core.records import Claim
from tidegate.errors import InvalidSettings, StoreError
from tidegate.store import postgres as module
from tidegate.store import postgres_connection
from tidegate.store.database import Collision
from tidegate.store.store import SqlStore

SHOP = a_service()
SECRET = "tide-and-gate"


@pytest.fixture
def store(postgres_url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(postgres_url)) as made:
        yield made


def run(store: SqlStore, *statements: str) -> None:
    """In one transaction of the store's."""
    with store._write("testing") as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize(
    ("url", "file", "told"),
    [
        ("postgresql://eva@db", None, "database name is missing"),
        ("postgresql://eva@db/x?sslmode=require&colour=red&fast=1", None, "colour, fast; allowed: host"),
        (f"postgresql://eva:{SECRET}@db/x", Path("/run/password"), "remove one"),
        (f"postgresql+psycopg2://eva:{SECRET}@db/x", None, "is not supported"),
        (f"postgresql://eva:{SECRET}@db:port/x", None, "not a URL"),
    ],
)
def test_wrong_settings_are_told(url: str, file: Path | None, told: str) -> None:
    with pytest.raises(InvalidSettings, match=told) as caught:
        SqlStore(url, password_file=file)
    assert SECRET not in repr(caught.value)


def refused(url: str, password_file: Path | None = None) -> StoreError:
    """The error of a call on this database; nothing it says shows the password."""
    with closing(SqlStore(url, password_file=password_file)) as store:
        with pytest.raises(StoreError) as caught:
            store.rollouts()
        (line,) = store.check()
    assert line.status == "wrong"
    assert SECRET not in f"{caught.value!r} {line}"
    return caught.value


def test_a_server_that_is_down_is_worth_another_try(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        error = refused(f"postgresql://eva:{SECRET}@127.0.0.1:{nobody.getsockname()[1]}/x")
    assert error.retryable
    assert "no connection to 127.0.0.1/x" in error.message
    error = refused(f"postgresql://eva:{SECRET}@/x?host={tmp_path}")
    assert error.retryable


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._CONNECT_OPTIONS, "connect_timeout", 2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        error = refused(f"postgresql://eva:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/x")
    assert error.retryable


def test_no_such_database_no_such_role(postgres: PostgresServer) -> None:
    error = refused(postgres.url("nowhere"))
    assert (error.retryable, "the database does not exist" in error.message) == (False, True)
    error = refused(postgres.url("prepared", f"nobody:{SECRET}"))
    assert (error.retryable, "the server rejected this role" in error.message) == (False, True)


def test_a_database_without_tables_asks_to_be_migrated(postgres: PostgresServer) -> None:
    with closing(SqlStore(postgres.url(postgres.empty()))) as store:
        for ask in (store.rollouts, store.prepare, lambda: store.claim("anna", 10)):
            with pytest.raises(StoreError, match="tidegate db migrate") as caught:
                ask()
            assert not caught.value.retryable
        (line,) = store.check()
        assert (line.status, line.fix) == ("wrong", "run `tidegate db migrate`")
        store.migrate()
        store.prepare()


def test_a_role_that_may_not_make_tables_is_told_what_it_lacks(postgres: PostgresServer) -> None:
    name = postgres.empty()
    postgres.run("DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    wanted = pytest.raises(StoreError, match="CREATE SCHEMA AUTHORIZATION")
    with closing(SqlStore(postgres.url(name, "guest"))) as store, wanted as caught:
        store.migrate()
    assert not caught.value.retryable


def test_a_role_with_a_schema_of_its_own_can_do_everything(postgres: PostgresServer) -> None:
    name = postgres.keeper()
    with closing(SqlStore(postgres.url(name, KEEPER))) as store:
        store.migrate()
        finish(store, begin(store, SHOP), Phase.RUNNING, Phase.SUCCEEDED)
        assert [line.status for line in store.check()] == ["ok"]
    assert postgres.run("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'rollouts'", name) == [(KEEPER,)]


def test_a_full_server_a_slow_lock_and_a_read_only_one(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    name = postgres.empty()
    with closing(SqlStore(postgres.url(name))) as store:
        store.migrate()
        begin(store, SHOP)
        with closing(SqlStore(postgres.url(name))) as other, other._write("testing") as connection:
            connection.execute(text("UPDATE rollouts SET due = due"))
            with pytest.raises(StoreError, match="another transaction held a lock") as caught:
                run(store, "SET LOCAL lock_timeout = '50ms'", "UPDATE rollouts SET due = due")
            assert caught.value.retryable
        with pytest.raises(StoreError, match="took more than") as caught:
            run(store, "SET LOCAL statement_timeout = '50ms'", "SELECT pg_sleep(20)")
        assert caught.value.retryable
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with closing(SqlStore(postgres.url(name))) as store, pytest.raises(StoreError, match="read-only") as caught:
        store.claim("anna", 10)
    assert caught.value.retryable
    postgres.run(f"ALTER DATABASE {name} RESET ALL; ALTER DATABASE {name} CONNECTION LIMIT 0")
    postgres.run("DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    error = refused(postgres.url(name, "guest"))
    assert (error.retryable, "the server accepts no more connections" in error.message) == (True, True)


def test_a_server_that_is_made_read_only_is_obeyed_by_connections_that_were_read_from(store: SqlStore) -> None:
    begin(store, SHOP)
    run(store, "SET default_transaction_read_only = on")
    store.rollouts()
    with pytest.raises(StoreError, match="read-only") as caught:
        store.claim("anna", 10)
    assert caught.value.retryable


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_another_encoding_is_refused_in_a_sentence(postgres: PostgresServer, encoding: str) -> None:
    name = f"encoded_{encoding.lower()}"
    postgres.run(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    with closing(SqlStore(postgres.url(name))) as store:
        with pytest.raises(StoreError, match=f"has the encoding {encoding}; UTF8 is required") as caught:
            store.migrate()
        assert not caught.value.retryable
        (line,) = store.check()
    assert (line.status, "createdb --encoding UTF8" in line.result) == ("wrong", True)
    postgres.run(f"DROP DATABASE {name}")


def test_the_limits_are_set_on_every_connection(store: SqlStore) -> None:
    with store._read("testing") as connection:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "application_name")
        found = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in names]
    assert found == ["10s", "5s", "5s", "tidegate"]


def test_a_value_that_cannot_be_stored_is_named(store: SqlStore) -> None:
    rollout = begin(store, SHOP)
    claim = claim_due(store)
    for change in ({"cursor": 1 << 70}, {"reason": "half a \ud800 sign"}, {"reason": "a \0 sign"}, {"phase": None}):
        with pytest.raises(StoreError, match=rollout.id) as caught:
            store.save(replace(rollout, **change), (), claim.fence)  # type: ignore[arg-type]  # wrong on purpose
        assert not caught.value.retryable
    assert store.load(rollout.id)[0] == rollout


def test_an_error_shows_no_row(store: SqlStore) -> None:
    """What a container gets as environment stands in a row, and PostgreSQL would quote it."""
    begin(store, SHOP)
    copied = f"""INSERT INTO releases SELECT service, 'x', 1, 'i', '', NULL, '{{"KEY": "{SECRET}"}}', 1.0 FROM releases"""
    with pytest.raises(Collision) as caught:
        run(store, copied)
    assert SECRET not in str(caught.value)
    assert "replicas" in str(caught.value)


def test_the_password_is_read_from_its_file_for_each_connection(tmp_path: Path) -> None:
    file = tmp_path / "password"
    with running(password_encryption="scram-sha-256") as server:
        server.run(f"CREATE ROLE eva LOGIN SUPERUSER PASSWORD '{SECRET}'")
        (server.data / "pg_hba.conf").write_text("local all eva scram-sha-256\nlocal all all trust\n")
        server.run("SELECT pg_reload_conf()")
        url = server.url("prepared", "eva")
        assert f"Cannot read database_password_file {file}" in refused(url, file).message
        file.write_text("not this\n")
        error = refused(url, file)
        assert (error.retryable, "the server rejected this role" in error.message) == (False, True)
        with closing(SqlStore(url, password_file=file)) as store:
            file.write_text(f"{SECRET}\n")
            assert store.rollouts() == ()
        wrong = refused(server.url("prepared", f"eva:{SECRET}no"))
        assert not wrong.retryable

        # what the server does while a program is connected
        with closing(SqlStore(url, password_file=file)) as store:
            begin(store, SHOP)
            server.stop()
            with pytest.raises(StoreError) as caught:
                store.claim("anna", 10)
            assert caught.value.retryable
            server.start()
            assert claim_due(store).rollout == "shop-1", "a server that was started again is served at once"


def test_a_server_that_hangs_is_given_up(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection lives, and the limits that it should watch itself are not watched."""
    monkeypatch.setattr(postgres_connection.TimeLimitedConnection, "patience_seconds", 3.0)
    stopped: list[int] = []

    def hang(*, within: bool) -> None:
        with store._write("testing") as connection:
            stopped.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
            if within:
                os.kill(stopped[-1], signal.SIGSTOP)
                connection.execute(text("SELECT 1"))

    try:
        with at_most(60, "giving up two connections that hang"):
            with pytest.raises(StoreError, match="no response from the server") as caught:
                hang(within=True)
            assert caught.value.retryable
            hang(within=False)
            os.kill(stopped[-1], signal.SIGSTOP)
            assert store.claim("anna", 10) is None, "a connection that hangs is replaced before it is used"
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_tls_is_checked_as_the_url_says(tmp_path: Path) -> None:
    openssl = program("openssl")
    address = f"127.{randint(1, 254)}.{randint(1, 254)}.{randint(2, 254)}"  # with the usual port, whoever runs beside us
    with running(listen_addresses=address) as server:
        for name in ("server", "other"):
            files = ["-keyout", str(server.data / f"{name}.key"), "-out", str(server.data / f"{name}.crt")]
            what = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=db", "-addext", f"subjectAltName=IP:{address}"]
            subprocess.run([openssl, "req", "-x509", *what, *files], check=True, capture_output=True)
            server.own(server.data / f"{name}.key")
        (server.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.0/8 trust\nlocal all all trust\n")
        server.run("ALTER SYSTEM SET ssl = on")
        server.run("SELECT pg_reload_conf()")
        url = f"postgresql://tidegate@{address}/prepared"
        with closing(SqlStore(f"{url}?sslmode=verify-full&sslrootcert={server.data}/server.crt")) as store:
            assert store.rollouts() == ()
        error = refused(f"{url}?sslmode=verify-full&sslrootcert={server.data}/other.crt")
        assert "certificate" in error.message
        error = refused(f"{url}?sslmode=disable")
        assert (error.retryable, "pg_hba.conf" in error.message) == (False, True)


def stop_while_saving(url: str, number: int) -> None:
    """In a process of its own: claim a rollout, and stop at the `number`th exchange with the server while saving it."""
    store, original = SqlStore(url), postgres_connection.TimeLimitedConnection.wait
    claim = claim_due(store, "anna", 0.5)
    rollout, _ = store.load(claim.rollout)
    exchanges = itertools.count(1)

    def wait(self: Any, *values: Any, **named: Any) -> Any:
        answer = original(self, *values, **named)
        if next(exchanges) == number:
            os.kill(os.getpid(), signal.SIGSTOP)
        return answer

    postgres_connection.TimeLimitedConnection.wait = wait  # type: ignore[method-assign]
    store.save(rollout, [an_event() for _ in range(3)], claim.fence)


def test_an_engine_that_is_stopped_while_it_writes_keeps_no_lock(postgres: PostgresServer) -> None:
    """At any point of a transaction. psycopg's pipeline kept the locks until the process continued."""
    children: list[int] = []
    with postgres.database() as name, closing(SqlStore(postgres.url(name))) as store:
        try:
            while True:
                begin(store, a_service(f"shop{len(children)}"))
                if not (child := os.fork()):
                    with suppress(BaseException):
                        stop_while_saving(postgres.url(name), len(children) + 1)
                    os._exit(0)
                children.append(child)
                if os.WIFEXITED(os.waitpid(child, os.WUNTRACED)[1]):
                    break  # saving has fewer exchanges
            assert len(children) > 5, "not all statements were tried"
            taken = set()

            def all_taken() -> bool:
                while (claim := store.claim("bert", 600)) is not None:
                    taken.add(claim.rollout)
                return len(taken) == len(children)

            eventually("every rollout is taken over", all_taken, poll_seconds=0.2)
        finally:
            for child in children[:-1]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


@pytest.fixture
def clock() -> Iterator[ShiftedClock]:
    with short_folder() as folder:
        folder.chmod(0o711)
        yield ShiftedClock(folder / "clock")


@pytest.fixture
def by_the_clock(clock: ShiftedClock) -> Iterator[SqlStore]:
    """A store on a server whose clock it is."""
    with running(under=clock.under) as server, server.database() as name, closing(SqlStore(server.url(name))) as made:
        yield made


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_database_whose_clock_jumps_puts_nothing_off(by_the_clock: SqlStore, clock: ShiftedClock, seconds: int) -> None:
    store, other = by_the_clock, a_service("other")
    begin(store, SHOP)
    begin(store, other)
    store.release(claim_due(store, "anna", 600), time.time() + 1800)
    claim_due(store, "an engine that ends now", 1800)
    clock.jump(seconds)
    claimed: dict[str, Claim] = {}

    def both() -> bool:
        if (claim := store.claim("anna", 1)) is not None:
            claimed[claim.rollout] = claim
        return set(claimed) == {"shop-1", "other-1"}

    eventually("both are claimed", both, poll_seconds=0.1)
    assert all(each.since <= time.time() + 1 for each in claimed.values())
