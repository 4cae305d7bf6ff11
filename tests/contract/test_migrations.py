"""What earlier versions of Tidegate stored is read by this one, and what they say to the database still works.

`stored/REVISION.json` has the rows that the version of that revision wrote: one rollout that succeeded, one that goes on,
and all that belongs to them. A new revision gets a file from the version that brings it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, make_url, text

from support.postgres import PostgresServer
from support.store_fixtures import a_release, a_service, begin, claim_due
from support.wait import pause
from tidegate.analysis.verdict import Outcome
from tidegate.core.model import Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.errors import StoreError
from tidegate.store import migrations, sqlite
from tidegate.store.sqlite import Sqlite
from tidegate.store.store import SqlStore

Rows = list[tuple[str, dict[str, Any]]]
SHOP = a_service()
AT = 1_000_010.0
STORED = Path(__file__).with_name("stored")


def rows_of(revision: str) -> Rows:
    """Table and columns; what the database numbers itself is left out."""
    found = json.loads((STORED / f"{revision}.json").read_text())
    rows = [(table, row) for table, each in found.items() for row in each]
    return [
        (table, row | ({"measurement": bytes.fromhex(row["measurement"])} if table == "measurements" else {}))
        for table, row in rows
    ]


REVISIONS = sorted(migrations.known())


def put(connection: Connection, found: Rows) -> None:
    """By plain INSERTs that name the columns, as every version writes them."""
    quote = connection.dialect.identifier_preparer.quote
    for table, values in found:
        names, marks = ", ".join(map(quote, values)), ", ".join(f":{name}" for name in values)
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)


def change(connection: Connection, found: Rows, keys: Mapping[str, tuple[str, ...]]) -> None:
    """UPDATE every column that the version knows, and SELECT it."""
    quote = connection.dialect.identifier_preparer.quote
    for table, values in found:
        key = {name: values[name] for name in keys[table] if name in values}
        if not key:
            continue  # numbered by the database, and only added to
        sets, where = (joint.join(f"{quote(n)} = :{n}" for n in names) for joint, names in ((", ", values), (" AND ", key)))
        assert connection.execute(text(f"UPDATE {table} SET {sets} WHERE {where}"), values).rowcount == 1
        columns = ", ".join(map(quote, values))
        assert len(connection.execute(text(f"SELECT {columns} FROM {table} WHERE {where}"), values).all()) == 1


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.url(server.empty())
    found = f"sqlite:///{tmp_path}/tidegate.db"
    Sqlite(make_url(found)).create()
    return found


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(url)) as made:
        yield made


def at(store: SqlStore, revision: str) -> None:
    """Bring it to this revision and no further."""
    with store._write("testing") as connection:
        command.upgrade(migrations.configuration(connection), revision)


def assert_it_goes_on(store: SqlStore) -> None:
    """Everything is read, the live rollout is driven to its end, and the next one begins."""
    (line,) = store.check()
    assert line.status == "ok", line
    assert [each.id for each in store.rollouts()] == ["shop-2", "shop-1"]
    assert [verdict.verdict.outcome for verdict in store.verdicts("shop-1")] == [Outcome.PASS]
    assert [event.kind for event in store.events("shop-2")] == ["created", "moved", "promoted"]
    assert [token.name for token in store.tokens()] == ["jenkins"]
    rollout, signals = store.load("shop-2")
    assert [(signal.kind, signal.by) for signal in signals] == [(SignalKind.PROMOTE, "eva")]
    good = store.last_good(SHOP.key)
    assert good is not None
    assert (good.release, good.number) == (replace(a_release(SHOP, 1), digest="sha256:1"), 1)
    assert store.get_service(SHOP.key).rollout == "shop-2"
    assert len(store.measurements("shop-2")) <= 1
    store.signal("shop-2", Signal(SignalKind.VERIFY, AT, "eva"))
    claim = claim_due(store)
    assert (claim.rollout, claim.fence) == ("shop-2", 3)
    store.save(replace(rollout, phase=Phase.SUCCEEDED, finished=AT), (), claim.fence)
    store.release(claim, None)
    assert store.next_number(SHOP.key) == 3
    assert begin(store, SHOP, 3, a_release(SHOP, 2)).id == "shop-3"
    assert claim_due(store).fence == 4


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_an_earlier_version_stored_goes_on(store: SqlStore, revision: str) -> None:
    at(store, revision)
    with store._write("testing") as connection:
        put(connection, rows_of(revision))
    if revision != REVISIONS[-1]:
        assert store.check()[0].status == "wrong"
    store.migrate()
    assert_it_goes_on(store)


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_an_earlier_version_says_works_on_the_newest_schema(store: SqlStore, revision: str) -> None:
    store.migrate()
    with store._write("testing") as connection:
        found = inspect(connection)
        keys = {table: tuple(found.get_pk_constraint(table)["constrained_columns"]) for table in found.get_table_names()}
        put(connection, rows_of(revision))
        change(connection, rows_of(revision), keys | {"rollouts": ("id",)})
    assert_it_goes_on(store)


def test_an_older_schema_is_refused_where_others_may_be_at_work(postgres: PostgresServer) -> None:
    with closing(SqlStore(postgres.url(postgres.empty()))) as store:
        with pytest.raises(StoreError, match="run `tidegate db migrate`"):
            store.prepare()
        store.migrate()
        store.prepare()


def test_an_older_file_is_brought_up_to_date_at_the_start(tmp_path: Path) -> None:
    with closing(SqlStore(f"sqlite:///{tmp_path}/tidegate.db")) as store:
        store.prepare()
        assert store.check()[0].status == "ok"


def renamed(store: SqlStore, revision: str) -> None:
    """As if a version that this one does not know had changed the schema."""
    with store._write("testing") as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_a_file_that_somebody_migrates_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path}/tidegate.db"
    with closing(SqlStore(url)) as first, closing(SqlStore(url)) as store:
        first.migrate()
        with ThreadPoolExecutor(1) as pool:
            with first._database.migration():
                waiting = pool.submit(store.migrate)
                pause(1.0, "the other migration does not finish")
                assert not waiting.done()
            waiting.result(60)
        with store._write("testing") as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 100, "as it was"


def test_a_newer_schema_of_the_same_generation_is_worked_on_and_left_as_it_is(store: SqlStore) -> None:
    store.migrate()
    renamed(store, "0999")
    store.prepare()
    store.migrate()
    begin(store, SHOP)
    (line,) = store.check()
    assert line.status == "ok"
    assert "schema 0999" in line.result


def test_a_schema_of_the_next_generation_is_refused(store: SqlStore) -> None:
    store.migrate()
    renamed(store, "1000")
    (line,) = store.check()
    assert (line.status, line.fix) == ("wrong", "run the version of Tidegate that created schema 1000, or a newer one")
    for attempt in (store.prepare, store.migrate):
        with pytest.raises(StoreError, match="1000") as caught:
            attempt()
        assert not caught.value.retryable


def test_revisions_are_numbered_within_one_generation() -> None:
    assert {revision[0] for revision in REVISIONS} == {migrations.head()[0]}
    scripts = ScriptDirectory.from_config(migrations.configuration())
    assert [revision.revision for revision in scripts.walk_revisions()] == REVISIONS[::-1]
    assert migrations.head() == scripts.get_current_head()


def test_an_engine_says_what_to_do_about_an_older_schema(postgres: PostgresServer) -> None:
    environ = os.environ | {"TIDEGATE_DATABASE": postgres.url(postgres.empty())}
    tidegate = Path(sys.executable).with_name("tidegate")
    done = subprocess.run([tidegate, "engine"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "schema missing, but" in done.stderr
    assert "run `tidegate db migrate`" in done.stderr
    subprocess.run([tidegate, "db", "migrate"], env=environ, capture_output=True, timeout=60, check=True)
