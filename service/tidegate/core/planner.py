"""From a service and two releases to a plan: a list of desired states. Also rollback plans and weights. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from tidegate.core.decisions import Move
from tidegate.core.hooks import COMPARE, JOB_PREFIX, ON_ROLLBACK, POST_PROMOTE, PRE_DEPLOY, PRE_PROMOTE
from tidegate.core.model import (
    InstanceState,
    ObservedState,
    Order,
    Release,
    Rollout,
    RolloutKind,
    Service,
    Strategy,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Fleet, Gate, Plan, Step
from tidegate.core.rollback_cause import RollbackCause

APPROVAL = "promote"  # the name of the approvals in a plan


def _fleet(*counts: tuple[str, int]) -> Fleet:
    """A fleet without zero counts."""
    return {release: count for release, count in counts if count > 0}


def make_plan(service: Service, old: Release | None, new: Release) -> Plan:
    """The plan from `old` to `new` by the strategy of the service; `old` None: nothing runs yet."""
    if old is None:
        way = first_deploy(service, new)
    elif service.strategy is Strategy.BLUE_GREEN:
        way = blue_green(service, old, new)
    else:
        way = rolling(service, old, new)
    if service.in_group and service.backend is None:  # it works as soon as it runs, so the group waits before that
        way = (Step(fleet={} if old is None else _fleet((old.id, old.replicas)), route=None), *way)
    return _with_hooks(service, new, way)


def _with_hooks(service: Service, new: Release, way: Sequence[Step]) -> Plan:
    """With hooks before the first step and at the end, and the points at which a group waits: before traffic moves, and
    before anything that a rollback needs is removed."""
    steps = list(way)
    before = tuple(name for name in service.hooks if name.startswith(JOB_PREFIX))
    if before := before + (PRE_DEPLOY,) * (PRE_DEPLOY in service.hooks):
        steps[0] = _with_gate(steps[0], replace(steps[0].gate, tasks_before=before))
    if POST_PROMOTE in service.hooks:
        steps[-1] = _with_gate(steps[-1], replace(steps[-1].gate, tasks=(POST_PROMOTE,)))
    if service.in_group:
        unseen = next(place for place, step in enumerate(steps) if new.id in step.serving) - 1
        steps[unseen] = _with_gate(steps[unseen], replace(steps[unseen].gate, group_point=1))
        last = max(unseen + 1, len(steps) - 2)
        steps[last] = _with_gate(steps[last], replace(steps[last].gate, group_point=2))
    return tuple(steps)


def _with_gate(step: Step, gate: Gate) -> Step:
    return replace(step, gate=gate)


def _needs_preview_step(service: Service) -> bool:
    """Whether the new release must run without traffic before the first batch takes any."""
    if service.backend is None:  # its instances would work
        return False
    asked = bool(_preview_tasks(service)) or service.in_group or service.preview_bake_seconds > 0
    return asked or service.backend.preview is not None


def _preview_tasks(service: Service) -> tuple[str, ...]:
    """The tasks to run while the new release runs without traffic."""
    return (COMPARE,) * (service.compare is not None) + (PRE_PROMOTE,) * (PRE_PROMOTE in service.hooks)


def _route(service: Service, route: Fleet) -> Fleet | None:
    """The route of a step; None if the service has no proxy."""
    return None if service.backend is None else route


def _preview_step(service: Service, fleet: Fleet, route: Fleet, new: Release, approval: str = "") -> Step:
    """The new release runs next to the live one, reachable through the preview only."""
    bake, judged = service.preview_bake_seconds, any(check.is_limit for check in service.checks)
    gate = Gate(bake_seconds=bake, analyzed=judged and bake > 0, approval=approval, tasks=_preview_tasks(service))
    return Step(fleet=fleet, route=route, gate=gate, preview=_fleet((new.id, fleet.get(new.id, 0))))


def rolling(service: Service, old: Release, new: Release) -> Plan:
    """Batch by batch. The old instances of a batch keep running until its verdict, so that a rollback within it is one
    shift. A control stays in the route until the last bake is over, so that each batch has a concurrent baseline."""
    steps: list[Step] = []
    standing, control = old.replicas, min(service.control, old.replicas)
    batch = old.replicas if _runs_alone(service, new) else service.batch
    for number, done in enumerate(_replaced_counts(batch, old, new), start=1):
        left = max(control, old.replicas - done)
        arrived = min(new.replicas, done)
        if service.order is Order.STOP_FIRST:
            steps += _stop_first_step(service, old, new, left=left, arrived=min(new.replicas, done - batch))
            standing = left
        fleet = _fleet((old.id, standing), (new.id, arrived))
        if number == 1 and _needs_preview_step(service):
            steps.append(_preview_step(service, fleet, _fleet((old.id, standing)), new))
        route = _fleet((old.id, left), (new.id, arrived))
        share = _share(service, number) if len(route) > 1 else None
        steps.append(Step(fleet=fleet, route=_route(service, route), gate=_batch_gate(service, number), share=share))
        standing = left
    return (*steps, _final_step(service, new))


def _share(service: Service, number: int) -> float | None:
    """The share of new requests for the new release after batch `number`."""
    return service.traffic_shares[number - 1] if number <= len(service.traffic_shares) else None


def _replaced_counts(batch: int, old: Release, new: Release) -> range:
    """How many instances are replaced after each batch: `batch`, 2·`batch`, … up to all of both releases."""
    total = max(old.replicas, new.replicas)
    return range(batch, total + batch, batch)


def _runs_alone(service: Service, new: Release) -> bool:
    """Whether no two instances may run at once, not even of different releases."""
    return service.order is Order.STOP_FIRST and new.replicas == 1


def _stop_first_step(service: Service, old: Release, new: Release, *, left: int, arrived: int) -> list[Step]:
    """Stop-first: the old instances of the batch leave before the new ones start."""
    fleet = _fleet((old.id, left), (new.id, arrived))
    if not fleet and service.backend is not None and not _runs_alone(service, new):
        return []  # requests need an instance; work of a queue waits
    return [Step(fleet=fleet, route=_route(service, fleet), gate=Gate(surplus_gone=True))]


def blue_green(service: Service, old: Release, new: Release) -> Plan:
    """All new instances next to the old ones without traffic, an approval, one switch, analysis; then the old release keeps
    running for `keep_old` and is removed. With weights the new release takes these shares first."""
    both = _fleet((old.id, old.replicas), (new.id, new.replicas))
    blue, green = _fleet((old.id, old.replicas)), _fleet((new.id, new.replicas))
    steps = [_preview_step(service, both, blue, new, APPROVAL)]
    for number, share in enumerate(service.traffic_shares, start=1):
        steps.append(Step(fleet=both, route=both, gate=_batch_gate(service, number), share=share))
    steps.append(Step(fleet=both, route=green, gate=_batch_gate(service, len(service.traffic_shares) + 1)))
    if service.keep_old_seconds > 0:
        gate = Gate(bake_seconds=service.keep_old_seconds, analyzed=bool(service.checks), keeps_old=True)
        steps.append(Step(fleet=both, route=green, gate=gate))
    return (*steps, _final_step(service, new))


def first_deploy(service: Service, new: Release) -> Plan:
    """All at once. There is no baseline, so only checks with fixed limits apply."""
    whole = _fleet((new.id, new.replicas))
    judged = any(check.is_limit for check in service.checks)
    gate = Gate(bake_seconds=service.bake_seconds, analyzed=judged, surplus_gone=True)
    step = Step(fleet=whole, route=_route(service, whole), gate=gate)
    return (_preview_step(service, whole, {}, new), step) if _needs_preview_step(service) else (step,)


def direct_rollback(service: Service, old: Release, new: Release) -> Plan:
    """Back to a good release: in the batches of the service, without bakes, checks, hooks and approvals."""
    alone = None if service.backend is None else replace(service.backend, preview=None)
    plain = replace(
        service,
        backend=alone,
        traffic_shares=(),
        hooks={},
        compare=None,
        in_group=False,
        preview_bake_seconds=0.0,
        control=0,
    )
    return tuple(
        Step(fleet=step.fleet, route=step.route, gate=Gate(surplus_gone=step.gate.surplus_gone))
        for step in rolling(plain, old, new)
    )


def rollback_plan(old: str | None, replicas: int, *, has_proxy: bool = True) -> Plan:
    """Roll back from anywhere: only the old release, complete; or nothing after a failed first deployment."""
    return steady_plan(old, replicas, has_proxy=has_proxy) if old else (_exact_step({}, has_proxy=has_proxy),)


def steady_plan(release: str, replicas: int, *, has_proxy: bool = True) -> Plan:
    """Exactly this number of instances of this release, all of them in the route: the plan of a repair and a scaling.
    `has_proxy`: whether the service has one."""
    return (_exact_step(_fleet((release, replicas)), has_proxy=has_proxy),)


def _exact_step(fleet: Fleet, *, has_proxy: bool = True) -> Step:
    """Exactly these instances, which all work."""
    return Step(fleet=fleet, route=fleet if has_proxy else None, gate=Gate(surplus_gone=True))


def with_rollback_hook(way: Plan) -> Plan:
    """The rollback plan with its hook at the end."""
    return (*way[:-1], _with_gate(way[-1], replace(way[-1].gate, tasks=(ON_ROLLBACK,))))


def rollback_in_place(
    old: str, new: str, *, standing: int, replicas: int, present: int, batch: int, has_proxy: bool = True
) -> Plan:
    """Roll back without room for a surge: new instances leave one batch at a time, then old ones start.

    `standing` old and `present` new instances exist now; `replicas` old ones are wanted in the end. A place that is already
    free is filled before more instances leave.
    """
    steps: list[Step] = []
    if present and standing + present < replicas:
        standing = replicas - present
        steps.append(_exact_step(_fleet((old, standing), (new, present)), has_proxy=has_proxy))
    while standing < replicas or present > 0:
        present = max(0, present - batch)
        fleet = _fleet((old, standing), (new, present))
        if fleet or replicas == 1 or not has_proxy:  # a single instance may be the only one that writes to a volume
            steps.append(_exact_step(fleet, has_proxy=has_proxy))
        standing = min(replicas, standing + batch) if present else replicas
        steps.append(_exact_step(_fleet((old, standing), (new, present)), has_proxy=has_proxy))
    return tuple(steps) or rollback_plan(old, replicas, has_proxy=has_proxy)


def _batch_gate(service: Service, number: int) -> Gate:
    """The gate after batch `number`."""
    return Gate(
        bake_seconds=service.bake_seconds,
        analyzed=bool(service.checks),
        approval=APPROVAL if number in service.policy.approval.after else "",
    )


def _final_step(service: Service, new: Release) -> Step:
    """Only the new release, without leftovers."""
    return _exact_step(_fleet((new.id, new.replicas)), has_proxy=service.backend is not None)


MAX_WEIGHT = 256  # what HAProxy allows; the others allow more


def member_weights(route: Fleet, new: str, share: float | None) -> Mapping[str, int]:
    """The weight of each instance by release, 1 to 256, so that the instances of `new` together have this share.

    Without a share, or with one release, all weights are equal. With n new and m old instances the ratio of weights is
    share/n : (1 - share)/m, approximated by integers up to 256.
    """
    equal = dict.fromkeys(route, 1)
    others = sum(count for release, count in route.items() if release != new)
    if share is None or not others or new not in route:
        return equal
    ratio = Fraction(share) / route[new] * others / (1 - Fraction(share))
    small = max(min(ratio, 1 / ratio).limit_denominator(MAX_WEIGHT), Fraction(1, MAX_WEIGHT))
    one, other = (small.numerator, small.denominator)[:: 1 if ratio <= 1 else -1]
    return {release: one if release == new else other for release in route}


def roll_back_or_halt(rollout: Rollout, observed: ObservedState, reason: str, cause: RollbackCause) -> Move:
    """What follows when the rollout cannot continue: roll back; during a rollback, halt. This itself moves no traffic.

    A repair halts at once, since there is nothing to roll back to and the running service stays as it is.
    """
    if rollout.phase is Phase.RUNNING and rollout.kind is not RolloutKind.REPAIR:
        return Move(Phase.ROLLING_BACK, reason, plan=plan_rollback(rollout, observed), cause=cause)
    return Move(Phase.FAILED, reason)


def has_served(rollout: Rollout, observed: ObservedState) -> bool:
    """Whether the new release has done work of the service. One that never did and does not start or become ready
    harmed nobody: most likely its configuration is wrong."""
    earlier = any(rollout.new in step.serving for step in rollout.plan[: rollout.cursor])
    now = rollout.serving_since is not None and rollout.new in rollout.step.serving
    return earlier or now or any(member.release == rollout.new for member in observed.router.members)


def plan_rollback(rollout: Rollout, observed: ObservedState) -> Plan:
    """The plan that undoes this rollout from the observed state."""
    way = _plan_rollback(rollout, observed)
    return with_rollback_hook(way) if ON_ROLLBACK in rollout.hooks else way


def _plan_rollback(rollout: Rollout, observed: ObservedState) -> Plan:
    has_proxy = rollout.backend is not None
    if rollout.old is None or not rollout.in_place or rollout.old == rollout.new:
        return rollback_plan(rollout.old, rollout.old_replicas, has_proxy=has_proxy)
    there = [instance.release for instance in observed.instances if instance.state is not InstanceState.STOPPING]
    return rollback_in_place(
        rollout.old,
        rollout.new,
        standing=min(there.count(rollout.old), rollout.old_replicas),
        replicas=rollout.old_replicas,
        present=there.count(rollout.new),
        batch=rollout.batch,
        has_proxy=has_proxy,
    )
