"""From a service and two releases to a plan: a list of desired states. Pure."""

from __future__ import annotations

from tidegate.core.model import Fleet, Gate, Order, Plan, Release, Service, Step, Strategy

HOLD = "promote"  # the name of the one kind of hold that plans contain


def _fleet(*counts: tuple[str, int]) -> Fleet:
    """A fleet without zero counts."""
    return {release: count for release, count in counts if count > 0}


def plan(service: Service, old: Release | None, new: Release) -> Plan:
    """The way from `old` to `new` by the service's own strategy; `old` None means that nothing runs yet."""
    if old is None:
        return first(service, new)
    if service.strategy is Strategy.BLUE_GREEN:
        return blue_green(service, old, new)
    return rolling(service, old, new)


def rolling(service: Service, old: Release, new: Release) -> Plan:
    """Batch by batch; the old instances of a batch stay warm until its verdict, so turning back within it is one shift."""
    steps: list[Step] = []
    standing = old.replicas
    for number, done in enumerate(_batches(service.batch, old, new), start=1):
        left = max(0, old.replicas - done)
        arrived = min(new.replicas, done)
        if service.order is Order.STOP_FIRST:
            steps += _make_room(old, new, left=left, arrived=min(new.replicas, done - service.batch))
            standing = left
        steps.append(
            Step(
                fleet=_fleet((old.id, standing), (new.id, arrived)),
                route=_fleet((old.id, left), (new.id, arrived)),
                gate=_gate(service, number),
            )
        )
        standing = left
    return (*steps, _end(new))


def _batches(batch: int, old: Release, new: Release) -> range:
    """How many instances are replaced after each batch: `batch`, 2·`batch`, … up to all of both releases."""
    total = max(old.replicas, new.replicas)
    return range(batch, total + batch, batch)


def _make_room(old: Release, new: Release, *, left: int, arrived: int) -> list[Step]:
    """Stop-first: the old instances of the batch leave, and are gone, before the new ones come."""
    fleet = _fleet((old.id, left), (new.id, arrived))
    return [Step(fleet=fleet, route=fleet, gate=Gate(cleared=True))] if fleet else []


def blue_green(service: Service, old: Release, new: Release) -> Plan:
    """The whole new colour beside the old without traffic, a hold, one switch, judge, then the old colour leaves."""
    both = _fleet((old.id, old.replicas), (new.id, new.replicas))
    return (
        Step(fleet=both, route=_fleet((old.id, old.replicas)), gate=Gate(hold=HOLD)),
        Step(fleet=both, route=_fleet((new.id, new.replicas)), gate=_gate(service, 1)),
        _end(new),
    )


def first(service: Service, new: Release) -> Plan:
    """All at once. There is no baseline, so only checks against fixed limits are judged."""
    whole = _fleet((new.id, new.replicas))
    judged = any(check.is_limit for check in service.checks)
    gate = Gate(bake_seconds=service.bake_seconds, judged=judged, cleared=True)
    return (Step(fleet=whole, route=whole, gate=gate),)


def direct(service: Service, old: Release, new: Release) -> Plan:
    """Back to a release that was good before: the service's own batches, without bake, checks or holds."""
    return tuple(
        Step(fleet=step.fleet, route=step.route, gate=Gate(cleared=step.gate.cleared))
        for step in rolling(service, old, new)
    )


def back(old: str | None, replicas: int) -> Plan:
    """Turn round from anywhere: only the old release, whole; or nothing at all after a failed first deploy."""
    whole = _fleet((old, replicas)) if old else {}
    return (Step(fleet=whole, route=whole, gate=Gate(cleared=True)),)


def back_in_place(old: str, new: str, *, standing: int, replicas: int, present: int, batch: int) -> Plan:
    """Turn round without room for a surge: new instances leave a batch at a time, then old ones come.

    `standing` old and `present` new instances are there now; `replicas` old ones are wanted in the end. Where a place is
    free already, because a batch was just being replaced, it is filled before anything more leaves.
    """
    steps: list[Step] = []
    if present and standing + present < replicas:
        standing = replicas - present
        fleet = _fleet((old, standing), (new, present))
        steps.append(Step(fleet=fleet, route=fleet, gate=Gate(cleared=True)))
    while standing < replicas or present > 0:
        present = max(0, present - batch)
        fleet = _fleet((old, standing), (new, present))
        if fleet:
            steps.append(Step(fleet=fleet, route=fleet, gate=Gate(cleared=True)))
        standing = min(replicas, standing + batch) if present else replicas
        fleet = _fleet((old, standing), (new, present))
        steps.append(Step(fleet=fleet, route=fleet, gate=Gate(cleared=True)))
    return tuple(steps) or back(old, replicas)


def _gate(service: Service, number: int) -> Gate:
    """The gate after batch `number`."""
    return Gate(
        bake_seconds=service.bake_seconds,
        judged=bool(service.checks),
        hold=HOLD if number in service.holds else "",
    )


def _end(new: Release) -> Step:
    """Only the new release, nothing left over."""
    whole = _fleet((new.id, new.replicas))
    return Step(fleet=whole, route=whole, gate=Gate(cleared=True))
