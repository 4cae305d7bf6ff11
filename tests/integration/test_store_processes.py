"""Four real processes drive the same rollouts on one database, and some are killed in the middle of it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support import store_worker
from support.store_fixtures import a_release, a_service, begin, finish
from support.wait import eventually, exit_status
from tidegate.core.model import Rollout
from tidegate.core.phases import Phase
from tidegate.store.store import SqlStore

ROLLOUTS = 20
WORKERS = 4
KILLS = 10
DEADLINE_SECONDS = 240.0
WORKS_A_KILL = 6  # of about ninety works in all, each some steps of one rollout


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
        environ = {**os.environ, "PYTHONPATH": str(Path(store_worker.__file__).parents[1])}
        self._running[subprocess.Popen(command, env=environ)] = log

    def ready(self) -> list[subprocess.Popen[bytes]]:
        """Those that work already; fails when one ended by itself."""
        assert all(each.poll() is None for each in self._running), "a worker ended by an error"
        return [each for each, log in self._running.items() if log.exists()]

    def kill(self, chance: random.Random) -> None:
        """Kill one that works, whatever it is doing, and start another."""
        victim = chance.choice(self.ready())
        victim.send_signal(signal.SIGKILL)
        exit_status(victim)
        del self._running[victim]
        self.hire()

    def dismiss(self) -> None:
        """End all, and fail unless each ended well."""
        for log in self._running.values():
            Path(f"{log}.stop").touch()
        assert [exit_status(process) for process in self._running] == [0] * len(self._running)

    def kill_all(self) -> None:
        """Leave nothing running."""
        for process in self._running:
            process.kill()
        for process in self._running:
            exit_status(process)

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
    eventually("every worker is ready", lambda: len(crew.ready()) >= WORKERS)
    return [begin(store, service, 2, a_release(service, 1)) for service in services]


def finish_under_kills(store: SqlStore, crew: Crew) -> int:
    """Wait until no rollout is live, killing a worker now and then; how many were killed while there was work."""
    chance, kills = random.Random(7), 0

    def is_over() -> bool:
        nonlocal kills
        if not any(row.rollout for row in store.services()):
            return True
        if kills < KILLS and len(crew.lines()) >= WORKS_A_KILL * (kills + 1) and crew.ready():
            crew.kill(chance)
            kills += 1
        return False

    eventually("no rollout is live", is_over, DEADLINE_SECONDS, poll_seconds=0.01)
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
        resumes += found.takeovers
    print(f"{kills} killed, {resumes} resumes, {lost} late writers fenced off")
    assert kills >= KILLS // 2, "the work was over before it was disturbed"
    assert lost > 0, "nobody came late, so nothing was shown"
    assert resumes >= lost
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(tmp_path / "tidegate.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
