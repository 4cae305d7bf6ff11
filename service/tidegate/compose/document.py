"""Extraction of one service from a Compose document, with its variables replaced. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tidegate.compose.interpolation import Variables, interpolate
from tidegate.compose.reader import Findings, Reader, format_value
from tidegate.errors import InvalidSpec, Problem

SHARED_SECTIONS = ("volumes", "networks", "secrets", "configs")  # top-level sections next to `services`
PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")
SEND_CONFIG = "send the output of docker compose config, which is a single file"
UNSUPPORTED_AT_TOP = {"include": SEND_CONFIG, "extends": SEND_CONFIG}


@dataclass(frozen=True, slots=True)
class ServiceDocument:
    """One service, the shared definitions that it uses, and the dependencies of all services."""

    service: str
    body: object
    project: str  # the top-level `name`, or empty
    shared: Mapping[str, Mapping[str, object]]  # definitions by kind and name; only those that the service uses
    after: Mapping[str, tuple[str, ...]]  # the `depends_on` of every service of the file

    @property
    def as_document(self) -> dict[str, object]:
        """A Compose document with only this service."""
        shared = {kind: dict(definitions) for kind, definitions in self.shared.items() if definitions}
        return {"services": {self.service: self.body}, **shared}


def extract_service(raw: object, service: str, variables: Variables, findings: Findings) -> ServiceDocument:
    """The parts of the document about the service. Raises `InvalidSpec` when the document does not have the service or
    gets too large; adds other mistakes to `findings`."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("services"), Mapping):
        raise InvalidSpec([Problem("services", "a mapping of services is required, as in a Compose file")])
    services = {str(name): body for name, body in raw["services"].items()}
    if service not in services:
        known = ", ".join(services) or "none"
        raise InvalidSpec([Problem("services", f"there is no service {service}; the file has: {known}")])
    top = Reader(raw, "", findings, extensible=True)
    top.tolerate("version", "name", "services", "models", "jobs")
    top.refuse(UNSUPPORTED_AT_TOP)
    body = interpolate(services[service], variables, findings.problems, f"services.{service}")
    shared = (
        {kind: _used_definitions(top.inner(kind), body.get(kind), variables) for kind in SHARED_SECTIONS}
        if isinstance(body, Mapping)
        else {}
    )
    top.finish()
    after = {
        name: tuple(_referenced_names(definition.get("depends_on")))
        for name, definition in services.items()
        if isinstance(definition, Mapping)
    }
    return ServiceDocument(service, body, _project(raw, variables, findings.problems), shared, after)


def _project(raw: Mapping[str, object], variables: Variables, problems: list[Problem]) -> str:
    name = interpolate(raw.get("name"), variables, problems, "name")
    if name is None or (isinstance(name, str) and PROJECT.fullmatch(name)):
        return name or ""
    problems.append(Problem("name", f"found {format_value(name)}; allowed: a-z, 0-9, - and _"))
    return ""


def _used_definitions(section: Reader, named: object, variables: Variables) -> dict[str, object]:
    """The definitions of one kind that the service uses."""
    wanted = set(_referenced_names(named))
    return {
        name: interpolate(definition, variables, section.findings.problems, section.at(name))
        for name, definition in section.values.items()
        if name in wanted
    }


def _referenced_names(value: object) -> Iterator[str]:
    """The names in a list, in a list of objects with a `source`, or in a mapping."""
    if isinstance(value, Mapping):
        yield from map(str, value)
    elif isinstance(value, list):
        for entry in value:
            name = entry.get("source") if isinstance(entry, Mapping) else entry
            if isinstance(name, str):
                yield name
                yield name.partition(":")[0]


def find_cycle(after: Mapping[str, tuple[str, ...]], start: str) -> tuple[str, ...]:
    """A cycle of dependencies from `start` back to itself; empty when there is none."""
    came_from: dict[str, str] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        for dependency in after.get(name, ()):
            if dependency == start:
                path = [name]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return (*reversed(path), start)
            if dependency not in came_from:
                came_from[dependency] = name
                waiting.append(dependency)
    return ()
