"""Groups: several services of one Compose file that are rolled out, promoted and rolled back as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tidegate.app import deployments
from tidegate.app.context import AppContext
from tidegate.compose.loader import ComposeInput
from tidegate.core.model import Service
from tidegate.core.records import NewRollout
from tidegate.errors import InvalidSpec, Problem


def other_services(context: AppContext, service: Service, given: ComposeInput | None) -> Sequence[Service]:
    """The other services of the Compose file that are in the group of this one. Raises `InvalidSpec`."""
    if not service.in_group:
        return ()
    path = f"services.{service.name}.x-tidegate.group"
    if given is None:
        text = f"{service.name} is part of a group: send the Compose file with all its services"
        raise InvalidSpec([Problem("compose", text)])
    names = given.group_members(service.name)
    if not names:
        raise InvalidSpec([Problem(path, "no other service of the file has `group: true`: set it for all of the group")])
    return [deployments.define_service(context, service.environment, name, replace(given, image="")) for name in names]


def form_group(rollouts: Sequence[NewRollout]) -> Sequence[NewRollout]:
    """These as one group, which has the name of its first rollout; one alone is none."""
    if len(rollouts) < 2:
        return rollouts
    group = rollouts[0].rollout.id
    return [replace(new, rollout=replace(new.rollout, group=group)) for new in rollouts]
