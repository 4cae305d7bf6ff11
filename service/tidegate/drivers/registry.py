"""Which drivers there are: one table, and entry points for those that others install."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from tidegate.errors import UnknownDriver

#: kind -> name -> "module:Class"
BUILT_IN_DRIVERS: dict[str, dict[str, str]] = {
    "platform": {"docker": "tidegate.drivers.platforms.docker.driver:DockerPlatform"},
    "router": {
        "envoy": "tidegate.drivers.routers.envoy.driver:EnvoyRouter",
        "haproxy": "tidegate.drivers.routers.haproxy.driver:HAProxyRouter",
        "nginx": "tidegate.drivers.routers.nginx.driver:NginxRouter",
    },
    "ci": {"jenkins": "tidegate.drivers.ci.jenkins.driver:JenkinsCI"},
    "metrics": {"prometheus": "tidegate.drivers.metrics.prometheus.driver:PrometheusMetrics"},
}
ENTRY_POINT_GROUPS = {
    "platform": "tidegate.platforms",
    "router": "tidegate.routers",
    "metrics": "tidegate.metrics",
    "ci": "tidegate.cis",
}


def load_driver(kind: str, name: str) -> Any:
    """The class of a driver, imported only now. Raises `UnknownDriver` with the known names."""
    places = known_drivers(kind)
    if name not in places:
        raise UnknownDriver(f"there is no {kind} driver {name!r}; known: {', '.join(sorted(places))}")
    module, _, attribute = places[name].partition(":")
    return getattr(import_module(module), attribute)


def known_drivers(kind: str) -> dict[str, str]:
    """Every driver of a kind, our own and installed ones."""
    return {**{entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUPS[kind])}, **BUILT_IN_DRIVERS[kind]}
