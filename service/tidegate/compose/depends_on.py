"""Reading `depends_on`: the services that must be live, or run by `docker compose`, before this one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidegate.compose.document import ServiceDocument, find_cycle, require_project
from tidegate.compose.reader import Reader, boolean, one_of
from tidegate.core.compose import ComposeDependency, Condition


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The required services: those that Tidegate deploys, those that it runs to completion before (`jobs`), and those that
    `docker compose` runs."""

    ours: tuple[str, ...]
    jobs: tuple[str, ...]
    others: tuple[ComposeDependency, ...]


def read_depends_on(root: Reader, document: ServiceDocument) -> Dependencies:
    """The required services. They must be in the file and form no cycle."""
    conditions = root.take("depends_on", _by_name, dict[str, object]())
    names: list[str] = []
    jobs: list[str] = []
    others: list[ComposeDependency] = []
    for name, value in conditions.items():
        reader = Reader(value, root.at(f"depends_on.{name}"), root.findings, extensible=True)
        condition = reader.take("condition", one_of(Condition, Condition), Condition.STARTED)
        required = reader.take("required", boolean, True)
        if reader.take("restart", boolean, False):
            reader.note("restart", "ignored: a rollout of another service restarts nothing here")
        reader.finish()
        if required and name not in document.after:
            reader.complain("", f"there is no service {name} in the file")
        if name in document.ours and condition is Condition.COMPLETED:
            reader.complain(
                "condition", f"{name} has x-tidegate, so it never completes; use the x-tidegate hook pre_deploy"
            )
        if required and name in document.ours:
            names.append(name)
        elif required and name in document.after and condition is Condition.COMPLETED:
            jobs.append(name)
        elif required and name in document.after:
            others.append(ComposeDependency(require_project(document, root.findings), name, condition))
    way = find_cycle(document.after, document.service)
    if way:
        root.complain("depends_on", f"has a cycle: {' → '.join(way)}")
    return Dependencies(tuple(names), tuple(jobs), tuple(others))


def _by_name(value: object) -> dict[str, object]:
    if isinstance(value, list) and all(isinstance(name, str) and name for name in value):
        return dict.fromkeys(value)
    if isinstance(value, Mapping):
        return {str(name): condition for name, condition in value.items()}
    raise ValueError("a list of services, or a mapping of them")
