"""Plans: what a deployment would do, why it would be refused, and whether it is still what was planned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from tidegate.app import deployments
from tidegate.app.context import AppContext
from tidegate.core import planner
from tidegate.core.changes import find_changes
from tidegate.core.image_reference import ImageReference
from tidegate.core.model import Release, Service
from tidegate.core.plan import Plan
from tidegate.core.records import PlannedService, ServiceRow
from tidegate.errors import PlanChanged, Refused, RolloutInProgress, UnknownService

NEW = "new"  # the name of the release that the rollout will create: its number is not known before


def find_refusals(
    context: AppContext, row: ServiceRow | None, service: Service, group: Collection[str], *, force: bool
) -> Iterator[Refused]:
    """Every reason for which a deployment of the service would be refused now."""
    checks: list[Callable[[], None]] = [lambda: deployments.require_dependencies(context, service, group)]
    if not force:
        checks += [
            lambda: deployments.require_no_freeze(context, service.environment, "or deploy with --force"),
            lambda: deployments.require_no_quarantine(context, service),
        ]
    if row is not None and row.rollout is not None and not row.repairing:
        yield RolloutInProgress(
            f"{service.key} has an unfinished rollout, {row.rollout}. Wait for it, promote it or roll it back first."
        )
    for check in checks:
        try:
            check()
        except Refused as error:
            yield error
    yield from context.store.find_conflicts(service)


def find_quarantine_risk(context: AppContext, service: Service) -> list[str]:
    """A warning if the image of the service is a tag that was rolled back with this configuration: whether it still means
    the same image is known only when the rollout starts, and then refuses it."""
    if ImageReference.parse(service.image).pinned:
        return []
    for row in context.store.releases(service.key):
        release = row.release
        if (release.image, release.container) != (service.image, service.container) or not release.digest:
            continue
        if context.store.find_quarantined(service.key, release.digest, service.container) is not None:
            text = f"{service.image} was rolled back with this configuration, as {release.id}. If the tag still means that"
            return [f"{text} image, the rollout is refused: lift the quarantine, or deploy another image."]
    return []


def live_release(context: AppContext, key: str) -> Release | None:
    """The live release of a service; None if there is none."""
    try:
        row = context.store.get_service(key)
    except UnknownService:
        return None
    return None if row.live is None else context.store.get_release(key, row.live).release


def live_definition(row: ServiceRow | None, live: Release | None) -> Service | None:
    """The stored definition, with what the live release runs; None if nothing is live."""
    if row is None or live is None:
        return None
    return replace(row.service, image=live.image, replicas=live.replicas, container=live.container)


def plan_steps(service: Service, live: Release | None) -> Plan:
    """The steps of a deployment of the service; its new release is called `NEW`."""
    return planner.make_plan(service, live, Release(NEW, service.key, service.image, service.replicas, service.container))


def planned_services(context: AppContext, members: Sequence[Service]) -> tuple[PlannedService, ...]:
    """The services to deploy, with the releases that are live now."""
    live = [live_release(context, member.key) for member in members]
    return tuple(
        PlannedService(member, None if one is None else one.id, 0 if one is None else one.replicas)
        for member, one in zip(members, live, strict=True)
    )


def require_planned(context: AppContext, plan: str, key: str, members: Sequence[Service]) -> None:
    """Raise `PlanChanged` unless a deployment of these services is exactly what the plan says; it names every change."""
    stored, again = context.store.find_plan(plan), f"Run `tidegate plan {key}` again"
    if stored is None or stored.service != key:
        raise PlanChanged(f"No plan {plan} of {key}, or it is older than a week. {again}.")
    before = {member.definition.key: member for member in stored.members}
    after = {member.definition.key: member for member in planned_services(context, members)}
    changes = [f"{name} is not in the plan" for name in after if name not in before]
    changes += [f"{name} is only in the plan" for name in before if name not in after]
    for name in after:
        if name in before:
            prefix = f"{name} " if len(after) > 1 else ""
            changes += [f"{prefix}{change}" for change in _changes_since(before[name], after[name])]
    if changes:
        raise PlanChanged(f"Changed since plan {plan}: {'; '.join(changes)}. {again}.")


def _changes_since(planned: PlannedService, present: PlannedService) -> Iterator[str]:
    if (planned.live, planned.live_replicas) != (present.live, present.live_replicas):
        yield f"live release: {_live(planned)} → {_live(present)}"
    yield from map(str, find_changes(planned.definition, present.definition))


def _live(service: PlannedService) -> str:
    return "none" if service.live is None else f"{service.live} with {service.live_replicas} instances"
