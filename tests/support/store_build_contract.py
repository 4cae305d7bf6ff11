"""What every store must do for builds: those whose rollouts are watched, and those that wait for their turn; part of
`StoreContract`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.store_fixtures import (
    ManualClock,
    a_key,
    a_release,
    a_rollout,
    a_service,
    an_event,
    claim_due,
    finish,
    run_concurrently,
)
from tidegate.core.build import Build
from tidegate.core.build_queue import LivePolicy, Turn, WaitingBuild
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.rollback_cause import RollbackCause
from tidegate.errors import Refused, Superseded
from tidegate.store.build_queue import MAX_SILENT_SECONDS, MAX_WAITING
from tidegate.store_port import Store

SHOP = a_service()
JOB, OTHER = "team/shop", "team/hotfix"


def built(store: Store, number: int, job: str = JOB) -> Rollout:
    """A rollout that this build has requested."""
    rollout = replace(a_rollout(SHOP, number), build=Build(job, number))
    assert store.create(rollout, SHOP, a_release(SHOP, number), a_key(rollout.id), an_event("created")) is None
    return rollout


def ask(store: Store, number: int, policy: LivePolicy = LivePolicy.WAIT, job: str = JOB) -> Turn:
    return store.take_turn(WaitingBuild(SHOP.key, Build(job, number), policy, "jenkins"))


class BuildContract:
    """Watched builds, and the queue."""

    def test_a_build_is_watched_until_the_watch_ends(self, store: Store, clock: ManualClock) -> None:
        rollout = built(store, 1)
        assert store.next_build_watch(10.0, "live") is None
        watch = store.next_build_watch(10.0, "demo")
        assert watch is not None
        assert (watch.rollout, watch.ended_at, watch.unknown) == (rollout.id, None, 0)
        assert store.next_build_watch(10.0, "", ()) is None, "claimed"
        seen = replace(watch, ended_at=clock.now, unknown=2, reported="unknown")
        store.record_build_watch(seen, clock.now + 20.0, (Event(EventKind.BUILD_ENDED, "over", clock.now),))
        assert store.events(rollout.id)[-1].message == "over"
        clock.forward(15.0)
        assert store.next_build_watch(10.0, "demo") is None
        clock.forward(10.0)
        store.note_build_poll(rollout.id)
        assert store.next_build_watch(10.0, "", ("live",)) == replace(seen, polled_at=clock.now)
        store.end_build_watch(rollout.id)
        clock.forward(60.0)
        assert store.next_build_watch(10.0, "demo") is None

    def test_builds_have_their_turn_in_the_order_in_which_they_came(self, store: Store) -> None:
        assert ask(store, 2) == Turn(1, 1)
        live = built(store, 2)
        assert [ask(store, 9, job=OTHER), ask(store, 3)] == [Turn(1, 1, live.id), Turn(2, 2, live.id)]
        assert ask(store, 2).is_own
        store.leave_queue(SHOP.key, JOB, 2)
        finish(store, live, Phase.RUNNING, Phase.SUCCEEDED)
        assert [ask(store, 3).has_come, ask(store, 9, job=OTHER).has_come] == [False, True]
        built(store, 9, OTHER)
        assert ask(store, 3).position == 1, "whoever has deployed waits no longer"

    def test_a_build_that_stops_asking_loses_its_place(self, store: Store, clock: ManualClock) -> None:
        live = built(store, 1)
        assert [ask(store, number).position for number in (2, 3)] == [1, 2]
        clock.forward(MAX_SILENT_SECONDS - 1.0)
        assert ask(store, 3).position == 2
        clock.forward(2.0)
        assert ask(store, 3) == Turn(1, 1, live.id)

    def test_places_are_given_once_also_to_builds_that_ask_at_the_same_moment(self, store: Store) -> None:
        built(store, 1)
        turns = run_concurrently(*[lambda number=number: ask(store, number) for number in range(2, 8)])
        assert {turn.waiting for turn in turns if isinstance(turn, Turn)} <= set(range(1, 7))
        positions = sorted(ask(store, number).position for number in range(2, 8))
        assert positions == [1, 2, 3, 4, 5, 6]

    def test_the_queue_is_bounded(self, store: Store) -> None:
        for number in range(MAX_WAITING):
            ask(store, number + 1)
        with pytest.raises(Refused, match=f"{MAX_WAITING} builds wait"):
            ask(store, MAX_WAITING + 1)
        assert ask(store, 1).position == 1

    @pytest.mark.parametrize(
        ("phase", "waits", "job", "number", "yields"),
        [
            (Phase.RUNNING, True, JOB, 3, True),
            (Phase.PENDING, False, JOB, 3, True),
            (Phase.RUNNING, False, JOB, 3, False),
            (Phase.RUNNING, True, JOB, 1, False),
            (Phase.RUNNING, True, OTHER, 3, False),
        ],
        ids=["at its gate", "before it began", "while it moves", "by an older build", "by another job"],
    )
    def test_only_an_older_build_of_the_job_that_waits_is_superseded(
        self, store: Store, clock: ManualClock, phase: Phase, *, waits: bool, job: str, number: int, yields: bool
    ) -> None:
        live = built(store, 2)
        claim = claim_due(store)
        store.save(replace(live, phase=phase, approval_since=clock.now if waits else None), (), claim.fence)
        for _ in range(2):
            ask(store, number, LivePolicy.SUPERSEDE, job)
        found = [(signal.kind, signal.cause, signal.reason) for signal in store.load(live.id)[1]]
        back = (SignalKind.ROLLBACK, RollbackCause.SUPERSEDED, f"superseded by build {number} of {job}")
        assert found == [back] * yields, "once, however often it asks"

    def test_an_older_build_in_the_queue_makes_way_for_one_that_supersedes(self, store: Store) -> None:
        built(store, 9, OTHER)
        assert [ask(store, 2).position, ask(store, 3, LivePolicy.SUPERSEDE).position] == [1, 1]
        with pytest.raises(Superseded, match="build 3 waits to deploy demo/shop"):
            ask(store, 2)
        assert ask(store, 4).position == 2, "a newer one does not"
