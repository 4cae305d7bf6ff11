"""Which instance belongs to which release, for Prometheus' HTTP service discovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask import Response
from pydantic import BaseModel, ConfigDict, Field, RootModel

from tidegate.app import deployments
from tidegate.core.model import Instance, InstanceState
from tidegate.core.phases import LIVE
from tidegate.core.records import ServiceRow
from tidegate.errors import UnknownService
from tidegate.web.api import api, principal, respond
from tidegate.web.openapi import blueprint, problems

bp = blueprint("discovery", "Targets for Prometheus.")


class TargetsQuery(BaseModel):
    """Of which services."""

    model_config = ConfigDict(extra="forbid")

    environment: str = Field(default="", description="Only this one.")
    service: str = Field(default="", description="Only this one, as `environment/name` or a name.")


class TargetView(BaseModel):
    """One instance, as `http_sd_configs` wants it."""

    targets: list[str] = Field(description="`ip:port` of the instance.")
    labels: dict[str, str] = Field(
        description="`environment`, `service`, `release` and `ordinal`; and these, `version`, `instance`, `host`, `role` "
        "and `state` as `__meta_tidegate_…`, which are gone unless they are relabelled."
    )


class TargetsView(RootModel[list[TargetView]]):
    """All instances that have an address."""


@bp.get("/discovery/prometheus", responses={"200": TargetsView, **problems(502)})
def prometheus_targets(query: TargetsQuery) -> Response:
    """Every instance with its labels. After an error Prometheus keeps the targets that it has."""
    rows = [row for row in api().store.services() if _wanted(row, query)]
    environments = api().wiring.environments
    platforms = {row.service.key: environments[row.service.environment].platform for row in rows}
    instances = api().discovery_cache.instances(platforms, api().now())
    return respond(TargetsView([target for row in rows for target in _targets(row, instances[row.service.key])]))


def _wanted(row: ServiceRow, query: TargetsQuery) -> bool:
    service = row.service
    if service.environment not in api().wiring.environments:  # it was taken out of the settings, and nobody can be asked
        return False
    matches = query.environment in ("", service.environment) and query.service in ("", service.name, service.key)
    return matches and principal().may("read", service.key)


def _targets(row: ServiceRow, instances: Sequence[Instance]) -> list[TargetView]:
    present = [instance for instance in instances if instance.address and instance.state is not InstanceState.STOPPING]
    versions, roles = _versions(row.service.key, {instance.release for instance in present}), _roles(row)
    targets = []
    for instance in present:
        own = {
            "environment": row.service.environment,
            "service": row.service.name,
            "release": instance.release,
            "ordinal": str(instance.ordinal),
        }
        more = {
            "version": versions[instance.release],
            "instance": instance.id,
            "host": instance.host,
            "role": roles.get(instance.release, "left"),
            "state": instance.state.value,
        }
        meta = {f"__meta_tidegate_{name}": value for name, value in {**own, **more}.items()}
        targets.append(TargetView(targets=[instance.address], labels={**own, **meta}))
    return targets


def _versions(service: str, releases: set[str]) -> Mapping[str, str]:
    """The tag of each release's image; empty for one that the database does not know."""

    def version(release: str) -> str:
        try:
            return deployments.tag(api().store.get_release(service, release).release.image)
        except UnknownService:
            return ""

    return {release: version(release) for release in releases}


def _roles(row: ServiceRow) -> dict[str, str]:
    """What each release is now: `candidate` and `baseline` in a rollout, else `live`."""
    if row.rollout is not None:
        rollout, _ = api().store.load(row.rollout)
        if rollout.phase in LIVE:
            return {rollout.new: "candidate", **({rollout.old: "baseline"} if rollout.old else {})}
    return {row.live: "live"} if row.live else {}
