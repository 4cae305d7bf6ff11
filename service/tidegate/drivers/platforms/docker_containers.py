"""A release's container as an engine wants it, and an engine's container as an instance. Nothing is asked here."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker.api.client import APIClient
from docker.types import LogConfig

from tidegate.core.model import Instance, InstanceState, Release
from tidegate.drivers.platforms.docker_options import DockerOptions, HostOptions
from tidegate.drivers.platforms.health import Probe

PREFIX = "tidegate."
ENVIRONMENT, SERVICE, RELEASE, ORDINAL, IMAGE = (
    PREFIX + word for word in ("environment", "service", "release", "ordinal", "image")
)
PORT, PROBE = PREFIX + "port", PREFIX + "probe"  # what takes traffic; how readiness is asked: "seconds port path"
SHORT = 12  # characters of an id that Docker itself shows
MOST_RESTARTS = 2  # one that its engine restarted more often, and that is not ready, has failed
NANO = 1_000_000_000
LONGEST_OUTPUT = 200  # characters of what a HEALTHCHECK printed


# -- from a release to a container ----------------------------------------------------------------------------------------


def configuration(
    api: APIClient, release: Release, ordinal: int, shared: DockerOptions, host: HostOptions
) -> dict[str, Any]:
    """The arguments of the SDK's `create_container`."""
    container = release.container
    ports = sorted({container.port, container.health.port or container.port})
    log = LogConfig(type=shared.log_driver, config=shared.log_options)
    return {
        "image": release.digest or release.image,
        "name": name(release, ordinal),
        "labels": labels(release, ordinal),
        "environment": variables(release, ordinal),
        "command": _list(container.command),
        "entrypoint": _list(container.entrypoint),
        "user": container.user or None,
        "working_dir": container.working_dir or None,
        "stop_signal": container.stop_signal or None,
        "healthcheck": _healthcheck(release),
        "ports": ports,
        "host_config": api.create_host_config(
            network_mode=shared.network,
            restart_policy={"Name": shared.restart},
            port_bindings=dict.fromkeys(ports, (host.address, host.ports or None)) if host.address else None,
            binds=list(container.volumes) or None,
            mem_limit=container.memory_bytes or None,
            nano_cpus=round(container.cpus * NANO) or None,
            init=container.init or None,
            read_only=container.read_only or None,
            log_config=log if shared.log_driver else None,
        ),
    }


def labels(release: Release, ordinal: int) -> dict[str, str]:
    """How Tidegate finds its containers again, whatever became of its database."""
    environment, _, service = release.service.partition("/")
    container, health = release.container, release.container.health
    own = {ENVIRONMENT: environment, SERVICE: service, RELEASE: release.id, ORDINAL: str(ordinal), IMAGE: release.image}
    own[PORT] = str(container.port)
    if health.path:
        own[PROBE] = f"{health.timeout_seconds:g} {health.port or container.port} {health.path}"
    return {**container.labels, **own}


def name(release: Release, ordinal: int) -> str:
    """Never the same twice: one that is still being removed does not stand in the way."""
    return f"tidegate-{release.service.replace('/', '-')}-{release.id}-{ordinal}-{secrets.token_hex(3)}"


def variables(release: Release, ordinal: int) -> dict[str, str]:
    """The service's own variables, and which instance this is."""
    own = {"TIDEGATE_SERVICE": release.service, "TIDEGATE_RELEASE": release.id, "TIDEGATE_ORDINAL": str(ordinal)}
    return {**release.container.environment, **own}


def _list(words: tuple[str, ...] | None) -> list[str] | None:
    return None if words is None else list(words)


def _healthcheck(release: Release) -> dict[str, Any] | None:
    check = release.container.healthcheck
    if check is None:
        return None
    return {
        "test": list(check.test),
        "interval": round(check.interval_seconds * NANO),
        "timeout": round(check.timeout_seconds * NANO),
        "retries": check.retries,
        "start_period": round(check.start_period_seconds * NANO),
    }


# -- from a container to an instance --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A container as a host's engine lists it."""

    host: HostOptions
    listed: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The short id, by which Tidegate knows it."""
        return str(self.listed["Id"])[:SHORT]

    @property
    def state(self) -> str:
        """Docker's own word: created, running, restarting, paused, exited, removing, dead."""
        return str(self.listed["State"])

    @property
    def labels(self) -> Mapping[str, str]:
        """What it was created with."""
        found: Mapping[str, str] = self.listed["Labels"]
        return found

    @property
    def is_whole(self) -> bool:
        """Whether it carries all labels that Tidegate gives; others are somebody else's."""
        return {RELEASE, ORDINAL, PORT} <= set(self.labels) and self.labels[ORDINAL].isdecimal()

    @property
    def is_probed(self) -> bool:
        """Whether readiness is asked from outside."""
        return PROBE in self.labels

    @property
    def release(self) -> str:
        """The id of the release that it runs."""
        return self.labels[RELEASE]

    @property
    def ordinal(self) -> int:
        """Its number within the release."""
        return int(self.labels[ORDINAL])

    @property
    def name(self) -> str:
        """As people read it: `v2-4/1`."""
        return f"{self.release}/{self.ordinal}"

    @property
    def start(self) -> str:
        """What is new with each start of the container, also by its restart policy; empty while it has no network."""
        return next((str(each["EndpointID"]) for each in self._networks if each.get("EndpointID")), "")

    @property
    def _networks(self) -> list[Mapping[str, Any]]:
        return list(((self.listed.get("NetworkSettings") or {}).get("Networks") or {}).values())

    def at(self, port: int) -> tuple[str, int] | None:
        """Where a port of the container is reached; None while it is nowhere."""
        if self.host.address:
            public = (each for each in self.listed.get("Ports") or () if each.get("PrivatePort") == port)
            found = next((each["PublicPort"] for each in public if each.get("PublicPort")), None)
            return (self.host.address, int(found)) if found else None
        ip = next((str(each["IPAddress"]) for each in self._networks if each.get("IPAddress")), "")
        return (ip, port) if ip else None

    @property
    def address(self) -> str:
        """`ip:port` as the proxy reaches it, read anew each time: a restart may change it. Empty while it has none."""
        found = self.at(int(self.labels[PORT])) if self.state == "running" else None
        if found is None:
            return ""
        return f"[{found[0]}]:{found[1]}" if ":" in found[0] else f"{found[0]}:{found[1]}"

    def probe(self) -> Probe | None:
        """What to ask it; None when it does not run, or is known by its HEALTHCHECK."""
        rule = self.labels.get(PROBE)
        if not rule or self.state != "running":
            return None
        seconds, port, path = rule.split(" ", 2)
        at = self.at(int(port))
        return Probe(f"{self.id} {self.start}", at[0], at[1], path, float(seconds)) if at else None

    @property
    def health(self) -> str:
        """What its HEALTHCHECK says: healthy, unhealthy, starting; empty when it has none."""
        found = re.search(r"\((?:health: )?(healthy|unhealthy|starting)\)$", str(self.listed.get("Status", "")))
        return found[1] if found else ""


def as_instance(found: Found, restarts: int, looked: Mapping[str, Any] | None, probed: str | None) -> Instance:
    """The instance. `looked` is the engine's full answer where it was asked for, `probed` what the probe saw (empty:
    ready), None where it was not sent."""
    state, detail = _state(found, restarts, looked, probed)
    return Instance(found.id, found.release, found.ordinal, found.address, state, restarts, found.host.name, detail)


def _state(found: Found, restarts: int, looked: Mapping[str, Any] | None, probed: str | None) -> tuple[InstanceState, str]:
    run = (looked or {}).get("State") or {}
    often = f"restarted {restarts} time{'s' if restarts > 1 else ''}" if restarts else ""
    match found.state:
        case "removing":
            return InstanceState.STOPPING, "being removed"
        case "created":
            return InstanceState.STARTING, str(run.get("Error") or "created, not started yet")
        case "paused":
            return InstanceState.STARTING, "paused by somebody: docker unpause it"
        case "exited" | "dead":
            return InstanceState.FAILED, _joined(_ended(run, looked), often)
        case "restarting":
            failed = restarts > MOST_RESTARTS or bool(run.get("OOMKilled"))
            return InstanceState.FAILED if failed else InstanceState.STARTING, _joined(often, _ended(run, looked))
    trouble = _health_trouble(found, run) if probed is None else probed
    if not trouble:
        return InstanceState.READY, ""
    return InstanceState.FAILED if restarts > MOST_RESTARTS else InstanceState.STARTING, _joined(often, trouble)


def _joined(*phrases: str) -> str:
    return ", ".join(phrase for phrase in phrases if phrase)


def _ended(run: Mapping[str, Any], looked: Mapping[str, Any] | None) -> str:
    """How its last run ended."""
    if not run or (run.get("Running") and not run.get("Restarting")):
        return ""  # it was started again between the listing and the look
    said = f"exited with status {run.get('ExitCode')}"
    if run.get("OOMKilled"):
        limit = ((looked or {}).get("HostConfig") or {}).get("Memory") or 0
        said += f", killed for lack of memory ({f'limit {limit // 1048576} MiB' if limit else 'no limit set'})"
    return _joined(said, str(run.get("Error") or ""))


def _health_trouble(found: Found, run: Mapping[str, Any]) -> str:
    """Empty when its own HEALTHCHECK says healthy, otherwise what it says."""
    if found.is_probed:
        return "it has no address yet"
    if found.health == "healthy":
        return ""
    if not found.health:
        return "it has no HEALTHCHECK, so readiness cannot be known"
    last = (((run.get("Health") or {}).get("Log") or [{}])[-1]).get("Output") or ""
    said = " ".join(str(last).split())[:LONGEST_OUTPUT]
    return f"HEALTHCHECK says {found.health}" + (f": {said}" if said else "")
