"""Several services of one Compose file that are rolled out, promoted and turned back as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tidegate.app import deployments
from tidegate.compose import extension, yaml
from tidegate.core.approvals import given_approvals
from tidegate.core.model import Rollout, Service
from tidegate.core.phases import Phase
from tidegate.core.records import NewRollout
from tidegate.errors import InvalidSpec, Problem
from tidegate.web.api import api, principal
from tidegate.web.asking import may_approve
from tidegate.web.requests import DeployBody, file_contents


def fellows(service: Service, body: DeployBody) -> Sequence[Service]:
    """The other services of the file that come with this one. Raises `InvalidSpec`."""
    if not service.together:
        return ()
    path = f"services.{service.name}.x-tidegate.together"
    if body.compose is None:
        text = f"{service.name} is rolled out together with others: send the Compose file that has them all"
        raise InvalidSpec([Problem("compose", text)])
    names = extension.group_members(yaml.load(body.compose), service.name)
    if not names:
        raise InvalidSpec([Problem(path, "no other service of the file says so: say it of those that come together")])
    files = file_contents(body.files)
    return [
        deployments.define_service(api(), service.environment, name, body.compose, body.variables, files) for name in names
    ]


def joined(starts: Sequence[NewRollout]) -> Sequence[NewRollout]:
    """These as one group, which has the name of its first rollout; one alone is none."""
    if len(starts) < 2:
        return starts
    group = starts[0].rollout.id
    return [replace(each, rollout=replace(each.rollout, group=group)) for each in starts]


def require_approvable(rollout: Rollout, by: str) -> None:
    """That this person may give the approval for the others of its group, too. Raises `NotAllowed`."""
    if not rollout.group:
        return
    for peer in api().store.peers(rollout.id, rollout.group):
        alike = peer.phase is Phase.RUNNING and peer.step.gate.together == rollout.step.gate.together != 0
        signals = api().store.load(peer.id)[1] if alike else ()
        if alike and not any(each.by == by for each in given_approvals(peer, signals)):
            principal().require("promote", peer.service)
            may_approve(peer, signals, by)
