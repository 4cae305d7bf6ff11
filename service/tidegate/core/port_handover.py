"""How a port moves from containers of `docker compose` that were imported to the proxy. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tidegate.core.decisions import Decision, Shift
from tidegate.core.drift import with_current_backend
from tidegate.core.model import Rollout, Service
from tidegate.core.rollout_state import RolloutState


def take_port(state: RolloutState) -> Decision | None:
    """Listen on the published port as soon as no container has it; also where the proxy listened until then."""
    rollout = state.rollout
    if not rollout.next_listen or rollout.backend is None or rollout.adopted is None:
        return None
    if any(instance.id in rollout.adopted.containers for instance in state.observed.instances):
        return None
    place = replace(rollout.backend, listen=rollout.next_listen, former_listen=rollout.backend.listen)
    return Shift(state.observed.router.members, f"The proxy takes over port {rollout.next_listen}", place=place)


def keep_adopted(service: Service, stored: Service, history: Sequence[Rollout]) -> Service:
    """The service as it is to be deployed: with the adopted containers of the stored one until the proxy has their port."""
    adopted = stored.adopted
    in_force = with_current_backend(stored, history).backend
    if adopted is None or (in_force is not None and in_force.listen != adopted.listen):
        return replace(service, adopted=None)
    return replace(service, adopted=adopted)


def hand_over_port(rollout: Rollout) -> Rollout:
    """The rollout with the proxy where it listens now, as long as adopted containers may have the port that it wants."""
    adopted, backend = rollout.adopted, rollout.backend
    if adopted is None or backend is None or not adopted.next_listen:
        return rollout
    if backend.listen not in (adopted.listen, adopted.next_listen):
        return rollout
    return replace(rollout, backend=replace(backend, listen=adopted.listen), next_listen=adopted.next_listen)
