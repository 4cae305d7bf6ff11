"""Routes that only say what would happen: validate a Compose file, plan a deployment."""

from __future__ import annotations

from flask import Response

from tidegate.app import deployments, plans
from tidegate.clock import new_id
from tidegate.core.image_reference import ImageReference
from tidegate.core.model import Service
from tidegate.core.records import DeploymentPlan
from tidegate.errors import InvalidSpec, NotAllowed, Refused
from tidegate.web.api import api, principal, respond
from tidegate.web.definitions import compose_input, find_missing_data, find_service, find_short_bake, requested_services
from tidegate.web.openapi import blueprint, problems
from tidegate.web.parameters import ServicePath
from tidegate.web.requests import PlanBody, ServiceBody
from tidegate.web.views.plan import PlanView, ValidationView, refusal_views, service_plan_view
from tidegate.web.views.rollout import FieldNoteView

bp = blueprint("plans", "What would happen, before it does.")


@bp.post(
    "/services/<environment>/<service>/validate",
    responses={"200": ValidationView, **problems(400, 404, 413, 415)},
)
def validate(path: ServicePath, body: ServiceBody) -> Response:
    """Whether a Compose file can be used for a service: every mistake in it. Nothing is stored."""
    principal().require("read", path.key)
    try:
        service = deployments.define_service(
            api(), path.environment, path.service, compose_input(path.environment, body.compose, body)
        )
    except InvalidSpec as error:
        return respond(ValidationView(valid=False, problems=refusal_views([error]), warnings=[], notes=[]))
    conflicts, notes = api().store.find_conflicts(service), list(map(FieldNoteView.model_validate, service.source.notes))
    found, warnings = refusal_views(conflicts), list(service.warnings)
    return respond(ValidationView(valid=not conflicts, problems=found, warnings=warnings, notes=notes))


@bp.post("/services/<environment>/<service>/plan", responses={"200": PlanView, **problems(400, 404, 413, 415, 502)})
def plan(path: ServicePath, body: PlanBody) -> Response:
    """What a deployment would do: its steps, its differences from the live release, and everything that would refuse it.

    Nothing changes. Send `id` as `plan` with the deployment to be sure that it does exactly this.
    """
    principal().require("deploy", path.key)
    now, row = api().now(), find_service(api(), path.key)
    try:
        members = requested_services(path, row, body)
    except InvalidSpec as error:
        return respond(PlanView(id=None, service=path.key, created=now, refusals=refusal_views([error]), services=[]))
    names = [member.name for member in members]
    refusals = [refusal for member in members for refusal in _find_refusals(member, names, force=body.force)]
    views = [
        service_plan_view(
            member, find_service(api(), member.key), plans.live_release(api(), member.key), _find_warnings(member)
        )
        for member in members
    ]
    stored = DeploymentPlan(new_id(now), path.key, now, plans.planned_services(api(), members))
    if not refusals:
        api().store.add_plan(stored)
    return respond(
        PlanView(
            id=None if refusals else stored.id,
            service=path.key,
            created=now,
            refusals=refusal_views(refusals),
            services=views,
        )
    )


def _find_refusals(member: Service, names: list[str], *, force: bool) -> list[Refused]:
    refusals = list[Refused]()
    for scope in ("deploy", "force") if force else ("deploy",):
        try:
            principal().require(scope, member.key)
        except NotAllowed as error:
            refusals.append(error)
    return [*refusals, *plans.find_refusals(api(), find_service(api(), member.key), member, names, force=force)]


def _find_warnings(service: Service) -> list[str]:
    """What needs attention in the definition, and what is already known of its checks and its image."""
    warnings = [*service.warnings, *find_missing_data(service), *find_short_bake(service)]
    if not ImageReference.parse(service.image).pinned:
        warnings += plans.find_quarantine_risk(api(), service)
        warnings.append(f"{service.image} is a tag: it is resolved only when the rollout starts.")
    return warnings
