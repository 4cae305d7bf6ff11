"""Reading the keys of `x-tidegate` that say how a service is checked and proxied. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace

from tidegate.compose import extension
from tidegate.compose.reader import Reader, integer, one_of
from tidegate.compose.units import parse_duration
from tidegate.core.container import Container, Health
from tidegate.core.routing import Backend, BackendOptions, BackendProtocol, Preview, Timeouts

NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
#: Except names that Tidegate gives to previews (`shop_preview`), frontends (`shop_on_8001`) and its own parts.
ROUTE_PATTERN = re.compile(r"(?!tidegate_)(?!.*_preview$)(?!.*_on_[0-9a-f.]*[0-9](_if_|$))[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
MAX_HEALTH_TIMEOUT_SECONDS = 60.0  # an instance that hangs takes a thread for so long
#: Sent by Tidegate and the proxies themselves.
OWN_HEADERS = ("host", "connection", "content-length", "transfer-encoding")


def read_health(own: Reader) -> Health:
    """How an instance is checked."""
    reader, base = own.inner("health"), Health()
    health = Health(
        path=reader.take("path", extension.parse_path, base.path),
        port=reader.take("port", integer(1, 65535), base.port),
        scheme=reader.take("scheme", one_of(str, ["http", "https"]), base.scheme),
        host=reader.take("host", _host, base.host),
        headers=reader.take("headers", _headers, (), secret=True),
        expect=reader.take("expect", _statuses, base.expect),
        interval_seconds=reader.take("interval", _between(0.1, 3600.0), base.interval_seconds),
        timeout_seconds=reader.take("timeout", _between(0.1, MAX_HEALTH_TIMEOUT_SECONDS), base.timeout_seconds),
        healthy_threshold=reader.take("healthy_threshold", integer(1, 100), base.healthy_threshold),
        unhealthy_threshold=reader.take("unhealthy_threshold", integer(1, 100), base.unhealthy_threshold),
    )
    for key in ("port", "scheme", "host", "headers", "expect"):
        if key in reader and "path" not in reader:
            reader.complain(key, "has no effect without `path`, such as /health")
    reader.finish()
    return health


def read_backend(own: Reader, service: str, container: Container, listen: str, preview: Preview | None) -> Backend:
    """The backend of the service. `listen`: where the proxy takes requests."""
    health = container.health
    if health.port not in (0, container.port):
        health = Health(
            interval_seconds=health.interval_seconds,
            timeout_seconds=health.timeout_seconds,
            healthy_threshold=health.healthy_threshold,
            unhealthy_threshold=health.unhealthy_threshold,
        )  # proxies know one address of an instance; the engine checks the other port
    options = BackendOptions(
        health=replace(health, port=0),
        timeouts=_timeouts(own),
        protocol=own.take("protocol", one_of(BackendProtocol, BackendProtocol), BackendProtocol.HTTP1),
    )
    return Backend(own.take("route", _route, default_route(service)), listen, preview, options=options)


def default_route(service: str) -> str:
    """The service's name if proxies can use it as it is, else one made of it that is as unique."""
    if ROUTE_PATTERN.fullmatch(service):
        return service
    digest = hashlib.sha256(service.encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9-]', '-', service)[:31]}-{digest}"


def _timeouts(own: Reader) -> Timeouts:
    reader, base = own.inner("timeouts"), Timeouts()
    timeouts = Timeouts(
        response_seconds=reader.take("response", _between(0.1, 86_400.0), base.response_seconds),
        idle_seconds=reader.take("idle", _between(0.1, 86_400.0), base.idle_seconds),
        headers_seconds=reader.take("headers", _between(0.1, 86_400.0), base.headers_seconds),
    )
    reader.finish()
    return timeouts


def _between(lowest_seconds: float, highest_seconds: float) -> Callable[[object], float]:
    """A reader of durations within these limits."""

    def read(value: object) -> float:
        duration = parse_duration(value)
        if not lowest_seconds <= duration <= highest_seconds:
            raise ValueError(f"a duration from {lowest_seconds * 1000:g}ms to {highest_seconds:g}s")
        return duration

    return read


def _route(value: object) -> str:
    if isinstance(value, str) and ROUTE_PATTERN.fullmatch(value):
        return value
    raise ValueError(
        "letters, digits, `_`, `.` and -, at most 40 characters, the first a letter or digit, not beginning with "
        "tidegate_, not ending in _preview or in _on_ and a port"
    )


def _host(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?", value):
        return value
    raise ValueError("a host name such as shop.example.com, with a port if the application requires one")


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    headers = {str(name): str(text) for name, text in value.items()} if isinstance(value, dict) else {}
    if not headers:
        raise ValueError("a mapping of names and values, such as {X-Probe: tidegate}")
    for name, text in headers.items():
        extension.parse_header_name(name)
        if name.lower() in OWN_HEADERS:
            raise ValueError(f"names of headers except {', '.join(OWN_HEADERS)} (`host` is a key of `health`)")
        if not re.fullmatch(r"[ -~]{0,1000}", text):
            raise ValueError("values of printable ASCII characters, at most 1000")
    return tuple(headers.items())


def _statuses(value: object) -> tuple[tuple[int, int], ...]:
    """Ranges of statuses: 200, "200-299", or a list of these."""
    ranges = []
    for part in value if isinstance(value, list) and value else [value]:
        match = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", str(part)) if isinstance(part, str | int) else None
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError('statuses such as 204, 200-299, or [200-299, "401"]')
        ranges.append((int(match[1]), int(match[2] or match[1])))
    return tuple(sorted(ranges))
