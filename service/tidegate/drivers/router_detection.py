"""Which router an environment has when its settings name none: one that is installed, and for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.drivers import registry
from tidegate.errors import UnknownDriver

#: The first that is installed is taken. What an owned one leaves in its directory, how it is installed.
DETECTION_ORDER = {
    "haproxy": ("haproxy.cfg", "haproxy"),
    "nginx": ("nginx.conf", "nginx"),
    "envoy": ("bootstrap.json", "tidegate[envoy]"),
}


@dataclass(frozen=True)
class DetectedRouter:
    """A router's driver, and why it is this one."""

    driver: str
    why: str


def detect_router(options: Mapping[str, Any]) -> DetectedRouter:
    """The driver for an environment that names none, whose only option may be `directory`. Raises `UnknownDriver`.

    Whose files are in the directory goes before what is installed: what is installed later changes nothing.
    """
    if others := sorted(set(options) - {"directory"}):
        raise UnknownDriver(
            f"name the `driver` that {', '.join(others)} is meant for; without one only `directory` is known"
        )
    known = registry.known_drivers("router")
    drivers = {name: registry.load_driver("router", name) for name in DETECTION_ORDER if name in known}
    homes = {name: Path(options.get("directory") or _default(driver, "directory")) for name, driver in drivers.items()}
    if owners := [name for name, home in homes.items() if _exists(home / DETECTION_ORDER[name][0])]:
        return _router_of_files(owners, homes)
    for name, driver in drivers.items():
        if driver.installed(_default(driver, "binary")):
            before = list(drivers)[: list(drivers).index(name)]
            lacking = f", and {' and '.join(before)} is not" if before else ""
            return DetectedRouter(name, f"{name}, since it is installed{lacking}; set `driver` to have another")
    wanted = ", ".join(DETECTION_ORDER[name][1] for name in drivers)
    raise UnknownDriver(f"no proxy is installed: install one of {wanted}, or name a `driver`")


def _router_of_files(owners: Sequence[str], homes: Mapping[str, Path]) -> DetectedRouter:
    if len(owners) > 1:
        locations = " and ".join(f"{name} ({homes[name]})" for name in owners)
        raise UnknownDriver(f"there are files of {locations}: name the `driver` that is meant")
    (name,) = owners
    return DetectedRouter(name, f"{name}, since its files are in {homes[name]}; set `driver` to have another")


def _default(driver: Any, option: str) -> Any:
    return driver.Options.model_fields[option].default


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise UnknownDriver(f"{path} cannot be looked for ({error.strerror}): name the `driver` that is meant") from error
