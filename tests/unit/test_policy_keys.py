"""Every key of the policy and of its approval changes what Tidegate does. A new key needs a case here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from support.decide_fixtures import A0, A1, B0, END, NOW, POLICY, ROLLOUT, STEP, at, instance, signal, unrouted_at, world
from support.store_fixtures import a_release, a_service
from tidegate.analysis.analysis import CanaryAnalysis
from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.app.approvals import require_approver
from tidegate.clock import Window
from tidegate.core.decisions import Mark, MarkKind
from tidegate.core.model import (
    Approval,
    Check,
    CheckKind,
    Expiry,
    FailureAction,
    InconclusiveAction,
    InstanceState,
    Policy,
    Rollout,
    SignalKind,
)
from tidegate.core.plan import Gate
from tidegate.core.planner import make_plan
from tidegate.errors import ApprovalNotAllowed

OBSERVED = world(A0, A1, B0, routed=(A0, B0))
READY = replace(ROLLOUT, traffic_confirmed_at=NOW - 90.0, unrouted_at=unrouted_at(NOW - 90.0), step_ready_at=NOW - 80.0)
LAST = replace(READY, cursor=1, unrouted_at=unrouted_at(NOW - 20.0))
B1 = instance("b", 1)
BUSY = world(A0, B0, B1, routed=(B0, B1), a0=1)
CHECKS = (Check("errors", CheckKind.ERRORS),)


def judged(outcome: Outcome, rollout: Rollout = READY) -> Rollout:
    return replace(rollout, verdict=Verdict(outcome, NOW - 1.0, Window(NOW - 20, NOW), (), f"judged {outcome}", True))


def with_policy(rollout: Rollout, **changes: Any) -> Rollout:
    return replace(rollout, policy=replace(POLICY, **changes))


def with_approval(rollout: Rollout, **changes: Any) -> Rollout:
    return with_policy(rollout, approval=replace(POLICY.approval, **changes))


def analysis(**changes: Any) -> CanaryAnalysis:
    return CanaryAnalysis(with_policy(replace(READY, checks=CHECKS), **changes), 0.0)


WAITING = replace(READY, plan=(replace(STEP, gate=Gate(approval="promote")), END), approval_since=NOW - 50.0)


class NoRoles:
    """What `require_approver` needs of the application: settings without roles."""

    class settings:  # noqa: N801
        environments: dict[str, Any] = {}


def may_approve(rollout: Rollout, by: str) -> bool:
    try:
        require_approver(NoRoles(), rollout, (), by)  # type: ignore[arg-type]
    except ApprovalNotAllowed:
        return False
    return True


def approval_steps(service: Any, after: tuple[int, ...]) -> int:
    changed = replace(service, policy=replace(service.policy, approval=Approval(after=after)))
    old, new = (replace(RELEASE, id=name) for name in ("a", "b"))
    return sum(bool(step.gate.approval) for step in make_plan(changed, old, new))


SERVICE = a_service()
RELEASE = a_release(SERVICE, 1)

#: By key: what depends on it, as a function of its value; and two values.
POLICY_CASES: dict[str, tuple[Callable[[Any], object], Any, Any]] = {
    "drain_timeout_seconds": (lambda x: type(at(with_policy(LAST, drain_timeout_seconds=x), BUSY)), 10.0, 60.0),
    "long_lived_seconds": (
        lambda x: type(at(with_policy(LAST, drain_timeout_seconds=5.0, long_lived_seconds=x), BUSY)),
        None,
        60.0,
    ),
    "healthy_deadline_seconds": (
        lambda x: type(
            at(
                with_policy(replace(ROLLOUT, step_started_at=NOW - 30.0), healthy_deadline_seconds=x),
                world(A0, A1, replace(B0, state=InstanceState.STARTING)),
            )
        ),
        10.0,
        60.0,
    ),
    "max_restarts": (
        lambda x: type(at(with_policy(ROLLOUT, max_restarts=x), world(A0, A1, replace(B0, restarts=3)))),
        2,
        3,
    ),
    "max_failure_ratio": (
        lambda x: type(
            at(with_policy(ROLLOUT, max_failure_ratio=x), world(A0, A1, replace(B0, state=InstanceState.FAILED)))
        ),
        0.0,
        1.0,
    ),
    "interval_seconds": (
        lambda x: type(at(with_policy(replace(READY, step_ready_at=NOW - 8.0), interval_seconds=x), OBSERVED)),
        5.0,
        10.0,
    ),
    "warmup_seconds": (lambda x: analysis(warmup_seconds=x).context.parameters.warmup_seconds, 1.0, 2.0),
    "false_abort": (lambda x: analysis(false_abort=x).context.parameters.threshold, 0.01, 0.1),
    "failure_action": (
        lambda x: type(at(with_policy(judged(Outcome.FAIL), failure_action=x), OBSERVED)),
        FailureAction.PAUSE,
        FailureAction.ROLLBACK,
    ),
    "on_inconclusive": (
        lambda x: type(at(with_policy(judged(Outcome.INCONCLUSIVE), on_inconclusive=x), OBSERVED)),
        InconclusiveAction.PAUSE,
        InconclusiveAction.ROLLBACK,
    ),
    "max_extensions": (lambda x: mark(with_policy(judged(Outcome.INCONCLUSIVE), max_extensions=x)), 0, 1),
    "approval": (lambda x: approval_steps(SERVICE, x), (), (1,)),
    "max_takeovers": (lambda x: type(at(with_policy(replace(READY, takeovers=3), max_takeovers=x), OBSERVED)), 2, 3),
}
APPROVAL_CASES: dict[str, tuple[Callable[[Any], object], Any, Any]] = {
    "after": (lambda x: approval_steps(SERVICE, x), (), (1,)),
    "roles": (lambda x: may_approve(with_approval(WAITING, roles=x), "ada"), (), ("managers",)),
    "needed": (lambda x: type(at(with_approval(WAITING, needed=x), OBSERVED, signal(SignalKind.PROMOTE))), 1, 2),
    "requester": (
        lambda x: may_approve(replace(with_approval(WAITING, requester=x), requested_by="ada"), "ada"),
        True,
        False,
    ),
    "expires_seconds": (lambda x: type(at(with_approval(WAITING, expires_seconds=x), OBSERVED)), 10.0, 100.0),
    "on_expiry": (
        lambda x: type(at(with_approval(WAITING, expires_seconds=10.0, on_expiry=x), OBSERVED)),
        Expiry.WAIT,
        Expiry.ROLLBACK,
    ),
}


def mark(rollout: Rollout) -> MarkKind:
    decision = at(rollout, OBSERVED)
    assert isinstance(decision, Mark)
    return decision.mark


@pytest.mark.parametrize("key", [field.name for field in fields(Policy)])
def test_every_key_of_the_policy_has_an_effect(key: str) -> None:
    effect, one, other = POLICY_CASES[key]
    assert effect(one) != effect(other)


@pytest.mark.parametrize("key", [field.name for field in fields(Approval)])
def test_every_key_of_an_approval_has_an_effect(key: str) -> None:
    effect, one, other = APPROVAL_CASES[key]
    assert effect(one) != effect(other)


def test_every_case_is_of_a_key() -> None:
    assert set(POLICY_CASES) == {field.name for field in fields(Policy)}
    assert set(APPROVAL_CASES) == {field.name for field in fields(Approval)}
