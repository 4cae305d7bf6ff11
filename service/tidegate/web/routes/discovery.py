"""Prometheus HTTP service discovery: every instance with its release as labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask import Response
from pydantic import BaseModel, ConfigDict, Field, RootModel

from tidegate.core.image_reference import ImageReference
from tidegate.core.model import Instance, InstanceState
from tidegate.core.phases import LIVE
from tidegate.core.records import ServiceRow
from tidegate.errors import UnknownService
from tidegate.web.api import api, principal, respond
from tidegate.web.openapi import blueprint, problems

bp = blueprint("discovery", "Service discovery for Prometheus.")


class TargetsQuery(BaseModel):
    """Filters of the targets."""

    model_config = ConfigDict(extra="forbid")

    environment: str = Field(default="", description="Only targets of this environment.")
    service: str = Field(default="", description="Only targets of this service, as `environment/name` or `name`.")


class TargetView(BaseModel):
    """One instance in the format of `http_sd_configs`."""

    targets: list[str] = Field(description="`ip:port` of the instance.")
    labels: dict[str, str] = Field(
        description="`environment`, `service`, `release` and `ordinal`. The same and `version`, `instance`, `host`, `role` "
        "and `state` with the prefix `__meta_tidegate_`, which Prometheus drops unless they are relabelled."
    )


class TargetsView(RootModel[list[TargetView]]):
    """All instances with an address."""


@bp.get("/discovery/prometheus", responses={"200": TargetsView, **problems(502)})
def prometheus_targets(query: TargetsQuery) -> Response:
    """All instances with their labels. On an error, Prometheus keeps its current targets."""
    rows = [row for row in api().store.services() if _is_selected(row, query)]
    environments = api().wiring.environments
    platforms = {row.service.key: environments[row.service.environment].platform for row in rows}
    instances = api().discovery_cache.instances(platforms, api().now())
    return respond(TargetsView([target for row in rows for target in _targets(row, instances[row.service.key])]))


def _is_selected(row: ServiceRow, query: TargetsQuery) -> bool:
    service = row.service
    if service.environment not in api().wiring.environments:  # removed from the settings: there is no platform to query
        return False
    matches = query.environment in ("", service.environment) and query.service in ("", service.name, service.key)
    return matches and principal().may("read", service.key)


def _targets(row: ServiceRow, instances: Sequence[Instance]) -> list[TargetView]:
    present = [instance for instance in instances if instance.address and instance.state is not InstanceState.STOPPING]
    versions, roles = _versions(row.service.key, {instance.release for instance in present}), _roles(row)
    targets = []
    for instance in present:
        labels = {
            "environment": row.service.environment,
            "service": row.service.name,
            "release": instance.release,
            "ordinal": str(instance.ordinal),
        }
        details = {
            "version": versions[instance.release],
            "instance": instance.id,
            "host": instance.host,
            "role": roles.get(instance.release, "left"),
            "state": instance.state.value,
        }
        meta = {f"__meta_tidegate_{name}": value for name, value in {**labels, **details}.items()}
        targets.append(TargetView(targets=[instance.address], labels={**labels, **meta}))
    return targets


def _versions(service: str, releases: set[str]) -> Mapping[str, str]:
    """The image tag of each release; empty for a release that is not in the database."""

    def version(release: str) -> str:
        try:
            return ImageReference.parse(api().store.get_release(service, release).release.image).label
        except UnknownService:
            return ""

    return {release: version(release) for release in releases}


def _roles(row: ServiceRow) -> dict[str, str]:
    """The role of each release: `candidate` and `baseline` during a rollout, else `live`."""
    if row.rollout is not None:
        rollout, _ = api().store.load(row.rollout)
        if rollout.phase in LIVE:
            return {rollout.new: "candidate", **({rollout.old: "baseline"} if rollout.old else {})}
    return {row.live: "live"} if row.live else {}
