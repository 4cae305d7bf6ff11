"""The way back: what follows when a rollout cannot go on."""

from __future__ import annotations

from tidegate.core import planning
from tidegate.core.decisions import Move
from tidegate.core.model import InstanceState, Plan, Rollout, RolloutKind, Seen
from tidegate.core.phases import Phase
from tidegate.core.tasks import ON_ROLLBACK


def give_up(rollout: Rollout, seen: Seen, reason: str) -> Move:
    """What follows when it cannot go on: turn back; already on the way back, halt. No traffic is moved by this itself.

    A repair halts at once: there is nothing to go back to, and what serves stays as it is.
    """
    if rollout.phase is Phase.RUNNING and rollout.kind is not RolloutKind.REPAIR:
        return Move(Phase.ROLLING_BACK, reason, plan=way_back(rollout, seen))
    return Move(Phase.FAILED, reason)


def way_back(rollout: Rollout, seen: Seen) -> Plan:
    """The plan that undoes this rollout from where the world stands."""
    way = _way_back(rollout, seen)
    return planning.told_back(way) if ON_ROLLBACK in rollout.hooks else way


def _way_back(rollout: Rollout, seen: Seen) -> Plan:
    if rollout.old is None or not rollout.in_place:
        return planning.back(rollout.old, rollout.old_replicas)
    there = [each.release for each in seen.instances if each.state is not InstanceState.STOPPING]
    return planning.back_in_place(
        rollout.old,
        rollout.new,
        standing=min(there.count(rollout.old), rollout.old_replicas),
        replicas=rollout.old_replicas,
        present=there.count(rollout.new),
        batch=rollout.batch,
    )
