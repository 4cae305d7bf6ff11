"""Instances as containers on one or more Docker engines."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field

from tidegate.core.model import Instance, InstanceState, Release
from tidegate.drivers.platforms import docker_containers as containers
from tidegate.drivers.platforms.docker_errors import translated
from tidegate.drivers.platforms.docker_hosts import Host, HostOptions
from tidegate.drivers.platforms.health import Probe, Prober
from tidegate.errors import PlatformError
from tidegate.ports import Diagnosis, Platform

log = structlog.get_logger("tidegate.docker")

THREADS = 16
MOST_RESTARTS = 2  # a container that its engine restarted more often has failed


class DockerOptions(BaseModel):
    """The engines, and the network that containers are put on."""

    model_config = ConfigDict(extra="forbid")
    hosts: list[HostOptions] = Field(min_length=1)
    network: str = "bridge"


@dataclass(frozen=True)
class Found:
    """A container as an engine lists it."""

    host: Host
    listed: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The short id, by which Tidegate knows it."""
        return str(self.listed["Id"])[: containers.SHORT]

    @property
    def state(self) -> str:
        """Docker's own word: created, running, restarting, exited, …"""
        return str(self.listed["State"])

    @property
    def began(self) -> bool:
        """Whether it was ever started."""
        return self.state != "created"

    @property
    def release(self) -> str:
        return str(self.listed["Labels"][containers.RELEASE])

    @property
    def ordinal(self) -> int:
        return int(self.listed["Labels"][containers.ORDINAL])

    def address(self) -> str:
        """`ip:port` as the proxy reaches it; empty while it has none."""
        return containers.address(self.listed, int(self.listed["Labels"][containers.PORT]), self.host.options.address)

    def probe(self) -> Probe | None:
        """What to ask a running container; None when it does not run, or has a HEALTHCHECK instead."""
        rule, (ip, _, port) = self.listed["Labels"].get(containers.PROBE), self.address().rpartition(":")
        if not rule or not ip or self.state != "running":
            return None
        seconds, asked, path = rule.split(" ", 2)
        same = asked == self.listed["Labels"][containers.PORT]
        return Probe(self.id, ip, int(port if same else asked), path, float(seconds))


class DockerPlatform(Platform):
    """Containers by label and ordinal. What each verb promises is said in `ports.Platform`."""

    Options = DockerOptions

    def __init__(self, options: DockerOptions, environment: str) -> None:
        self._environment = environment
        self._hosts = {each.name: Host(each, options.network) for each in options.hosts}
        self._pool = ThreadPoolExecutor(THREADS, "docker")
        self._background = ThreadPoolExecutor(THREADS, "docker-stop")
        self._prober = Prober(ThreadPoolExecutor(THREADS, "probe"))
        self._stopping: set[str] = set()
        self._lock = threading.Lock()

    # -- looking --------------------------------------------------------------------------------------------------------

    def instances(self, service: str) -> tuple[Instance, ...]:
        found = self._found(service)
        probes = [probe for each in found if (probe := each.probe()) is not None]
        said = self._prober.ask(probes)
        self._prober.forget({each.id for each in found})
        return tuple(self._pool.map(lambda each: self._instance(each, said.get(each.id)), found))

    def _found(self, service: str) -> list[Found]:
        """All containers of the service. One host without an answer makes the whole unknown."""
        wanted = {containers.ENVIRONMENT: self._environment, containers.SERVICE: service.partition("/")[2]}
        answers = self._pool.map(lambda host: (host, host.listed(wanted)), self._hosts.values())
        return [Found(host, each) for host, answer in answers for each in answer]

    def _instance(self, found: Found, probed: str | None) -> Instance:
        state, restarts, detail = self._state(found, probed)
        with self._lock:
            if found.id in self._stopping:
                state, detail = InstanceState.STOPPING, ""
        address = found.address()
        return Instance(found.id, found.release, found.ordinal, address, state, restarts, found.host.name, detail)

    def _state(self, found: Found, probed: str | None) -> tuple[InstanceState, int, str]:
        """State, restarts and what was seen. `probed`: empty when ready, None when it was not asked."""
        if found.state == "running" and probed == "":
            return InstanceState.READY, 0, ""
        if found.state == "running" and probed is None and "(healthy)" in found.listed["Status"]:
            return InstanceState.READY, 0, ""
        looked = found.host.inspected(found.id)
        if looked is None:
            return InstanceState.STOPPING, 0, "gone"
        restarts, state = int(looked.get("RestartCount") or 0), looked["State"]
        ended = f"ended with status {state['ExitCode']}" + (", out of memory" if state.get("OOMKilled") else "")
        if found.state in ("exited", "dead") or restarts > MOST_RESTARTS:
            again = f", restarted {restarts} times" if restarts else ""
            return InstanceState.FAILED, restarts, ended + again
        if found.state == "restarting":
            return InstanceState.STARTING, restarts, f"{ended}, restarting"
        return InstanceState.STARTING, restarts, probed or _health_detail(state)

    # -- changing -------------------------------------------------------------------------------------------------------

    def start(self, release: Release, ordinals: Collection[int]) -> None:
        found = self._found(release.service)
        with self._lock:
            stopping = set(self._stopping)
        there = {each.ordinal for each in found if each.release == release.id and each.id not in stopping and each.began}
        for each in found:
            if each.release == release.id and not each.began and each.id not in stopping:
                each.host.remove(each.id, 0)  # created before a crash, never started
        wanted = sorted(set(ordinals) - there)
        placed = self._placed(found, wanted)
        futures = [self._pool.submit(self._start_one, host, release, ordinal) for ordinal, host in placed]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def _start_one(self, host: Host, release: Release, ordinal: int) -> None:
        container = host.create(release, ordinal)
        host.start(container, f"{release.id}/{ordinal}")

    def _placed(self, found: Sequence[Found], ordinals: Sequence[int]) -> list[tuple[int, Host]]:
        """Each on the host with the fewest instances of the service; the first by name among equals."""
        load = {name: sum(1 for each in found if each.host.name == name) for name in self._hosts}
        placed = []
        for ordinal in ordinals:
            name = min(sorted(load), key=lambda one: load[one])
            load[name] += 1
            placed.append((ordinal, self._hosts[name]))
        return placed

    def stop(self, instances: Collection[Instance], grace_seconds: float) -> None:
        for instance in instances:
            with self._lock:
                if instance.id in self._stopping:
                    continue
                self._stopping.add(instance.id)
            self._background.submit(self._stop_one, instance, grace_seconds)

    def _stop_one(self, instance: Instance, grace_seconds: float) -> None:
        """Runs behind. When it fails the instance shows up again, and so is asked to stop again."""
        try:
            self._hosts[instance.host].remove(instance.id, grace_seconds)
        except PlatformError as error:
            log.warning("an instance could not be stopped", instance=instance.id, error=error.message)
        finally:
            with self._lock:
                self._stopping.discard(instance.id)

    def tail(self, instance: Instance, lines: int) -> str:
        return self._hosts[instance.host].tail(instance.id, lines)

    def pin(self, release: Release) -> str:
        wanted = release.digest or release.image
        images = {name: host.image(wanted) for name, host in self._hosts.items()}
        for name, image in images.items():
            _require_health(name, release, image)
        digests = {name: _digest(release.image, image) for name, image in images.items()}
        if len(set(digests.values())) > 1:
            told = ", ".join(f"{name} has {digest}" for name, digest in digests.items())
            raise PlatformError(
                f"{release.image} is not the same image on every host: {told}; push it to a registry, or load it on all",
                retryable=False,
            )
        return next(iter(digests.values()))

    # -- around ---------------------------------------------------------------------------------------------------------

    def check(self) -> Sequence[Diagnosis]:
        return tuple(self._pool.map(_diagnosis, self._hosts.values()))

    def close(self) -> None:
        self._background.shutdown(wait=True)
        self._pool.shutdown(wait=True)
        self._prober.close()
        for host in self._hosts.values():
            host.close()


def _health_detail(state: Mapping[str, Any]) -> str:
    """What the container's own HEALTHCHECK says."""
    health = state.get("Health") or {}
    last = (health.get("Log") or [{}])[-1]
    said = str(last.get("Output") or "").strip()
    return f"HEALTHCHECK is {health['Status']}" + (f": {said[:200]}" if said else "") if health else "not running yet"


def _require_health(host: str, release: Release, image: Mapping[str, Any]) -> None:
    """Refuse what could never be known to be ready."""
    container = release.container
    own = (image.get("Config") or {}).get("Healthcheck") or {}
    if container.health.path or container.healthcheck or (own.get("Test") or ["NONE"])[0] != "NONE":
        return
    raise PlatformError(
        f"{host}: {release.image} has no HEALTHCHECK, and the service has neither x-tidegate.health nor healthcheck: "
        "add `x-tidegate: {health: {path: /health}}`, so that it can be known when an instance is ready",
        retryable=False,
    )


def _digest(reference: str, image: Mapping[str, Any]) -> str:
    """The registry's digest where there is one for this name, otherwise the image's id."""
    name = reference.partition("@")[0].rpartition(":")[0] or reference
    known = (digest for digest in image.get("RepoDigests") or () if digest.startswith(f"{name}@"))
    return str(next(known, image["Id"]))


def _diagnosis(host: Host) -> Diagnosis:
    part = f"docker {host.name}"
    try:
        with translated(host.name, "asking the engine"):
            version, info = host.api.version(), host.api.info()
    except PlatformError as error:
        return Diagnosis(part, False, error.message, f"start the engine, or correct hosts[].url ({host.options.url})")
    found = (
        f"{version['Version']}, API {version['ApiVersion']}, {info['Driver']}, {info['ContainersRunning']} containers run"
    )
    return Diagnosis(part, True, found)
