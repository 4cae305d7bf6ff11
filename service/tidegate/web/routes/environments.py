"""Routes of environments: list."""

from __future__ import annotations

from flask import Response

from tidegate.web.api import api, principal, respond
from tidegate.web.machine import machine_fingerprint
from tidegate.web.openapi import blueprint, problems
from tidegate.web.views.audit import FreezeView
from tidegate.web.views.environment import EnvironmentsView, EnvironmentView, HostView

bp = blueprint("environments", "Where services run.")


@bp.get("/environments", responses={"200": EnvironmentsView, **problems()})
def list_environments() -> Response:
    """The environments in the server's settings for which the token has a right, sorted by name."""
    services = [row.service for row in api().store.services() if principal().may("read", row.service.key)]
    freezes = {freeze.environment: freeze for freeze in api().store.freezes()}
    views = []
    for name, drivers in sorted(api().wiring.environments.items()):
        if principal().may_in("read", name):
            frozen = freezes.get(name)
            views.append(
                EnvironmentView(
                    name=name,
                    services=sum(service.environment == name for service in services),
                    freeze=None if frozen is None else FreezeView.model_validate(frozen),
                    hosts=[
                        HostView(name=host.name, machine=machine_fingerprint() if host.is_local else "")
                        for host in drivers.platform.hosts()
                    ],
                    has_metrics=drivers.metrics is not None,
                )
            )
    return respond(EnvironmentsView(environments=views))
