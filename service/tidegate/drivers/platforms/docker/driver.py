"""Instances as containers on one or more Docker engines, known by their labels.

Nothing is remembered here that matters after a crash: what exists is asked from the engines each time. What is kept are the
instances that are being stopped just now, who was ready a moment ago, and how often a container was restarted.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from tidegate.core.hooks import Job, JobState
from tidegate.core.model import Instance, InstanceState, Release
from tidegate.drivers.error_translation import guard_response
from tidegate.drivers.platforms.docker import containers, create, jobs, labels
from tidegate.drivers.platforms.docker.check import check_host
from tidegate.drivers.platforms.docker.containers import ListedContainer
from tidegate.drivers.platforms.docker.errors import PortInUse
from tidegate.drivers.platforms.docker.hosts import DockerHost
from tidegate.drivers.platforms.docker.images import pin_image
from tidegate.drivers.platforms.docker.options import DockerOptions
from tidegate.drivers.platforms.readiness import ReadinessProber
from tidegate.errors import PlatformError
from tidegate.ports import Diagnosis

log = structlog.get_logger("tidegate.docker")

MAX_THREADS = 16
MAX_PARALLEL_STOPS = 64  # at once; each waits for its container's grace and costs nothing meanwhile
ORPHAN_SECONDS = 1.0  # a container that is created and not started for longer was left so by a crash
INCOMPLETE_ORPHAN_SECONDS = 15.0  # as above, where files or networks come in between: another process may be at it

In = TypeVar("In")
Out = TypeVar("Out")


class DockerPlatform:
    """Implements `ports.Platform`. Safe to use from several threads."""

    Options = DockerOptions

    def __init__(self, options: DockerOptions, environment: str) -> None:
        self._environment = environment
        self._hosts = {host.name: DockerHost(host, options) for host in options.hosts}
        self._pool = ThreadPoolExecutor(MAX_THREADS, "docker")
        self._background = ThreadPoolExecutor(
            MAX_PARALLEL_STOPS, "docker-background"
        )  # its lines of the log are about what asked
        self._prober = ReadinessProber()
        self._lock = threading.Lock()
        self._stopping: dict[str, str] = {}  # id to host
        self._launching: set[str] = set()  # created here, being started
        self._orphans: dict[str, float] = {}  # seen created and not started, since when
        self._restarts: dict[str, tuple[str, int]] = {}  # id to the start it was counted in, and the count

    # -- looking --------------------------------------------------------------------------------------------------------

    @guard_response(PlatformError, "Docker")
    def instances(self, service: str) -> tuple[Instance, ...]:
        """As the port says. One that a crash left created but not started is started now, in the background."""
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
        ]  # None: gone meanwhile
        self._count_restarts(present, details)
        probes = {
            container.id: probe
            for container in present
            if container.id not in stopping and (probe := container.probe()) is not None
        }
        probed = self._prober.ask(service, list(probes.values()))
        self._start_orphans(
            [container for container in present if container.state == "created" and container.id not in stopping]
        )
        readiness = {id_: probed[probe.key] for id_, probe in probes.items()}
        return tuple(
            self._instance(container, details.get(container.id), readiness.get(container.id), stopping)
            for container in present
        )

    def _list_containers(self, service: str) -> list[ListedContainer]:
        """All containers of the service, by release and ordinal. One host without an answer makes the whole unknown."""
        environment, _, name = service.partition("/")
        wanted = {labels.ENVIRONMENT: environment, labels.SERVICE: name}
        hosts = list(self._hosts.values())
        answers = zip(hosts, self._map(lambda host: host.listed(wanted), hosts), strict=True)
        containers = [ListedContainer(host.options, entry) for host, listed in answers for entry in listed]
        return sorted(
            (entry for entry in containers if entry.is_complete), key=lambda entry: (entry.release, entry.ordinal, entry.id)
        )

    def _map(self, function: Callable[[In], Out], values: Sequence[In]) -> Iterable[Out]:
        """Side by side; alone it is quicker without another thread."""
        return map(function, values) if len(values) < 2 else self._pool.map(function, values)

    def _inspect(self, container: ListedContainer) -> dict[str, Any] | None:
        return self._hosts[container.host.name].inspected(container.id)

    def _is_fully_known(self, container: ListedContainer) -> bool:
        """Whether the listing says all: it runs, its restarts were counted in this very start, and nothing ails it."""
        if container.state == "removing":
            return True
        counted = container.start and self._restarts.get(container.id, ("", 0))[0] == container.start
        return container.state == "running" and bool(counted) and (container.is_probed or container.health == "healthy")

    def _count_restarts(self, containers: Sequence[ListedContainer], details: Mapping[str, dict[str, Any] | None]) -> None:
        """The number holds for as long as the container's network endpoint is the same: each start has its own."""
        with self._lock:
            for container in containers:
                answer = details.get(container.id)
                if answer is not None:
                    self._restarts[container.id] = (container.start, int(answer.get("RestartCount") or 0))

    def _instance(
        self, container: ListedContainer, details: Mapping[str, Any] | None, probed: str | None, stopping: Collection[str]
    ) -> Instance:
        with self._lock:
            restarts = self._restarts.get(container.id, ("", 0))[1]
        instance = containers.to_instance(container, restarts, details, probed)
        return replace(instance, state=InstanceState.STOPPING, detail="") if container.id in stopping else instance

    # -- starting -------------------------------------------------------------------------------------------------------

    @guard_response(PlatformError, "Docker")
    def pin(self, release: Release) -> str:
        """As the port says."""
        return pin_image(release, list(self._hosts.values()), self._pool)

    @guard_response(PlatformError, "Docker")
    def start(self, release: Release, ordinals: Collection[int]) -> None:
        """As the port says: spread over the hosts, those with the fewest instances of the service first."""
        containers = self._list_containers(release.service)
        with self._lock:
            remaining = [
                container
                for container in containers
                if container.id not in self._stopping and container.state != "removing"
            ]
        same = [container for container in remaining if container.release == release.id]
        orphans = [container for container in same if container.state == "created" and container.ordinal in set(ordinals)]
        missing = sorted(set(ordinals) - {container.ordinal for container in same})
        placed = zip(missing, self._choose_hosts(remaining, release, len(missing)), strict=True)
        futures = [
            self._pool.submit(self._launch, self._hosts[container.host.name], container.id, release.id, release)
            for container in orphans
        ]
        futures += [self._pool.submit(self._create_and_start, host, release, ordinal) for ordinal, host in placed]
        _raise_combined([error for future in futures if (error := future.exception()) is not None])

    def _choose_hosts(self, remaining: Sequence[ListedContainer], release: Release, count: int) -> list[DockerHost]:
        """A host for each new one: fewest of the service, then fewest of the release, then the order of the settings."""
        load = {name: [0, 0] for name in self._hosts}
        for container in remaining:
            load[container.host.name][0] += 1
            load[container.host.name][1] += container.release == release.id
        chosen = []
        for _ in range(count):
            name = min(load, key=lambda one: load[one])
            load[name] = [load[name][0] + 1, load[name][1] + 1]
            chosen.append(self._hosts[name])
        return chosen

    def _create_and_start(self, host: DockerHost, release: Release, ordinal: int) -> None:
        self._launch(host, self._create(host, release, ordinal), release.id, release)

    def _create(self, host: DockerHost, release: Release, ordinal: int) -> str:
        return host.create(release.id, lambda api, *options: create.container_config(api, release, ordinal, *options))

    def _launch(self, host: DockerHost, container: str, what: str, release: Release | None = None) -> None:
        """Start a created one. Raises `PlatformError`, and then it is removed again."""
        with self._lock:
            self._launching.add(container)
        try:
            host.start(container, what, release)
        except PortInUse as error:
            with self._lock:  # one of ours that is being stopped there may be what holds it
                leaving = host.name in self._stopping.values()
            if leaving:
                raise PlatformError(error.message, retryable=True) from error
            raise
        finally:
            with self._lock:
                self._launching.discard(container)

    def _start_orphans(self, created: Sequence[ListedContainer]) -> None:
        """Start what a crash left between creating and starting, and remove what wants its files or networks before.

        The engine takes a second start as none. What cannot be started is removed, so that its ordinal is missing and is
        asked for again, and the error is told then.
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
                self._background.submit(copy_context().run, self._start_orphan, container)

    def _start_orphan(self, orphan: ListedContainer) -> None:
        bound_log = log.bind(instance=orphan.id, name=orphan.name, host=orphan.host.name)
        host = self._hosts[orphan.host.name]
        try:
            if orphan.is_incomplete:
                self._remove_orphan(host, orphan.id)
                bound_log.info("removed what was left created without its files or networks")
            else:
                self._launch(host, orphan.id, orphan.name)
                bound_log.info("started what was left created")
        except PlatformError as error:
            bound_log.warning("what was left created could not be started", error=error.message)

    def _remove_orphan(self, host: DockerHost, container: str) -> None:
        try:
            host.remove(container)
        finally:
            with self._lock:
                self._launching.discard(container)

    # -- stopping -------------------------------------------------------------------------------------------------------

    def stop(self, instances: Collection[Instance], grace_seconds: float) -> None:
        """As the port says: comes back at once."""
        for instance in instances:
            with self._lock:
                if instance.id in self._stopping:
                    continue
                self._stopping[instance.id] = instance.host
            self._background.submit(copy_context().run, self._stop_one, instance, math.ceil(grace_seconds))

    def _stop_one(self, instance: Instance, grace_seconds: int) -> None:
        """When it fails the instance shows up again, and so is asked to stop again."""
        bound_log = log.bind(instance=instance.id, name=f"{instance.release}/{instance.ordinal}", host=instance.host)
        try:
            host = self._hosts.get(instance.host)
            details = host.inspected(instance.id) if host else None
            if host is None or details is None:
                bound_log.info("nothing to stop: it is gone")
            elif not self._is_ours(instance, details):
                bound_log.error("not stopped: the container with this id is another one")
            else:
                host.stop(instance.id, grace_seconds)
                host.remove(instance.id)
        except PlatformError as error:
            bound_log.warning("it could not be stopped", error=error.message)
        finally:
            with self._lock:
                del self._stopping[instance.id]
                self._restarts.pop(instance.id, None)
                self._orphans.pop(instance.id, None)

    def _is_ours(self, instance: Instance, details: Mapping[str, Any]) -> bool:
        """Nothing is ever stopped but what carries this very instance's labels."""
        actual = (details.get("Config") or {}).get("Labels") or {}
        wanted = {
            labels.ENVIRONMENT: self._environment,
            labels.RELEASE: instance.release,
            labels.ORDINAL: str(instance.ordinal),
        }
        return wanted.items() <= actual.items()

    # -- around ---------------------------------------------------------------------------------------------------------

    @guard_response(PlatformError, "Docker")
    def tail(self, instance: Instance, lines: int) -> str:
        """As the port says. Raises `PlatformError` when it is gone."""
        host = self._hosts.get(instance.host)
        if host is None:
            raise PlatformError(f"no host {instance.host} in the settings, so no log of {instance.id}", retryable=False)
        return host.tail(instance.id, lines)

    @guard_response(PlatformError, "Docker")
    def run(self, job: Job) -> JobState:
        """As the port says."""
        return jobs.run_job(job, tuple(self._hosts.values()))

    @guard_response(PlatformError, "Docker")
    def end(self, job: Job) -> None:
        """As the port says."""
        jobs.end_job(job, tuple(self._hosts.values()))

    @guard_response(PlatformError, "Docker")
    def clear(self, service: str, rollout: str) -> None:
        """As the port says."""
        jobs.clear_jobs(service, rollout, tuple(self._hosts.values()))

    def check(self) -> Sequence[Diagnosis]:
        """As the port says."""
        return tuple(diagnosis for diagnoses in self._pool.map(check_host, self._hosts.values()) for diagnosis in diagnoses)

    def close(self) -> None:
        """As the port says."""
        self._background.shutdown(wait=True)
        self._pool.shutdown(wait=True)
        self._prober.close()
        for host in self._hosts.values():
            host.close()


def _raise_combined(errors: Sequence[BaseException]) -> None:
    """One error for all that went wrong side by side, each sentence once. Waiting helps only if it helps all of them."""
    if not errors:
        return
    retryable = True
    for error in errors:
        if not isinstance(error, PlatformError):
            raise error
        retryable = retryable and error.retryable
    raise PlatformError("; ".join(dict.fromkeys(str(error) for error in errors)), retryable=retryable) from errors[0]
