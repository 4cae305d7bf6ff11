"""Runs instances as containers on one or more Docker hosts and finds them by their labels.

Keeps no state that matters after a crash: every read lists the containers again. In memory it holds only the instances
being stopped, the latest results of readiness checks, and what the description of each running container says.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import structlog

from tidegate.core.compose import Adoption, ComposeContainer
from tidegate.core.hooks import Job, JobState
from tidegate.core.image_reference import PinnedImage
from tidegate.core.logs import InstanceLog
from tidegate.core.model import DEFAULT_MAX_RESTARTS, Instance, InstanceState, Release
from tidegate.drivers.error_translation import guard_response
from tidegate.drivers.platforms.docker import create, jobs, labels, logs
from tidegate.drivers.platforms.docker.check import check_host, check_registry
from tidegate.drivers.platforms.docker.compose import find_compose_containers, is_adopted, list_adopted, make_resources
from tidegate.drivers.platforms.docker.containers import ListedContainer, read_headers_variable, require_alone, to_instance
from tidegate.drivers.platforms.docker.errors import PortInUse, raise_combined
from tidegate.drivers.platforms.docker.hosts import DockerHost
from tidegate.drivers.platforms.docker.images import find_digest, pin_image, remove_image, with_port
from tidegate.drivers.platforms.docker.options import DockerOptions
from tidegate.drivers.platforms.docker.placement import choose_hosts
from tidegate.drivers.platforms.readiness import ReadinessProber
from tidegate.errors import PlatformError
from tidegate.fair_threads import FairThreads
from tidegate.ports import Diagnosis, PlatformHost

log = structlog.get_logger("tidegate.docker")

MAX_THREADS = 16  # for calls that `timeout_seconds` limits; those that may take longer have threads of their own
MAX_STARTS = 16  # instances of one release that are started at a time
MAX_STOPS, MAX_STOPS_OF_SERVICE = 256, 64  # each thread sleeps for the container's grace period
ORPHAN_SECONDS = 1.0  # a container that stays "created" for longer was left behind by a crash
INCOMPLETE_ORPHAN_SECONDS = 15.0  # the same for containers that need files or networks: another process may be adding them

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class _Known:
    """What Docker's description of a container says. It holds while `start`, its network endpoint, is the same."""

    start: str
    restarts: int
    headers: tuple[tuple[str, str], ...]  # of its readiness check
    out_of_memory: bool  # its last run that ended was killed for memory
    service: str  # its key


UNKNOWN = _Known("", 0, (), False, "")


class DockerPlatform:
    """Implements `ports.Platform`. Safe to use from several threads."""

    Options = DockerOptions

    def __init__(self, options: DockerOptions, environment: str) -> None:
        self._environment = environment
        self._registries = options.registries
        self._hosts = {host.name: DockerHost(host, options) for host in options.hosts}
        self._pool = ThreadPoolExecutor(MAX_THREADS, "docker")
        self._background = FairThreads("docker-background", MAX_STOPS, MAX_STOPS_OF_SERVICE)
        self._prober = ReadinessProber()
        self._lock = threading.Lock()
        self._stopping: dict[str, str] = {}  # container id: host
        self._launching: set[str] = set()  # ids of containers created here and not started yet
        self._orphans: dict[str, float] = {}  # container id: monotonic time when it was first found created, not started
        self._known: dict[str, _Known] = {}  # by container id
        self._adopted: dict[str, Adoption] = {}  # by service key

    # -- reading --------------------------------------------------------------------------------------------------------

    def adopt(self, service: str, adopted: Adoption | None) -> None:
        """See `ports.Platform`."""
        if adopted is None:
            self._adopted.pop(service, None)
        else:
            self._adopted[service] = adopted

    @guard_response(PlatformError, "Docker")
    def instances(self, service: str, max_restarts: int = DEFAULT_MAX_RESTARTS) -> tuple[Instance, ...]:
        """See `ports.Platform`. Containers that a crash left in state "created" are started in the background."""
        with self._lock:
            stopping = set(self._stopping)
        containers = self._list_containers(service)
        with self._lock:
            stopping |= set(self._stopping)
            unsure = [
                container
                for container in containers
                if container.id not in stopping and not self._is_fully_known(container)
            ]
        details = dict(zip((container.id for container in unsure), self._map(self._inspect, unsure), strict=True))
        present = [
            container for container in containers if details.get(container.id, {}) is not None
        ]  # None: removed since
        known = self._remember(present, details)
        probes = {
            container.id: probe
            for container in present
            if container.id not in stopping and (probe := container.probe(known[container.id].headers)) is not None
        }
        probed = self._prober.ask(service, list(probes.values()))
        self._start_orphans(
            [container for container in present if container.state == "created" and container.id not in stopping]
        )
        readiness = {id_: probed[probe.key] for id_, probe in probes.items()}
        instances = [
            to_instance(
                container,
                known[container.id].restarts,
                details.get(container.id),
                readiness.get(container.id),
                max_restarts,
                out_of_memory=known[container.id].out_of_memory,
            )
            for container in present
        ]
        return tuple(
            replace(instance, state=InstanceState.STOPPING, detail="") if instance.id in stopping else instance
            for instance in instances
        )

    def _list_containers(self, service: str) -> list[ListedContainer]:
        """All containers of the service, ordered by release and ordinal. Raises if any host does not answer."""
        environment, _, name = service.partition("/")
        wanted = {labels.ENVIRONMENT: environment, labels.SERVICE: name}
        hosts = list(self._hosts.values())
        answers = zip(hosts, self._map(lambda host: host.listed(wanted), hosts), strict=True)
        containers = [ListedContainer(host.options, entry) for host, listed in answers for entry in listed]
        if (adopted := self._adopted.get(service)) is not None:
            containers += [one for found in self._map(partial(list_adopted, adopted=adopted), hosts) for one in found]
        return sorted(
            (entry for entry in containers if entry.is_complete), key=lambda entry: (entry.release, entry.ordinal, entry.id)
        )

    def _map(self, function: Callable[[In], Out], values: Sequence[In]) -> Iterable[Out]:
        """Call `function` in parallel; a single value is handled in the calling thread, which is faster."""
        return map(function, values) if len(values) < 2 else self._pool.map(function, values)

    def _inspect(self, container: ListedContainer) -> dict[str, Any] | None:
        return self._hosts[container.host.name].inspected(container.id)

    def _is_fully_known(self, container: ListedContainer) -> bool:
        """Whether the listing is enough: the container is healthy, and its restarts were counted since its last start."""
        if container.state == "removing":
            return True
        known = container.start and self._known.get(container.id, UNKNOWN).start == container.start
        return container.state == "running" and bool(known) and (container.has_health_path or container.is_healthy)

    def _remember(
        self, containers: Sequence[ListedContainer], details: Mapping[str, dict[str, Any] | None]
    ) -> dict[str, _Known]:
        """What is known of each container, by id."""
        with self._lock:
            for container in containers:
                answer = details.get(container.id)
                if answer is not None:
                    restarts = int(answer.get("RestartCount") or 0)
                    out_of_memory = bool((answer.get("State") or {}).get("OOMKilled"))
                    headers = read_headers_variable(answer)
                    service = container.labels.get(labels.SERVICE, "")
                    self._known[container.id] = _Known(container.start, restarts, headers, out_of_memory, service)
            return {container.id: self._known.get(container.id, UNKNOWN) for container in containers}

    # -- starting -------------------------------------------------------------------------------------------------------

    @guard_response(PlatformError, "Docker")
    def pin(self, release: Release) -> PinnedImage:
        """See `ports.Platform`."""
        with ThreadPoolExecutor(len(self._hosts), "docker-pull") as pool:
            return pin_image(release, list(self._hosts.values()), pool)

    @guard_response(PlatformError, "Docker")
    def find_digest(self, release: Release) -> str:
        """See `ports.Platform`."""
        with ThreadPoolExecutor(len(self._hosts), "docker-digest") as pool:
            return find_digest(release, list(self._hosts.values()), pool)

    @guard_response(PlatformError, "Docker")
    def start(self, release: Release, ordinals: Collection[int]) -> None:
        """See `ports.Platform`. New instances go to the hosts with the fewest instances of the service."""
        containers = self._list_containers(release.service)
        if release.container.alone:
            require_alone(release, ordinals, containers)
        with self._lock:
            remaining = [
                container
                for container in containers
                if container.id not in self._stopping and container.state != "removing"
            ]
        same = [container for container in remaining if container.release == release.id]
        orphans = [container for container in same if container.state == "created" and container.ordinal in set(ordinals)]
        missing = sorted(set(ordinals) - {container.ordinal for container in same})
        hosts = choose_hosts(self._hosts, remaining, release, len(missing), self._map)
        placed = zip(missing, hosts, strict=True)
        with ThreadPoolExecutor(MAX_STARTS, "docker-start") as pool:
            futures = [
                pool.submit(self._launch, self._hosts[container.host.name], container.id, release.id, release)
                for container in orphans
            ]
            futures += [pool.submit(self._create_and_start, host, release, ordinal) for ordinal, host in placed]
        raise_combined([error for future in futures if (error := future.exception()) is not None])

    def _create_and_start(self, host: DockerHost, release: Release, ordinal: int) -> None:
        self._launch(host, self._create(host, release, ordinal), release.id, release)

    def _create(self, host: DockerHost, release: Release, ordinal: int) -> str:
        complete = with_port(release, host)
        make_resources(host, release.container)
        return host.create(
            release.id,
            lambda api, *options: create.container_config(api, complete, ordinal, *options),
            release.container.pull_policy,
        )

    def _launch(self, host: DockerHost, container: str, what: str, release: Release | None = None) -> None:
        """Start a created container; remove it and raise `PlatformError` if it cannot be started."""
        with self._lock:
            self._launching.add(container)
        try:
            host.start(container, what, release)
        except PortInUse as error:
            with self._lock:  # the port may belong to a container that is being stopped on this host
                leaving = host.name in self._stopping.values()
            if leaving:
                raise PlatformError(error.message, retryable=True) from error
            raise
        finally:
            with self._lock:
                self._launching.discard(container)

    def _start_orphans(self, created: Sequence[ListedContainer]) -> None:
        """Start containers that a crash left in state "created"; remove those that lack files or networks.

        Starting a running container is a no-op for Docker. A container that cannot be started is removed: its ordinal is
        then missing, the engine starts it again, and that call reports the error.
        """
        now = time.monotonic()
        for container in created:
            with self._lock:
                since = now - self._orphans.setdefault(container.id, now)
                due = (
                    since >= (INCOMPLETE_ORPHAN_SECONDS if container.is_incomplete else ORPHAN_SECONDS)
                    and container.id not in self._launching
                )
                if due:
                    del self._orphans[container.id]
                    self._launching.add(container.id)
            if due:
                service = container.labels.get(labels.SERVICE, "")
                self._background.submit(service, partial(self._start_orphan, container))

    def _start_orphan(self, orphan: ListedContainer) -> None:
        bound_log = log.bind(instance=orphan.id, name=orphan.name, host=orphan.host.name)
        host = self._hosts[orphan.host.name]
        try:
            if orphan.is_incomplete:
                self._remove_orphan(host, orphan.id)
                bound_log.info('Removed a container that a crash had left in state "created" without its files or networks')
            else:
                self._launch(host, orphan.id, orphan.name)
                bound_log.info('Started a container that a crash had left in state "created"')
        except PlatformError as error:
            bound_log.warning('Cannot start a container that a crash left in state "created"', error=error.message)

    def _remove_orphan(self, host: DockerHost, container: str) -> None:
        try:
            host.remove(container)
        finally:
            with self._lock:
                self._launching.discard(container)

    # -- stopping -------------------------------------------------------------------------------------------------------

    def stop(self, instances: Collection[Instance], grace_seconds: float) -> None:
        """See `ports.Platform`. Returns immediately."""
        for instance in instances:
            with self._lock:
                if instance.id in self._stopping:
                    continue
                self._stopping[instance.id] = instance.host
                service = self._known.get(instance.id, UNKNOWN).service
            self._background.submit(service, partial(self._stop_one, instance, math.ceil(grace_seconds)))

    def _stop_one(self, instance: Instance, grace_seconds: int) -> None:
        """Stop and remove one container. After a failure the instance is listed again, and the engine stops it again."""
        bound_log = log.bind(instance=instance.id, name=f"{instance.release}/{instance.ordinal}", host=instance.host)
        try:
            host = self._hosts.get(instance.host)
            details = host.inspected(instance.id) if host else None
            if host is None or details is None:
                bound_log.info("Nothing to stop: the container no longer exists")
            elif is_adopted(details, self._adopted.values()):  # its anonymous volumes may have the only copy of its data
                host.stop(instance.id, grace_seconds)
                host.remove(instance.id, volumes=False)
            elif not self._is_ours(instance, details):
                bound_log.error("Not stopping: the container now behind this ID is not ours")
            else:
                host.stop(instance.id, grace_seconds)
                host.remove(instance.id)
        except PlatformError as error:
            bound_log.warning("Cannot stop the container; the next reconciliation retries", error=error.message)
        finally:
            with self._lock:
                del self._stopping[instance.id]
                self._known.pop(instance.id, None)
                self._orphans.pop(instance.id, None)

    def _is_ours(self, instance: Instance, details: Mapping[str, Any]) -> bool:
        """Whether the container carries the labels of exactly this instance; no other container is ever stopped."""
        actual = (details.get("Config") or {}).get("Labels") or {}
        wanted = {
            labels.ENVIRONMENT: self._environment,
            labels.RELEASE: instance.release,
            labels.ORDINAL: str(instance.ordinal),
        }
        return wanted.items() <= actual.items()

    # -- logs, jobs, checks ---------------------------------------------------------------------------------------------

    @guard_response(PlatformError, "Docker")
    def tail_logs(self, instance: Instance, lines: int) -> str:
        """See `ports.Platform`. Raises `PlatformError` when the container no longer exists."""
        host = self._hosts.get(instance.host)
        if host is None:
            raise PlatformError(
                f"Cannot read the log of {instance.id}: its host {instance.host!r} is not in platform.hosts",
                retryable=False,
            )
        return host.tail(instance.id, lines)

    @guard_response(PlatformError, "Docker")
    def read_logs(self, instances: Collection[Instance], after_ns: Mapping[str, int], lines: int) -> Sequence[InstanceLog]:
        """See `ports.Platform`."""
        return tuple(
            self._map(lambda each: logs.read_log(self._hosts, each, after_ns.get(each.id, 0), lines), list(instances))
        )

    @guard_response(PlatformError, "Docker")
    def remove_images(self, releases: Collection[Release]) -> Sequence[str]:
        """See `ports.Platform`."""
        hosts = list(self._hosts.values())
        return tuple(
            release.digest
            for release in releases
            if any(list(self._map(lambda host, one=release: remove_image(host, one), hosts)))  # type: ignore[misc]
        )

    @guard_response(PlatformError, "Docker")
    def run_job(self, job: Job) -> JobState:
        """See `ports.Platform`."""
        with ThreadPoolExecutor(1, "docker-pull") as pool:
            return jobs.run_job(job, tuple(self._hosts.values()), pool)

    @guard_response(PlatformError, "Docker")
    def stop_job(self, job: Job) -> None:
        """See `ports.Platform`."""
        jobs.end_job(job, tuple(self._hosts.values()))

    @guard_response(PlatformError, "Docker")
    def remove_jobs(self, service: str, rollout: str) -> None:
        """See `ports.Platform`."""
        jobs.clear_jobs(service, rollout, tuple(self._hosts.values()))

    def hosts(self) -> Sequence[PlatformHost]:
        """See `ports.Platform`."""
        return [PlatformHost(host.name, host.options.is_local) for host in self._hosts.values()]

    @guard_response(PlatformError, "Docker")
    def compose_containers(self, project: str, service: str) -> Sequence[ComposeContainer]:
        """See `ports.Platform`."""
        return [one for host in self._hosts.values() for one in find_compose_containers(host, project, service)]

    def check(self) -> Sequence[Diagnosis]:
        """See `ports.Platform`."""
        hosts = tuple(line for lines in self._pool.map(check_host, self._hosts.values()) for line in lines)
        return (*hosts, *map(check_registry, self._registries))

    def close(self) -> None:
        """See `ports.Platform`."""
        self._background.join()
        self._pool.shutdown(wait=True)
        self._prober.close()
        for host in self._hosts.values():
            host.close()
