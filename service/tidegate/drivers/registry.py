"""The available drivers: built-in ones, and those of installed packages (entry points)."""

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
    """Import and return the class of a driver. Raises `UnknownDriver` with the known names."""
    drivers = known_drivers(kind)
    if name not in drivers:
        raise UnknownDriver(f"unknown {kind} driver {name!r}; available: {', '.join(sorted(drivers))}")
    module, _, attribute = drivers[name].partition(":")
    return getattr(import_module(module), attribute)


def known_drivers(kind: str) -> dict[str, str]:
    """All drivers of a kind, by name, as `module:Class`."""
    return {**{entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUPS[kind])}, **BUILT_IN_DRIVERS[kind]}
