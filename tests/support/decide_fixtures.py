"""A rollout half-way, a world, and what is decided then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidegate.core.approvals import approval_binding
from tidegate.core.decide import decide
from tidegate.core.decisions import Decision, Mark, MarkKind, Track, apply_mark, apply_track
from tidegate.core.model import (
    Approval,
    Instance,
    InstanceState,
    ObservedState,
    Policy,
    Rollout,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Gate, Step
from tidegate.core.records import Peer
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.rollout_state import member_of
from tidegate.core.routing import Backend, RouterState

NOW = 1_000.0
POLICY = Policy(
    drain_timeout_seconds=30.0,
    healthy_deadline_seconds=60.0,
    interval_seconds=5.0,
    approval=Approval(expires_seconds=100.0),
)
STEP = Step({"a": 2, "b": 1}, {"a": 1, "b": 1}, Gate(bake_seconds=20.0, analyzed=True))
END = Step({"b": 2}, {"b": 2}, Gate(surplus_gone=True))
ROLLOUT = Rollout(
    "r", "demo/shop", "a", "b", (STEP, END), Backend("shop"), NOW - 50.0, old_replicas=2, phase=Phase.RUNNING,
    step_started_at=NOW - 10.0, policy=POLICY,
)  # fmt: skip


def instance(release: str, ordinal: int, state: InstanceState = InstanceState.READY, **more: Any) -> Instance:
    return Instance(f"{release}{ordinal}", release, ordinal, f"10.0.0.{ordinal}:{80 + (release == 'b')}", state, **more)


A0, A1, B0 = instance("a", 0), instance("a", 1), instance("b", 0)


def world(*instances: Instance, routed: tuple[Instance, ...] = (A0, A1), **draining: int | None) -> ObservedState:
    return ObservedState(instances, RouterState(tuple(member_of(each) for each in routed), draining))


def decided(
    rollout: Rollout,
    observed: ObservedState,
    signals: Sequence[Signal] = (),
    now: float = NOW,
    since: float = 0.0,
    frozen: str = "",
    peers: Sequence[Peer] = (),
) -> Decision:
    """What is decided once what is observed of the instances has been recorded, and that they may be started."""
    decision = decide(rollout, observed, signals, now, since, frozen, peers)
    if isinstance(decision, Track) and not decision.replaced:
        return decided(apply_track(rollout, decision, now), observed, signals, now, since, frozen, peers)
    if isinstance(decision, Mark) and decision.mark is MarkKind.STARTING:
        return decided(apply_mark(rollout, decision.mark, now), observed, signals, now, since, frozen, peers)
    return decision


def at(rollout: Rollout, observed: ObservedState, *signals: Signal, now: float = NOW, since: float = 0.0) -> Decision:
    return decided(rollout, observed, signals, now, since)


def unrouted_at(when: float) -> dict[str, float]:
    """Whatever is out of the route left it then."""
    return dict.fromkeys(("a0", "a1", "b0", "b1"), when)


def answer(rollout: Rollout, by: str = "ada", when: float = NOW) -> Signal:
    """An approval of what is shown of the rollout now."""
    return Signal(SignalKind.PROMOTE, when, by, "why", rollout.cursor, binding=approval_binding(rollout))


def signal(
    kind: SignalKind, step: int | None = 0, when: float = NOW, cause: RollbackCause = RollbackCause.REQUEST
) -> Signal:
    return Signal(kind, when, "ada", "why", step, cause=cause)
