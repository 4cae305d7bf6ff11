"""Reading the `checks` of a service. Pure."""

from __future__ import annotations

import math
import re
from typing import Any

from tidegate.analysis import promql
from tidegate.compose.reader import Reader, boolean, format_value, integer, list_of, one_of, text
from tidegate.compose.units import parse_share, parse_size
from tidegate.core.model import Check, CheckKind, Direction

BUILT_IN_CHECKS = (CheckKind.ERRORS, CheckKind.LATENCY, CheckKind.MEMORY)
RELEASE = "$release"
MEMORY = 'process_resident_memory_bytes{service="$service"}'
LIST = list_of("a list, such as [{errors: {margin: 0.5%}}]")
DEFAULT_MARGIN = 0.10  # for a compared query, as a ratio


def read_checks(own: Reader) -> tuple[Check, ...]:
    """All checks of the list. Their names must be unique."""
    checks = tuple(_read_check(own, index, entry) for index, entry in enumerate(own.take("checks", LIST, list[object]())))
    names = [check.name for check in checks]
    for name in sorted({name for name in names if names.count(name) > 1}):
        own.complain("checks", f"duplicate name {name}; rename one of the checks")
    return checks


def _read_check(own: Reader, index: int, entry: object) -> Check:
    reader = Reader(entry, own.at(f"checks[{index}]"), own.findings)
    kind = next((kind for kind in BUILT_IN_CHECKS if kind.value in reader.values), None)
    if kind is None:
        return _read_query(reader)
    inner = reader.inner(kind.value)
    inner.refuse({"quantile": "the whole distribution is compared, at the bounds that requests exceeded before"})
    check = {CheckKind.ERRORS: _read_errors, CheckKind.LATENCY: _read_latency, CheckKind.MEMORY: _read_memory}[kind](inner)
    inner.finish()
    reader.finish()
    return check


def _read_errors(own: Reader) -> Check:
    """The error-rate check."""
    margin, min_requests = own.take("margin", parse_share, None), own.take("min_requests", integer(1), 50)
    return Check(
        own.take("name", _name, "errors"), CheckKind.ERRORS, margin=margin, min_samples=min_requests, **_common_options(own)
    )


def _read_latency(own: Reader) -> Check:
    """The latency check, on the proxy's log or the application's histogram."""
    margin, min_requests = own.take("margin", parse_share, None), own.take("min_requests", integer(1), 50)
    return Check(
        own.take("name", _name, "latency"),
        CheckKind.LATENCY,
        query=own.take("histogram", _buckets, ""),
        margin=margin,
        min_samples=min_requests,
        **_common_options(own),
    )


def _read_memory(own: Reader) -> Check:
    """The memory check: a gauge of each instance, with a limit in the gauge's unit."""
    check = Check(
        own.take("name", _name, "memory"),
        CheckKind.MEMORY,
        query=own.take("query", _selector, MEMORY),
        maximum=own.take("limit", parse_size, None),
        min_samples=1,
        **_common_options(own),
    )
    if check.maximum is None and "limit" not in own:
        own.complain("limit", "is required: how much an instance may use, such as 256M")
    return check


def _common_options(own: Reader) -> dict[str, Any]:
    """The options that every check has."""
    return {"critical": own.take("critical", boolean, True), "shadow": own.take("shadow", boolean, False)}


def _selector(value: object) -> str:
    selector = text(value)
    if not promql.is_selector(selector):
        raise ValueError('a metric with matchers only, such as process_resident_memory_bytes{job="shop"}')
    return selector


def _buckets(value: object) -> str:
    selector = _selector(value)
    if not selector.partition("{")[0].strip().endswith("_bucket"):
        raise ValueError("the buckets of a classic histogram, such as http_request_duration_seconds_bucket")
    return selector


def _read_query(reader: Reader) -> Check:
    """A PromQL query: compared between releases, or checked against a limit."""
    check = Check(
        name=reader.take("name", _name, ""),
        kind=CheckKind.QUERY,
        query=reader.take("query", text, ""),
        direction=reader.take("direction", one_of(Direction, Direction), Direction.LOWER),
        margin=reader.take("margin", parse_share, DEFAULT_MARGIN),
        maximum=reader.take("max", _number, None),
        minimum=reader.take("min", _number, None),
        min_samples=reader.take("min_samples", integer(1), 3),
        weight=reader.take("weight", _weight, 1.0),
        **_common_options(reader),
    )
    reader.finish()
    for key in ("name", "query"):
        if key not in reader:
            known = ", ".join(kind.value for kind in BUILT_IN_CHECKS)
            reader.complain(key, f"is required for a query check; built-in checks are: {known}")
    if check.query and not check.is_limit and RELEASE not in check.query and "${release}" not in check.query:
        reader.complain("query", f"must contain {RELEASE} to be compared between releases; or set max or min")
    return check


def _name(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w-]{0,59}", value):
        return value
    raise ValueError(f"a name of letters, digits, - and _, not {format_value(value)}")


def _weight(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1000:
        return float(value)
    raise ValueError("a number above 0, up to 1000")


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError("a number")
