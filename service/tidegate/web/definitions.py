"""The services that a request defines, and what is known about their checks before a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tidegate.analysis.bake_length import bake_warnings, needs_counters, observe_traffic, traffic_query
from tidegate.app import deployments, groups
from tidegate.compose.document import Location
from tidegate.compose.interpolation import Variables
from tidegate.compose.loader import ComposeInput
from tidegate.core.model import CheckKind, Service
from tidegate.core.records import ServiceRow
from tidegate.errors import MetricsError, UnknownService
from tidegate.ports import CheckStatus
from tidegate.web.api import Api, api
from tidegate.web.machine import machine_fingerprint
from tidegate.web.parameters import ServicePath
from tidegate.web.requests import DefinitionBody, ServiceBody, file_contents
from tidegate.wiring import check_histogram


def find_service(context: Api, key: str) -> ServiceRow | None:
    """The service, or None."""
    try:
        return context.store.get_service(key)
    except UnknownService:
        return None


def requested_services(path: ServicePath, row: ServiceRow | None, body: DefinitionBody) -> Sequence[Service]:
    """The service to deploy, as sent or else as stored, with `image` replacing its image; then the others of its group.
    Raises `InvalidSpec`, `UnknownService`."""
    given = None if body.compose is None else compose_input(path.environment, body.compose, body, body.image or "")
    if given is not None:
        service = deployments.define_service(api(), path.environment, path.service, given)
    else:
        api().drivers(path.environment)
        if row is None:
            raise UnknownService(f"Unknown service {path.key}. Send its Compose file as `compose`.")
        deployments.require_no_values(body.variables, body.files, body.overrides)
        service = deployments.validate_service(api(), row.service)
        service = service if body.image is None else replace(service, image=body.image)
    return [service, *groups.other_services(api(), service, given)]


def compose_input(environment: str, text: str, body: DefinitionBody | ServiceBody, image: str = "") -> ComposeInput:
    """What a request defines services by. Its folder counts only if it is on the machine of all Docker hosts."""
    source, hosts = body.source, api().drivers(environment).platform.hosts()
    is_local = bool(source.machine) and source.machine == machine_fingerprint() and all(host.is_local for host in hosts)
    location = Location(source.project, source.folder, source.home, is_local)
    return ComposeInput(text, Variables(body.variables), file_contents(body.files), tuple(body.overrides), location, image)


def find_missing_data(service: Service) -> list[str]:
    """A warning if a check of the service would be inconclusive for lack of data."""
    if not any(check.kind is CheckKind.LATENCY and not check.query for check in service.checks):
        return []
    found = check_histogram(api().wiring, service.environment)
    if found.status is CheckStatus.OK:
        return []
    return [f"The check latency has no data: {found.result}. To fix it, {found.fix}."]


def find_short_bake(service: Service) -> list[str]:
    """Warnings if the bake is too short for how often the proxy is scraped and for the traffic of the last minutes, or if
    that is unknown."""
    metrics = api().drivers(service.environment).metrics
    if metrics is None or service.backend is None or not needs_counters(service.checks):
        return []
    try:
        traffic = observe_traffic(metrics.fetch(*traffic_query(service.backend.name, api().now())))
    except MetricsError as error:
        return [f"Whether the bake is long enough is unknown: {error.message}"]
    if traffic is None:
        return ["Whether the bake is long enough is unknown: the metrics have no requests of the last minutes."]
    return [f"{text}." for text in bake_warnings(service, traffic)]
