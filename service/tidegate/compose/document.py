"""Extraction of one service from a Compose document, with its variables replaced. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tidegate.compose.interpolation import Variables, interpolate
from tidegate.compose.reader import Findings, Reader, format_value
from tidegate.errors import InvalidSpec, Problem

SHARED_SECTIONS = ("volumes", "networks", "secrets", "configs")  # top-level sections next to `services`
PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")
EXTENSION = "x-tidegate"


@dataclass(frozen=True, slots=True)
class Location:
    """Where the Compose file is.

    `project`: what was given instead of the file's `name`. `folder`: the path of its folder; the folder's name is the
    project's if nothing else names it. `home`: the user's, for `~`. `is_local`: whether the folder is on the machine of all
    Docker hosts of the environment.
    """

    project: str = ""
    folder: str = ""
    home: str = ""
    is_local: bool = False


NOWHERE = Location()


@dataclass(frozen=True, slots=True)
class ServiceDocument:
    """One service, the shared definitions that it uses, and the dependencies of all services.

    `project`: the name of the Compose project; empty if neither the file nor the request has one. `ours`: the services of
    the file that Tidegate runs, which are those with `x-tidegate`.
    """

    service: str
    body: object
    project: str
    shared: Mapping[str, Mapping[str, object]]  # definitions by kind and name; only those that the service uses
    after: Mapping[str, tuple[str, ...]]  # the `depends_on` of every service of the file
    ours: frozenset[str] = frozenset()
    location: Location = NOWHERE

    @property
    def as_document(self) -> dict[str, object]:
        """A Compose document with only this service."""
        shared = {kind: dict(definitions) for kind, definitions in self.shared.items() if definitions}
        return {"services": {self.service: self.body}, **shared}


def extract_service(
    raw: object, service: str, variables: Variables, findings: Findings, location: Location = NOWHERE
) -> ServiceDocument:
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
    body = _interpolated_body(services[service], variables, findings.problems, f"services.{service}")
    shared = (
        {kind: _used_definitions(top.inner(kind), _named(kind, body), variables) for kind in SHARED_SECTIONS}
        if isinstance(body, Mapping)
        else {}
    )
    top.finish()
    after = {
        name: tuple(referenced_names(definition.get("depends_on")))
        for name, definition in services.items()
        if isinstance(definition, Mapping)
    }
    ours = {name for name, definition in services.items() if isinstance(definition, Mapping) and EXTENSION in definition}
    project = _project(raw, variables, findings.problems, location)
    return ServiceDocument(service, body, project, shared, after, frozenset(ours), location)


def _interpolated_body(raw: object, variables: Variables, problems: list[Problem], path: str) -> object:
    """The service with its variables replaced, except in `build`: its variables are only needed where it is built."""
    if not isinstance(raw, Mapping) or "build" not in raw:
        return interpolate(raw, variables, problems, path)
    rest = interpolate({key: value for key, value in raw.items() if key != "build"}, variables, problems, path)
    return {**rest, "build": raw["build"]} if isinstance(rest, Mapping) else rest


def _project(raw: Mapping[str, object], variables: Variables, problems: list[Problem], location: Location) -> str:
    """The project's name, as Compose chooses it: what was given, the file's `name`, or the folder's name."""
    name = location.project or interpolate(raw.get("name"), variables, problems, "name")
    if name is None:
        return re.sub(r"[^a-z0-9_-]", "", posixpath.basename(location.folder).lower()).lstrip("_-")
    if isinstance(name, str) and PROJECT.fullmatch(name):
        return name
    problems.append(Problem("name", f"found {format_value(name)}; allowed: a-z, 0-9, - and _"))
    return ""


def require_project(document: ServiceDocument, findings: Findings) -> str:
    """The project's name; a mistake if there is none, because Compose has one for every file."""
    if not document.project:
        text = (
            "is required: neither the file nor the request names the Compose project to which volumes and services belong"
        )
        Reader({}, "", findings).complain("name", text)
    return document.project


def _named(kind: str, body: Mapping[str, object]) -> object:
    """What the service says of one kind; of networks, Compose's default."""
    return body.get(kind) if kind != "networks" or body.get(kind) is not None else ["default"]


def _used_definitions(section: Reader, named: object, variables: Variables) -> dict[str, object]:
    """The definitions of one kind that the service uses."""
    wanted = set(referenced_names(named))
    return {
        name: interpolate(definition, variables, section.findings.problems, section.at(name))
        for name, definition in section.values.items()
        if name in wanted
    }


def referenced_names(value: object) -> Iterator[str]:
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
