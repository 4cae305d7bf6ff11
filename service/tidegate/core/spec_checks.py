"""The `checks` of a service. Pure."""

from __future__ import annotations

import math
import re
from typing import Any

from tidegate.core.judge import promql
from tidegate.core.model import Check, CheckKind, Direction
from tidegate.core.reading import Reader, flag, listed, one_of, shown, text, whole
from tidegate.core.units import share, size

READY_MADE = (CheckKind.ERRORS, CheckKind.LATENCY, CheckKind.MEMORY)
RELEASE = "$release"
MEMORY = 'process_resident_memory_bytes{service="$service"}'
LIST = listed("a list, such as [{errors: {margin: 0.5%}}]")
DEFAULT_MARGIN = 0.10  # of a compared query


def checks(own: Reader) -> tuple[Check, ...]:
    """Every check of the list; their names must differ."""
    found = tuple(_one(own, index, entry) for index, entry in enumerate(own.take("checks", LIST, list[object]())))
    names = [check.name for check in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        own.complain("checks", f"two checks are named {name}: give one of them another name")
    return found


def _one(own: Reader, index: int, entry: object) -> Check:
    reader = Reader(entry, own.at(f"checks[{index}]"), own.problems)
    kind = next((each for each in READY_MADE if each.value in reader.values), None)
    if kind is None:
        return _query(reader)
    inner = reader.inner(kind.value)
    inner.refuse({"quantile": "all of the distribution is compared, at the bounds that requests exceeded before"})
    check = {CheckKind.ERRORS: _errors, CheckKind.LATENCY: _latency, CheckKind.MEMORY: _memory}[kind](inner)
    inner.finish()
    reader.finish()
    return check


def _errors(own: Reader) -> Check:
    """The share of failed requests."""
    margin, least = own.take("margin", share, None), own.take("least", whole(1), 50)
    return Check(own.take("name", _name, "errors"), CheckKind.ERRORS, margin=margin, least=least, **_standing(own))


def _latency(own: Reader) -> Check:
    """Response times, from the proxy's log or the application's own histogram."""
    margin, least = own.take("margin", share, None), own.take("least", whole(1), 50)
    return Check(
        own.take("name", _name, "latency"),
        CheckKind.LATENCY,
        query=own.take("histogram", _buckets, ""),
        margin=margin,
        least=least,
        **_standing(own),
    )


def _memory(own: Reader) -> Check:
    """A gauge of each instance, and its limit in the gauge's own unit."""
    found = Check(
        own.take("name", _name, "memory"),
        CheckKind.MEMORY,
        query=own.take("query", _selector, MEMORY),
        maximum=own.take("limit", size, None),
        least=1,
        **_standing(own),
    )
    if found.maximum is None and "limit" not in own:
        own.complain("limit", "is needed: what an instance may use, such as 256M")
    return found


def _standing(own: Reader) -> dict[str, Any]:
    """What every check can have."""
    return {"critical": own.take("critical", flag, True), "shadow": own.take("shadow", flag, False)}


def _selector(value: object) -> str:
    found = text(value)
    if not promql.is_selector(found):
        raise ValueError('a metric with matchers and nothing else, such as process_resident_memory_bytes{job="shop"}')
    return found


def _buckets(value: object) -> str:
    found = _selector(value)
    if not found.partition("{")[0].strip().endswith("_bucket"):
        raise ValueError("the buckets of a classic histogram, such as http_request_duration_seconds_bucket")
    return found


def _query(reader: Reader) -> Check:
    """The user's own PromQL: compared by release, or held against a limit."""
    check = Check(
        name=reader.take("name", _name, ""),
        kind=CheckKind.QUERY,
        query=reader.take("query", text, ""),
        direction=reader.take("direction", one_of(Direction, Direction), Direction.LOWER),
        margin=reader.take("margin", share, DEFAULT_MARGIN),
        maximum=reader.take("max", _number, None),
        minimum=reader.take("min", _number, None),
        least=reader.take("least", whole(1), 3),
        weight=reader.take("weight", _weight, 1.0),
        **_standing(reader),
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


def _weight(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1000:
        return float(value)
    raise ValueError("a number above 0, up to 1000")


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError("a number")
