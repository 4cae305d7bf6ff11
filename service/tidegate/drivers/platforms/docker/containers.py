"""An engine's container as an instance. Nothing is asked here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidegate.core.model import Instance, InstanceState
from tidegate.drivers.platforms.docker.labels import ORDINAL, PORT, PROBE, RELEASE, WANTS
from tidegate.drivers.platforms.docker.options import DockerHostOptions
from tidegate.drivers.platforms.readiness import ReadinessProbe

SHORT_ID_CHARS = 12  # characters of an id that Docker itself shows
MAX_RESTARTS = 2  # one that its engine restarted more often, and that is not ready, has failed
MAX_OUTPUT_CHARS = 200  # characters of what a HEALTHCHECK printed


@dataclass(frozen=True, slots=True)
class ListedContainer:
    """A container as a host's engine lists it."""

    host: DockerHostOptions
    listed: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The short id, by which Tidegate knows it."""
        return str(self.listed["Id"])[:SHORT_ID_CHARS]

    @property
    def state(self) -> str:
        """Docker's own word: created, running, restarting, paused, exited, removing, dead."""
        return str(self.listed["State"])

    @property
    def labels(self) -> Mapping[str, str]:
        """What it was created with."""
        values: Mapping[str, str] = self.listed["Labels"]
        return values

    @property
    def is_complete(self) -> bool:
        """Whether it carries all labels that Tidegate gives; others are somebody else's."""
        return {RELEASE, ORDINAL, PORT} <= set(self.labels) and self.labels[ORDINAL].isdecimal()

    @property
    def is_incomplete(self) -> bool:
        """Whether something is put into it between creating and starting it."""
        return WANTS in self.labels

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
        return next((str(network["EndpointID"]) for network in self._networks if network.get("EndpointID")), "")

    @property
    def is_young(self) -> bool:
        """Whether it runs for less than 10 s, after which Docker itself takes a restart for a success."""
        return bool(re.match(r"Up (Less than a second|\d seconds?)\b", str(self.listed.get("Status", ""))))

    @property
    def _networks(self) -> list[Mapping[str, Any]]:
        """That of the settings first: the service's own others are not the proxy's."""
        first = (self.listed.get("HostConfig") or {}).get("NetworkMode")
        networks = ((self.listed.get("NetworkSettings") or {}).get("Networks") or {}).items()
        return [network for name, network in sorted(networks, key=lambda one: one[0] != first)]

    def at(self, port: int) -> tuple[str, int] | None:
        """Where a port of the container is reached; None while it is nowhere."""
        if self.host.address:
            public = (entry for entry in self.listed.get("Ports") or () if entry.get("PrivatePort") == port)
            published = next((entry["PublicPort"] for entry in public if entry.get("PublicPort")), None)
            return (self.host.address, int(published)) if published else None
        ip = next((str(network["IPAddress"]) for network in self._networks if network.get("IPAddress")), "")
        return (ip, port) if ip else None

    @property
    def address(self) -> str:
        """`ip:port` as the proxy reaches it, read anew each time: a restart may change it. Empty while it has none."""
        address = self.at(int(self.labels[PORT])) if self.state == "running" else None
        if address is None:
            return ""
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"

    def probe(self) -> ReadinessProbe | None:
        """What to ask it; None when it does not run, or is known by its HEALTHCHECK."""
        rule = self.labels.get(PROBE)
        if not rule or self.state != "running":
            return None
        seconds, port, path = rule.split(" ", 2)
        at = self.at(int(port))
        return ReadinessProbe(f"{self.id} {self.start}", at[0], at[1], path, float(seconds)) if at else None

    @property
    def health(self) -> str:
        """What its HEALTHCHECK says: healthy, unhealthy, starting; empty when it has none."""
        match = re.search(r"\((?:health: )?(healthy|unhealthy|starting)\)$", str(self.listed.get("Status", "")))
        return match[1] if match else ""


def to_instance(
    container: ListedContainer, restarts: int, details: Mapping[str, Any] | None, probed: str | None
) -> Instance:
    """The instance. `looked` is the engine's full answer where it was asked for, `probed` what the probe saw (empty:
    ready), None where it was not sent."""
    state, detail = _state(container, restarts, details, probed)
    return Instance(
        container.id, container.release, container.ordinal, container.address, state, restarts, container.host.name, detail
    )


def _state(
    container: ListedContainer, restarts: int, details: Mapping[str, Any] | None, probed: str | None
) -> tuple[InstanceState, str]:
    run = (details or {}).get("State") or {}
    often = f"restarted {restarts} time{'s' if restarts > 1 else ''}" if restarts else ""
    match container.state:
        case "removing":
            return InstanceState.STOPPING, "being removed"
        case "created":
            return InstanceState.STARTING, str(run.get("Error") or "created, not started yet")
        case "paused":
            return InstanceState.STARTING, "paused by somebody: docker unpause it"
        case "exited" | "dead":
            ended = InstanceState.STOPPED if _is_stopped(container.state, run, details) else InstanceState.FAILED
            return ended, _join_details(_ended(run, details), often)
        case "restarting":
            failed = restarts > MAX_RESTARTS or bool(run.get("OOMKilled"))
            return InstanceState.FAILED if failed else InstanceState.STARTING, _join_details(often, _ended(run, details))
    problem = _health_problem(container, run) if probed is None else probed
    if not problem and restarts > MAX_RESTARTS and container.is_young:
        problem = "answers again, for less than 10 s"  # one that crashes in a loop may be ready for a moment, each time
    if not problem:
        return InstanceState.READY, ""
    return InstanceState.FAILED if restarts > MAX_RESTARTS else InstanceState.STARTING, _join_details(often, problem)


def _is_stopped(state: str, run: Mapping[str, Any], details: Mapping[str, Any] | None) -> bool:
    """Whether somebody ended it: its engine, when it stops without `live-restore` or cannot start it again, or a person.
    What ends by itself its restart policy starts again, so that it never is `exited`, but with status 0 under
    `on-failure`."""
    if state != "exited" or run.get("OOMKilled"):
        return False
    policy = (((details or {}).get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name")
    return policy == "unless-stopped" or (policy == "on-failure" and bool(run.get("ExitCode")))


def _join_details(*phrases: str) -> str:
    return ", ".join(phrase for phrase in phrases if phrase)


def _ended(run: Mapping[str, Any], details: Mapping[str, Any] | None) -> str:
    """How its last run ended."""
    if not run or (run.get("Running") and not run.get("Restarting")):
        return ""  # it was started again between the listing and the look
    message = f"exited with status {run.get('ExitCode')}"
    if run.get("OOMKilled"):
        limit = ((details or {}).get("HostConfig") or {}).get("Memory") or 0
        message += f", killed for lack of memory ({f'limit {limit // 1048576} MiB' if limit else 'no limit set'})"
    return _join_details(message, str(run.get("Error") or ""))


def _health_problem(container: ListedContainer, run: Mapping[str, Any]) -> str:
    """Empty when its own HEALTHCHECK says healthy, otherwise what it says."""
    if container.is_probed:
        return "it has no address yet"
    if container.health == "healthy":
        return ""
    if not container.health:
        return "it has no HEALTHCHECK, so readiness cannot be known"
    last = (((run.get("Health") or {}).get("Log") or [{}])[-1]).get("Output") or ""
    output = " ".join(str(last).split())[:MAX_OUTPUT_CHARS]
    return f"HEALTHCHECK says {container.health}" + (f": {output}" if output else "")
