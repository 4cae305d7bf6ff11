"""`depends_on`: which services must serve before this one. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate.compose.document import ServiceDocument, find_cycle
from tidegate.compose.reader import Reader, boolean, one_of

CONDITIONS = ("service_started", "service_healthy")
COMPLETED = "service_completed_successfully"


def read_depends_on(root: Reader, document: ServiceDocument) -> tuple[str, ...]:
    """The names that are required; in the file, and not in a circle."""
    conditions = root.take("depends_on", _by_name, dict[str, object]())
    names = []
    for name, value in conditions.items():
        reader = Reader(value, root.at(f"depends_on.{name}"), root.problems, extensible=True)
        reader.take("condition", _condition, "")
        required = reader.take("required", boolean, True)
        if reader.take("restart", boolean, False):
            reader.complain("restart", "a rollout of another service restarts nothing here: leave it out")
        reader.finish()
        if required and name not in document.after:
            reader.complain("", f"there is no service {name} in the file")
        names += [name] if required else []
    way = find_cycle(document.after, document.service)
    if way:
        root.complain("depends_on", f"goes in a circle: {' → '.join(way)}")
    return tuple(names)


def _by_name(value: object) -> dict[str, object]:
    if isinstance(value, list) and all(isinstance(each, str) and each for each in value):
        return dict.fromkeys(value)
    if isinstance(value, Mapping):
        return {str(name): each for name, each in value.items()}
    raise ValueError("a list of services, or a mapping of them")


def _condition(value: object) -> str:
    if value == COMPLETED:
        raise ValueError(f"{', '.join(CONDITIONS)}; what is to run once before a release is the hook x-tidegate pre_deploy")
    return one_of(str, CONDITIONS)(value)
