"""Removal of a service: nothing of it is left on the hosts and in the proxy."""

from __future__ import annotations

from tidegate.app import deployments, drift_repair
from tidegate.app.context import AppContext, RolloutRequest
from tidegate.clock import new_id
from tidegate.core import drift
from tidegate.core.records import NewRollout, ServiceRow
from tidegate.errors import Refused


def require_removable(context: AppContext, row: ServiceRow) -> None:
    """Raise `Frozen`, or `Refused` if a live service depends on this one."""
    service = row.service
    deployments.require_no_freeze(context, service.environment, "or remove it with --force")
    dependent = [
        other.service.key
        for other in context.store.services()
        if other.service.environment == service.environment and other.live and service.name in other.service.depends_on
    ]
    if dependent:
        text = f"Cannot remove {service.key}: {', '.join(dependent)} depends on it"
        raise Refused(f"{text}. Remove or change that first, or remove this one with --force")


def remove(context: AppContext, row: ServiceRow, request: RolloutRequest) -> NewRollout | None:
    """A rollout that takes the service out of the proxy, drains and stops its instances, and frees its route. None if it
    was never deployed: then nothing runs."""
    service, now = drift_repair.service_in_force(context.store, row.service), context.now()
    newest = context.store.releases(service.key, limit=1)
    if row.live is None and not newest:
        return None
    release = newest[0].release if row.live is None else context.store.get_release(service.key, row.live).release
    rollout = drift.make_removal(service, release, new_id(now), now, request.by, request.via, live=row.live is not None)
    message = f"removal of {service.key} {request.description}"
    return NewRollout(rollout, service, None, drift.created_event(rollout, message))
