"""SQLite takes the exam of a store, and what only a database on a disk can show."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, insert, make_url, select, text, update

from support.store_contract import StoreContract
from support.store_fixtures import (
    ManualClock,
    a_key,
    a_release,
    a_rollout,
    a_service,
    an_event,
    begin,
    claim_due,
    run_concurrently,
)
from tidegate.core.phases import Phase
from tidegate.errors import InvalidSettings, LeaseLost, Refused, StoreError
from tidegate.store import tables, transactions
from tidegate.store.database import Collision, Database
from tidegate.store.migrations import head
from tidegate.store.sqlite import Sqlite, file_of
from tidegate.store.store import SqlStore
from tidegate.store_port import Store

SHOP = a_service()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/a directory/tide?gate.db"


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(url)) as made:
        made.migrate()
        yield made


def path_of(url: str) -> Path:
    return file_of(make_url(url))


class TestSqlite(StoreContract):
    @pytest.fixture
    def store(self, clock: ManualClock, tmp_path: Path) -> Iterator[Store]:
        with closing(SqlStore(f"sqlite:///{tmp_path}/tidegate.db", clock)) as made:
            made.migrate()
            yield made

    @pytest.mark.parametrize("seconds", [3600.0, -3600.0])
    def test_what_is_due_goes_along_with_a_clock_that_jumps(self, store: Store, clock: ManualClock, seconds: float) -> None:
        begin(store, SHOP)
        mine = claim_due(store, "anna", 10)
        clock.forward(seconds)
        store.shift_clock(seconds, 10)
        assert store.claim("bert", 10) is None, "the lease lasts"
        store.renew(mine, 10)
        store.release(mine, clock() + 5)
        clock.forward(seconds)
        store.shift_clock(seconds, 10)
        assert claim_due(store, "anna", 10).since == mine.since + 2 * seconds

    def test_a_sole_engine_takes_up_at_once_what_the_one_before_held(self, store: Store, clock: ManualClock) -> None:
        rollout = begin(store, SHOP)
        lost = claim_due(store, "anna", 10)
        store.expire_leases()
        taken = store.claim("bert", 10)
        assert taken is not None
        assert (taken.rollout, taken.since, taken.fence > lost.fence) == (rollout.id, clock.now, True)
        assert store.load(rollout.id)[0].takeovers == 1
        with pytest.raises(LeaseLost):
            store.renew(lost, 10)


# -- the schema -------------------------------------------------------------------------------------------------------


def test_the_revisions_lead_to_the_tables(store: SqlStore) -> None:
    with store._database.reading.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []


def test_the_revisions_make_the_same_statements_as_the_tables(store: SqlStore, tmp_path: Path) -> None:
    """The comparison of Alembic does not see the conditions of partial indexes."""

    def statements(database: Database) -> dict[str, list[str]]:
        with database.reading.begin() as connection:
            found = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
            return {name: parts(sql) for name, sql in found if name != "alembic_version"}

    def parts(sql: str) -> list[str]:
        """Columns and constraints in any order."""
        return sorted(" ".join(part.split()).removesuffix(" )") for part in sql.split(","))

    straight = transactions.connect(f"sqlite:///{tmp_path}/straight.db")
    straight.create()
    with closing(straight):
        with straight.writing.begin() as connection:
            tables.metadata.create_all(connection)
        assert statements(store._database) == statements(straight)


def test_a_database_may_be_migrated_by_several_at_once(url: str) -> None:
    stores = [SqlStore(url) for _ in range(4)]
    revisions = run_concurrently(*(store.migrate for store in stores))
    assert Counter(revisions) == {(None, head()): 1, (head(), head()): 3}
    assert [line.status for line in stores[0].check()] == ["ok"]
    for each in stores:
        each.close()


def test_a_second_live_rollout_is_refused_by_the_database_itself(store: SqlStore) -> None:
    rollout = begin(store, SHOP)
    with store._database.reading.begin() as connection:
        row = dict(connection.execute(select(tables.rollouts)).one()._mapping)
    again = {**row, "id": "other", "sequence": None}
    with pytest.raises(Collision, match=r"rollouts\.service"), store._write("testing") as connection:
        connection.execute(insert(tables.rollouts).values(**again))
    with store._write("testing") as connection:
        connection.execute(insert(tables.rollouts).values(**again | {"phase": "failed"}))
    assert store.rollouts(phase=Phase.PENDING) == (rollout,)


def test_one_key_sent_to_several_servers_at_once_makes_one_rollout(store: SqlStore, url: str) -> None:
    """The threads of one process queue up; here each has its own way to the file."""
    stores = [SqlStore(url) for _ in range(6)]

    def create(number: int) -> object:
        rollout = replace(a_rollout(SHOP, 1), id=f"r{number}")
        key = replace(a_key("build-7"), response=rollout.id)
        return stores[number].create(rollout, SHOP, a_release(SHOP, 1), key, an_event())

    answers = run_concurrently(*(lambda number=number: create(number) for number in range(6)))
    (made,) = store.rollouts()
    assert answers.count(None) == 1
    assert [answer for answer in answers if answer is not None] == [replace(a_key("build-7"), response=made.id)] * 5
    for each in stores:
        each.close()


def test_foreign_keys_hold(store: SqlStore) -> None:
    signal = {"kind": "pause", "at": 1.0, "by": "eva", "via": "", "reason": "", "binding": "", "cause": "request"}
    values = {"rollout": "none", **signal}
    with pytest.raises(StoreError, match="FOREIGN KEY"), store._write("testing") as connection:
        connection.execute(insert(tables.signals).values(**values))


def test_a_commit_is_on_the_disk_when_it_returns(store: SqlStore) -> None:
    with store._database.write() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 2, 1, 10_000]


def test_nobody_else_may_read_the_file(store: SqlStore, url: str) -> None:
    begin(store, SHOP)
    files = list(path_of(url).parent.iterdir())
    assert len(files) == 3  # with the write-ahead log and its index
    assert [oct(file.stat().st_mode & 0o777) for file in files] == [oct(0o600)] * 3


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "mysql://db/tidegate",
        "sqlite+pysqlcipher:///x.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=ro",
        "sqlite:///file:x",
        "nonsense",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"database: .*sqlite:///"):
        SqlStore(url)


def test_without_a_database_nothing_is_made(url: str) -> None:
    with closing(SqlStore(url)) as store:
        with pytest.raises(StoreError, match="tidegate db migrate") as caught:
            store.rollouts()
        (line,) = store.check()
    assert not caught.value.retryable
    assert (line.status, line.fix) == ("wrong", "run `tidegate db migrate`")
    assert not path_of(url).exists()


def test_an_empty_database_asks_to_be_migrated(url: str) -> None:
    Sqlite(make_url(url)).create()
    with closing(SqlStore(url)) as store:
        with pytest.raises(StoreError, match="tidegate db migrate") as caught:
            store.claim("anna", 10)
        (line,) = store.check()
    assert not caught.value.retryable
    assert (line.status, line.fix) == ("wrong", "run `tidegate db migrate`")
    assert "missing" in line.result


def test_a_newer_schema_is_left_alone(store: SqlStore) -> None:
    with store._write("testing") as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="9999") as caught:
        store.migrate()
    assert not caught.value.retryable
    (line,) = store.check()
    assert line.status == "wrong"
    assert "9999" in line.result


def test_a_file_that_is_no_database(url: str) -> None:
    Sqlite(make_url(url)).create()
    path_of(url).write_bytes(b"something else altogether, long enough to be looked at" * 40)
    with closing(SqlStore(url)) as store:
        with pytest.raises(StoreError, match="not an SQLite database") as caught:
            store.migrate()
        (line,) = store.check()
    assert not caught.value.retryable
    assert line.status == "wrong"


def test_a_locked_database_is_worth_another_try(store: SqlStore, url: str) -> None:
    @event.listens_for(store._database.reading, "connect")
    def hurry(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA busy_timeout = 20")

    store._database.reading.dispose()
    begin(store, SHOP)
    with closing(sqlite3.connect(path_of(url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked") as caught:
            store.claim("anna", 10)
        assert store.rollouts()  # reading goes on
        (line,) = store.check()
    assert caught.value.retryable
    assert line.status == "wrong"
    assert store.claim("anna", 10) is not None


def test_a_full_disk_is_named_and_nothing_is_half_written(store: SqlStore) -> None:
    rollout = begin(store, SHOP)
    claim = claim_due(store)

    @event.listens_for(store._database.reading, "connect")
    def small(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # SQLite takes what the file has already, and not a page more

    store._database.reading.dispose()
    with pytest.raises(StoreError, match="disk is full") as caught:
        store.save(replace(rollout, phase=Phase.RUNNING), [an_event(much="x" * 100_000)], claim.fence)
    assert caught.value.retryable
    assert store.load(rollout.id)[0] == rollout
    assert len(store.events(rollout.id)) == 1


def test_too_little_room_is_said_by_check(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.store.sqlite.MIN_FREE_BYTES", 1 << 62)
    (line,) = store.check()
    assert line.status == "wrong"
    assert "free" in line.result
    assert "free some space" in line.fix


def test_a_stored_value_that_cannot_be_read_is_named(store: SqlStore) -> None:
    rollout = begin(store, SHOP)
    with store._write("testing") as connection:
        connection.execute(update(tables.rollouts).values(policy={"drain_seconds": 1.0, "colour": "red"}))
    with pytest.raises(StoreError, match=r"policy\.colour") as caught:
        store.load(rollout.id)
    assert not caught.value.retryable


@pytest.mark.parametrize("change", [{"cursor": 1 << 70}, {"reason": "half a \ud800 sign"}, {"phase": None}])
def test_a_value_that_cannot_be_stored_is_named(store: SqlStore, change: dict[str, Any]) -> None:
    rollout = begin(store, SHOP)
    claim = claim_due(store)
    with pytest.raises(StoreError, match=rollout.id) as caught:
        store.save(replace(rollout, **change), (), claim.fence)
    assert not caught.value.retryable
    assert store.load(rollout.id)[0] == rollout


# -- one engine -------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from tidegate.store.store import SqlStore
with SqlStore(sys.argv[1]).sole_engine():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_engine_is_refused_until_the_first_has_died(url: str) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(Refused, match=f"process {first.pid}"), SqlStore(url).sole_engine():
            pass
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    with SqlStore(url).sole_engine():
        lock = path_of(url).with_name(path_of(url).name + ".engine")
        assert lock.read_text() == f"{os.getpid()}\n"
        with pytest.raises(Refused, match="one engine"), SqlStore(url).sole_engine():
            pass
    with SqlStore(url).sole_engine():
        pass
