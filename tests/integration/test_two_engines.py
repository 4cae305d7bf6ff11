"""Two engines at once on PostgreSQL, as real processes.

One is stopped beyond its lease, at a moment of our choice, and goes on when the other has taken over: whatever it does then
changes nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from support import shared_drivers
from support.fake_drivers import a_service, request_rollout
from support.postgres import PostgresServer
from support.wait import at_most, eventually
from tidegate.core.event_kinds import EventKind
from tidegate.core.phases import Phase
from tidegate.store.store import SqlStore

LEASE_SECONDS = (
    2.5  # a busy machine keeps a process waiting for a second; one that is renewed late is taken over by mistake
)
MIDDLE, END = "in the middle", "at the end"
#: When it falls asleep, and how far the other one is when it wakes up.
MOMENTS = [
    ("before", "start", MIDDLE),
    ("after", "start", END),
    ("before", "write", MIDDLE),
    ("before", "write", END),
    ("after", "write", END),
    ("before", "stop", MIDDLE),
    ("before", "save", MIDDLE),
    ("before", "save", END),
]
#: Two instances, one at a time, in three steps: what is told exactly so often, and what at most, for an effect and what
#: is told of it are two things.
SAVED = {EventKind.STEP_STARTED: 3, EventKind.TRAFFIC_CONFIRMED: 3, EventKind.STEP_READY: 3, EventKind.SUCCEEDED: 1}
DONE = {EventKind.STARTED: 2, EventKind.STOPPED: 2}


def named(when: str, verb: str, goes_on: str) -> str:
    """The service of this moment."""
    return f"{when}-{verb}-{goes_on.replace(' ', '-')}"


class Pair:
    """The world, the database, and engines on both."""

    def __init__(self, url: str, home: Path) -> None:
        self.url, self._home = url, home
        self._address = str(home / "world")
        self._manager = shared_drivers.DriversManager(self._address, shared_drivers.KEY, ctx=get_context("spawn"))
        self._manager.start()
        self.world: Any = self._manager.present()
        self.store = SqlStore(url)
        self.world.settle(url, [*(named(*moment) for moment in MOMENTS), "killed"])
        self.engines: list[subprocess.Popen[bytes]] = []

    def hire(self) -> subprocess.Popen[bytes]:
        """One more engine."""
        number = len(self.engines) + 1
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        arguments = [self.url, self._address, f"engine{number}", str(LEASE_SECONDS)]
        with (self._home / f"engine{number}.log").open("wb") as log:
            made = subprocess.Popen([sys.executable, shared_drivers.__file__, *arguments], stderr=log, env=environment)
        self.engines.append(made)
        eventually("the engine has started", lambda: "engine started" in self.log(made.pid), process=made)
        return made

    def begin(self, name: str) -> str:
        """A rollout of this service; its id."""
        return request_rollout(self.store, a_service(name), 2, time.time, old=1)

    def wake(self) -> None:
        """Let none sleep."""
        for each in self.engines:
            if each.poll() is None:
                each.send_signal(signal.SIGCONT)

    def log(self, pid: int) -> str:
        """What the engine of this process said."""
        (number,) = (number for number, each in enumerate(self.engines, start=1) if each.pid == pid)
        return (self._home / f"engine{number}.log").read_text()

    def lost(self, pid: int, rollout: str) -> bool:
        """Whether it was told that another one drives this rollout."""
        return any("lease lost" in line and rollout in line for line in self.log(pid).splitlines())

    def phase(self, rollout: str) -> Phase:
        return self.store.load(rollout)[0].phase

    def close(self) -> None:
        for each in self.engines:
            if each.poll() is None:
                each.kill()
            each.wait()
        self.store.close()
        self._manager.shutdown()


@pytest.fixture(scope="module")
def engines(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with postgres.database() as name, closing(Pair(postgres.url(name), tmp_path_factory.mktemp("pair"))) as made:
        made.hire()
        made.hire()
        yield made


@pytest.fixture
def pair(engines: Pair) -> Iterator[Pair]:
    yield engines
    engines.wake()
    for number, process in enumerate(engines.engines, start=1):  # shown when the test fails
        print(f"engine{number}, process {process.pid}, exit status {process.poll()}:\n{engines.log(process.pid)}")


def state(pid: int) -> str:
    """T: stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(("when", "verb", "goes_on"), MOMENTS)
def test_an_engine_that_slept_beyond_its_lease_changes_nothing(pair: Pair, when: str, verb: str, goes_on: str) -> None:
    name = named(when, verb, goes_on)
    pair.world.arm(when, verb)
    rollout = pair.begin(name)
    sleeper = eventually("an engine comes there", pair.world.stopped)
    eventually("it is stopped", lambda: state(sleeper) == "T")
    if goes_on == END:
        eventually("the other engine has finished", lambda: not pair.phase(rollout).live)
    else:
        eventually("the other engine has taken over", lambda: pair.store.load(rollout)[0].takeovers >= 1)
    os.kill(sleeper, signal.SIGCONT)
    eventually("the first engine learns that its lease is lost", lambda: pair.lost(sleeper, rollout))
    eventually("the rollout has ended", lambda: not pair.phase(rollout).live)

    story = pair.store.events(rollout)
    assert pair.phase(rollout) is Phase.SUCCEEDED, [event.message for event in story]
    assert [each.number for each in story] == list(range(1, len(story) + 1))
    kinds = Counter(each.kind for each in story)
    assert {kind: kinds[kind] for kind in SAVED} == SAVED
    assert all(kinds[kind] <= most for kind, most in DONE.items()), kinds
    assert kinds[EventKind.TAKEN_OVER] >= 1
    assert pair.world.running(f"demo/{name}") == pair.world.serving(name) == ["v2-2", "v2-2"]
    assert all(each.poll() is None for each in pair.engines)


def test_the_rollouts_of_a_killed_engine_go_on_within_a_lease(pair: Pair) -> None:
    pair.world.arm("before", "write")
    rollout = pair.begin("killed")
    victim = eventually("an engine comes there", pair.world.stopped)
    eventually("it is stopped", lambda: state(victim) == "T")
    os.kill(victim, signal.SIGKILL)
    killed = time.time()
    with at_most(10 * LEASE_SECONDS, "taking over"):
        eventually("the other engine has taken over", lambda: pair.store.load(rollout)[0].takeovers >= 1)
    print(f"taken over {time.time() - killed:.2f} s after the kill, of a lease of {LEASE_SECONDS:g} s")
    eventually("the rollout has ended", lambda: not pair.phase(rollout).live)
    assert pair.phase(rollout) is Phase.SUCCEEDED
