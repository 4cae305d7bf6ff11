"""A backup is taken while a rollout is under way, the rollout goes on, the backup is put back: the world is newer than the
database, and all the same everything ends right."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.fake_drivers import a_service, claimed, request_rollout
from support.postgres import KEEPER, PostgresServer, programs
from support.store_fixtures import ManualClock
from support.tick_harness import TickHarness
from tidegate.core.event_kinds import EventKind
from tidegate.core.phases import Phase
from tidegate.engine.rollout_cache import RolloutCache
from tidegate.store.store import SqlStore


class Copy(ABC):
    """A database, its backup, and the way back, as `docs/operations.md` tells them."""

    url: str

    @abstractmethod
    def back_up(self) -> None: ...

    @abstractmethod
    def restore(self) -> None: ...


class SqliteCopy(Copy):
    def __init__(self, folder: Path) -> None:
        self._file, self._backup = folder / "tidegate.db", folder / "backup.db"
        self.url = f"sqlite:///{self._file}"

    def back_up(self) -> None:
        with closing(sqlite3.connect(self._file)) as connection:
            connection.execute("VACUUM INTO ?", (str(self._backup),))

    def restore(self) -> None:
        for name in ("tidegate.db", "tidegate.db-wal", "tidegate.db-shm"):
            self._file.with_name(name).unlink(missing_ok=True)
        shutil.copy(self._backup, self._file)


class PostgresCopy(Copy):
    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self._server, self._name, self._backup = server, server.keeper(), folder / "backup"
        self.url = server.url(self._name, KEEPER)

    def _run(self, program: str, *options: str) -> None:
        command = [str(programs() / program), "-h", str(self._server.home), "-U", KEEPER, "-n", KEEPER, *options]
        subprocess.run(command, check=True)

    def back_up(self) -> None:
        self._run("pg_dump", "-Fc", "-f", str(self._backup), self._name)

    def restore(self) -> None:
        self._run("pg_restore", "--clean", "--if-exists", "--single-transaction", "-d", self._name, str(self._backup))


@pytest.fixture(params=["sqlite", "postgres"])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Copy:
    if request.param == "sqlite":
        return SqliteCopy(tmp_path)
    return PostgresCopy(request.getfixturevalue("postgres"), tmp_path)


@pytest.fixture
def stage(copy: Copy) -> Iterator[TickHarness]:
    clock = ManualClock()
    with closing(SqlStore(copy.url, clock, common=clock)) as store:
        store.migrate()
        made = TickHarness(store, clock)
        yield made
        made.store.close()


def put_back(stage: TickHarness, copy: Copy) -> None:
    """Engines are stopped, the backup is put back, the world stays as it is."""
    stage.store.close()
    copy.restore()
    stage.clock.forward(60)
    stage.store = SqlStore(copy.url, stage.clock, common=stage.clock)
    stage.store.prepare()
    stage.store.raise_fences()


def goes_on(stage: TickHarness) -> None:
    """An engine that remembers nothing drives it to its end."""
    stage.claim, stage.cache = claimed(stage.store, "bert"), RolloutCache()
    assert stage.claim.rollout == stage.rollout
    stage.run()


@pytest.mark.parametrize("lost_ticks", [1, 4, 9, 400])
def test_what_happened_since_the_backup_is_seen_in_the_world(stage: TickHarness, copy: Copy, lost_ticks: int) -> None:
    stage.begin()
    while EventKind.TRAFFIC_SHIFTED not in stage.kinds():
        stage.tick()
    copy.back_up()
    for _ in range(lost_ticks):
        if not stage.phase.live:
            break
        stage.tick()
        stage.clock.forward(0.3)
        stage.store.release(stage.claim, stage.clock.now)  # each turn a new fence, which the proxy sees
        if stage.phase.live:
            stage.claim = claimed(stage.store)
    put_back(stage, copy)
    goes_on(stage)
    assert stage.phase is Phase.SUCCEEDED
    assert stage.world.serving() == ["v2-2", "v2-2"]
    assert [each.release for each in stage.world.present()] == ["v2-2", "v2-2"]
    assert EventKind.DRIVER_ERROR not in stage.kinds()


def test_a_release_that_the_backup_does_not_know_serves_until_the_next_rollout(stage: TickHarness, copy: Copy) -> None:
    service = a_service()
    stage.begin()
    stage.run()
    stage.store.release(stage.claim, None)
    copy.back_up()
    stage.rollout = request_rollout(stage.store, service, 3, stage.clock, old=2)
    stage.claim, stage.cache = claimed(stage.store), RolloutCache()
    stage.run()
    put_back(stage, copy)
    assert stage.store.get_service(service.key).live == "v2-2"
    assert stage.world.serving() == ["v3-3", "v3-3"]

    stage.rollout = request_rollout(stage.store, service, 4, stage.clock, old=2)
    goes_on(stage)
    assert stage.phase is Phase.SUCCEEDED
    assert stage.world.serving() == ["v4-4", "v4-4"]
    assert [each.release for each in stage.world.present()] == ["v4-4", "v4-4"]


def test_without_being_told_of_it_the_proxy_refuses_old_fences(stage: TickHarness, copy: Copy) -> None:
    """Why `tidegate db after-restore` is needed."""
    stage.begin()
    while EventKind.TRAFFIC_SHIFTED not in stage.kinds():
        stage.tick()
    copy.back_up()
    for _ in range(5):
        stage.store.release(stage.claim, stage.clock.now)
        stage.claim = claimed(stage.store)
    stage.run()
    stage.store.close()
    copy.restore()
    stage.store = SqlStore(copy.url, stage.clock, common=stage.clock)
    stage.clock.forward(60)
    stage.claim, stage.cache = claimed(stage.store, "bert"), RolloutCache()
    stage.run()
    assert any("too old" in each for each in stage.messages(EventKind.DRIVER_ERROR))
