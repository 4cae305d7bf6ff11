"""Every kind of waiting says for what, since when, until when and what happens then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.decide_fixtures import A0, A1, B0, END, NOW, POLICY, ROLLOUT, STEP, decided, signal, unrouted_at, world
from tidegate.core.decisions import MarkKind, Wait, apply_mark, shift_marks
from tidegate.core.model import (
    Approval,
    Expiry,
    InstanceState,
    ObservedState,
    Rollout,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Gate
from tidegate.core.records import Peer
from tidegate.core.waits import WaitingFor, WaitKind

OBSERVED = world(A0, A1, B0, routed=(A0, B0))
READY = replace(ROLLOUT, traffic_confirmed_at=NOW - 5.0, unrouted_at=unrouted_at(NOW - 5.0), step_ready_at=NOW - 4.0)
OPEN = replace(STEP, gate=Gate())
STARTING = world(A0, A1, replace(B0, state=InstanceState.STARTING))
DRAINING = world(A0, B0, routed=(B0,), a0=2)
LAST = replace(READY, cursor=1, plan=(STEP, replace(END, fleet={"b": 1}, route={"b": 1})))
PAUSE = replace(signal(SignalKind.PAUSE, when=NOW - 3.0), reason="lunch")


def wait(
    rollout: Rollout, observed: ObservedState, *signals: Signal, frozen: str = "", peers: tuple[Peer, ...] = ()
) -> WaitingFor:
    decision = decided(rollout, observed, signals, NOW, 0.0, frozen, peers)
    assert isinstance(decision, Wait), decision
    return decision.waiting_for


def test_readiness() -> None:
    assert wait(ROLLOUT, STARTING) == WaitingFor(
        WaitKind.READINESS, "Waiting for b/0 to become ready", NOW, NOW + 50.0, "the rollout rolls back"
    )


def test_bake() -> None:
    assert wait(READY, OBSERVED) == WaitingFor(
        WaitKind.BAKE, "Baking step 1 of 2", NOW - 4.0, NOW + 16.0, "the step ends if its checks have passed"
    )


def test_drain() -> None:
    waiting = wait(LAST, DRAINING)
    assert (waiting.kind, waiting.since, waiting.until) == (WaitKind.DRAIN, NOW - 5.0, NOW + 25.0)
    assert waiting.reason == "Draining a/0"


def test_stop() -> None:
    stopping = world(replace(A0, state=InstanceState.STOPPING), B0, routed=(B0,))
    waiting = wait(LAST, stopping)
    assert (waiting.kind, waiting.reason, waiting.until) == (WaitKind.STOP, "Waiting for a/0 to stop", None)


@pytest.mark.parametrize(
    ("on_expiry", "until", "then"),
    [
        (Expiry.ROLLBACK, NOW + 99.0, "the rollout rolls back"),
        (Expiry.PROMOTE, NOW + 99.0, "the rollout continues"),
        (Expiry.WAIT, None, "`tidegate promote` continues the rollout, `tidegate rollback` rolls it back"),
    ],
)
def test_approval(on_expiry: Expiry, until: float | None, then: str) -> None:
    policy = replace(POLICY, approval=Approval(expires_seconds=100.0, on_expiry=on_expiry))
    step = replace(OPEN, gate=Gate(approval="promote"))
    rollout = replace(READY, plan=(step, END), approval_since=NOW - 1.0, policy=policy)
    reason = "Waiting for approval of step 1 of 2"
    assert wait(rollout, OBSERVED) == WaitingFor(WaitKind.APPROVAL, reason, NOW - 1.0, until, then)


def test_group() -> None:
    rollout = replace(READY, plan=(replace(OPEN, gate=Gate(group_point=1)), END), group="g", group_point=1)
    waiting = wait(rollout, OBSERVED, peers=(Peer("demo/worker", Phase.RUNNING, 0),))
    assert (waiting.kind, waiting.reason) == (WaitKind.GROUP, "Waiting for demo/worker, in the same group")


def test_pause() -> None:
    waiting = wait(replace(READY, plan=(OPEN, END), paused=True), OBSERVED, PAUSE)
    assert (waiting.kind, waiting.reason, waiting.since) == (WaitKind.PAUSE, "Paused by ada: lunch", NOW - 3.0)


def test_freeze() -> None:
    waiting = wait(replace(READY, plan=(OPEN, END)), OBSERVED, frozen="demo is frozen by ann")
    assert (waiting.kind, waiting.reason) == (WaitKind.FREEZE, "demo is frozen by ann")


def test_a_wait_that_goes_through_polls_keeps_its_beginning() -> None:
    first = WaitingFor(WaitKind.READINESS, "Waiting for b/0 to become ready", NOW - 8.0, NOW + 50.0, "")
    assert wait(replace(ROLLOUT, waiting_for=first), STARTING).since == NOW - 8.0
    other = replace(first, reason="Waiting for b/1 to become ready")
    assert wait(replace(ROLLOUT, waiting_for=other), STARTING).since == NOW


def test_a_mark_ends_the_wait_and_a_clock_jump_shifts_it() -> None:
    rollout = replace(READY, waiting_for=wait(READY, OBSERVED))
    assert apply_mark(rollout, MarkKind.BAKE_EXTENDED, NOW).waiting_for is None
    shifted = shift_marks(rollout, 100.0).waiting_for
    assert shifted is not None
    assert (shifted.since, shifted.until) == (NOW + 96.0, NOW + 116.0)
