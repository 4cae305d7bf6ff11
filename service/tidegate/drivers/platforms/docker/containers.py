"""Translates a container as Docker lists it into an `Instance`. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

from tidegate.core.container import Container, Health
from tidegate.core.model import Instance, InstanceState, Release
from tidegate.drivers.platforms.docker.labels import HEADERS_VARIABLE, ORDINAL, PORT, PROBE, RELEASE, WANTS
from tidegate.drivers.platforms.docker.options import DockerHostOptions
from tidegate.drivers.platforms.readiness import ReadinessProbe
from tidegate.errors import PlatformError

SHORT_ID_CHARS = 12  # the length of the ids that `docker ps` prints
MAX_OUTPUT_CHARS = 200  # of the output of a HEALTHCHECK
#: In which Docker tells how long a container has run; "Less than a second" is none of them.
UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0, "week": 604_800.0, "month": 2.6e6, "year": 3.1e7}


@dataclass(frozen=True, slots=True)
class ProbeRule:
    """How readiness is checked, as the label of a container has it: without the values of headers."""

    health: Health = field(default_factory=Health)
    h2c: bool = False


_RULES = TypeAdapter(ProbeRule)


def format_probe_label(container: Container) -> str:
    """The value of the label."""
    rule = ProbeRule(replace(container.health, headers=()), container.h2c)
    return _RULES.dump_json(rule, exclude_defaults=True).decode()


def format_headers_variable(health: Health) -> str:
    """The value of the variable that has the headers."""
    return json.dumps(health.headers)


def read_headers_variable(details: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The headers of the readiness check, from Docker's full description of a container."""
    prefix = f"{HEADERS_VARIABLE}="
    for variable in (details.get("Config") or {}).get("Env") or ():
        if str(variable).startswith(prefix):
            return tuple((str(name), str(value)) for name, value in json.loads(variable.removeprefix(prefix)))
    return ()


@dataclass(frozen=True)
class ListedContainer:
    """One entry of Docker's container list (`GET /containers/json`), and the host that it is on."""

    host: DockerHostOptions
    listed: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The short container id, which is the instance's id."""
        return str(self.listed["Id"])[:SHORT_ID_CHARS]

    @property
    def state(self) -> str:
        """Docker's state: created, running, restarting, paused, exited, removing or dead."""
        return str(self.listed["State"])

    @property
    def labels(self) -> Mapping[str, str]:
        """The container's labels."""
        values: Mapping[str, str] = self.listed["Labels"]
        return values

    @property
    def is_complete(self) -> bool:
        """Whether it has all labels that Tidegate sets. Containers without them are ignored."""
        return {RELEASE, ORDINAL, PORT} <= set(self.labels) and self.labels[ORDINAL].isdecimal()

    @property
    def is_incomplete(self) -> bool:
        """Whether files or networks are added to it between creation and start."""
        return WANTS in self.labels

    @cached_property
    def rule(self) -> ProbeRule:
        """How readiness is checked. Raises `ValueError` if the label is not as Tidegate writes it."""
        return _RULES.validate_json(self.labels.get(PROBE, "{}"))

    @property
    def has_health_path(self) -> bool:
        """Whether readiness is decided by a GET request rather than by a HEALTHCHECK."""
        return bool(self.rule.health.path)

    @property
    def is_worker(self) -> bool:
        """Whether it takes no requests, so that nothing is checked at its address."""
        return self.rule.health.run_seconds is not None

    @property
    def release(self) -> str:
        """The id of the container's release."""
        return self.labels[RELEASE]

    @property
    def ordinal(self) -> int:
        """The instance's number within the release."""
        return int(self.labels[ORDINAL])

    @property
    def name(self) -> str:
        """The display name: release and ordinal, such as `v2-4/1`."""
        return f"{self.release}/{self.ordinal}"

    @property
    def start(self) -> str:
        """A value that changes with each start of the container, restarts included; empty while it has no network."""
        return next((str(network["EndpointID"]) for network in self._networks if network.get("EndpointID")), "")

    @property
    def is_young(self) -> bool:
        """Whether it has run for less than 10 s, the time after which Docker counts a restart as successful."""
        return bool(re.match(r"Up (Less than a second|\d seconds?)\b", str(self.listed.get("Status", ""))))

    @property
    def is_healthy(self) -> bool:
        """Whether its HEALTHCHECK succeeds; of a worker, also whether it has none."""
        return self.health == "healthy" or (self.is_worker and not self.health)

    @property
    def running_seconds(self) -> float:
        """For how long it has run since its last start, by the clock of its host; rounded to what Docker tells."""
        match = re.match(r"Up (?:About an? |(\d+) )?(\w+?)s?\b", str(self.listed.get("Status", "")))
        return float(match[1] or 1) * UNITS.get(match[2], 0.0) if match else 0.0

    @property
    def _networks(self) -> list[Mapping[str, Any]]:
        """The container's networks; the one in the settings first, because the proxy uses it."""
        first = (self.listed.get("HostConfig") or {}).get("NetworkMode")
        networks = ((self.listed.get("NetworkSettings") or {}).get("Networks") or {}).items()
        return [network for name, network in sorted(networks, key=lambda one: one[0] != first)]

    def at(self, port: int) -> tuple[str, int] | None:
        """(host, port) at which a port of the container is reachable; None while it has no address."""
        if self.host.address:
            public = (entry for entry in self.listed.get("Ports") or () if entry.get("PrivatePort") == port)
            published = next((entry["PublicPort"] for entry in public if entry.get("PublicPort")), None)
            return (self.host.address, int(published)) if published else None
        ip = next((str(network["IPAddress"]) for network in self._networks if network.get("IPAddress")), "")
        return (ip, port) if ip else None

    @property
    def address(self) -> str:
        """`ip:port` as the proxy reaches it; empty while it has none. A restart may change it."""
        port = int(self.labels[PORT])
        address = self.at(port) if port and self.state == "running" else None
        if address is None:
            return ""
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"

    def probe(self, headers: tuple[tuple[str, str], ...] = ()) -> ReadinessProbe | None:
        """The readiness check; None when the container is not running or has no address."""
        if self.state != "running" or self.is_worker:
            return None
        port = int(self.labels[PORT])
        address, health_address = self.at(port), self.at(self.rule.health.port or port)
        if address is None or health_address is None:
            return None
        return ReadinessProbe(
            key=f"{self.id} {self.start}",
            address=address,
            health_address=health_address,
            health=replace(self.rule.health, headers=headers),
            h2c=self.rule.h2c,
            published=bool(self.host.address),
            settled=not self.is_young,
        )

    @property
    def health(self) -> str:
        """The status of its HEALTHCHECK: healthy, unhealthy or starting; empty when it has none."""
        return health_status(str(self.listed.get("Status", "")))


def health_status(status: str) -> str:
    """The HEALTHCHECK's status in Docker's text, such as `Up 3 minutes (healthy)`; empty if it has none."""
    match = re.search(r"\((?:health: )?(healthy|unhealthy|starting)\)$", status)
    return match[1] if match else ""


def to_instance(
    container: ListedContainer,
    restarts: int,
    details: Mapping[str, Any] | None,
    probed: str | None,
    max_restarts: int,
    *,
    out_of_memory: bool = False,
) -> Instance:
    """The container as an instance.

    `details`: Docker's full description of the container, if it was requested. `probed`: the result of the readiness check
    at its address (empty: ready), or None if there was none. `max_restarts`: a container that is not ready and has
    restarted more often has failed. `out_of_memory`: its last run that ended was killed for memory.
    """
    state, detail = _state(container, restarts, details, probed, max_restarts)
    if state is InstanceState.READY and out_of_memory:
        detail = _join_details(f"restarted {restarts} time{'s' if restarts > 1 else ''}", "last killed for memory")
    return Instance(
        id=container.id,
        release=container.release,
        ordinal=container.ordinal,
        address=container.address,
        state=state,
        restarts=restarts,
        start=container.start,
        host=container.host.name,
        detail=detail,
        out_of_memory=out_of_memory,
    )


def _state(
    container: ListedContainer,
    restarts: int,
    details: Mapping[str, Any] | None,
    probed: str | None,
    max_restarts: int,
) -> tuple[InstanceState, str]:
    run = (details or {}).get("State") or {}
    restarted = f"restarted {restarts} time{'s' if restarts > 1 else ''}" if restarts else ""
    not_ready = InstanceState.FAILED if restarts > max_restarts else InstanceState.STARTING
    match container.state:
        case "removing":
            return InstanceState.STOPPING, "being removed"
        case "created":
            return InstanceState.STARTING, str(run.get("Error") or "created, not started yet")
        case "paused":
            return InstanceState.STARTING, "paused outside Tidegate; run docker unpause"
        case "exited" | "dead":
            ended = InstanceState.STOPPED if _is_stopped(container.state, run, details) else InstanceState.FAILED
            return ended, _join_details(_ended(run, details), restarted)
        case "restarting":
            state = InstanceState.FAILED if run.get("OOMKilled") else not_ready
            return state, _join_details(restarted, _ended(run, details))
    problem = _health_problem(container, run)
    if not problem and not container.is_worker:
        problem = "no address yet" if probed is None else probed
    if not problem and restarts > max_restarts and container.is_young:
        problem = "ready for less than 10 s since the last restart"  # a crash loop may be ready briefly after each start
    if not problem:
        return InstanceState.READY, ""
    return not_ready, _join_details(restarted, problem)


def _is_stopped(state: str, run: Mapping[str, Any], details: Mapping[str, Any] | None) -> bool:
    """Whether it was stopped from outside: by a person, or by a Docker daemon that shut down or could not restart it.

    A container that ends by itself is restarted by its restart policy and so never stays `exited`, except with status 0
    under `on-failure`.
    """
    if state != "exited" or run.get("OOMKilled"):
        return False
    policy = (((details or {}).get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name")
    return policy == "unless-stopped" or (policy == "on-failure" and bool(run.get("ExitCode")))


def _join_details(*phrases: str) -> str:
    return ", ".join(phrase for phrase in phrases if phrase)


def _ended(run: Mapping[str, Any], details: Mapping[str, Any] | None) -> str:
    """How its last run ended; empty if it has been started again since it was listed."""
    if not run or (run.get("Running") and not run.get("Restarting")):
        return ""
    message = f"exited with status {run.get('ExitCode')}"
    if run.get("OOMKilled"):
        limit = ((details or {}).get("HostConfig") or {}).get("Memory") or 0
        message += f", out of memory ({f'limit {limit // 1048576} MiB' if limit else 'no limit set'})"
    return _join_details(message, str(run.get("Error") or ""))


def _health_problem(container: ListedContainer, run: Mapping[str, Any]) -> str:
    """Why its HEALTHCHECK keeps it from being ready; empty if it does not, or if a GET request decides instead."""
    if container.has_health_path or container.health == "healthy":
        return ""
    if not container.health:
        wanted, running = container.rule.health.run_seconds, container.running_seconds
        if wanted is None:
            return "readiness unknown: the container has no HEALTHCHECK"
        return "" if running >= wanted else f"has run for {running:g} s, ready after {wanted:g} s"
    last = (((run.get("Health") or {}).get("Log") or [{}])[-1]).get("Output") or ""
    output = " ".join(str(last).split())[:MAX_OUTPUT_CHARS]
    return f"HEALTHCHECK reports {container.health}" + (f": {output}" if output else "")


def require_alone(release: Release, ordinals: Collection[int], containers: Sequence[ListedContainer]) -> None:
    """Raise `PlatformError` if another container of the service exists, in any state on any host: one that has ended may be
    started again by its Docker daemon."""
    others = [one for one in containers if one.release != release.id or one.ordinal not in ordinals]
    if others:
        text = f"{others[0].name} still exists on Docker host {others[0].host.name}, and no two instances may run at once"
        raise PlatformError(f"Cannot start {release.id}: {text}; Tidegate retries", retryable=True)
