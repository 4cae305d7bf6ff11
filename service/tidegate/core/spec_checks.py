"""The `checks` of a service. Pure."""

from __future__ import annotations

import re

from tidegate.core.model import Check, CheckKind, Direction
from tidegate.core.reading import Reader, one_of, shown, text, whole
from tidegate.core.units import share

READY_MADE = (CheckKind.ERRORS, CheckKind.LATENCY)
RELEASE = "$release"


def checks(own: Reader) -> tuple[Check, ...]:
    """Every check of the list; their names must differ."""
    found = tuple(_one(own, index, entry) for index, entry in enumerate(own.take("checks", _list, list[object]())))
    names = [check.name for check in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        own.complain("checks", f"two checks are named {name}: give one of them another name")
    return found


def _list(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    raise ValueError("a list, such as [{errors: {margin: 0.5%}}]")


def _one(own: Reader, index: int, entry: object) -> Check:
    reader = Reader(entry, own.at(f"checks[{index}]"), own.problems)
    kind = next((each for each in READY_MADE if each.value in reader.values), None)
    if kind is None:
        return _query(reader)
    inner = reader.inner(kind.value)
    inner.refuse({"quantile": "HAProxy's exporter has means only; a check of the mean response time is made of latency"})
    check = Check(
        name=inner.take("name", _name, kind.value),
        kind=kind,
        margin=inner.take("margin", share, 0.0),
        least=inner.take("least", whole(1), 50),
    )
    inner.finish()
    reader.finish()
    return check


def _query(reader: Reader) -> Check:
    """The user's own PromQL: compared by release, or held against a limit."""
    check = Check(
        name=reader.take("name", _name, ""),
        kind=CheckKind.QUERY,
        query=reader.take("query", text, ""),
        direction=reader.take("direction", one_of(Direction, Direction), Direction.LOWER),
        margin=reader.take("margin", share, 0.0),
        maximum=reader.take("max", _number, None),
        minimum=reader.take("min", _number, None),
        least=reader.take("least", whole(1), 3),
    )
    reader.finish()
    for key in ("name", "query"):
        if key not in reader:
            known = ", ".join(each.value for each in READY_MADE)
            reader.complain(key, f"is needed for a check of your own; ready-made are: {known}")
    if check.query and not check.is_limit and RELEASE not in check.query and "${release}" not in check.query:
        reader.complain("query", f"must contain {RELEASE}, so that it can be asked for both releases; or give max or min")
    return check


def _name(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w-]{0,59}", value):
        return value
    raise ValueError(f"a name of letters, digits, - and _, not {shown(value)}")


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError("a number")
