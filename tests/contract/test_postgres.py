"""PostgreSQL takes the exam of a store, and what only a server can show."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, text

from support.postgres import PostgresServer
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
from support.store_group_contract import create_group
from tidegate.core.model import Signal, SignalKind
from tidegate.errors import StoreError
from tidegate.store import tables, transactions
from tidegate.store.migrations import head
from tidegate.store.store import SqlStore
from tidegate.store_port import Store

SHOP = a_service()


class TestPostgres(StoreContract):
    @pytest.fixture
    def store(self, clock: ManualClock, postgres_url: str) -> Iterator[Store]:
        with closing(SqlStore(postgres_url, clock, common=clock)) as made:
            yield made

    def test_leases_are_not_ended_for_there_may_be_other_engines(self, store: Store) -> None:
        begin(store, SHOP)
        mine = claim_due(store, "anna", 10)
        store.expire_leases()
        assert store.claim("bert", 10) is None
        store.renew(mine, 10)


@pytest.fixture
def store(postgres_url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(postgres_url)) as made:
        yield made


def opened(url: str, count: int) -> list[SqlStore]:
    return [SqlStore(url) for _ in range(count)]


# -- the schema -------------------------------------------------------------------------------------------------------


def test_the_revisions_lead_to_the_tables(store: SqlStore) -> None:
    with store._database.reading.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


def test_the_revisions_make_the_same_defaults_and_indexes_as_the_tables(postgres: PostgresServer) -> None:
    """PostgreSQL cannot compare the defaults of JSON columns, nor Alembic the conditions of partial indexes."""
    asked = (
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name <> 'alembic_version' UNION ALL"
        " SELECT tablename, indexname, indexdef, '', '' FROM pg_indexes"
        " WHERE schemaname = 'public' AND tablename <> 'alembic_version' UNION ALL"
        " SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '' FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'"
    )
    name = postgres.empty()
    with closing(transactions.connect(postgres.url(name))) as straight, straight.write() as connection:
        tables.metadata.create_all(connection)
    assert sorted(postgres.run(asked, "prepared"), key=str) == sorted(postgres.run(asked, name), key=str)


def test_several_migrate_at_once(postgres: PostgresServer) -> None:
    stores = opened(postgres.url(postgres.empty()), 4)
    revisions = run_concurrently(*(store.migrate for store in stores))
    assert Counter(revisions) == {(None, head()): 1, (head(), head()): 3}
    assert [line.status for line in stores[0].check()] == ["ok"]
    for each in stores:
        each.close()


def test_who_claims_is_served_by_the_index(store: SqlStore, postgres: PostgresServer) -> None:
    with store._write("testing") as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        query = "EXPLAIN SELECT 1 FROM rollouts WHERE phase IN ('pending', 'running', 'rolling_back') AND due <= 1.0"
        assert "due_rollouts" in str(connection.execute(text(query)).all())


# -- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong_by", [-3600.0, 3600.0])
def test_an_engine_with_a_wrong_clock_waits_as_long_as_it_meant_to(postgres_url: str, wrong_by: float) -> None:
    wrong = SqlStore(postgres_url, lambda: time.time() + wrong_by)
    right = SqlStore(postgres_url)
    begin(right, SHOP)
    claim = claim_due(wrong, "anna", 600)
    assert abs(claim.since - (time.time() + wrong_by)) < 600, "since when, by the clock of the engine that asks"
    assert right.claim("bert", 30) is None
    wrong.release(claim, time.time() + wrong_by + 1800)
    assert right.claim("bert", 30) is None
    assert 1200 < store_due_in(right) <= 1800
    wrong.close()
    right.close()


def store_due_in(store: SqlStore) -> float:
    """Seconds until the only rollout is due, by the database's clock."""
    with store._read("testing") as connection:
        query = "SELECT due - extract(epoch FROM clock_timestamp()) FROM rollouts"
        return float(connection.execute(text(query)).scalar_one())


def test_what_is_due_does_not_follow_an_engine_whose_clock_jumps(store: SqlStore) -> None:
    begin(store, SHOP)
    mine = claim_due(store, "anna", 600)
    store.release(mine, time.time() + 1800)
    store.shift_clock(-3600.0, 600)
    assert 1200 < store_due_in(store) <= 1800


# -- many at once -----------------------------------------------------------------------------------------------------


def test_one_key_sent_to_several_servers_at_once_makes_one_rollout(postgres_url: str) -> None:
    """The service is there already, so that nothing but the key holds them apart."""
    stores = opened(postgres_url, 6)
    stores[0].put_service(SHOP)

    def create(number: int) -> object:
        rollout = replace(a_rollout(SHOP, 1), id=f"r{number}")
        key = replace(a_key("build-7"), response=rollout.id)
        return stores[number].create(rollout, SHOP, a_release(SHOP, 1), key, an_event())

    answers = run_concurrently(*(lambda number=number: create(number) for number in range(6)))
    (made,) = stores[0].rollouts()
    assert answers.count(None) == 1
    assert [answer for answer in answers if answer is not None] == [replace(a_key("build-7"), response=made.id)] * 5
    for each in stores:
        each.close()


def test_wishes_for_a_group_do_not_wait_for_each_other(store: SqlStore) -> None:
    shop, cart = create_group(store)
    works = [lambda: store.signal(shop.id, Signal(SignalKind.VERIFY, 1.0, "eva"))] * 6
    works += [lambda: store.signal(cart.id, Signal(SignalKind.VERIFY, 1.0, "eva"))] * 6
    assert not [answer for answer in run_concurrently(*works) if isinstance(answer, Exception)]
    assert len(store.load(shop.id)[1]) == len(store.load(cart.id)[1]) == 12


def test_two_that_block_each_other_are_told_apart_and_the_work_is_done_again(
    postgres: PostgresServer, store: SqlStore
) -> None:
    for name in ("shop", "cart"):
        store.put_service(a_service(name))
    runs: list[str] = []
    one_each = Barrier(2)

    def lock_both(first: str, second: str) -> str:
        def work(connection: object) -> str:
            runs.append(first)
            for name in (first, second):
                connection.execute(  # type: ignore[attr-defined]  # a Connection
                    text("UPDATE services SET version = version + 1 WHERE key = :key"), {"key": f"demo/{name}"}
                )
                if name == first and runs.count(first) == 1:
                    one_each.wait(timeout=60)
            return first

        return store._write_checked("testing", work)

    assert run_concurrently(lambda: lock_both("shop", "cart"), lambda: lock_both("cart", "shop")) == ["shop", "cart"]
    assert len(runs) > 2


def test_a_read_sees_one_moment(store: SqlStore) -> None:
    rollout = begin(store, SHOP)
    with store._read("testing") as connection:
        query = text("SELECT count(*) FROM signals")
        before = connection.execute(query).scalar_one()
        store.signal(rollout.id, Signal(SignalKind.PAUSE, 1.0, "eva"))
        assert connection.execute(query).scalar_one() == before


def test_a_read_cannot_write(store: SqlStore) -> None:
    with pytest.raises(StoreError, match="read-only"), store._read("testing") as connection:
        connection.execute(insert(tables.release_numbers).values(service="demo/shop", last=1))
