"""From a request to a new rollout: parse, plan, one transaction."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from tidegate.clock import Time, new_id
from tidegate.compose import loader
from tidegate.compose.host_access import find_denied
from tidegate.core import drift, planner
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Build, Check, Event, Order, Plan, Release, Rollout, RolloutKind, Service
from tidegate.core.phases import Phase
from tidegate.core.records import NewRollout, ServiceRow
from tidegate.errors import DependencyMissing, InvalidSpec, NoGoodRelease, NoLiveRelease, Problem, UnknownService
from tidegate.ports import Store
from tidegate.web.api import Api

MAX_SLUG_LENGTH = 20


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """By whom, on whose word, for which build, why, and whether in spite of a freeze and of a quarantine."""

    by: str
    via: str = ""
    reason: str = ""
    build: Build | None = None
    force: bool = False

    @property
    def told(self) -> str:
        """As part of a sentence."""
        vouched = f" (vouched for by {self.via})" if self.via else ""
        build = f", build {self.build.number} of {self.build.job}" if self.build else ""
        return f"asked {'by force ' if self.force else ''}by {self.by}{vouched}{build}" + (
            f": {self.reason}" if self.reason else ""
        )


def define_service(
    api: Api, environment: str, name: str, text: str, variables: dict[str, str], files: dict[str, bytes]
) -> Service:
    """The service that a Compose text defines. Raises `InvalidSpec` with every mistake, `UnknownService` for the
    environment."""
    api.parts(environment)
    return validate_service(api, loader.load_service(text, name, environment, variables, files))


def validate_service(api: Api, service: Service) -> Service:
    """The service itself; raises `InvalidSpec` when its environment has not what it needs, or does not allow it."""
    if service.checks and api.parts(service.environment).metrics is None:
        text = f"the environment {service.environment} has no metrics: configure them, or leave the checks out"
        raise InvalidSpec([Problem(f"services.{service.name}.x-tidegate.checks", text)])
    _validate_approval(api, service)
    settings = api.wiring.settings.environments.get(service.environment)
    beyond = [] if settings is None or settings.allow is None else find_denied(service, settings.allow.allowed)
    if beyond:
        raise InvalidSpec(beyond)
    return service


def _validate_approval(api: Api, service: Service) -> None:
    """Raises `InvalidSpec` where nobody could ever give the approval that the service asks for."""
    wanted, path = service.policy.approval, f"services.{service.name}.x-tidegate.approval"
    settings = api.wiring.settings.environments.get(service.environment)
    known = settings.roles if settings else {}
    unknown = [each for each in wanted.roles if each not in known]
    if unknown:
        text = (
            f"found {', '.join(unknown)}; the environment {service.environment} has: {', '.join(sorted(known)) or 'none'}"
        )
        raise InvalidSpec([Problem(f"{path}.roles", text)])
    members = {name for each in wanted.roles for name in known[each]}
    if wanted.roles and len(members) < wanted.needed:
        text = f"found {wanted.needed}; only {len(members)} have the role {' or '.join(wanted.roles)}"
        raise InvalidSpec([Problem(f"{path}.needed", text)])


def require_no_values(variables: Mapping[str, object], files: Mapping[str, object]) -> None:
    """Raises `InvalidSpec` for variables and files without a Compose file to put them into."""
    text = "are for the text in `compose`, which is not there; the stored definition has its values already"
    found = [name for name, each in (("files", files), ("variables", variables)) if each]
    if found:
        raise InvalidSpec([Problem(name, text) for name in found])


def tag(image: str) -> str:
    """The tag of an image: `v2` of `shop:v2`; of a bare digest its beginning; `latest` where nothing is said."""
    name, _, digest = image.partition("@")
    if name.startswith("sha256:"):
        return name.removeprefix("sha256:")[:12]
    return name.rpartition("/")[2].partition(":")[2] or digest.removeprefix("sha256:")[:12] or "latest"


def slug(image: str) -> str:
    """The tag of an image as part of a release's id: [a-z0-9-], at most 20."""
    return re.sub(r"[^a-z0-9]+", "-", tag(image).lower()).strip("-")[:MAX_SLUG_LENGTH].rstrip("-") or "latest"


def deploy_new(
    api: Api, row: ServiceRow | None, service: Service, asked: RolloutRequest, together: Collection[str] = ()
) -> NewRollout:
    """A rollout from what serves now to a new release of `service`; `together` are the services of its group. Raises
    `DependencyMissing`."""
    _require_dependencies(api, service, together)
    old = None if row is None or row.live is None else api.store.get_release(service.key, row.live).release
    new = _release(api.store, service, service.image)
    way = planner.make_plan(service, old, new)
    said = f"rollout to {new.id} ({new.image}) {asked.told}"
    return _new_rollout(service, old, new, way, service.checks, asked, said, api.now(), fresh=True, hooked=True)


def _require_dependencies(api: Api, service: Service, together: Collection[str]) -> None:
    """Raises `DependencyMissing` unless a good release serves of each service that this one depends on, or it comes
    together with this one."""
    others = [name for name in service.depends_on if name not in together]
    missing = [name for name in others if not _is_live(api, f"{service.environment}/{name}")]
    if missing:
        named = " and ".join(f"{service.environment}/{name}" for name in missing)
        text = f"{service.key} depends on {named}, of which no good release serves: deploy {' and '.join(missing)} first"
        raise DependencyMissing(text)


def _is_live(api: Api, key: str) -> bool:
    try:
        live = api.store.get_service(key).live
    except UnknownService:
        return False
    row = None if live is None else api.store.get_release(key, live)
    return row is not None and row.good_at is not None and row.quarantined_at is None


def _release(store: Store, service: Service, image: str) -> Release:
    number = store.next_number(service.key)
    return Release(f"{slug(service.image)}-{number}", service.key, image, service.replicas, service.container)


def roll_back_to_last_good(api: Api, row: ServiceRow, asked: RolloutRequest) -> NewRollout:
    """A rollout to the last good release other than the one that serves, without bakes, checks and holds.

    After a rollout that halted, what served before it is brought up anew: the halted one may have left parts of both.
    A freeze does not keep it back. Raises `NoGoodRelease`.
    """
    service, asked = row.service, replace(asked, force=True)
    if row.live is None:
        raise NoGoodRelease(f"nothing of {service.key} was ever brought up, so there is nothing to roll back to")
    old = api.store.get_release(service.key, row.live).release
    told = replace(asked, force=False).told
    newest = api.store.rollouts(service.key, limit=1)
    if newest and newest[0].phase is Phase.FAILED and newest[0].kind is not RolloutKind.REPAIR:
        again = replace(service, image=old.image, replicas=old.replicas, container=old.container)
        new = _release(api.store, again, old.digest or old.image)
        said = f"{old.id} brought up anew as {new.id}, {told}"
        return _new_rollout(
            service, old, new, planner.direct_rollback(service, old, new), (), asked, said, api.now(), fresh=True
        )
    good = api.store.last_good(service.key, before=row.live)
    if good is None:
        text = f"{old.id} is the only good release of {service.key}: deploy another one instead"
        raise NoGoodRelease(text)
    new = good.release
    said = f"rollback to {new.id} ({new.image}) {told}"
    return _new_rollout(
        service, old, new, planner.direct_rollback(service, old, new), (), asked, said, api.now(), fresh=False
    )


def scale(api: Api, row: ServiceRow, replicas: int, asked: RolloutRequest) -> NewRollout:
    """A rollout of what serves to another number of instances. Raises `NoLiveRelease`, `InvalidSpec`."""
    service, release = _in_force(api, row), _live_release(api, row)
    if service.order is Order.STOP_FIRST and replicas <= service.batch:
        text = f"stop-first with parallelism {service.batch} of {replicas} would stop all at once in the next deploy"
        raise InvalidSpec([Problem("replicas", text)])
    now = api.now()
    rollout = drift.make_scaling(service, release, replicas, new_id(now), now, asked.by, asked.via)
    said = f"{release.id} from {release.replicas} to {replicas} instances, {asked.told}"
    return NewRollout(rollout, service, None, drift.created_event(rollout, said))


def repair(api: Api, row: ServiceRow, asked: RolloutRequest) -> NewRollout:
    """A rollout that brings back what serves. Raises `NoLiveRelease`."""
    release, now = _live_release(api, row), api.now()
    rollout = drift.make_repair(_in_force(api, row), release, new_id(now), now, asked.by, asked.via)
    return NewRollout(rollout, row.service, None, drift.created_event(rollout, f"repair of {release.id} {asked.told}"))


def _in_force(api: Api, row: ServiceRow) -> Service:
    return drift.with_current_backend(row.service, api.store.rollouts(row.service.key, limit=drift.HISTORY_LENGTH))


def _live_release(api: Api, row: ServiceRow) -> Release:
    if row.live is None:
        raise NoLiveRelease(f"no release of {row.service.key} serves: deploy one first")
    return api.store.get_release(row.service.key, row.live).release


def _new_rollout(
    service: Service,
    old: Release | None,
    new: Release,
    way: Plan,
    checks: tuple[Check, ...],
    asked: RolloutRequest,
    said: str,
    now: Time,
    *,
    fresh: bool,
    hooked: bool = False,
) -> NewRollout:
    rollout = Rollout(
        id=new_id(now),
        service=service.key,
        old=None if old is None else old.id,
        new=new.id,
        plan=way,
        backend=service.backend,
        created=now,
        old_replicas=0 if old is None else old.replicas,
        batch=service.batch,
        in_place=service.order is Order.STOP_FIRST,
        checks=checks,
        policy=service.policy,
        image=new.image,
        requested_by=asked.by,
        requested_via=asked.via,
        build=asked.build,
        forced=asked.force,
        hooks=service.hooks if hooked else {},
        compare=service.compare if hooked else None,
        probe=service.probe,
    )
    event = Event(
        EventKind.CREATED,
        said,
        now,
        data={"by": asked.by, "via": asked.via, "old": rollout.old, "new": new.id, "image": new.image},
    )
    return NewRollout(rollout, service, new if fresh else None, event)
