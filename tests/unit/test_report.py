"""The report: batches, requests from the proxy's counters, why it ended as it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support.fake_drivers import LIMIT, FakeEnvironment, a_service, claimed, constant, request_rollout, settle_old, sqlite
from support.store_fixtures import ManualClock
from tidegate.analysis.verdict import Outcome
from tidegate.clock import Time
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout, Service, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.report.build import Report, build_report
from tidegate.core.routing import Backend, Traffic
from tidegate.engine.tick import RolloutCache, tick
from tidegate.store.store import SqlStore

ROLLOUT = Rollout(
    id="r1",
    service="demo/shop",
    old="v1-1",
    new="v2-2",
    plan=(),
    backend=Backend("shop"),
    created=100.0,
    phase=Phase.SUCCEEDED,
    reason="v2-2 is live",
    finished=130.0,
    requested_by="jenkins",
)


def event(kind: EventKind, at: Time, counters: tuple[int, int, int] | None = None, **data: object) -> Event:
    """One of step 0, with the proxy's requests, lost and errors so far."""
    traffic = None if counters is None else dict(zip(("requests", "lost", "errors"), counters, strict=True))
    return Event(kind, f"it {kind}", at, data={"step": 0, "phase": "running", "traffic": traffic, **data})


STORY = (
    Event(EventKind.CREATED, "asked for", 100.0, data={"by": "jenkins"}),
    Event(EventKind.PINNED, "resolved", 101.0),
    event(EventKind.STEP_ADVANCED, 101.5),
    event(EventKind.STEP_STARTED, 102.0, (1000, 5, 7)),
    event(EventKind.STARTED, 103.0, (1010, 5, 7), release="v2-2", ordinals=[0, 1]),
    event(EventKind.TRAFFIC_SHIFTED, 104.0, (1020, 5, 7), route={"v1-1": 3, "v2-2": 2}),
    event(EventKind.TRAFFIC_CONFIRMED, 104.5, (1030, 5, 7), route={"v1-1": 3, "v2-2": 2}),
    event(EventKind.STEP_READY, 105.0, (1100, 6, 8)),
    Event(EventKind.PROMOTED, "promoted by ada", 110.0, data={"by": "ada", "reason": "looks good"}),
    event(EventKind.STEP_ADVANCED, 115.0, (2000, 6, 18)),
    event(EventKind.STEP_STARTED, 115.1, (2010, 6, 18), step=1),
    event(EventKind.STOPPED, 116.0, (2020, 6, 18), stopped={"v1-1": 2}),
    event(EventKind.STEP_READY, 117.0, (2100, 6, 18)),
    event(EventKind.SUCCEEDED, 130.0, (2500, 7, 20)),
)


def test_a_batch_tells_its_times_and_what_it_did() -> None:
    first, second = build_report(ROLLOUT, STORY, ()).steps
    assert (first.number, first.step, first.phase) == (1, 0, Phase.RUNNING)
    assert first.actions == "started 2 of v2-2; traffic to 3 of v1-1, 2 of v2-2"
    assert (first.started_at, first.traffic_confirmed_at, first.ready_at, first.ended_at) == (102.0, 104.5, 105.0, 115.0)
    assert first.seconds == 13.0
    assert second.actions == "stopped 2 of v1-1"
    assert second.traffic_confirmed_at is None


def test_requests_are_the_differences_of_the_counters_and_none_falls_between_two_batches() -> None:
    result = build_report(ROLLOUT, STORY, ())
    first, second = result.steps
    assert first.switch == Traffic(100, 1, 1)
    assert first.bake == Traffic(900, 0, 10)
    assert second.switch == Traffic(100, 0, 0), "counted from where the first batch ended, not from its own beginning"
    assert second.bake == Traffic(400, 1, 2)
    assert (result.requests, result.lost, result.errors) == (1500, 2, 13) == (2500 - 1000, 7 - 5, 20 - 7)


def test_counters_that_began_anew_are_said_to_be_unknown() -> None:
    story = [
        replace(each, data={**each.data, "traffic": {"requests": 20, "lost": 0, "errors": 0}}) if each.at >= 117 else each
        for each in STORY
    ]
    result = build_report(ROLLOUT, story, ())
    first, second = result.steps
    assert first.lost == 1
    assert (second.switch, second.requests, second.lost) == (None, None, None)
    assert second.bake == Traffic(0, 0, 0)
    assert second.unknown_reason == "the proxy was restarted or reloaded, so its counters were reset"
    assert result.lost is None, "a sum with an unknown in it is unknown"
    assert "request counts unavailable" in result.summary


def test_a_restart_is_noticed_also_when_the_end_is_higher_than_the_beginning() -> None:
    story = [
        replace(each, data={**each.data, "traffic": {"requests": 3, "lost": 0, "errors": 0}})
        if each.kind == EventKind.TRAFFIC_SHIFTED
        else each
        for each in STORY
    ]
    first = build_report(ROLLOUT, story, ()).steps[0]
    assert first.switch is None
    assert first.bake == Traffic(900, 0, 10)


def test_errors_that_turn_out_to_be_losses_are_no_restart() -> None:
    story = [event(EventKind.STEP_STARTED, 1.0, (10, 0, 3)), event(EventKind.STEP_READY, 2.0, (20, 1, 2))]
    assert build_report(ROLLOUT, story, ()).steps[0].switch == Traffic(10, 1, 0)


def test_without_counters_nothing_is_claimed() -> None:
    story = [replace(each, data={**each.data, "traffic": None}) for each in STORY]
    result = build_report(ROLLOUT, story, ())
    assert {batch.lost for batch in result.steps} == {None}
    assert {batch.unknown_reason for batch in result.steps} == {"the proxy reported no counters"}
    assert result.requests is None


def test_a_rollout_that_goes_on_has_an_open_batch() -> None:
    result = build_report(replace(ROLLOUT, phase=Phase.RUNNING, finished=None), STORY[:7], ())
    (batch,) = result.steps
    assert (batch.ended_at, batch.seconds, batch.ready_at, batch.bake) == (None, None, None, None)
    assert batch.switch == Traffic(30, 0, 0)
    assert result.seconds is None
    assert "is running" in result.summary


def test_times_and_who_wished_for_what() -> None:
    result = build_report(ROLLOUT, STORY, ())
    assert (result.created, result.started, result.finished, result.seconds) == (100.0, 101.5, 130.0, 30.0)
    assert [(signal.kind, signal.by, signal.reason) for signal in result.signals] == [("promoted", "ada", "looks good")]
    assert (result.exposed_at, result.decided_at, result.decision_seconds) == (104.0, None, None)
    assert result.summary == (
        "demo/shop from v1-1 to v2-2 succeeded after 30.0 s, 2 steps; 1500 requests, 2 lost, 13 application errors"
    )


def test_an_empty_story_is_a_report_too() -> None:
    result = build_report(replace(ROLLOUT, phase=Phase.PENDING, finished=None), (), ())
    assert result.steps == ()
    assert (result.requests, result.started) == (None, None)
    assert result.summary == "demo/shop from v1-1 to v2-2 has not started, 0 steps; no traffic was moved"


def test_a_log_that_was_asked_for_twice_is_there_once() -> None:
    data = {"instance": "i1", "name": "v2-2/0", "release": "v2-2", "detail": "exited", "restarts": 2, "log": "boom"}
    story = [Event(EventKind.INSTANCE_LOG, "v2-2/0: exited", at, data=data) for at in (1.0, 2.0)]
    (result,) = build_report(ROLLOUT, story, ()).failures
    assert (result.instance, result.log, result.at) == ("v2-2/0", "boom", 1.0)


def test_a_failure_without_a_detail_names_its_instance_once() -> None:
    data = {"instance": "i1", "name": "v2-2/0", "release": "v2-2", "detail": "", "restarts": 0, "log": ""}
    (result,) = build_report(ROLLOUT, [Event(EventKind.INSTANCE_LOG, "v2-2/0: is starting", 1.0, data=data)], ()).failures
    assert (result.instance, result.detail) == ("v2-2/0", "is starting")


def test_trouble_and_takeovers_are_noted() -> None:
    story = [
        Event(EventKind.DRIVER_ERROR, "HAProxy does not answer", 1.0),
        Event(EventKind.TAKEN_OVER, "bert goes on", 2.0),
    ]
    assert [note.message for note in build_report(ROLLOUT, story, ()).notes] == ["HAProxy does not answer", "bert goes on"]


# -- of what the engine really tells ----------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[SqlStore]:
    with sqlite(tmp_path, clock) as made:
        yield made


def driven(store: SqlStore, clock: ManualClock, world: FakeEnvironment, service: Service, *signals: Signal) -> Report:
    """A rollout from release 1 to release 2, driven to its end."""
    settle_old(store, world, service, clock)
    rollout = request_rollout(store, service, 2, clock, 1)
    for signal in signals:
        store.signal(rollout, signal)
    claim, cache = claimed(store), RolloutCache()
    while not (done := tick(claim, store, world.parts(), clock, cache=cache)).finished:
        clock.now = max(clock.now, done.due or clock.forward(0.001))
    return build_report(store.load(rollout)[0], store.events(rollout), store.verdicts(rollout))


def test_a_real_rolling_update(store: SqlStore, clock: ManualClock) -> None:
    world = FakeEnvironment(clock)
    result = driven(store, clock, world, a_service())
    assert result.phase is Phase.SUCCEEDED
    assert [batch.actions for batch in result.steps] == [
        "started 1 of v2-2; traffic to 1 of v1-1, 1 of v2-2",
        "started 1 of v2-2; traffic to 2 of v2-2; stopped 1 of v1-1",
        "traffic to 2 of v2-2; stopped 1 of v1-1",
    ]
    assert all(batch.lost == 0 and batch.requests for batch in result.steps)
    assert all(batch.ready_at and batch.ended_at and batch.seconds is not None for batch in result.steps)
    begun = [batch.started_at for batch in result.steps]
    assert begun == sorted(begun)


def test_a_real_failure(store: SqlStore, clock: ManualClock) -> None:
    world = FakeEnvironment(clock, answer=constant(2.0))
    result = driven(store, clock, world, a_service(replicas=1, bake_seconds=30.0, checks=(LIMIT,)))
    assert result.phase is Phase.ROLLED_BACK
    assert result.decision_seconds is not None
    assert 1.0 <= result.decision_seconds < 10.0, "from the first request it could get to the decision"
    assert [batch.phase for batch in result.steps] == [Phase.RUNNING, Phase.ROLLING_BACK]
    assert result.verdicts[-1].verdict.outcome is Outcome.FAIL
    assert result.verdicts[-1].verdict.findings[0].check == "slow"
    assert result.reason in result.summary


def test_a_real_crash_loop(store: SqlStore, clock: ManualClock) -> None:
    world = FakeEnvironment(clock, crashing={"v2-2"})
    result = driven(store, clock, world, a_service(replicas=1))
    assert result.phase is Phase.ROLLED_BACK
    assert (result.exposed_at, result.decision_seconds) == (None, None), "it never took a request"
    assert result.decided_at is not None
    assert [failure.log for failure in result.failures] == ["v2-2 says no\nv2-2 says no\n"]


def test_a_person_who_calls_it_off_is_named(store: SqlStore, clock: ManualClock) -> None:
    wish = Signal(SignalKind.ROLLBACK, clock(), "ada", "wrong day")
    result = driven(store, clock, FakeEnvironment(clock), a_service(), wish)
    assert result.reason == "Rollback requested by ada: wrong day"
    assert [(signal.kind, signal.by) for signal in result.signals] == [("rollback_requested", "ada")]
    assert result.steps == ()
