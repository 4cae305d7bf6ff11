"""Outages in the middle of a batch, a bake, a drain and a rollback, with traffic: real parts, each of which goes away for
some seconds and comes back.

While blind no traffic is moved, and both releases stay; afterwards the rollout goes on to its right end. No request is lost
but what the outage itself takes, no container is left over, and a person is told. A part of the matrix is run here;
`make outages` (`OUTAGES=all`) runs all of it.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from processes import wait_for
from support.outage_setup import TRAFFIC, FollowedRollout, OutageSetup, one_machine, two_machines
from support.outages import MANY, ONE, Outage
from support.wait import eventually

ALL = os.environ.get("OUTAGES") == "all"
SAMPLE_SECONDS = 0.2
SETTLE_SECONDS = 2.5  # the load generator tells its counts each second
NOTICE_SECONDS = 120.0  # a call under way may last long on a busy machine
STILL_SECONDS = 1.0  # nothing has changed for so long: what was under way when the outage began has ended


def batch(ride: FollowedRollout) -> None:
    """A new container runs and is not ready yet."""
    ride.until("started", 0)


def bake(ride: FollowedRollout) -> None:
    """The first step is judged."""
    ride.until("step_ready", 0)


def drain(ride: FollowedRollout) -> None:
    """The last of the old containers has left the proxy, with requests on it."""
    routed = ride.until("traffic_confirmed", 1)
    assert routed["data"]["draining"]["connections"] > 0


def rollback(ride: FollowedRollout) -> None:
    """A person has turned it back, when the old release has one container left."""
    ride.until("step_ready", 1)
    ride.roll_back()
    ride.until("rolling_back")


#: In the order in which a rollout comes to them.
MOMENTS: dict[str, Callable[[FollowedRollout], None]] = {"batch": batch, "bake": bake, "drain": drain, "rollback": rollback}
Course = Mapping[str, str]  # moment to the name of what goes away then


def courses(outages: tuple[Outage, ...], *chosen: Course) -> list[Course]:
    """Those rollouts that are run each time; or, for each outage, one to its end and one that is turned back."""
    if not ALL:
        return list(chosen)
    found: list[Course] = []
    for outage in outages:
        onwards = dict.fromkeys(("batch", "bake", "drain"), outage.name)
        found += [onwards, {"rollback": outage.name}]
    return found


def describe(course: Course) -> str:
    """As a test is called."""
    return ", ".join(f"{moment}: {name}" for moment, name in course.items())


@contextmanager
def shown(world: OutageSetup) -> Iterator[None]:
    """What a person would look at, when this fails; the traffic ends with it."""
    try:
        yield
    except BaseException:
        print(world.stage.scene())
        raise
    finally:
        if world.stage.traffic() is not None:
            world.stage.finish_traffic()


@dataclass
class Passage:
    """One rollout through its outages, with traffic. `taken`: requests that were lost since nothing could have answered."""

    world: OutageSetup
    ride: FollowedRollout
    taken: int = 0
    ready: set[str] = field(default_factory=set)
    timers: list[threading.Timer] = field(default_factory=list)

    def lost(self) -> int:
        """Requests so far that were not answered as they should, without those."""
        seen = self.world.stage.traffic()
        assert seen is not None
        return seen.lost + seen.errors - self.taken

    def take(self) -> None:
        """What is lost until the counts of this moment are told was taken."""

        def told() -> None:
            self.taken += self.lost()

        self.timers.append(threading.Timer(SETTLE_SECONDS, told))
        self.timers[-1].start()

    def settled(self) -> None:
        """Wait for that."""
        for timer in self.timers:
            timer.join()

    def look_on(self, moment: str, outage: Outage, routed: set[str] | None, running: set[Path], known: int) -> None:
        """While it is gone: traffic goes to whom it went to, whatever ran runs, and a person is told more than was
        `known`: so long was the story before."""
        awaited = "" if moment in outage.unnoticed else outage.until
        if outage.still:
            if awaited:  # until then an effect may be under way
                what = f"{moment}, {outage.name}: the engine notices"
                eventually(what, lambda: re.search(awaited, self.ride.messages()[known:]), NOTICE_SECONDS)
            routed, running = self.come_to_rest(routed, running)
        begun = time.monotonic()

        def over() -> bool:
            self.ready.add(f"/readyz: {self.world.ready()}")
            if outage.still:
                assert self.world.members() in (routed, None), f"{moment}, {outage.name}: traffic was moved while blind"
                assert all(each.exists() for each in running), f"{moment}, {outage.name}: a container was stopped"
            told = not awaited or re.search(awaited, self.ride.messages()[known:])
            return bool(told) and time.monotonic() >= begun + outage.seconds

        what = f"{moment}, {outage.name}: it lasted {outage.seconds:g} s and somebody was told"
        eventually(what, over, outage.seconds + NOTICE_SECONDS, poll_seconds=SAMPLE_SECONDS)

    def come_to_rest(self, routed: set[str] | None, running: set[Path]) -> tuple[set[str] | None, set[Path]]:
        """Members and first processes once nothing changes: an effect that had begun before the outage ends first, which
        takes a busy machine its time. `routed`, `running`: as they were before."""
        since = time.monotonic()

        def at_rest() -> bool:
            nonlocal routed, running, since
            members, alive = self.world.members() or routed, {process for process in running if process.exists()}
            if (members, alive) != (routed, running):
                since = time.monotonic()
            routed, running = members, alive
            return time.monotonic() >= since + STILL_SECONDS

        eventually("members and containers stay as they are", at_rest, NOTICE_SECONDS, poll_seconds=SAMPLE_SECONDS / 4)
        return routed, running

    def suffer(self, moment: str, outage: Outage) -> None:
        """Come to the moment, and let it go away."""
        MOMENTS[moment](self.ride)
        routed, running, known = self.world.members(), self.world.running(), len(self.ride.messages())
        with outage.begin(self.world):
            self.look_on(moment, outage, routed, running, known)
        if outage.takes:
            wait_for("the service", self.world.answers())
            if moment not in outage.unnoticed:  # until then the route may lead to addresses that are no more
                what = f"the engine has seen the end of: {outage.name}"
                eventually(what, lambda: re.search(outage.pattern, self.ride.messages()[known:]), NOTICE_SECONDS)
            self.take()


def pass_through(world: OutageSetup, course: Course, outages: tuple[Outage, ...]) -> None:
    """One rollout with what goes away at each of its moments, from the first to the right end."""
    by_name = {each.name: each for each in outages}
    judged = all(by_name[name].judged for name in course.values())
    world.calm()
    stays, before = world.serving, len(world.logged())
    world.stage.start_traffic(**TRAFFIC)
    passage = Passage(world, world.deploy(world.other, judged=judged))
    for moment in MOMENTS:
        if moment in course:
            passage.suffer(moment, by_name[course[moment]])
    ended = passage.ride.end()
    passage.settled()
    seen = world.stage.finish_traffic()
    lost = seen.lost + seen.errors - passage.taken
    heard = passage.ride.messages() + "\n" + "\n".join(sorted(passage.ready))
    print(f"{describe(course)}: {ended}; {seen.by_outcome}, {passage.taken} taken by the outage\n{heard}")
    assert ended == ("rolled_back" if "rollback" in course else "succeeded")
    assert (world.serving == stays) is (ended == "rolled_back")
    world.assert_intact()
    assert lost == 0
    heard += world.logged()[before:]
    for moment, name in course.items():
        outage = by_name[name]
        assert moment in outage.unnoticed or re.search(outage.pattern, heard), f"nobody is told of {name}"


@contextmanager
def vanished(world: OutageSetup, version: str, host: str) -> Iterator[None]:
    """`docker rmi` on a machine where no container has it; loaded again afterwards."""
    tag = f"tidegate-outages:{version}"
    saved = world.image(tag, host)
    with world.engines[host].client() as client:
        client.images.remove(tag, force=True)
    try:
        yield
    finally:
        world.load(tag, saved, host)


@pytest.fixture(scope="class")
def world(request: pytest.FixtureRequest) -> Iterator[OutageSetup]:
    """Made once for all tests of a class, as it says."""
    with request.cls.made() as made:
        yield made


@pytest.mark.timeout(900)
class TestTwoMachines:
    """With PostgreSQL."""

    made = staticmethod(two_machines)

    @pytest.mark.parametrize("moment", ["batch", "bake"] if ALL else ["bake"])
    def test_the_new_image_vanishes(self, world: OutageSetup, moment: str) -> None:
        """The next batch cannot be created where it is missing: on the machine that has an old instance less by then."""
        world.calm()
        stays = world.serving
        world.stage.start_traffic(**TRAFFIC)
        with shown(world):
            ride = world.deploy(world.other)
            MOMENTS[moment](ride)
            with vanished(world, ride.version, "far"):
                assert ride.end() == "rolled_back", ride.messages()
            seen = world.stage.finish_traffic()
            assert re.search(
                r"rolling_back: .*on Docker host far: image not found. Pull, load or build it", ride.messages()
            )
            assert world.serving == stays
            world.assert_intact()
            assert seen.by_outcome == {"ok": seen.requests}

    def test_the_old_image_vanishes_on_the_way_back(self, world: OutageSetup) -> None:
        """It halts and says why, and whoever is well serves on; with the image back, a repair brings the release back."""
        world.calm()
        stays = world.serving
        world.stage.start_traffic(**TRAFFIC)
        with shown(world):
            ride = world.deploy(world.other)
            ride.until("step_ready", 1)
            routed = world.members()
            with vanished(world, stays, "far"):
                ride.roll_back()
                assert ride.end() == "failed", ride.messages()
                assert world.members() == routed
                assert stays in world.containers().values()
            assert re.search(r"failed: .*on Docker host far: image not found. Pull, load or build it", ride.messages())
            world.stage.tidegate("repair", world.stage.service, "--reason", "the image is back")
            seen = world.stage.finish_traffic()
            world.assert_intact()
            assert seen.by_outcome == {"ok": seen.requests}

    @pytest.mark.parametrize(
        "course",
        courses(
            MANY,
            {
                "batch": "Docker stopped",
                "bake": "Prometheus down",
                "drain": "PostgreSQL stopped",
                "rollback": "PostgreSQL's disk full",
            },
            {
                "batch": "PostgreSQL frozen",
                "bake": "Prometheus answers half",
                "drain": "Prometheus frozen",
                "rollback": "HAProxy killed",
            },
            {"batch": "a machine cut off", "bake": "PostgreSQL read-only", "drain": "engine's clock -1 h"},
        ),
        ids=describe,
    )
    def test_it_ends_right(self, world: OutageSetup, course: Course) -> None:
        with shown(world):
            pass_through(world, course, MANY)


@pytest.mark.timeout(900)
class TestOneMachine:
    """With SQLite."""

    made = staticmethod(one_machine)

    @pytest.mark.parametrize(
        "course",
        courses(
            ONE,
            {"batch": "SQLite read-only", "bake": "Docker and its containers stopped"},
            {"batch": "all clocks -1 h", "bake": "SQLite's disk full", "drain": "all clocks +1 h"},
        ),
        ids=describe,
    )
    def test_it_ends_right(self, world: OutageSetup, course: Course) -> None:
        with shown(world):
            pass_through(world, course, ONE)
