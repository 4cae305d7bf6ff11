"""Rollouts of what was deployed before: a restart of the live release, another attempt of a rollout that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tidegate.app import deployments, drift_repair, groups
from tidegate.app.context import AppContext, RolloutRequest
from tidegate.core import planner
from tidegate.core.model import Rollout, RolloutKind, Service
from tidegate.core.phases import Phase
from tidegate.core.port_handover import hand_over_port
from tidegate.core.records import NewRollout, ServiceRow
from tidegate.errors import IllegalMove, NoLiveRelease, UnknownService

RETRYABLE = frozenset({Phase.ROLLED_BACK, Phase.FAILED, Phase.REFUSED})


def restart(context: AppContext, row: ServiceRow, request: RolloutRequest) -> NewRollout:
    """A rollout that replaces every instance of the live release by a new one of the same image and configuration, in the
    batches of the service, without bakes, checks, hooks and approvals. Raises `NoLiveRelease`, `Frozen`."""
    service = drift_repair.service_in_force(context.store, row.service)
    if row.live is None:
        raise NoLiveRelease(f"{service.key} has no live release: deploy one first")
    if not request.force:
        deployments.require_no_freeze(context, service.environment, "or restart with --force")
    old = context.store.get_release(service.key, row.live).release
    same = replace(service, image=old.image, replicas=old.replicas, container=old.container)
    new = replace(deployments.new_release(context.store, same, old.image), digest=old.digest)
    plan = planner.direct_rollback(same, old, new)
    message = f"restart of {old.id} as {new.id} {request.description}"
    made = deployments.new_rollout(row.service, old, new, plan, (), request, message, context.now(), fresh=True)
    return replace(made, rollout=hand_over_port(replace(made.rollout, backend=service.backend, next_listen="")))


def retry(context: AppContext, rollout: Rollout, request: RolloutRequest) -> Sequence[NewRollout]:
    """Another attempt of a rollout that failed, and of the others of its group: the same definition, and the image that its
    tag was resolved to. Raises `IllegalMove`, `Frozen`, `Quarantined`, `DependencyMissing`, `InvalidSpec`."""
    members = [rollout, *(context.store.peers(rollout.id, rollout.group) if rollout.group else ())]
    definitions = [_definition(context, member) for member in members]
    names, rollouts = [service.name for service in definitions], list[NewRollout]()
    for member, service in zip(members, definitions, strict=True):
        digest = context.store.get_release(service.key, member.new).release.digest
        if not request.force:
            deployments.require_deployable(context, replace(service, image=digest or service.image))
        row = context.store.get_service(service.key)
        rollouts.append(deployments.deploy_new(context, row, service, request, names, digest))
    return groups.form_group(rollouts)


def _definition(context: AppContext, rollout: Rollout) -> Service:
    if rollout.phase not in RETRYABLE:
        ended = "is not over yet" if rollout.phase.live else "succeeded"
        raise IllegalMove(f"Cannot retry rollout {rollout.id} of {rollout.service}: it {ended}")
    if rollout.kind is not RolloutKind.RELEASE or rollout.undoes:
        what = "rollback" if rollout.undoes else str(rollout.kind)
        raise IllegalMove(f"Cannot retry rollout {rollout.id}: it is a {what}. Run `tidegate {what} {rollout.service}`")
    service = context.store.get_definition(rollout.id)
    if service is None:
        raise UnknownService(f"The definition of rollout {rollout.id} is not stored. Deploy the Compose file again")
    return deployments.validate_service(context, service)
