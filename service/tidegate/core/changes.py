"""What differs between two definitions of a service, by path. Values that may be secrets are never part of it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum

#: Texts that are no secrets. Others may be: variables, files, labels, commands, headers, options of log drivers.
SHOWN_TEXTS = re.compile(
    r"image|depends_on|source\.project|backend\.(name|listen|preview)(\..+)?|policy\..+|hooks\.[a-z_]+\.image"
    r"|health\.(path|scheme|host)|stop_signal|user|working_dir|volumes|external_volumes|mounts|checks\.[^.]+\.name"
)
IGNORED = frozenset({"warnings", "notes", "variables"})  # what they say shows in the rest
KEYS = ("name", "target", "id")  # by which items of a list are matched


class ChangeKind(StrEnum):
    """How a value differs."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Change:
    """A value that differs. `path` is dotted, like `environment.DB_URL` or `policy.interval_seconds`; `old` and `new` are
    empty where the value may be a secret, or where there is none."""

    path: str
    kind: ChangeKind
    old: str = ""
    new: str = ""

    def __str__(self) -> str:
        """One line for people, such as `replicas: 3 → 5`."""
        if self.old or self.new:
            return f"{self.path}: {self.old or 'none'} → {self.new or 'none'}"
        return f"{self.path} {self.kind}"


def find_changes(old: object, new: object) -> tuple[Change, ...]:
    """Everything that differs between two values of the same dataclass, in order of their fields."""
    return tuple(_walk(old, new, ""))


def _walk(old: object, new: object, path: str) -> Iterator[Change]:
    if old == new:
        return
    before, after = _children(old), _children(new)
    if before is None or after is None or not (before or after):
        yield _leaf(old, new, path)
        return
    for name in dict.fromkeys((*before, *after)):
        place = f"{path}.{name}" if path else name
        if name not in before:
            yield Change(place, ChangeKind.ADDED, "", _shown(after[name], place))
        elif name not in after:
            yield Change(place, ChangeKind.REMOVED, _shown(before[name], place), "")
        else:
            yield from _walk(before[name], after[name], "" if (path, name) == ("", "container") else place)


def _children(value: object) -> Mapping[str, object] | None:
    """The parts of a value by name; None for a value without parts."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: getattr(value, field.name) for field in fields(value) if field.compare and field.name not in IGNORED
        }
    if isinstance(value, Mapping):
        return {str(name): item for name, item in value.items()}
    if isinstance(value, tuple) and value and all(is_dataclass(item) for item in value):
        key = next((name for name in KEYS if hasattr(value[0], name)), None)
        return None if key is None else {str(getattr(item, key)): item for item in value}
    return {} if value == () else None


def _leaf(old: object, new: object, path: str) -> Change:
    kind = ChangeKind.ADDED if _is_nothing(old) else ChangeKind.REMOVED if _is_nothing(new) else ChangeKind.CHANGED
    return Change(path, kind, _shown(old, path), _shown(new, path))


def _is_nothing(value: object) -> bool:
    return value is None or value in ((), "")


def _shown(value: object, path: str) -> str:
    """The value as text; empty if it may be a secret, has parts, or there is none."""
    if isinstance(value, bool | StrEnum):
        return str(value).lower()
    if isinstance(value, int | float) and math.isfinite(value):
        return str(int(value)) if value == int(value) else f"{value:.3g}"
    if not SHOWN_TEXTS.fullmatch(path):
        return ""
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value if isinstance(item, str | int | float))
    return value if isinstance(value, str) else ""
