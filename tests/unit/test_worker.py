"""The worker: threads, leases, a clean stop, and nothing that one rollout does to another. On the real clock."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from support.fake_drivers import FakeEnvironment, Interposed, a_service, claimed, request_rollout, settle_old, sqlite
from support.wait import MAX_SECONDS, at_most, eventually, pause
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Policy, Release, Service, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.drivers.platforms.docker.driver import DockerPlatform
from tidegate.engine.worker import Worker, WorkerOptions
from tidegate.errors import PlatformError, StoreError
from tidegate.ports import Drivers, Platform
from tidegate.store.store import SqlStore

QUICK = WorkerOptions(lease_seconds=60.0, threads=4, poll_seconds=0.05)
SLEEPY = WorkerOptions(lease_seconds=60.0, threads=2, poll_seconds=600.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with sqlite(tmp_path, time.time) as made:
        yield made


@pytest.fixture
def world() -> FakeEnvironment:
    return FakeEnvironment(time.time, ready_after=0.02)


@pytest.fixture
def beats_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has nothing to do polls no more often than `poll_seconds` says."""
    monkeypatch.setattr("tidegate.engine.worker.HEARTBEAT_SECONDS", 600.0)


@contextmanager
def working(
    store: Any,
    world: FakeEnvironment,
    options: WorkerOptions = QUICK,
    owner: str = "anna",
    parts: Drivers | None = None,
    others: Mapping[str, Drivers] | None = None,
) -> Iterator[Worker]:
    """A worker in a thread; stopped, and waited for, at the end. `others`: further environments."""
    worker = Worker(store, {"demo": parts or world.parts(), **(others or {})}, options, time.time, owner)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(60)
        assert not thread.is_alive(), "it did not stop"


def begin(store: SqlStore, world: FakeEnvironment, *services: Service) -> list[str]:
    """For each a rollout from release 1, which serves, to release 2."""
    for service in services:
        settle_old(store, world, service, time.time)
    return [request_rollout(store, service, 2, time.time, 1) for service in services]


def begin_one(store: SqlStore, world: FakeEnvironment, **changes: Any) -> str:
    return begin(store, world, a_service(**changes))[0]


def ended(store: SqlStore, rollout: str) -> Callable[[], bool]:
    return lambda: not store.load(rollout)[0].phase.live


def await_ends(store: SqlStore, *rollouts: str, seconds: float = MAX_SECONDS) -> None:
    eventually("every rollout has ended", lambda: all(ended(store, rollout)() for rollout in rollouts), seconds)


def kinds(store: SqlStore, rollout: str) -> list[str]:
    return [each.kind for each in store.events(rollout)]


def free(store: SqlStore) -> bool:
    """Whether something is due and nobody holds it."""
    claim = store.claim("probe", 600.0)
    if claim is None:
        return False
    store.release(claim, time.time())
    return True


@pytest.mark.usefixtures("beats_seldom")
def test_it_drives_a_rollout_to_its_end_and_wakes_at_once(store: SqlStore, world: FakeEnvironment) -> None:
    claims: list[str] = []
    noting = Interposed(store, lambda verb: claims.append(verb) if verb == "claim" else None)
    with working(noting, world, SLEEPY) as worker:
        eventually("it looks for work", lambda: claims)
        pause(0.1, "it finds nothing, and sleeps for ten minutes")
        rollout = begin_one(store, world)
        worker.wake()
        await_ends(store, rollout)
    assert store.load(rollout)[0].phase is Phase.SUCCEEDED
    assert world.serving() == ["v2-2", "v2-2"]


def test_a_docker_that_never_answers_delays_no_other_environment(store: SqlStore, world: FakeEnvironment) -> None:
    """With more due rollouts in its environment than it has threads."""
    settle_old(store, world, a_service(), time.time)
    services = [a_service(f"s{number}", environment="slow") for number in range(3)]
    stuck = [request_rollout(store, service, 1, time.time) for service in services]
    good = request_rollout(store, a_service(), 2, time.time, 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts connections, and nobody reads them
        host = {"name": "silent", "url": f"tcp://127.0.0.1:{silent.getsockname()[1]}"}
        options = DockerPlatform.Options.model_validate({"hosts": [host], "timeout_seconds": 300})
        with closing(DockerPlatform(options, "slow")) as platform:
            slow = {"slow": replace(world.parts(), platform=platform)}
            with working(store, world, replace(QUICK, threads=2), others=slow):
                await_ends(store, good)
                assert {store.load(rollout)[0].phase for rollout in stuck} == {Phase.PENDING}
                assert [kinds(store, rollout) for rollout in stuck] == [["created"]] * 3, "the calls have not ended"
                silent.close()


class SlowPlatform:
    """A platform on which a verb takes until `go_on` for services whose name begins with `slow`."""

    def __init__(self, platform: Any, verb: str) -> None:
        self._platform, self._verb = platform, verb
        self.go_on, self.inside = threading.Event(), Counter[str]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._platform, name)

        def slow(release: Release, *rest: Any) -> Any:
            if release.service.startswith("demo/slow"):
                self.inside[release.service] += 1
                assert self.go_on.wait(300)
            return method(release, *rest)

        return slow if name == self._verb else method


@pytest.mark.parametrize("verb", ["pin", "start"])
def test_slow_parts_of_some_services_delay_no_other(store: SqlStore, world: FakeEnvironment, verb: str) -> None:
    """With twice as many of them as there are threads: for a pull and for containers that are created slowly."""
    services = [a_service(f"slow{number}") for number in range(4)]
    parts = world.parts()
    platform = SlowPlatform(parts.platform, verb)
    settle_old(store, world, a_service("quick"), time.time)  # before an engine could claim its rollout
    slow = begin(store, world, *services)
    with (
        working(store, world, replace(QUICK, threads=2), parts=replace(parts, platform=cast(Platform, platform))),
        set_at_the_end(platform.go_on),
    ):
        eventually("all four are in their calls", lambda: len(platform.inside) == 4)
        quick = [request_rollout(store, a_service("quick"), 2, time.time, 1)]
        await_ends(store, *quick)
        assert {store.load(rollout)[0].phase.live for rollout in slow} == {True}
        platform.go_on.set()
        await_ends(store, *slow)
    assert {store.load(rollout)[0].phase for rollout in (*slow, *quick)} == {Phase.SUCCEEDED}
    assert max(platform.inside.values()) <= 3, "of both releases, or of two batches: nothing was done twice"


def test_a_rollback_does_not_wait_for_the_pull_of_its_own_image(store: SqlStore, world: FakeEnvironment) -> None:
    parts = world.parts()
    platform = SlowPlatform(parts.platform, "pin")
    (rollout,) = begin(store, world, a_service("slow"))
    with (
        working(store, world, parts=replace(parts, platform=cast(Platform, platform))) as worker,
        set_at_the_end(platform.go_on),
    ):

        def waits() -> bool:
            waiting = store.load(rollout)[0].waiting_for
            return waiting is not None and waiting.reason.startswith("Pulling image")

        eventually("it says what it waits for", waits)
        store.signal(rollout, Signal(SignalKind.ROLLBACK, time.time(), "ann"))
        worker.wake()
        await_ends(store, rollout)
        assert store.load(rollout)[0].phase is Phase.ROLLED_BACK
        again = request_rollout(store, a_service("slow"), 3, time.time, 1)
        eventually("the next pull does not wait for the abandoned one", lambda: platform.inside["demo/slow"] == 2)
        platform.go_on.set()
        await_ends(store, again)
    assert store.load(again)[0].phase is Phase.SUCCEEDED


@pytest.mark.usefixtures("beats_seldom")
def test_what_it_gave_back_itself_is_taken_again_when_due(store: SqlStore, world: FakeEnvironment) -> None:
    """A wait too long to hold the claim for, but shorter than the poll."""
    world.faults["instances"] = [PlatformError("busy")] * 2
    rollout = begin_one(store, world)
    with working(store, world, SLEEPY):
        await_ends(store, rollout)
    assert store.load(rollout)[0].phase is Phase.SUCCEEDED


def test_twenty_rollouts_in_four_threads(store: SqlStore, world: FakeEnvironment) -> None:
    services = [a_service(f"shop{number}") for number in range(20)]
    rollouts = begin(store, world, *services)
    with working(store, world):
        await_ends(store, *rollouts, seconds=200.0)
    assert {store.load(rollout)[0].phase for rollout in rollouts} == {Phase.SUCCEEDED}
    for service in services:
        assert world.serving(service.name) == ["v2-2", "v2-2"]


def test_one_that_waits_again_and_again_keeps_no_other_from_the_only_thread(
    store: SqlStore, world: FakeEnvironment
) -> None:
    slow, quick = (
        a_service("slow", policy=Policy(drain_timeout_seconds=5.0, healthy_deadline_seconds=600.0)),
        a_service("quick"),
    )
    world.never_ready = {"v2-2"}
    for service in (slow, quick):
        settle_old(store, world, service, time.time)
    with working(store, world, replace(QUICK, threads=1)):
        first = request_rollout(store, slow, 2, time.time, 1)
        eventually("the first waits", lambda: "started" in kinds(store, first))
        second = request_rollout(store, quick, 3, time.time, 1)
        await_ends(store, second)
        assert store.load(first)[0].phase is Phase.RUNNING, "it still waits, and has for less than its deadline"
    assert store.load(second)[0].phase is Phase.SUCCEEDED


def test_two_workers_share_the_work_and_never_a_rollout(store: SqlStore, world: FakeEnvironment) -> None:
    rollouts = begin(store, world, *(a_service(f"shop{number}") for number in range(10)))
    with working(store, world), working(store, world, owner="bert"):
        await_ends(store, *rollouts)
    for rollout in rollouts:
        assert store.load(rollout)[0].takeovers == 0
        assert kinds(store, rollout).count("step_started") == 3, "no step was entered twice"


def held_at_start(inside: threading.Event, go_on: threading.Event) -> Callable[[str], None]:
    """The first start of instances takes until `go_on`; `inside` says that it has begun."""

    def act(verb: str) -> None:
        if verb == "start" and not inside.is_set():
            inside.set()
            assert go_on.wait(300)

    return act


@contextmanager
def set_at_the_end(event: threading.Event) -> Iterator[None]:
    """Also when the block fails: nobody is held any more."""
    try:
        yield
    finally:
        event.set()


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_a_stop_finishes_the_effect_and_gives_the_claim_back(store: SqlStore, world: FakeEnvironment) -> None:
    inside, go_on = threading.Event(), threading.Event()

    world.pause = held_at_start(inside, go_on)
    rollout = begin_one(store, world)
    with working(store, world) as worker, set_at_the_end(go_on):
        assert inside.wait(60)
        worker.stop()
        pause(0.1, "the rollout is not given back")
        assert store.claim("bert", 60.0) is None, "held until the effect is done"
    assert kinds(store, rollout)[-1] == "started", "the effect was finished and told, and nothing more was done"
    assert free(store)
    with working(store, world, owner="bert"):
        await_ends(store, rollout)
    after, _ = store.load(rollout)
    assert (after.phase, after.takeovers) == (Phase.SUCCEEDED, 0)
    assert EventKind.TAKEN_OVER not in kinds(store, rollout)


def test_a_stop_does_not_wait_for_a_wait(store: SqlStore, world: FakeEnvironment) -> None:
    world.never_ready.add("v2-2")
    rollout = begin_one(store, world)
    with working(store, world) as worker:
        eventually("it waits", lambda: "started" in kinds(store, rollout))
        with at_most(30, "giving it back, before its lease of 60 s runs out,"):
            worker.stop()
            eventually("somebody else can have it", lambda: free(store))


def test_a_signal_handler_may_stop_it(store: SqlStore, world: FakeEnvironment) -> None:
    """`run` in the main thread, interrupted wherever it happens to be."""
    for attempt in range(20):
        worker = Worker(store, {"demo": world.parts()}, QUICK, time.time, f"anna{attempt}")
        before = signal.signal(signal.SIGUSR1, lambda *_, worker=worker: worker.stop())
        timer = threading.Timer(0.005 + attempt * 0.004, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        try:
            worker.run()
        finally:
            timer.join()
            signal.signal(signal.SIGUSR1, before)


# -- leases -----------------------------------------------------------------------------------------------------------


def test_the_heartbeat_keeps_the_lease_during_a_long_effect(store: SqlStore, world: FakeEnvironment) -> None:
    """It lasts two leases; a heartbeat may come two seconds late."""

    def slow(verb: str) -> None:
        if verb == "start":
            pause(6.0, "the effect takes its time")

    world.pause = slow
    options = WorkerOptions(lease_seconds=3.0, threads=2, poll_seconds=0.05)
    rollout = begin_one(store, world, replicas=1)
    with working(store, world, options), working(store, world, options, "bert"):
        await_ends(store, rollout)
    after, _ = store.load(rollout)
    assert (after.phase, after.takeovers) == (Phase.SUCCEEDED, 0)
    assert world.calls.count("start") == 1


def test_another_worker_takes_over_from_one_that_vanished(store: SqlStore, world: FakeEnvironment) -> None:
    rollout = begin_one(store, world)
    claimed(store, "ghost", 0.3)  # and is never heard of again
    with working(store, world):
        await_ends(store, rollout)
    after, _ = store.load(rollout)
    assert (after.phase, after.takeovers) == (Phase.SUCCEEDED, 1)
    assert kinds(store, rollout)[1] == EventKind.TAKEN_OVER


def test_one_that_lost_its_lease_in_the_middle_of_an_effect_does_no_other(store: SqlStore, world: FakeEnvironment) -> None:
    """Its heartbeat does not get through, another takes over, and then its long effect comes back."""
    inside, go_on = threading.Event(), threading.Event()

    def cut_off(verb: str) -> None:
        if verb in ("renew", "claim") and inside.is_set():
            raise StoreError("no way to the database")

    world.pause = held_at_start(inside, go_on)
    options = WorkerOptions(lease_seconds=0.3, threads=1, poll_seconds=0.05)
    rollout = begin_one(store, world)
    with working(Interposed(store, cut_off), world, options), set_at_the_end(go_on):
        assert inside.wait(60)
        with working(store, world, owner="bert"):
            await_ends(store, rollout)
            writes = world.calls.count("write")
            go_on.set()
            pause(0.3, "the first worker does not write")
        assert world.calls.count("write") == writes
    assert store.load(rollout)[0].phase is Phase.SUCCEEDED
    assert world.serving() == ["v2-2", "v2-2"]


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_mistake_of_ours_is_told_and_harms_no_other_rollout(store: SqlStore, world: FakeEnvironment) -> None:
    bad, good = begin(store, world, a_service("bad"), a_service("good"))
    parts = world.parts()

    class Broken(type(parts.platform)):  # type: ignore[misc] # whatever stands behind the port
        def instances(self, service: str, *options: Any) -> Any:
            if service == "demo/bad" and "internal_error" not in kinds(store, bad):
                raise ZeroDivisionError("a bug")
            return super().instances(service, *options)

    with working(store, world, parts=replace(parts, platform=Broken(world))):
        await_ends(store, bad, good)
    assert store.load(bad)[0].phase is store.load(good)[0].phase is Phase.SUCCEEDED
    told = next(each for each in store.events(bad) if each.kind == EventKind.INTERNAL_ERROR)
    assert told.message == "Internal error: ZeroDivisionError: a bug"
    assert EventKind.INTERNAL_ERROR not in kinds(store, good)


def test_an_environment_that_is_not_in_the_settings_is_told(store: SqlStore, world: FakeEnvironment) -> None:
    rollout = begin_one(store, world, environment="moon")
    with working(store, world):
        eventually("the event is there", lambda: "driver_error" in kinds(store, rollout))
        pause(0.8, "no second event comes")
    told = [each.message for each in store.events(rollout) if each.kind == EventKind.DRIVER_ERROR]
    assert told == ["Environment moon is not in this engine's settings (it has: demo). Add it."]
    assert "instances" not in world.calls


def test_a_database_that_fails_for_a_while_is_waited_for(store: SqlStore, world: FakeEnvironment) -> None:
    left = Counter(heartbeat=1, claim=3, load=2)

    def down(verb: str) -> None:
        if left[verb] > 0:
            left[verb] -= 1
            raise StoreError("disk full") if verb != "load" else RuntimeError("worse")

    rollout = begin_one(store, world)
    with working(Interposed(store, down), world):
        await_ends(store, rollout)
    assert not any(left.values())
    assert store.load(rollout)[0].phase is Phase.SUCCEEDED


def test_it_does_not_spin_when_there_is_nothing_to_do_or_nothing_works(store: SqlStore, world: FakeEnvironment) -> None:
    claims: list[str] = []

    def count(verb: str) -> None:
        if verb == "claim":
            claims.append(verb)

    world.always["instances"] = PlatformError("down")
    begin_one(store, world)
    begun = time.monotonic()
    with working(Interposed(store, count), world, WorkerOptions(poll_seconds=0.1)):
        pause(1.0, "it polls now and then")
    seconds = time.monotonic() - begun
    assert len(claims) < 25 * seconds
    assert world.calls.count("instances") < 6 * seconds
