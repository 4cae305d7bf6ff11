"""Which instance belongs to which release, for Prometheus' HTTP service discovery."""

from __future__ import annotations

from flask import Response
from pydantic import BaseModel, Field, RootModel

from tidegate.core.model import InstanceState
from tidegate.core.phases import LIVE
from tidegate.ports import ServiceRow
from tidegate.web.api import answer, api, principal
from tidegate.web.routes import blueprint, problems

bp = blueprint("discovery", "Targets for Prometheus.")


class TargetsQuery(BaseModel):
    """Of which services."""

    environment: str = Field(default="", description="Only this one.")
    service: str = Field(default="", description="Only this one, as `environment/name` or a name.")


class TargetView(BaseModel):
    """One instance, as `http_sd_configs` wants it."""

    targets: list[str] = Field(description="`ip:port` of the instance.")
    labels: dict[str, str]


class TargetsView(RootModel[list[TargetView]]):
    """All instances that have an address."""


@bp.get("/discovery/prometheus", responses={"200": TargetsView, **problems(502)})
def prometheus_targets(query: TargetsQuery) -> Response:
    """Every instance with its labels. After an error Prometheus keeps the targets that it has."""
    found: list[TargetView] = []
    for row in api().store.services():
        if _wanted(row, query) and principal().may("read", row.service.key):
            found += _targets(row)
    return answer(TargetsView(found))


def _wanted(row: ServiceRow, query: TargetsQuery) -> bool:
    service = row.service
    return query.environment in ("", service.environment) and query.service in ("", service.name, service.key)


def _targets(row: ServiceRow) -> list[TargetView]:
    service, roles = row.service, _roles(row)
    platform = api().parts(service.environment).platform
    instances = api().discovered.instances(platform, service.key, api().now())
    return [
        TargetView(
            targets=[each.address],
            labels={
                "environment": service.environment,
                "service": service.name,
                "release": each.release,
                "ordinal": str(each.ordinal),
                "__meta_tidegate_instance": each.id,
                "__meta_tidegate_host": each.host,
                "__meta_tidegate_role": roles.get(each.release, "left"),
                "__meta_tidegate_state": each.state.value,
            },
        )
        for each in instances
        if each.address and each.state is not InstanceState.STOPPING
    ]


def _roles(row: ServiceRow) -> dict[str, str]:
    """What each release is now: `candidate` and `baseline` in a rollout, else `live`."""
    if row.rollout is not None:
        rollout, _ = api().store.load(row.rollout)
        if rollout.phase in LIVE:
            return {rollout.new: "candidate", **({rollout.old: "baseline"} if rollout.old else {})}
    return {row.live: "live"} if row.live else {}
