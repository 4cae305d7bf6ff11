"""Repair and scaling: rollouts that keep the live release."""

from __future__ import annotations

from tidegate.app.context import AppContext, RolloutRequest
from tidegate.app.deployments import require_no_freeze
from tidegate.clock import Time, new_id
from tidegate.core import drift
from tidegate.core.model import Order, Release, Rollout, Service
from tidegate.core.port_handover import hand_over_port
from tidegate.core.records import NewRollout, ServiceRow
from tidegate.errors import InvalidSpec, NoLiveRelease, Problem
from tidegate.store_port import EngineStore


def scale(context: AppContext, row: ServiceRow, replicas: int, request: RolloutRequest) -> NewRollout:
    """A rollout of the live release to another number of instances. Raises `NoLiveRelease`, `InvalidSpec`, and `Frozen` for
    more instances without force."""
    service, release = service_in_force(context.store, row.service), _live_release(context, row)
    if service.order is Order.STOP_FIRST and replicas <= service.batch:
        text = (
            f"stop-first with parallelism {service.batch} of {replicas} would stop all instances at once in the next deploy"
        )
        raise InvalidSpec([Problem("replicas", text)])
    if replicas > release.replicas and not request.force:
        require_no_freeze(context, service.environment, "or scale with --force")
    now = context.now()
    rollout = drift.make_scaling(service, release, replicas, new_id(now), now, request.by, request.via, force=request.force)
    rollout = _hand_over(rollout)
    message = f"{release.id} from {release.replicas} to {replicas} instances, {request.description}"
    return NewRollout(rollout, service, None, drift.created_event(rollout, message))


def repair(context: AppContext, row: ServiceRow, request: RolloutRequest) -> NewRollout:
    """A rollout that restores the live release. Raises `NoLiveRelease`."""
    release, now = _live_release(context, row), context.now()
    service, message = service_in_force(context.store, row.service), f"repair of {release.id} {request.description}"
    return new_repair(service, release, now, message, request.by, request.via)


def new_repair(
    service: Service, release: Release, now: Time, message: str, by: str = drift.TIDEGATE, via: str = ""
) -> NewRollout:
    """A rollout that restores this release; `message` is that of its first event."""
    rollout = _hand_over(drift.make_repair(service, release, new_id(now), now, by, via))
    return NewRollout(rollout, service, None, drift.created_event(rollout, message))


def _hand_over(rollout: Rollout) -> Rollout:
    """The rollout with the port of adopted containers to take over, unless the proxy has it."""
    has_port = rollout.backend is None or rollout.adopted is None or rollout.backend.listen != rollout.adopted.listen
    return rollout if has_port else hand_over_port(rollout)


def service_in_force(store: EngineStore, service: Service) -> Service:
    """The service as its last rollout left it; as a rule that is the newest one."""
    history = store.rollouts(service.key, limit=1)
    if not any(map(drift.changed_anything, history)):
        history = store.rollouts(service.key, limit=drift.HISTORY_LENGTH)
    return drift.with_current_backend(service, history)


def _live_release(context: AppContext, row: ServiceRow) -> Release:
    if row.live is None:
        raise NoLiveRelease(f"{row.service.key} has no live release: deploy one first")
    return context.store.get_release(row.service.key, row.live).release
