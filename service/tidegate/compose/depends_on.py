"""Reading `depends_on`: the services that must be live before this one. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.compose.document import ServiceDocument, find_cycle
from tidegate.compose.reader import Reader, boolean, one_of

CONDITIONS = ("service_started", "service_healthy")
COMPLETED = "service_completed_successfully"


def read_depends_on(root: Reader, document: ServiceDocument) -> tuple[str, ...]:
    """The names of the required services. They must be in the file and form no cycle."""
    conditions = root.take("depends_on", _by_name, dict[str, object]())
    names = []
    for name, value in conditions.items():
        reader = Reader(value, root.at(f"depends_on.{name}"), root.findings, extensible=True)
        reader.take("condition", _condition, "")
        required = reader.take("required", boolean, True)
        if reader.take("restart", boolean, False):
            reader.complain(
                "restart", "not supported, because a rollout of another service restarts nothing here; remove it"
            )
        reader.finish()
        if required and name not in document.after:
            reader.complain("", f"there is no service {name} in the file")
        names += [name] if required else []
    way = find_cycle(document.after, document.service)
    if way:
        root.complain("depends_on", f"has a cycle: {' → '.join(way)}")
    return tuple(names)


def _by_name(value: object) -> dict[str, object]:
    if isinstance(value, list) and all(isinstance(name, str) and name for name in value):
        return dict.fromkeys(value)
    if isinstance(value, Mapping):
        return {str(name): condition for name, condition in value.items()}
    raise ValueError("a list of services, or a mapping of them")


def _condition(value: object) -> str:
    if value == COMPLETED:
        raise ValueError(
            f"{', '.join(CONDITIONS)}; to run a command once before a release, use the x-tidegate hook pre_deploy"
        )
    return one_of(str, CONDITIONS)(value)
