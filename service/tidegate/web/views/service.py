"""Views of services, releases and instances."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydantic import AliasPath, Field

from tidegate.clock import Time
from tidegate.core.model import CheckKind, Direction, Instance, Order, RepairPolicy, Rollout, Strategy
from tidegate.core.records import DriftState, ReleaseRow, ServiceRow
from tidegate.core.routing import RouterState
from tidegate.web.views.rollout import FieldNoteView, RolloutView, WaitingForView
from tidegate.web.views.timestamps import Timestamp, View


class DriftView(View):
    """How a service differs from its release outside a rollout."""

    since: Timestamp
    message: str
    state: DriftState = Field(
        description="What is done about it. `unhealthy`: automatic repair has stopped; a person must act."
    )
    reason: str = Field(description="Why no repair runs now; empty if one does.")


class CheckView(View):
    """A check of the analysis."""

    name: str
    kind: CheckKind
    query: str
    direction: Direction
    margin: float | None = Field(description="The tolerated difference to the baseline; null: the default of the kind.")
    maximum: float | None
    minimum: float | None
    min_samples: int = Field(description="The number of requests or values below which the check is inconclusive.")


class ServiceFields(View):
    """The parts of a service that are shown as they are stored."""

    environment: str
    name: str
    image: str
    replicas: int
    strategy: Strategy
    order: Order
    batch: int
    bake_seconds: float
    approval_after: list[int] = Field(
        validation_alias=AliasPath("policy", "approval", "after"),
        description="The batches after which a rollout waits for approval.",
    )
    checks: list[CheckView]
    port: int = Field(
        validation_alias=AliasPath("container", "port"),
        description="The port that takes traffic, 0: the only one of the image. Of a worker: of its metrics, or 0.",
    )
    route: str | None = Field(
        None, validation_alias=AliasPath("backend", "name"), description="The backend in the proxy; null for a worker."
    )
    listen: str | None = Field(
        None, validation_alias=AliasPath("backend", "listen"), description="The proxy's address; null for a worker."
    )
    repair: RepairPolicy = Field(description="What Tidegate does about drift.")
    project: str = Field(validation_alias=AliasPath("source", "project"), description="The Compose project; empty: none.")
    interpolated: list[str] = Field(
        validation_alias=AliasPath("source", "variables"),
        description="The variables of the Compose file whose values were used; values are not shown.",
    )
    notes: list[FieldNoteView] = Field(
        validation_alias=AliasPath("source", "notes"),
        description="How the Compose file is honoured otherwise than by `docker compose`.",
    )


class ServiceView(ServiceFields):
    """The definition and state of a service. Variables without values, because these may be secrets."""

    variables: list[str]
    version: int = Field(description="Increases with each change of the definition; the ETag.")
    live: str | None = Field(description="The live release.")
    rollout: str | None = Field(description="The unfinished rollout.")
    drift: DriftView | None = Field(description="Null if the service matches its release.")
    waiting_for: WaitingForView | None = Field(description="What the unfinished rollout waits for.")
    overdue: bool = Field(description="Whether that wait is past `until`, or has no limit and lasts over an hour.")
    unhealthy: int = Field(description="Instances that stopped being ready during the unfinished rollout.")
    links: dict[str, str]


class ServicesView(View):
    """A page of services, sorted by name."""

    services: list[ServiceView]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


class ReleaseView(View):
    """One immutable version of a service."""

    id: str = Field(validation_alias=AliasPath("release", "id"))
    number: int
    image: str = Field(validation_alias=AliasPath("release", "image"))
    digest: str = Field(
        validation_alias=AliasPath("release", "digest"), description="The digest of the image; empty until it is resolved."
    )
    replicas: int = Field(validation_alias=AliasPath("release", "replicas"))
    created: Timestamp
    good_at: Timestamp | None = Field(description="When a rollout to this release succeeded.")
    quarantined_at: Timestamp | None = Field(
        description="When a rollout to this release was rolled back for a finding; null after the quarantine was lifted."
    )


class ReleaseState(StrEnum):
    """What became of a release."""

    LIVE = "live"
    GOOD = "good"  # a rollout to it succeeded: the service can be rolled back to it
    QUARANTINED = "quarantined"  # it was rolled back
    ROLLING_OUT = "rolling_out"
    FAILED = "failed"  # no rollout to it succeeded


class ReleaseHistoryView(ReleaseView):
    """A release, who requested it, and what became of it."""

    state: ReleaseState = Field(
        description="`good`: the service can be rolled back to it. `quarantined`: it was rolled back. `failed`: its rollout"
        " was refused, halted, or rolled back for a reason that is not its own."
    )
    rollout: str | None = Field(description="The rollout that created it; null if that was deleted.")
    requested_by: str
    reason: str = Field(description="Why that rollout ended as it did.")


class ReleasesView(View):
    """A page of releases, newest first."""

    releases: list[ReleaseHistoryView]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


class ServiceDetailView(ServiceView):
    """A service with its live release, its unfinished rollout and its latest releases, newest first."""

    live_release: ReleaseView | None
    live_rollout: RolloutView | None
    releases: list[ReleaseView]


class InstanceView(View):
    """An instance as the platform and the proxy report it now."""

    id: str
    release: str
    ordinal: int
    host: str
    address: str
    state: str
    restarts: int
    detail: str
    receives_traffic: bool = Field(description="Whether it receives new requests.")
    down: bool = Field(
        description="Whether the proxy's own checks find it unhealthy: new requests only while all instances are."
    )
    draining: bool = Field(description="Whether it receives no new requests but may still have some in flight.")
    in_flight: int | None = Field(description="Requests in flight; null if the proxy does not report them.")


class TrafficView(View):
    """Counters of the proxy since its last start or reload."""

    requests: int
    lost: int
    errors: int


class AllTrafficView(TrafficView):
    """The counters of a service, and the same by release where the proxy has them."""

    releases: dict[str, TrafficView]


class InstancesView(View):
    """Instances and traffic now. `instances` is null if the platform or the proxy fails; `problem` is its error."""

    instances: list[InstanceView] | None
    traffic: AllTrafficView | None
    problem: str | None


def service_view(row: ServiceRow, now: Time) -> ServiceView:
    """The view of a service without its releases."""
    service = row.service
    here = f"/v1/services/{service.key}"
    return ServiceView(
        **dict(ServiceFields.model_validate(service)),
        variables=sorted(service.container.environment),
        version=row.version,
        live=row.live,
        rollout=row.rollout,
        drift=row.drift and DriftView.model_validate(row.drift),
        waiting_for=row.waiting_for and WaitingForView.model_validate(row.waiting_for),
        overdue=row.waiting_for is not None and row.waiting_for.is_overdue(now),
        unhealthy=row.unhealthy,
        links={"self": here, "rollouts": f"{here}/rollouts", "instances": f"{here}/instances"},
    )


def release_history_view(row: ReleaseRow, live: str | None, first: Rollout | None) -> ReleaseHistoryView:
    """The view of a release; `first` is the rollout that created it."""
    return ReleaseHistoryView(
        **dict(ReleaseView.model_validate(row)),
        state=_release_state(row, live, first),
        rollout=None if first is None else first.id,
        requested_by="" if first is None else first.requested_by,
        reason="" if first is None else first.reason,
    )


def _release_state(row: ReleaseRow, live: str | None, first: Rollout | None) -> ReleaseState:
    if row.release.id == live:
        return ReleaseState.LIVE
    if row.is_good:
        return ReleaseState.GOOD
    if row.quarantined_at is not None:
        return ReleaseState.QUARANTINED
    return ReleaseState.ROLLING_OUT if first is not None and first.phase.live else ReleaseState.FAILED


def instances_view(instances: Sequence[Instance], router: RouterState) -> InstancesView:
    """The view of instances that were just read from the platform and the proxy."""
    releases = {release: TrafficView.model_validate(stats) for release, stats in router.by_release.items()}
    traffic = router.traffic and AllTrafficView(**dict(TrafficView.model_validate(router.traffic)), releases=releases)
    return InstancesView(
        instances=[_instance(instance, router) for instance in instances],
        traffic=traffic,
        problem=None,
    )


def _instance(instance: Instance, router: RouterState) -> InstanceView:
    is_member = any(other.instance == instance.id for other in router.members)
    return InstanceView(
        id=instance.id,
        release=instance.release,
        ordinal=instance.ordinal,
        host=instance.host,
        address=instance.address,
        state=instance.state.value,
        restarts=instance.restarts,
        detail=instance.detail,
        receives_traffic=is_member,
        down=instance.id in router.down,
        draining=instance.id in router.draining,
        in_flight=router.busy.get(instance.id) if is_member else router.draining.get(instance.id),
    )
