"""Groups: several services of one Compose file that are rolled out, promoted and rolled back as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tidegate.app import deployments
from tidegate.app.context import AppContext
from tidegate.compose import extension, yaml
from tidegate.core.model import Service
from tidegate.core.records import NewRollout
from tidegate.errors import InvalidSpec, Problem


def other_services(
    context: AppContext, service: Service, compose: str | None, variables: Mapping[str, str], files: dict[str, bytes]
) -> Sequence[Service]:
    """The other services of the Compose file that are in the group of this one. Raises `InvalidSpec`."""
    if not service.in_group:
        return ()
    path = f"services.{service.name}.x-tidegate.group"
    if compose is None:
        text = f"{service.name} is part of a group: send the Compose file with all its services"
        raise InvalidSpec([Problem("compose", text)])
    names = extension.group_members(yaml.load(compose), service.name)
    if not names:
        raise InvalidSpec([Problem(path, "no other service of the file has `group: true`: set it for all of the group")])
    return [deployments.define_service(context, service.environment, name, compose, variables, files) for name in names]


def form_group(rollouts: Sequence[NewRollout]) -> Sequence[NewRollout]:
    """These as one group, which has the name of its first rollout; one alone is none."""
    if len(rollouts) < 2:
        return rollouts
    group = rollouts[0].rollout.id
    return [replace(new, rollout=replace(new.rollout, group=group)) for new in rollouts]
