"""A service, its releases and its instances as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from pydantic import BaseModel, Field

from tidegate.core.model import (
    Check,
    CheckKind,
    Direction,
    Instance,
    Order,
    RepairPolicy,
    Strategy,
)
from tidegate.core.records import Drift, DriftState, ReleaseRow, ServiceRow
from tidegate.core.routing import RouterState
from tidegate.web.views.rollout import (
    RolloutView,
)
from tidegate.web.views.timestamps import Timestamp, optional_timestamp, timestamp


class DriftView(BaseModel):
    """How a service was found between rollouts, when it was other than its release wants."""

    since: Timestamp
    message: str
    state: DriftState = Field(description="What is done about it; `unhealthy`: nothing any more, until somebody acts.")
    reason: str = Field(description="Why nothing is done now; empty while something is.")


def drift_view(drift: Drift) -> DriftView:
    """From the value."""
    return DriftView(since=timestamp(drift.since), message=drift.message, state=drift.state, reason=drift.reason)


class CheckView(BaseModel):
    """One question to the metrics."""

    name: str
    kind: CheckKind
    query: str
    direction: Direction
    margin: float | None = Field(description="What may be lost before it matters; null: the default of its kind.")
    maximum: float | None
    minimum: float | None
    min_samples: int = Field(description="Requests or values below which nothing is said.")


class ServiceView(BaseModel):
    """A service as it is defined. Of its containers' variables only the names are told: values may be secrets."""

    environment: str
    name: str
    image: str
    replicas: int
    strategy: Strategy
    order: Order
    batch: int
    bake_seconds: float
    approval_after: list[int] = Field(description="The batches after which a rollout waits for approval.")
    checks: list[CheckView]
    port: int
    variables: list[str]
    route: str
    listen: str
    version: int = Field(description="Grows with each change; the ETag.")
    live: str | None = Field(description="The release that serves.")
    rollout: str | None = Field(description="The live rollout.")
    repair: RepairPolicy = Field(description="What follows when it is found other than its release wants.")
    drift: DriftView | None = Field(description="What was found; null when all is as it should be.")
    links: dict[str, str]


class ServicesView(BaseModel):
    """A page of services, by name."""

    services: list[ServiceView]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


class ReleaseView(BaseModel):
    """One immutable version of a service."""

    id: str
    number: int
    image: str
    digest: str = Field(description="What the image was resolved to; empty until then.")
    replicas: int
    created: Timestamp
    good_at: Timestamp | None = Field(description="When a rollout to it succeeded.")
    quarantined_at: Timestamp | None = Field(description="When a rollout to it was turned back.")


class ServiceDetailView(ServiceView):
    """A service with its latest releases, the newest first, and what is under way."""

    live_release: ReleaseView | None
    live_rollout: RolloutView | None
    releases: list[ReleaseView]


class InstanceView(BaseModel):
    """One running copy, as platform and proxy show it now."""

    id: str
    release: str
    ordinal: int
    host: str
    address: str
    state: str
    restarts: int
    detail: str
    routed: bool = Field(description="It takes new requests.")
    draining: bool = Field(description="It takes none any more, and the proxy still knows it.")
    in_flight: int | None = Field(description="Requests on it now; null where the proxy cannot tell.")


class TrafficView(BaseModel):
    """The proxy's counters since its start or last reload."""

    requests: int
    lost: int
    errors: int


class InstancesView(BaseModel):
    """What runs and takes traffic now. `instances` is null, and `problem` says why, where a part does not answer."""

    instances: list[InstanceView] | None
    traffic: TrafficView | None
    problem: str | None


def service_view(row: ServiceRow) -> ServiceView:
    """A service without its releases."""
    service = row.service
    here = f"/v1/services/{service.key}"
    return ServiceView(
        environment=service.environment,
        name=service.name,
        image=service.image,
        replicas=service.replicas,
        strategy=service.strategy,
        order=service.order,
        batch=service.batch,
        bake_seconds=service.bake_seconds,
        approval_after=list(service.policy.approval.after),
        checks=[_check(check) for check in service.checks],
        port=service.container.port,
        variables=sorted(service.container.environment),
        route=service.backend.name,
        listen=service.backend.listen,
        version=row.version,
        live=row.live,
        rollout=row.rollout,
        repair=service.repair,
        drift=row.drift and drift_view(row.drift),
        links={"self": here, "rollouts": f"{here}/rollouts", "instances": f"{here}/instances"},
    )


def _check(check: Check) -> CheckView:
    return CheckView(
        name=check.name,
        kind=check.kind,
        query=check.query,
        direction=check.direction,
        margin=check.margin,
        maximum=check.maximum,
        minimum=check.minimum,
        min_samples=check.min_samples,
    )


def release_view(row: ReleaseRow) -> ReleaseView:
    """A release with its history."""
    release = row.release
    return ReleaseView(
        id=release.id,
        number=row.number,
        image=release.image,
        digest=release.digest,
        replicas=release.replicas,
        created=timestamp(row.created),
        good_at=optional_timestamp(row.good_at),
        quarantined_at=optional_timestamp(row.quarantined_at),
    )


def instances_view(instances: Sequence[Instance], routed: RouterState) -> InstancesView:
    """The world as just read."""
    traffic = routed.traffic
    return InstancesView(
        instances=[_instance(instance, routed) for instance in instances],
        traffic=traffic and TrafficView(**asdict(traffic)),
        problem=None,
    )


def _instance(instance: Instance, routed: RouterState) -> InstanceView:
    is_member = any(other.instance == instance.id for other in routed.members)
    return InstanceView(
        id=instance.id,
        release=instance.release,
        ordinal=instance.ordinal,
        host=instance.host,
        address=instance.address,
        state=instance.state.value,
        restarts=instance.restarts,
        detail=instance.detail,
        routed=is_member,
        draining=instance.id in routed.draining,
        in_flight=routed.busy.get(instance.id) if is_member else routed.draining.get(instance.id),
    )
