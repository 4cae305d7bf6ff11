"""Routes of services: define, list, read, deploy, roll back, scale and repair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog
from flask import Response

from tidegate.app import deployments, drift_repair, groups, plans, removal, repeats
from tidegate.app.context import RolloutRequest
from tidegate.core.build import Build
from tidegate.core.build_queue import LivePolicy, WaitingBuild
from tidegate.core.model import Service, Signal, SignalKind
from tidegate.core.records import NewRollout, ServiceRow
from tidegate.core.routing import RouterState
from tidegate.errors import AlreadyRolledBack, DriverError, InvalidSpec, Problem, VersionConflict
from tidegate.web import log_setup
from tidegate.web.api import (
    api,
    idempotency_key,
    principal,
    require_version,
    respond,
)
from tidegate.web.creation import create_rollouts, replay, require_no_live_rollout, require_turn
from tidegate.web.definitions import compose_input, find_missing_data, find_service, requested_services
from tidegate.web.errors import PROBLEM_TYPES, ApiProblem
from tidegate.web.identity import identify_requester, require_for_group, require_reason
from tidegate.web.openapi import blueprint, problems
from tidegate.web.pagination import decode_cursor, decode_number, encode_cursor, rollouts_page, with_next_link
from tidegate.web.parameters import (
    BuildQuery,
    KeyHeader,
    OptionalKeyHeader,
    PageQuery,
    PutHeader,
    RemoveQuery,
    ServicePath,
    ServiceRolloutsQuery,
)
from tidegate.web.requests import DeployBody, ForceBody, RollbackBody, ScaleBody, ServiceBody, SignalBody
from tidegate.web.views.rollout import RolloutsView, RolloutView, rollout_view
from tidegate.web.views.service import (
    InstancesView,
    ReleasesView,
    ReleaseView,
    ServiceDetailView,
    ServicesView,
    ServiceView,
    instances_view,
    release_history_view,
    service_view,
)

log = structlog.get_logger("tidegate.web")
bp = blueprint("services", "Services and their deployments.")


@bp.get("/services", responses={"200": ServicesView, **problems()})
def list_services(query: PageQuery) -> Response:
    """All services that the token may read, sorted by name."""
    after = decode_cursor(query.cursor) or ""
    rows = [row for row in api().store.services() if row.service.key > after and principal().may("read", row.service.key)]
    page = rows[: query.limit]
    cursor = encode_cursor(page[-1].service.key) if len(rows) > len(page) else None
    return with_next_link(
        respond(ServicesView(services=[service_view(row, api().now()) for row in page], next=cursor)), cursor
    )


@bp.get("/services/<environment>/<service>", responses={"200": ServiceDetailView, **problems(404)})
def get_service(path: ServicePath) -> Response:
    """A service with its live release, its current rollout and its latest releases."""
    principal().require("read", path.key)
    store = api().store
    api().drivers(path.environment)
    row = store.get_service(path.key)
    releases = store.releases(path.key)
    view = ServiceDetailView(
        **dict(service_view(row, api().now())),
        live_release=None if row.live is None else ReleaseView.model_validate(store.get_release(path.key, row.live)),
        live_rollout=None if row.rollout is None else rollout_view(*store.load(row.rollout)),
        releases=[ReleaseView.model_validate(release) for release in releases],
    )
    return respond(view, version=row.version)


@bp.put(
    "/services/<environment>/<service>",
    responses={"200": ServiceView, "201": ServiceView, **problems(400, 404, 409, 412, 413, 415)},
)
def put_service(path: ServicePath, header: PutHeader, body: ServiceBody) -> Response:
    """Store the definition of a service without deploying it. 201 if it is new, 200 if it replaces another."""
    principal().require("deploy", path.key)
    service = deployments.define_service(
        api(), path.environment, path.service, compose_input(path.environment, body.compose, body)
    )
    current = find_service(api(), path.key)
    version = _version_to_put(path.key, current, header)
    row = api().store.put_service(service, version, audit=identify_requester("", path.key).audit("define", path.key))
    view = service_view(row, api().now())
    status = 201 if current is None else 200
    return respond(view, status, version=row.version, location=view.links["self"] if status == 201 else "")


@bp.delete(
    "/services/<environment>/<service>",
    responses={"202": RolloutView, "204": None, **problems(404, 409)},
)
def remove_service(path: ServicePath, header: OptionalKeyHeader, query: RemoveQuery) -> Response:
    """Remove a service: drain and stop its instances, and free its route and addresses.

    202 with the rollout that does it; 204 if it was never deployed. Its rollouts and the audit log are kept.
    """
    principal().require("deploy", path.key)
    key = idempotency_key(header.key or "")
    stored = api().store.find_answer(key)
    if stored is not None:
        return replay(stored)
    api().drivers(path.environment)
    row = api().store.get_service(path.key)
    require_no_live_rollout(row)
    by = identify_requester(query.on_behalf_of, path.key)
    if query.force:
        principal().require("force", path.key)
        require_reason(query.reason, "remove by force")
    else:
        removal.require_removable(api(), row)
    new = removal.remove(api(), row, RolloutRequest(by.by, by.via, query.reason, force=query.force))
    action = "remove by force" if query.force else "remove"
    if new is None:
        api().store.remove_service(path.key, audit=by.audit(action, path.key, query.reason))
        return Response(status=204)
    return create_rollouts([new], key, by.audit(action, path.key, query.reason, new.rollout.id))


def _version_to_put(key: str, current: ServiceRow | None, header: PutHeader) -> int | None:
    if header.if_none_match is not None:
        return 0
    if header.if_match is not None and current is None:
        raise VersionConflict(
            f"{key} does not exist, so it has no version {header.if_match}. Remove If-Match to create it."
        )
    return None if current is None else require_version(current.version, key)


@bp.get("/services/<environment>/<service>/instances", responses={"200": InstancesView, **problems(404)})
def get_instances(path: ServicePath) -> Response:
    """The instances and the traffic now, read from the platform and the proxy."""
    principal().require("read", path.key)
    drivers = api().drivers(path.environment)
    row = api().store.get_service(path.key)
    try:
        drivers.platform.adopt(path.key, row.service.adopted)
        instances = drivers.platform.instances(path.key, row.service.policy.max_restarts)
        routed = RouterState() if row.service.backend is None else drivers.router.read(row.service.backend)
    except DriverError as error:
        return respond(InstancesView(instances=None, traffic=None, problem=error.message))
    if routed.restarted:
        log.warning("proxy was down and has been restarted", service=path.key)
    return respond(instances_view(instances, routed))


@bp.get("/services/<environment>/<service>/releases", responses={"200": ReleasesView, **problems(404)})
def list_releases(path: ServicePath, query: PageQuery) -> Response:
    """The releases of a service, newest first: what each runs, who requested it, and what became of it."""
    principal().require("read", path.key)
    row = api().store.get_service(path.key)
    rows = api().store.releases(path.key, query.limit + 1, decode_number(query.cursor))
    page = rows[: query.limit]
    cursor = encode_cursor(str(page[-1].number)) if len(rows) > len(page) else None
    first = api().store.created_by(path.key, [each.release.id for each in page])
    views = [release_history_view(each, row.live, first.get(each.release.id)) for each in page]
    return with_next_link(respond(ReleasesView(releases=views, next=cursor)), cursor)


# -- rollouts of a service ------------------------------------------------------------------------------------------------


@bp.get("/services/<environment>/<service>/rollouts", responses={"200": RolloutsView, **problems(404)})
def list_service_rollouts(path: ServicePath, query: ServiceRolloutsQuery) -> Response:
    """The rollouts of a service, newest first."""
    principal().require("read", path.key)
    api().store.get_service(path.key)
    return rollouts_page(path.key, query)


@bp.post(
    "/services/<environment>/<service>/rollouts",
    responses={"202": RolloutView, **problems(400, 404, 409, 413, 415)},
)
def deploy(path: ServicePath, header: KeyHeader, body: DeployBody) -> Response:
    """Start a rollout to a new release. Responds at once; follow the rollout by its events."""
    principal().require("deploy", path.key)
    key = idempotency_key(header.key)
    stored = api().store.find_answer(key)
    if stored is not None:
        return replay(stored)
    row = find_service(api(), path.key)
    by = identify_requester(body.on_behalf_of, path.key)
    members = requested_services(path, row, body)
    for member in members:
        _require_allowed(member, body)
        identify_requester(body.on_behalf_of, member.key)
    if body.plan:
        plans.require_planned(api(), body.plan, path.key, members)
    build = None if body.build is None else Build(**body.build.model_dump())
    if build is None and body.on_live is not LivePolicy.FAIL:
        raise InvalidSpec([Problem("on_live", "requires `build`: only a build can wait for its turn")])
    if build is None:
        require_no_live_rollout(row)  # with a build, the store first checks for a newer build
    elif body.on_live is not LivePolicy.FAIL:
        if body.on_live is LivePolicy.SUPERSEDE:
            principal().require("rollback", path.key)
        require_turn(WaitingBuild(path.key, build, body.on_live, by.by, by.via))
    request = RolloutRequest(by.by, by.via, body.reason, build, body.force)
    names = [member.name for member in members]
    rollouts = [
        deployments.deploy_new(api(), find_service(api(), member.key), member, request, names) for member in members
    ]
    rollouts = [_with_missing_data(new, member) for new, member in zip(rollouts, members, strict=True)]
    action = "deploy by force" if body.force else "deploy"
    audit = by.audit(action, path.key, body.reason, rollouts[0].rollout.id, build)
    return create_rollouts(groups.form_group(rollouts), key, audit)


@bp.delete("/services/<environment>/<service>/queue", responses={"204": None, **problems(404)})
def leave_queue(path: ServicePath, query: BuildQuery) -> Response:
    """End the wait of a build for its turn. Succeeds if it does not wait."""
    principal().require("deploy", path.key)
    api().store.leave_queue(path.key, query.job, query.number)
    return Response(status=204)


def _with_missing_data(new: NewRollout, service: Service) -> NewRollout:
    """The rollout with a warning if a check of its service would be inconclusive for lack of data."""
    return replace(new, rollout=replace(new.rollout, warnings=(*new.rollout.warnings, *find_missing_data(service))))


def _require_allowed(service: Service, body: DeployBody) -> None:
    """Raises `NotAllowed`, and without force also `Frozen` and `Quarantined`."""
    principal().require("deploy", service.key)
    if body.force:
        principal().require("force", service.key)
        require_reason(body.reason, "deploy by force")
    else:
        deployments.require_deployable(api(), service)


@bp.post(
    "/services/<environment>/<service>/rollback",
    responses={"202": RolloutView, **problems(400, 404, 409, 413, 415)},
)
def rollback_service(path: ServicePath, header: KeyHeader, body: RollbackBody) -> Response:
    """Roll back the current rollout. Without one, or during a repair, start a rollout to the last good release, or to `to`.

    After a rollback, another one is refused until something was deployed, unless it names a release.
    """
    principal().require("rollback", path.key)
    key = idempotency_key(header.key)
    stored = api().store.find_answer(key)
    if stored is not None:
        return replay(stored)
    api().drivers(path.environment)
    row = api().store.get_service(path.key)
    if row.rollout is None or row.repairing:
        by = identify_requester(body.on_behalf_of, path.key)
        try:
            new = deployments.roll_back_service(api(), row, RolloutRequest(by.by, by.via, body.reason), body.to)
        except AlreadyRolledBack as error:
            more = {"rollout": error.rollout}
            raise ApiProblem(PROBLEM_TYPES[AlreadyRolledBack], error.message, more=more) from error
        return create_rollouts([new], key, by.audit("rollback", path.key, body.reason, new.rollout.id))
    live, _ = api().store.load(row.rollout)
    if body.to not in ("", live.old):
        require_no_live_rollout(row)
    by = require_for_group(live, SignalKind.ROLLBACK, "rollback", body.on_behalf_of)
    signal = Signal(SignalKind.ROLLBACK, api().now(), by.by, body.reason, via=by.via)
    audit = by.audit("rollback", path.key, body.reason, row.rollout)
    rollout = api().store.signal(row.rollout, signal, key=replace(key, status=202, response=row.rollout), audit=audit)
    log_setup.bind_rollout(rollout)
    api().wake()
    view = rollout_view(rollout)
    return respond(view, 202, version=rollout.version, location=view.links["self"])


@bp.post(
    "/services/<environment>/<service>/scale",
    responses={"202": RolloutView, **problems(400, 404, 409, 413, 415)},
)
def scale_service(path: ServicePath, header: KeyHeader, body: ScaleBody) -> Response:
    """Start a rollout that changes the number of instances of the live release."""
    if body.force:
        principal().require("force", path.key)
        require_reason(body.reason, "scale by force")
    return _keep_release(
        path, header, body, "scale", lambda row, request: drift_repair.scale(api(), row, body.replicas, request)
    )


@bp.post(
    "/services/<environment>/<service>/repair",
    responses={"202": RolloutView, **problems(400, 404, 409, 413, 415)},
)
def repair_service(path: ServicePath, header: KeyHeader, body: SignalBody) -> Response:
    """Restore a drifted service to its release, even if automatic repair has stopped."""
    return _keep_release(path, header, body, "repair", lambda row, request: drift_repair.repair(api(), row, request))


@bp.post(
    "/services/<environment>/<service>/restart",
    responses={"202": RolloutView, **problems(400, 404, 409, 413, 415)},
)
def restart_service(path: ServicePath, header: KeyHeader, body: ForceBody) -> Response:
    """Replace every instance of the live release, in the batches of the service, without bakes, checks and approvals."""
    if body.force:
        principal().require("force", path.key)
        require_reason(body.reason, "restart by force")
    return _keep_release(path, header, body, "restart", lambda row, request: repeats.restart(api(), row, request))


def _keep_release(
    path: ServicePath,
    header: KeyHeader,
    body: SignalBody,
    action: str,
    make: Callable[[ServiceRow, RolloutRequest], NewRollout],
) -> Response:
    """Start a rollout that keeps the live release."""
    principal().require("deploy", path.key)
    key = idempotency_key(header.key)
    stored = api().store.find_answer(key)
    if stored is not None:
        return replay(stored)
    api().drivers(path.environment)
    by = identify_requester(body.on_behalf_of, path.key)
    request = RolloutRequest(by.by, by.via, body.reason, force=isinstance(body, ScaleBody | ForceBody) and body.force)
    new = make(api().store.get_service(path.key), request)
    return create_rollouts([new], key, by.audit(action, path.key, body.reason, new.rollout.id))
