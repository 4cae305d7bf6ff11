"""Adoption: running containers of `docker compose` become the first release of a service, or are given back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tidegate.app import deployments, removal
from tidegate.app.context import AppContext, RolloutRequest
from tidegate.compose.extension import parse_listen
from tidegate.core import planner
from tidegate.core.compose import Adoption, ComposeContainer
from tidegate.core.model import Service
from tidegate.core.records import NewRollout, ServiceRow
from tidegate.core.routing import addresses_overlap
from tidegate.errors import InvalidSpec, Problem, Refused


def import_service(
    context: AppContext, row: ServiceRow | None, service: Service, listen: str, request: RolloutRequest
) -> NewRollout:
    """A rollout that puts the proxy in front of the running containers of the service's Compose project. It starts and
    stops nothing. `listen`: where the proxy listens while a container has the published port. Raises `Refused`,
    `InvalidSpec`."""
    if row is not None and row.live is not None:
        raise Refused(f"Cannot import {service.key}: {row.live} is live already. Remove the service first, or deploy")
    _require_address(listen)
    running = _running_containers(context, service)
    port = _find_port(service, running)
    backend, here, wanted = service.backend, "", ""
    if backend is not None:
        wanted, here = backend.listen, listen or backend.listen
        published = dict.fromkeys(address for one in running for at, address in one.published if at == port)
        taken = next((address for address in published if addresses_overlap(address, here)), None)
        if taken is not None:
            text = f"{taken} is published by the container of {service.name}: set another address, such as 127.0.0.1:18080"
            raise InvalidSpec([Problem("listen", f"{text}, where the proxy listens until a rollout frees the port")])
    image, number = running[0].image, len(running)
    release = deployments.new_release(context.store, replace(service, image=image, replicas=number), image)
    release = replace(release, digest=running[0].digest)
    adopted = Adoption(
        release=release.id,
        project=service.source.project,
        service=service.name,
        containers=tuple(one.id for one in running),
        port=port,
        health=service.container.health,
        listen=here,
        next_listen=wanted if wanted != here else "",
    )
    service = replace(service, image=image, replicas=number, adopted=adopted)
    plan = planner.steady_plan(release.id, number, has_proxy=backend is not None)
    message = f"import of {number} running container{'s' * (number > 1)} as {release.id}, {request.description}"
    new = deployments.new_rollout(service, None, release, plan, (), request, message, context.now(), fresh=True)
    place = None if backend is None else replace(backend, listen=here)
    return replace(new, rollout=replace(new.rollout, backend=place, next_listen=""))


def _require_address(listen: str) -> None:
    try:
        parse_listen(listen or "8080")
    except ValueError as error:
        raise InvalidSpec([Problem("listen", f"found {listen}; allowed: {error}")]) from None


def _running_containers(context: AppContext, service: Service) -> Sequence[ComposeContainer]:
    """The containers to import, all of one image. Raises `Refused`."""
    project = service.source.project
    platform = context.drivers(service.environment).platform
    containers = platform.compose_containers(project, service.name)
    running = [container for container in containers if container.state == "running"]
    if not running:
        text = f"no container of {service.name} runs in the Compose project {project or '(none named)'}"
        fix = f"Run docker compose -p {project or 'PROJECT'} up -d {service.name}, correct -p, or deploy the service"
        raise Refused(f"Cannot import {service.key}: {text}. {fix}")
    if len({container.digest for container in running}) > 1:
        raise Refused(f"Cannot import {service.key}: its containers run different images. Run docker compose up -d first")
    return running


def _find_port(service: Service, containers: Sequence[ComposeContainer]) -> int:
    """Where the containers take requests; 0 for a worker. Raises `InvalidSpec`."""
    ports = {port for container in containers for port, _ in container.published}
    if service.container.port or service.backend is None:
        return service.container.port
    if len(ports) == 1:
        return ports.pop()
    text = "is required for an import: the port of the containers that takes the traffic"
    raise InvalidSpec([Problem(f"services.{service.name}.x-tidegate.port", text)])


def release_service(context: AppContext, row: ServiceRow, request: RolloutRequest) -> NewRollout:
    """A rollout that takes the service out of Tidegate and leaves its imported containers running. Instances that Tidegate
    started are drained and stopped. Raises `Refused`."""
    adopted = row.service.adopted
    if adopted is None or row.live is None:
        raise Refused(f"Cannot release {row.service.key}: it was not imported. Use tidegate remove {row.service.key}")
    removal.require_removable(context, row)
    service = replace(row.service, adopted=None)
    new = removal.remove(context, replace(row, service=service), request)
    assert new is not None, "a service with a live release has a release"
    return new
