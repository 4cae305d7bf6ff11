"""Drift: how a service differs from its live release between rollouts, and what follows. Pure.

Nothing here changes anything. A repair is a rollout, with the same rules, lease and event log as a release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tidegate.clock import Time
from tidegate.core import planner
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import (
    Event,
    Instance,
    InstanceState,
    ObservedState,
    Order,
    Release,
    RepairPolicy,
    Rollout,
    RolloutKind,
    Service,
)
from tidegate.core.phases import Phase
from tidegate.core.records import Drift, DriftState
from tidegate.core.rollout_state import ALIVE, RolloutState, format_names

TIDEGATE = "tidegate"  # requester of automatic repairs
CONFIRMATIONS = 2  # in a row that show the same, before instances are touched
MAX_FAILED_REPAIRS = 3  # in a row; then none starts until a person acts
INITIAL_BACKOFF_SECONDS = 5.0  # after a repair that failed; doubled with each further one
MAX_QUICK_REPAIRS = 10  # in a row that each came soon after the one before: a crash loop that is slow
STABLE_SECONDS = 600.0  # a repair that comes later than this is news
HISTORY_LENGTH = MAX_QUICK_REPAIRS + 1  # rollouts that `handle_drift` has to know


# -- rollouts of a service that stays with its release ----------------------------------------------------------------


def make_repair(service: Service, release: Release, id_: str, now: Time, by: str = TIDEGATE, via: str = "") -> Rollout:
    """A rollout that restores the release from any state. A freeze does not block it."""
    return _same_release_rollout(service, release, release.replicas, RolloutKind.REPAIR, id_, now, by, via)


def make_scaling(
    service: Service, release: Release, replicas: int, id_: str, now: Time, by: str, via: str = "", *, force: bool = False
) -> Rollout:
    """The same release with another number of instances. A freeze blocks more instances, unless `force`, but not fewer."""
    rollout = _same_release_rollout(service, release, replicas, RolloutKind.SCALE, id_, now, by, via)
    return replace(rollout, forced=force or replicas <= release.replicas)


def make_removal(service: Service, release: Release, id_: str, now: Time, by: str, via: str = "", *, live: bool) -> Rollout:
    """A rollout that ends the service, whatever runs of it. Without a `live` release a rollback starts nothing."""
    rollout = _same_release_rollout(service, release, 0, RolloutKind.REMOVE, id_, now, by, via)
    plan = planner.rollback_plan(None, 0, has_proxy=service.backend is not None)
    old, count = (release.id, release.replicas) if live else (None, 0)
    return replace(rollout, plan=plan, old=old, old_replicas=count, probe=None)


def _same_release_rollout(
    service: Service, release: Release, replicas: int, kind: RolloutKind, id_: str, now: Time, by: str, via: str
) -> Rollout:
    is_removed = kind is RolloutKind.REMOVE
    return Rollout(
        id=id_,
        service=service.key,
        old=release.id,
        new=release.id,
        plan=planner.steady_plan(release.id, replicas, has_proxy=service.backend is not None),
        backend=service.backend,
        created=now,
        old_replicas=release.replicas,
        batch=service.batch,
        in_place=service.order is Order.STOP_FIRST
        and (kind is RolloutKind.REPAIR or (is_removed and release.replicas == 1)),
        policy=service.policy,
        image=release.image,
        requested_by=by,
        requested_via=via,
        forced=True,
        probe=service.probe,
        adopted=service.adopted,
        kind=kind,
    )


def created_event(rollout: Rollout, message: str) -> Event:
    """Its first event."""
    data = {"by": rollout.requested_by, "via": rollout.requested_via, "old": rollout.old, "new": rollout.new}
    return Event(
        EventKind.CREATED, message, rollout.created, data=data | {"image": rollout.image, "kind": rollout.kind.value}
    )


def changed_anything(rollout: Rollout) -> bool:
    """Whether it came to move anything, rather than end before its image was known."""
    return bool(rollout.digest) or rollout.phase is Phase.SUCCEEDED


def with_current_backend(service: Service, history: Sequence[Rollout]) -> Service:
    """The service with the place in the proxy where its last rollout left it, the newest first in `history`: what was
    stored since without a deploy, or with one that touched nothing, is not in force."""
    last = next((each for each in history if changed_anything(each)), None)
    return service if last is None else replace(service, backend=last.backend)


# -- what differs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs from the release. `routing`: only the proxy differs; every wanted instance is ready. `unready`: an
    instance is not ready."""

    message: str
    routing: bool
    unready: bool = False


def find_difference(service: Service, release: Release, observed: ObservedState, now: Time) -> Difference | None:
    """What a repair would change; None when all is as the release wants and every instance is ready."""
    current = RolloutState(replace(make_repair(service, release, "", now), phase=Phase.RUNNING), observed, (), now, now)
    by_state = {
        state: [instance for instance in current.surplus_instances if instance.state is state] for state in InstanceState
    }
    differences = [
        f"{format_names(by_state[state])} {state}"
        for state in (InstanceState.FAILED, InstanceState.STOPPED)
        if by_state[state]
    ]
    excess = [instance for instance in current.surplus_instances if instance.state in ALIVE]
    differences += [f"{format_names(excess)} beyond the {release.replicas} of {release.id}"] if excess else []
    differences += [f"{len(ordinals)} of {name} missing" for name, ordinals in current.missing_ordinals.items()]
    unready = current.unready_instances
    standing = not differences and not unready
    differences += [f"{format_names(unready)} not ready"] if unready else []
    differences += _router_differences(current)
    return Difference("; ".join(differences), standing, bool(unready)) if differences else None


def _router_differences(state: RolloutState) -> list[str]:
    """What the proxy does that it should not."""
    unrouted: list[Instance] = [instance for instance in state.desired_routed if not state.is_routed(instance)]
    moved = [
        instance
        for instance in state.desired_routed
        if state.is_routed(instance) and not state.is_address_current(instance)
    ]
    gone = len(set(state.members) - {instance.id for instance in state.alive_instances})
    strangers = len(set(state.members) - {instance.id for instance in state.desired_routed}) - gone
    differences = [f"{format_names(unrouted)} not in the proxy"] if unrouted else []
    differences += [f"{format_names(moved)} in the proxy at another address"] if moved else []
    differences += [f"{gone} in the proxy that no longer run{'s' if gone == 1 else ''}"] if gone else []
    differences += [f"{strangers} in the proxy that should not be"] if strangers else []
    whole = not state.missing_ordinals and not state.unready_instances
    if not differences and whole and not state.router_matches:
        differences = ["the proxy has other weights"]
    return differences if state.preview_matches else [*differences, "the preview leads to instances"]


# -- what follows -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DriftDecision:
    """What is to be recorded, and whether a repair is asked for."""

    drift: Drift | None
    repair: bool = False


def handle_drift(
    service: Service, before: Drift | None, difference: Difference | None, history: Sequence[Rollout], now: Time
) -> DriftDecision:
    """What follows from a poll. `before` is what the last poll recorded; `history` the latest rollouts of the service,
    newest first, `HISTORY_LENGTH` of them or all, needed only with a difference."""
    if difference is None:
        return DriftDecision(None)
    since = now if before is None else before.since
    confirmations = 1 if before is None or before.message != difference.message else before.confirmations + 1
    state, reason = _drift_state(service, difference, history, confirmations, now)
    return DriftDecision(
        Drift(difference.message, since, state, min(confirmations, CONFIRMATIONS), reason), state is DriftState.REPAIRING
    )


def _drift_state(
    service: Service, difference: Difference, history: Sequence[Rollout], confirmations: int, now: Time
) -> tuple[DriftState, str]:
    newest = history[0] if history else None
    if service.repair is RepairPolicy.SHOW:
        return DriftState.SHOWN, "automatic repair is off for this service: run `tidegate repair`"
    if newest is not None and _has_halted(newest):
        return DriftState.HALTED, f"rollout {newest.id} halted: deploy, roll back or run `tidegate repair`"
    failed = count_failed_repairs(history)
    if failed >= MAX_FAILED_REPAIRS:
        return DriftState.UNHEALTHY, f"{failed} repairs in a row failed, the last with: {history[0].reason}"
    if (quick := _count_quick_repairs(history)) >= MAX_QUICK_REPAIRS:
        return DriftState.UNHEALTHY, f"{quick} repairs in quick succession did not last"
    if confirmations < CONFIRMATIONS and not (difference.routing or difference.unready):
        return DriftState.SEEN, "observed once: it may recover by itself"
    if failed and newest is not None:
        pause = INITIAL_BACKOFF_SECONDS * 2.0 ** (failed - 1)
        if 0.0 <= now - (newest.finished or newest.created) < pause:
            return DriftState.DELAYED, f"the last repair failed with: {newest.reason}"
    return DriftState.REPAIRING, ""


def _only_moved_traffic(rollout: Rollout) -> bool:
    is_repair = rollout.kind is RolloutKind.REPAIR and rollout.phase is Phase.SUCCEEDED
    return is_repair and not rollout.replaced and any(health.failures for health in rollout.health.values())


def _has_halted(newest: Rollout) -> bool:
    """Whether it left the service half-way."""
    return newest.phase is Phase.FAILED and newest.kind is not RolloutKind.REPAIR and changed_anything(newest)


def count_failed_repairs(history: Sequence[Rollout]) -> int:
    """Repairs in a row that failed, back to the last that a person asked for."""
    count = 0
    for rollout in history:
        if rollout.kind is not RolloutKind.REPAIR or rollout.phase is not Phase.FAILED:
            break
        count += 1
        if rollout.requested_by != TIDEGATE:
            break
    return count


def _count_quick_repairs(history: Sequence[Rollout]) -> int:
    """Repairs by Tidegate itself up to the newest, each begun soon after the end of the one before. Those that only moved
    traffic away from an instance and back restart nothing, so they may come as often as it becomes unhealthy."""
    count = 0
    history = [rollout for rollout in history if not _only_moved_traffic(rollout)]
    for later, earlier in pairwise([*history, None]):
        if later is None or later.kind is not RolloutKind.REPAIR or later.requested_by != TIDEGATE:
            break
        count += 1
        if earlier is None or later.created - (earlier.finished or earlier.created) > STABLE_SECONDS:
            break
    return count
