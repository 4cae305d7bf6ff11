"""Chooses the router of an environment whose settings name none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.drivers import registry
from tidegate.errors import UnknownDriver

#: In order of preference: (file that mode owned creates in its directory, package to install).
DETECTION_ORDER = {
    "haproxy": ("haproxy.cfg", "haproxy"),
    "nginx": ("nginx.conf", "nginx"),
    "envoy": ("bootstrap.json", "tidegate[envoy]"),
}


@dataclass(frozen=True)
class DetectedRouter:
    """A router driver, and why it was chosen (empty: it is in the settings)."""

    driver: str
    reason: str


def detect_router(options: Mapping[str, Any]) -> DetectedRouter:
    """The driver of a router without `driver`; `directory` is the only allowed option. Raises `UnknownDriver`.

    A router whose files exist takes precedence over installed programs, so that a later installation changes nothing.
    """
    if others := sorted(set(options) - {"directory"}):
        raise UnknownDriver(
            f"set `driver`: {', '.join(others)} belong to a driver; without one only `directory` is allowed"
        )
    known = registry.known_drivers("router")
    drivers = {name: registry.load_driver("router", name) for name in DETECTION_ORDER if name in known}
    homes = {name: Path(options.get("directory") or _default(driver, "directory")) for name, driver in drivers.items()}
    if owners := [name for name, home in homes.items() if _exists(home / DETECTION_ORDER[name][0])]:
        return _router_of_files(owners, homes)
    for name, driver in drivers.items():
        if driver.installed(_default(driver, "binary")):
            before = list(drivers)[: list(drivers).index(name)]
            missing = f" and {' and '.join(before)} is not" if before else ""
            return DetectedRouter(name, f"{name}, because it is installed{missing}; set `driver` to choose another")
    wanted = ", ".join(DETECTION_ORDER[name][1] for name in drivers)
    raise UnknownDriver(f"no proxy is installed; install one of {wanted}, or set `driver`")


def _router_of_files(owners: Sequence[str], homes: Mapping[str, Path]) -> DetectedRouter:
    if len(owners) > 1:
        locations = " and ".join(f"{name} ({homes[name]})" for name in owners)
        raise UnknownDriver(f"found files of {locations}; set `driver` to choose one")
    (name,) = owners
    return DetectedRouter(name, f"{name}, because its files are in {homes[name]}; set `driver` to choose another")


def _default(driver: Any, option: str) -> Any:
    return driver.Options.model_fields[option].default


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise UnknownDriver(f"cannot read {path} ({error.strerror}); set `driver`") from error
