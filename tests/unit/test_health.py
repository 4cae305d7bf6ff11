"""Readiness of instances that take traffic: what is recorded, who leaves the route, and what follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.decide_fixtures import A0, A1, B0, END, NOW, POLICY, ROLLOUT, STEP, at, decided, instance, world
from tidegate.core import drift, planner
from tidegate.core.container import Container, InstanceHealth
from tidegate.core.decide import decide
from tidegate.core.decisions import Analyze, Mark, MarkKind, Move, Shift, Start, Stop, Track, Wait, apply_track
from tidegate.core.model import (
    Instance,
    InstanceState,
    ObservedState,
    Release,
    Rollout,
    RolloutKind,
    Service,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Gate
from tidegate.core.rollout_state import member_of
from tidegate.core.routing import Backend, RouterState
from tidegate.core.waits import WaitKind
from tidegate.engine import events

WELL = {"a0": InstanceHealth(0), "a1": InstanceHealth(0), "b0": InstanceHealth(0)}
BAKING = replace(ROLLOUT, traffic_confirmed_at=NOW - 5.0, step_ready_at=NOW - 5.0, health=WELL)
REASON = "GET /health answered 503 (failing since 09:00:00 UTC)"
ALONE = WELL | {"b0": InstanceHealth(0, NOW - 5.0, 1)}  # for longer than two failures of one cause differ


def sick(one: Instance) -> Instance:
    return replace(one, state=InstanceState.STARTING, detail=REASON)


def test_what_was_ready_is_recorded_with_what_became_of_it() -> None:
    first = decide(replace(BAKING, health={}), world(A0, A1, B0, routed=(A0, B0)), (), NOW, 0.0)
    assert isinstance(first, Track)
    known = apply_track(BAKING, first, NOW)
    assert known.health == WELL
    lost = decide(known, world(A0, sick(A1), B0, routed=(A0, B0)), (), NOW + 1.0, 0.0)
    assert isinstance(lost, Track)
    known = apply_track(known, lost, NOW + 1.0)
    assert known.health["a1"] == InstanceHealth(0, NOW + 1.0, 1)
    back = decide(known, world(A0, A1, B0, routed=(A0, B0)), (), NOW + 9.0, 0.0)
    assert isinstance(back, Track)
    assert apply_track(known, back, NOW + 9.0).health["a1"] == InstanceHealth(0, None, 1, recovered_at=NOW + 9.0)
    observed = world(A0, A1, B0, routed=(A0, B0))
    (event,) = events.track(back, known, observed, NOW + 9.0)
    assert (event.kind, event.message) == ("instance_recovered", "a/1 is ready again after 8.0 s.")


def flapping(every: float, rollout: Rollout, *, shared: bool = False, until: float = 200.0) -> tuple[float, Any]:
    """When the rollout is decided to move, and how, if b/0 is sick for two seconds at these intervals."""
    for second in range(int(until)):
        is_sick = second % every >= every - 2.0
        a0 = sick(A0) if is_sick and shared else A0
        routed = tuple(each for each in (a0, A1, B0) if each.state is InstanceState.READY and not (each is B0 and is_sick))
        observed = world(a0, A1, sick(B0) if is_sick else B0, routed=(routed[0], B0) if not is_sick else routed[:1])
        decision = decide(rollout, observed, (), NOW + second, 0.0)
        if isinstance(decision, Track):
            rollout = apply_track(rollout, decision, NOW + second)
            decision = decide(rollout, observed, (), NOW + second, 0.0)
        if isinstance(decision, Move):
            return second, decision
    return until, None


def test_one_that_becomes_unhealthy_again_and_again_has_failed() -> None:
    baking = replace(BAKING, plan=(replace(STEP, gate=Gate(bake_seconds=15.0)), END))
    second, decision = flapping(8.0, baking)
    assert decision.phase is Phase.ROLLING_BACK, "it never lasted as long as two failures of one cause differ"
    assert decision.reason == "1 new instance failed (b/0): stopped being ready 3 times, 2 allowed (max_restarts)"
    assert second == 24, "the bake was over at 10 s, and it was ready then"
    assert flapping(40.0, baking)[0] == 10, "it has not failed yet"
    once, moved = flapping(12.0, replace(baking, health=WELL | {"b0": InstanceHealth(0, recovered_at=NOW, own_failures=1)}))
    assert (once, moved.phase) == (24, Phase.ROLLING_BACK)
    stable = replace(baking, health=WELL | {"b0": InstanceHealth(0, None, 1, "", NOW, 1)})
    assert flapping(500.0, stable)[0] == 30, "one failure is no loop, and is waited out"
    waits = at(stable, world(A0, A1, B0, routed=(A0, B0)), now=NOW + 11.0)
    assert isinstance(waits, Wait)
    assert waits.waiting_for.reason == "Waiting for b/0 to stay ready for 30 s after a failure"
    assert waits.waiting_for.until == NOW + 30.0


def test_failures_that_an_old_instance_has_too_or_that_are_long_ago_do_not_count() -> None:
    for old, own in ((InstanceHealth(0, NOW - 3.0, 1), 2), (InstanceHealth(0), 3)):
        known = replace(BAKING, health=WELL | {"a0": old, "b0": InstanceHealth(0, NOW - 2.0, 3, "", NOW - 30.0, 2)})
        tracked = decide(known, world(A0, A1, B0, routed=(A1,)), (), NOW, 0.0)
        assert isinstance(tracked, Track)
        assert dict(tracked.health)["b0"].own_failures == own
    yesterday = replace(known, health=WELL | {"b0": InstanceHealth(0, NOW - 2.0, 3, "", NOW - 900.0, 2)})
    tracked = decide(yesterday, world(A0, A1, B0, routed=(A1,)), (), NOW, 0.0)
    assert isinstance(tracked, Track)
    assert dict(tracked.health)["b0"].own_failures == 1


def test_an_end_between_two_observations_is_a_failure() -> None:
    tracked = decide(BAKING, world(A0, A1, replace(B0, restarts=1), routed=(A0, B0)), (), NOW, 0.0)
    assert isinstance(tracked, Track)
    assert dict(tracked.health)["b0"] == InstanceHealth(1, None, 0, "", NOW, 1)


@pytest.mark.parametrize("again", [{"restarts": 1}, {"start": "with Docker"}], ids=["restarted", "started with Docker"])
def test_one_that_starts_is_not_unhealthy(again: dict[str, Any]) -> None:
    starting = sick(B0)
    assert decided(ROLLOUT, world(A0, A1, starting)) != Phase.ROLLING_BACK
    waits = at(replace(ROLLOUT, health=WELL | {"b0": InstanceHealth(0)}), world(A0, A1, replace(starting, **again)))
    assert isinstance(waits, Wait), "it was restarted, which max_restarts tolerates; Docker does not count its own restart"
    assert waits.waiting_for.kind is WaitKind.READINESS


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize(
    "gate", [STEP.gate, Gate(approval="promote"), Gate(bake_seconds=60.0, keeps_old=True)], ids=["bake", "approval", "keep"]
)
def test_a_new_instance_that_becomes_unhealthy_rolls_back_whatever_the_step_waits_for(gate: Gate, forced: bool) -> None:
    rollout = replace(BAKING, plan=(replace(STEP, gate=gate), END), forced=forced, approval_since=NOW - 1.0)
    decision = at(rollout, world(A0, A1, sick(B0), routed=(A0, B0)))
    assert decision == Shift((member_of(A0),), f"Taking b/0 out of the route: {REASON}"), "an old one may be found sick too"
    decision = at(replace(rollout, health=ALONE), world(A0, A1, sick(B0), routed=(A0,)))
    assert isinstance(decision, Move)
    assert decision.phase is Phase.ROLLING_BACK
    assert decision.reason == f"1 new instance became unhealthy (b/0): {REASON}, for 5 s"


def test_it_rolls_back_at_once_where_no_ready_instance_takes_the_requests() -> None:
    decision = at(replace(BAKING, cursor=1), world(A0, sick(B0), routed=(B0,)))
    assert isinstance(decision, Move)
    assert decision.phase is Phase.ROLLING_BACK


@pytest.mark.parametrize(
    ("old", "rolls_back"),
    [
        (InstanceHealth(0, NOW - 10.0, 1), False),
        (InstanceHealth(0, NOW - 15.5, 1), True),
        (InstanceHealth(0, NOW - 4.5, 1), True),
        (InstanceHealth(0, None, 1, recovered_at=NOW - 4.5), False),
        (InstanceHealth(0, None, 1, recovered_at=NOW - 5.5), True),
        (InstanceHealth(0, None, 1, recovered_at=NOW - 10.5), True),
    ],
    ids=["at that time", "long before", "long after", "recovered now", "recovered while it did not", "recovered before"],
)
def test_one_that_fails_together_with_an_old_one_is_left_to_the_deadline(old: InstanceHealth, rolls_back: bool) -> None:
    health = WELL | {"b0": InstanceHealth(0, NOW - 10.0, 1), "a1": old}
    a1 = A1 if old.unhealthy_since is None else sick(A1)
    observed = world(A0, a1, sick(B0), routed=(A0,))
    decision = at(replace(BAKING, health=health), observed)
    assert isinstance(decision, Move if rolls_back else Wait)
    late = at(replace(BAKING, health=health), observed, now=NOW + 61.0)
    assert isinstance(late, Move)
    assert late.phase is Phase.ROLLING_BACK, "it never became ready again"


def test_an_old_instance_that_can_take_the_place_of_the_routed_ones_is_enough_to_wait() -> None:
    """Docker stops: both routed instances fail, one after the other; the third one is the last to be stopped."""
    health = WELL | {"a0": InstanceHealth(0, NOW - 7.0, 1), "b0": InstanceHealth(0, NOW - 6.0, 1)}
    decision = at(replace(BAKING, health=health), world(sick(A0), A1, sick(B0), routed=(A0, B0)))
    assert isinstance(decision, Shift), "a/1 takes the place of a/0"
    stopped = replace(A0, state=InstanceState.STOPPED)
    decision = at(replace(BAKING, health=ALONE, starting_at=NOW - 9.0), world(stopped, A1, sick(B0), routed=(A1,)))
    assert not isinstance(decision, Move), "a/0 was stopped from outside"


def test_it_rolls_back_before_it_took_traffic_too() -> None:
    preview = replace(STEP, route={"a": 2}, gate=Gate(approval="promote"))
    rollout = replace(BAKING, plan=(preview, END), approval_since=NOW - 1.0, health=ALONE)
    decision = at(rollout, world(A0, A1, sick(B0), routed=(A0, A1)))
    assert isinstance(decision, Move)
    assert decision.phase is Phase.ROLLING_BACK


def test_a_tolerated_one_leaves_the_route_and_keeps_old_instances_running() -> None:
    b1 = instance("b", 1)
    tolerant = replace(
        BAKING, cursor=1, policy=replace(POLICY, max_failure_ratio=0.5), health=WELL | {"b1": InstanceHealth(0)}
    )
    leaves = at(tolerant, world(A0, sick(B0), b1, routed=(B0, b1)))
    assert leaves == Shift((member_of(b1),), f"Taking b/0 out of the route: {REASON}")
    waits = at(tolerant, world(A0, sick(B0), b1, routed=(b1,)))
    assert isinstance(waits, Wait), "a/0 is healthy, and b/0 that replaces it is not"
    assert waits.waiting_for.reason == "Waiting for b/0 to become ready"
    assert waits.waiting_for.until is not None
    known = replace(tolerant, health=tolerant.health | {"b0": InstanceHealth(0, NOW - 1.0, 1)})
    assert at(known, world(A0, B0, b1, routed=(b1,))) == Shift(
        (member_of(b1), member_of(B0)), "Putting b/0 into the route: ready"
    )


def test_a_failure_that_both_releases_share_moves_nothing() -> None:
    waits = at(BAKING, world(sick(A0), sick(A1), sick(B0), routed=(A0, B0)))
    assert isinstance(waits, Wait)
    late = at(BAKING, world(sick(A0), sick(A1), sick(B0), routed=(A0, B0)), now=NOW + 61.0)
    assert isinstance(late, Move)
    assert late.phase is Phase.ROLLING_BACK


def test_a_sick_old_instance_leaves_the_route_and_holds_nothing_up() -> None:
    two = replace(STEP, fleet={"a": 2, "b": 1}, route={"a": 2, "b": 1})
    rollout = replace(BAKING, plan=(two, END))
    assert at(rollout, world(A0, sick(A1), B0, routed=(A0, A1, B0))) == Shift(
        (member_of(A0), member_of(B0)), f"Taking a/1 out of the route: {REASON}"
    )
    goes_on = at(rollout, world(A0, sick(A1), B0, routed=(A0, B0)))
    assert isinstance(goes_on, Analyze)


def test_another_old_instance_takes_its_place_without_a_new_bake() -> None:
    assert at(BAKING, world(sick(A0), A1, B0, routed=(B0,))) == Shift(
        (member_of(B0), member_of(A1)), "Putting a/1 into the route: ready"
    )
    lost = at(BAKING, world(A0, A1, B0, routed=(B0,)))
    assert lost.mark is MarkKind.TRAFFIC_DIVERGED, "nobody is sick: the proxy was changed"  # type: ignore[union-attr]


def test_a_rollback_does_not_wait_for_a_sick_old_instance_but_for_the_last() -> None:
    back = replace(BAKING, phase=Phase.ROLLING_BACK, plan=planner.rollback_plan("a", 2), traffic_confirmed_at=None)
    back = replace(back, step_ready_at=None)
    assert at(back, world(A0, sick(A1), B0, routed=(B0,))) == Shift((member_of(A0),), "Shifting traffic to 2 of a")
    assert isinstance(at(back, world(sick(A0), sick(A1), B0, routed=(B0,))), Wait)


@pytest.mark.parametrize("known", [True, False], ids=["restarted while it was sick", "from before the rollout"])
def test_a_rollback_ends_without_an_old_instance_that_does_not_become_ready(known: bool) -> None:
    back = replace(BAKING, phase=Phase.ROLLING_BACK, plan=planner.rollback_plan("a", 2), traffic_confirmed_at=None)
    back = replace(back, step_ready_at=None, preexisting=("a0", "a1"), health=WELL if known else {"a0": InstanceHealth(0)})
    observed = world(A0, replace(sick(A1), restarts=int(known)), routed=(A0,))
    assert isinstance(at(back, observed), Wait if known else Mark), "one that was restarted may be ready soon"
    late = at(back, observed, now=NOW + 61.0)
    assert isinstance(late, Mark)
    assert late.mark is MarkKind.TRAFFIC_CONFIRMED


# -- repair and scaling ---------------------------------------------------------------------------------------------------

SERVICE = Service("demo", "shop", "shop:1", 2, Container(80), Backend("shop"), policy=POLICY)
RELEASE = Release("a", SERVICE.key, "shop:1", 2, SERVICE.container)


def repair(**changes: object) -> Rollout:
    made = drift.make_repair(SERVICE, RELEASE, "r", NOW - 10.0)
    begun = replace(made, phase=Phase.RUNNING, step_started_at=NOW - 10.0, preexisting=("a0", "a1"))
    known = {"health": {"a0": InstanceHealth(0), "a1": InstanceHealth(0, NOW - 10.0, 1)}}
    return replace(begun, **(known | changes))


def test_a_repair_takes_a_sick_instance_out_and_replaces_it_after_the_deadline() -> None:
    assert isinstance(at(repair(), world(A0, sick(A1))), Shift)
    out = world(A0, sick(A1), routed=(A0,))
    waits = at(repair(), out)
    assert isinstance(waits, Wait)
    assert waits.waiting_for.reason == "Waiting for a/1 to become ready again"
    assert (waits.waiting_for.until, waits.waiting_for.then) == (NOW + 50.0, "unready instances are replaced")
    replaces = at(repair(), out, now=NOW + 50.0)
    assert isinstance(replaces, Track)
    assert replaces.replaced == ("a1",)
    after = apply_track(repair(), replaces, NOW + 50.0)
    assert at(after, out, now=NOW + 50.0) == Stop((sick(A1),), "Stopping a/1")
    assert at(after, world(A0, routed=(A0,)), now=NOW + 51.0) == Start("a", (1,), "Starting 1 instance of a")


def test_when_all_are_sick_others_are_started_next_to_them() -> None:
    both = ObservedState((sick(A0), sick(A1)), RouterState((member_of(A0), member_of(A1))))
    waits = at(repair(), both)
    assert isinstance(waits, Wait), "traffic stays as it is"
    replaces = decide(repair(health={n: InstanceHealth(0, NOW - 10.0, 1) for n in ("a0", "a1")}), both, (), NOW + 60.0, 0.0)
    assert isinstance(replaces, Track)
    after = apply_track(repair(), replaces, NOW + 60.0)
    assert after.kind is RolloutKind.REPAIR
    assert at(after, both, now=NOW + 60.0) == Start("a", (2, 3), "Starting 2 instances of a")
