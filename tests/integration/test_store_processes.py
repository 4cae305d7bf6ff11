"""Four real processes drive the same rollouts on one database, and some are killed in the middle of it."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support import store_worker
from tidegate.core.model import Rollout
from tidegate.core.phases import Phase
from tidegate.store.sql import SqlStore
from tidegate.testing.store_values import a_release, a_service, begin, finish

ROLLOUTS = 20
WORKERS = 4
KILLS = 10
DEADLINE_SECONDS = 90.0


class Crew:
    """The processes; each place is filled again after a kill, by a new owner."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url = url
        self._directory = directory
        self._started = 0
        self._running: dict[subprocess.Popen[bytes], Path] = {}

    def hire(self) -> None:
        """Start one more."""
        self._started += 1
        owner = f"owner{self._started}"
        log = self._directory / owner
        command = [sys.executable, store_worker.__file__, self._url, owner, str(self._started), str(log)]
        self._running[subprocess.Popen(command)] = log

    def ready(self) -> list[subprocess.Popen[bytes]]:
        """Those that work already; fails when one ended by itself."""
        assert all(each.poll() is None for each in self._running), "a worker ended by an error"
        return [each for each, log in self._running.items() if log.exists()]

    def kill(self, chance: random.Random) -> None:
        """Kill one that works, whatever it is doing, and start another."""
        victim = chance.choice(self.ready())
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        del self._running[victim]
        self.hire()

    def dismiss(self) -> None:
        """End all, and fail unless each ended well."""
        for log in self._running.values():
            Path(f"{log}.stop").touch()
        assert [each.wait(timeout=20) for each in self._running] == [0] * len(self._running)

    def kill_all(self) -> None:
        """Leave nothing running."""
        for each in self._running:
            if each.poll() is None:
                each.kill()
            each.wait()

    def lines(self) -> list[list[str]]:
        """All logs: rollout, fence, outcome."""
        logs = (log for log in self._directory.iterdir() if log.suffix != ".stop")
        return [line.split() for log in logs for line in log.read_text().splitlines() if line != "ready"]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tidegate.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(url)) as made:
        made.migrate()
        yield made


@pytest.fixture
def crew(url: str, tmp_path: Path) -> Iterator[Crew]:
    directory = tmp_path / "logs"
    directory.mkdir()
    made = Crew(url, directory)
    yield made
    made.kill_all()


def second_rollouts(store: SqlStore, crew: Crew) -> list[Rollout]:
    """A first rollout has a plan of one step only. Nothing is there to be done before all are at work."""
    services = [a_service(f"s{number}", replicas=6) for number in range(ROLLOUTS)]
    for service in services:
        finish(store, begin(store, service), Phase.RUNNING, Phase.SUCCEEDED)
    for _ in range(WORKERS):
        crew.hire()
    end = time.monotonic() + DEADLINE_SECONDS
    while len(crew.ready()) < WORKERS:
        assert time.monotonic() < end, "a worker does not begin"
        time.sleep(0.01)
    return [begin(store, service, 2, a_release(service, 1)) for service in services]


def finish_under_kills(store: SqlStore, crew: Crew) -> int:
    """Wait until no rollout is live, killing a worker now and then; how many were killed while there was work."""
    chance, end = random.Random(7), time.monotonic() + DEADLINE_SECONDS
    kills, next_kill = 0, 0.0
    while any(row.rollout for row in store.services()):
        assert time.monotonic() < end, f"still live: {[row.rollout for row in store.services() if row.rollout]}"
        if kills < KILLS and time.monotonic() >= next_kill and len(crew.ready()) >= 2:
            crew.kill(chance)
            kills += 1
            next_kill = time.monotonic() + chance.uniform(0.02, 0.2)
        time.sleep(0.01)
    return kills


def test_no_step_is_done_twice_and_no_late_writer_gets_through(
    store: SqlStore, crew: Crew, url: str, tmp_path: Path
) -> None:
    rollouts = second_rollouts(store, crew)
    wanted = ["pending 0", *(f"running {step}" for step in range(len(rollouts[0].plan)))]
    kills = finish_under_kills(store, crew)
    crew.dismiss()

    lost = sum(outcome == "lost" for _, _, outcome in crew.lines())
    resumes = 0
    for rollout in rollouts:
        found, _ = store.load(rollout.id)
        first, *story = store.events(rollout.id)
        fences = [int(str(event.data["fence"])) for event in story]
        assert found.phase is Phase.SUCCEEDED
        assert found.version == len(wanted)
        assert first.kind == "created"
        assert [event.data["from"] for event in story] == wanted, "a step is missing, double or out of order"
        assert [event.number for event in story] == list(range(2, len(wanted) + 2))
        assert fences == sorted(fences), "an older fence wrote after a newer one"
        resumes += found.resumes
    print(f"{kills} killed, {resumes} resumes, {lost} late writers fenced off")
    assert kills >= KILLS // 2, "the work was over before it was disturbed"
    assert lost > 0, "nobody came late, so nothing was shown"
    assert resumes >= lost
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(tmp_path / "tidegate.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
