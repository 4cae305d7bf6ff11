"""Deployments: from a request to a new rollout."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from tidegate.analysis import promql
from tidegate.app.context import AppContext, RolloutRequest
from tidegate.clock import Time, new_id
from tidegate.compose.host_access import HostAccess, find_denied, find_long_stop, without_denied_default
from tidegate.compose.loader import ComposeInput, read_service
from tidegate.core import drift, planner
from tidegate.core.compose import unmet_reason
from tidegate.core.event_kinds import EventKind
from tidegate.core.image_reference import ImageReference
from tidegate.core.model import (
    Check,
    Event,
    Order,
    Release,
    Rollout,
    RolloutKind,
    Service,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Plan
from tidegate.core.port_handover import hand_over_port, keep_adopted
from tidegate.core.records import NewRollout, ReleaseRow, ServiceRow
from tidegate.errors import (
    AlreadyRolledBack,
    DependencyMissing,
    Frozen,
    InvalidSpec,
    NoGoodRelease,
    PlatformError,
    Problem,
    Quarantined,
    UnknownService,
)
from tidegate.store_port import Store
from tidegate.text import identity

MAX_SLUG_LENGTH = 20


def define_service(context: AppContext, environment: str, name: str, given: ComposeInput) -> Service:
    """The service that Compose files define. Raises `InvalidSpec` with every mistake, `UnknownService` for the
    environment."""
    context.drivers(environment)
    return validate_service(context, read_service(given, name, environment))


def validate_service(context: AppContext, service: Service) -> Service:
    """Return the service. Raises `InvalidSpec` if its environment lacks something that it needs, or does not allow it."""
    if service.checks and context.drivers(service.environment).metrics is None:
        text = f"The environment {service.environment} has no metrics: configure Prometheus, or remove the checks"
        raise InvalidSpec([Problem(f"services.{service.name}.x-tidegate.checks", text)])
    router, backend = context.drivers(service.environment).router, service.backend
    if backend is not None and (unsupported := router.unsupported(backend)):
        place = f"services.{service.name}.x-tidegate"
        raise InvalidSpec([Problem(f"{place}.{key}", text) for key, text in unsupported.items()])
    _validate_approval(context, service)
    settings = context.settings.environments.get(service.environment)
    allowed = None if settings is None or settings.allow is None else settings.allow.host_access
    beyond = [] if allowed is None else find_denied(service, allowed)
    beyond += find_long_stop(service, (allowed or HostAccess()).max_stop_grace)
    beyond += [*_own_address(context, service), *_unconfined_queries(context, service)]
    if beyond:
        raise InvalidSpec(beyond)
    return service if allowed is None else without_denied_default(service, allowed)


def _own_address(context: AppContext, service: Service) -> Iterator[Problem]:
    """A problem if the service lets Tidegate probe its own API; another name for it is refused by the connection."""
    if service.probe is None:
        return
    url = urlsplit(service.probe.url)
    for own in (urlsplit(f"//{context.settings.listen}"), urlsplit(context.settings.address)):
        if own.hostname and (url.hostname, url.port or 80) == (own.hostname, own.port or 80):
            text = f"found {service.probe.url}; allowed: the address of a service, not that of Tidegate's API"
            yield Problem(f"services.{service.name}.x-tidegate.probe.url", text)
            return


def _unconfined_queries(context: AppContext, service: Service) -> Iterator[Problem]:
    """A problem for each check whose query could read the metrics of other services, where the settings confine queries."""
    settings = context.settings.environments.get(service.environment)
    enforced = settings.metrics.enforce if settings is not None and settings.metrics is not None else {}
    names = {"service": service.name, "release": "release", "window": "60"}
    matchers = {label: promql.fill_placeholders(value, names) for label, value in enforced.items()}
    for check in service.checks:
        problem = promql.find_unconfined(promql.fill_placeholders(check.query, names), matchers) if check.query else ""
        if matchers and problem:
            text = ", ".join(f'{label}="{value}"' for label, value in enforced.items())
            yield Problem(
                f"services.{service.name}.x-tidegate.checks",
                f"{check.name}: {problem}; allowed in this environment: queries whose selectors all have {text}",
            )


def _validate_approval(context: AppContext, service: Service) -> None:
    """Raise `InvalidSpec` if nobody could ever give the approval that the service asks for."""
    wanted, path = service.policy.approval, f"services.{service.name}.x-tidegate.approval"
    settings = context.settings.environments.get(service.environment)
    known = settings.roles if settings else {}
    unknown = [role for role in wanted.roles if role not in known]
    if unknown:
        text = (
            f"found {', '.join(unknown)}; the environment {service.environment} has: {', '.join(sorted(known)) or 'none'}"
        )
        raise InvalidSpec([Problem(f"{path}.roles", text)])
    members = {identity(name) for role in wanted.roles for name in known[role]}
    if wanted.roles and len(members) < wanted.needed:
        text = f"found {wanted.needed}; only {len(members)} have the role {' or '.join(wanted.roles)}"
        raise InvalidSpec([Problem(f"{path}.needed", text)])


def require_no_values(
    variables: Mapping[str, object], files: Mapping[str, object], overrides: Collection[object] = ()
) -> None:
    """Raise `InvalidSpec` for variables, files and overrides without a Compose file that they belong to."""
    text = "require `compose`: the stored definition already has its values"
    given = [name for name, values in (("files", files), ("overrides", overrides), ("variables", variables)) if values]
    if given:
        raise InvalidSpec([Problem(name, text) for name in given])


def slug(image: str) -> str:
    """The tag of an image as part of a release ID: [a-z0-9-], at most 20 characters."""
    return (
        re.sub(r"[^a-z0-9]+", "-", ImageReference.parse(image).label.lower()).strip("-")[:MAX_SLUG_LENGTH].rstrip("-")
        or "latest"
    )


def deploy_new(
    context: AppContext,
    row: ServiceRow | None,
    service: Service,
    request: RolloutRequest,
    group: Collection[str] = (),
    digest: str = "",
) -> NewRollout:
    """A rollout from the live release to a new one of `service`; `group` are the services of its group. `digest` is what
    its image was resolved to before; empty: it is resolved when the rollout starts. Raises `DependencyMissing`."""
    require_dependencies(context, service, group)
    if row is not None:
        service = _with_adopted(context, row, service)
    old = None if row is None or row.live is None else context.store.get_release(service.key, row.live).release
    new = replace(new_release(context.store, service, service.image), digest=digest)
    plan = planner.make_plan(service, old, new)
    message = f"rollout to {new.id} ({new.image}) {request.description}"
    return new_rollout(service, old, new, plan, service.checks, request, message, context.now(), fresh=True, hooked=True)


def _with_adopted(context: AppContext, row: ServiceRow, service: Service) -> Service:
    if row.service.adopted is None:
        return service
    return keep_adopted(service, row.service, context.store.rollouts(service.key, limit=drift.HISTORY_LENGTH))


def require_dependencies(context: AppContext, service: Service, group: Collection[str]) -> None:
    """Raise `DependencyMissing` unless each service that this one depends on has a good live release or is in its group,
    and those of Docker Compose are as the file demands."""
    others = [name for name in service.depends_on if name not in group]
    missing = [name for name in others if not _is_live(context, f"{service.environment}/{name}")]
    if missing:
        named = " and ".join(f"{service.environment}/{name}" for name in missing)
        text = f"{service.key} depends on {named}, which has no good live release: deploy {' and '.join(missing)} first"
        raise DependencyMissing(text)
    platform = context.drivers(service.environment).platform
    unmet = [
        reason
        for needed in service.source.depends_on
        if (reason := unmet_reason(needed, platform.compose_containers(needed.project, needed.service)))
    ]
    if unmet:
        raise DependencyMissing(f"{service.key} depends on services that docker compose runs: {'; '.join(unmet)}")


def _is_live(context: AppContext, key: str) -> bool:
    try:
        live = context.store.get_service(key).live
    except UnknownService:
        return False
    row = None if live is None else context.store.get_release(key, live)
    return row is not None and row.good_at is not None and row.quarantined_at is None


def new_release(store: Store, service: Service, image: str) -> Release:
    """The next release of the service, with an ID that shows its image."""
    number = store.next_number(service.key)
    return Release(f"{slug(service.image)}-{number}", service.key, image, service.replicas, service.container)


def roll_back_service(context: AppContext, row: ServiceRow, request: RolloutRequest, to: str = "") -> NewRollout:
    """A rollout to the last good release before the live one, or to the release `to`, without bakes, checks and approvals.

    After a halted rollout the live release is deployed again as a new release, since parts of both may be left. A freeze
    does not block it, unless `to` is newer than the live release. Raises `NoGoodRelease`, `AlreadyRolledBack`, `Frozen`.
    """
    service = _with_adopted(context, row, row.service)
    if row.live is None:
        raise NoGoodRelease(f"Cannot roll back {service.key}: it was never deployed")
    live = context.store.get_release(service.key, row.live)
    old, newest = live.release, context.store.rollouts(service.key, limit=1)
    is_halted = bool(newest) and newest[0].phase is Phase.FAILED and newest[0].kind is not RolloutKind.REPAIR
    if is_halted and not to:
        again = replace(service, image=old.image, replicas=old.replicas, container=old.container)
        new = new_release(context.store, again, old.digest or old.image)
        message = f"{old.id} deployed again as {new.id}, {request.description}"
    else:
        new = (_named_release(context, live, to) if to else _last_good_release(context, live)).release
        message = f"rollback to {new.id} ({new.image}) {request.description}"
    plan, request = planner.direct_rollback(service, old, new), replace(request, force=True)
    rollout = new_rollout(service, old, new, plan, (), request, message, context.now(), fresh=is_halted and not to)
    return replace(rollout, rollout=replace(rollout.rollout, undoes=True))


def _last_good_release(context: AppContext, live: ReleaseRow) -> ReleaseRow:
    """The last good release before the live one. Raises `AlreadyRolledBack` when the live one was reached by a rollback:
    another one that was not meant would take the service further back, or to the release that was just left."""
    key = live.release.service
    last = _last_release_rollout(context.store, key)
    if last is not None and (last.phase is Phase.ROLLED_BACK or (last.undoes and last.phase is Phase.SUCCEEDED)):
        text = (
            f"{key} is already rolled back to {live.release.id}, by rollout {last.id}. To go to another release, name it: "
            f"tidegate rollback {key} --to RELEASE"
        )
        raise AlreadyRolledBack(text, rollout=last.id)
    good = _last_different(context, live)
    if good is None:
        raise NoGoodRelease(f"Cannot roll back {key}: {live.release.id} is its only good release. Deploy another one")
    return good


def _last_different(context: AppContext, live: ReleaseRow) -> ReleaseRow | None:
    """The last good release that runs anything else than the live one: a restart made another release of the same."""
    same = [live.release.id]
    while good := context.store.last_good(live.release.service, same):
        release = good.release
        if not release.digest or (release.digest, release.container) != (live.release.digest, live.release.container):
            return good
        same.append(release.id)
    return None


def _last_release_rollout(store: Store, key: str) -> Rollout | None:
    """The newest rollout between two releases that was not refused; None if there is none."""
    page = store.rollouts(key)
    while page:
        for rollout in page:
            if rollout.kind is RolloutKind.RELEASE and rollout.phase is not Phase.REFUSED:
                return rollout
        page = store.rollouts(key, before=page[-1].id)
    return None


def _named_release(context: AppContext, live: ReleaseRow, to: str) -> ReleaseRow:
    """The release to roll back to. Raises `UnknownService`, `NoGoodRelease`, `Frozen`."""
    key = live.release.service
    wanted = context.store.get_release(key, to)
    if to == live.release.id:
        raise NoGoodRelease(f"Cannot roll back {key} to {to}: it is live")
    if not wanted.is_good:
        why = "it never succeeded" if wanted.good_at is None else "it was rolled back"
        raise NoGoodRelease(f"Cannot roll back {key} to {to}: {why}. Deploy it instead")
    if wanted.number > live.number:
        otherwise = f"or deploy it with --force: {to} is newer than {live.release.id}"
        require_no_freeze(context, key.partition("/")[0], otherwise)
    return wanted


def new_rollout(
    service: Service,
    old: Release | None,
    new: Release,
    plan: Plan,
    checks: tuple[Check, ...],
    request: RolloutRequest,
    message: str,
    now: Time,
    *,
    fresh: bool,
    hooked: bool = False,
) -> NewRollout:
    """A rollout from `old` to `new`. `fresh`: the release is not stored yet. `hooked`: with hooks and comparison."""
    rollout = Rollout(
        id=new_id(now),
        service=service.key,
        old=None if old is None else old.id,
        new=new.id,
        plan=plan,
        backend=service.backend,
        created=now,
        old_replicas=0 if old is None else old.replicas,
        batch=service.batch,
        in_place=service.order is Order.STOP_FIRST,
        checks=checks,
        policy=service.policy,
        image=new.image,
        requested_by=request.by,
        requested_via=request.via,
        build=request.build,
        forced=request.force,
        hooks=service.hooks if hooked else {},
        warnings=service.warnings,
        notes=service.source.notes,
        compare=service.compare if hooked else None,
        probe=service.probe,
        adopted=service.adopted,
    )
    rollout = hand_over_port(rollout)
    event = Event(
        EventKind.CREATED,
        message,
        now,
        data={"by": request.by, "via": request.via, "old": rollout.old, "new": new.id, "image": new.image},
    )
    return NewRollout(rollout, service, new if fresh else None, event)


def require_no_freeze(context: AppContext, environment: str, otherwise: str) -> None:
    """Raise `Frozen`; `otherwise` says what can be done despite the freeze."""
    freeze = context.store.get_freeze(environment)
    if freeze is not None:
        raise Frozen(f"{freeze.message}. Wait until the freeze ends, {otherwise}")


def require_deployable(context: AppContext, service: Service) -> None:
    """Raise `Frozen` or `Quarantined`."""
    require_no_freeze(context, service.environment, "or deploy with --force")
    require_no_quarantine(context, service)


def require_no_quarantine(context: AppContext, service: Service) -> None:
    """Raise `Quarantined`. An image whose digest is not known yet is refused when the engine has pulled it."""
    if not any(row.release.container == service.container for row in context.store.quarantined(service.key)):
        return
    digest = _find_digest(context, service)
    row = context.store.find_quarantined(service.key, digest, service.container) if digest else None
    if row is not None:
        raise Quarantined(row.quarantine_message(service.image))


def _find_digest(context: AppContext, service: Service) -> str:
    """What the image is now; empty if only a pull shows it, or the platform does not answer."""
    pinned = ImageReference.parse(service.image).pinned
    if pinned:
        return pinned
    release = Release("", service.key, service.image, service.replicas, service.container)
    try:
        return context.drivers(service.environment).platform.find_digest(release)
    except PlatformError:
        return ""
