"""The host access that an environment allows to Compose files: mounts, capabilities, devices and the host's network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import normpath

from tidegate.core.container import Container, MountKind
from tidegate.core.model import Service
from tidegate.errors import Problem

HARMLESS_OPTIONS = frozenset({"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"})


@dataclass(frozen=True, slots=True)
class HostAccess:
    """What is allowed; everything else is refused. `host_mounts` are folders or globs, which include all paths below them;
    symbolic links on the host are not resolved."""

    host_mounts: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    security_options: tuple[str, ...] = ()  # globs; options that only drop privileges are always allowed
    devices: bool = False
    host_network: bool = False  # of hooks


def find_denied(service: Service, allowed: HostAccess) -> list[Problem]:
    """A problem for each host access of the service that is not allowed; empty when all is."""
    container, here = service.container, f"services.{service.name}"
    problems = [
        Problem(f"{here}.volumes", _denial_message(f"the host's {source}", "host_mounts", allowed.host_mounts))
        for source in _host_mounts(container)
        if not _is_inside(source, allowed.host_mounts)
    ]
    rights = container.rights
    known = {_capability(capability) for capability in allowed.capabilities}
    problems += [
        Problem(f"{here}.cap_add", _denial_message(f"the capability {value}", "capabilities", allowed.capabilities))
        for value in rights.cap_add
        if _capability(value) not in known
    ]
    problems += [
        Problem(f"{here}.security_opt", _denial_message(value, "security_options", allowed.security_options))
        for value in rights.security_opt
        if value not in HARMLESS_OPTIONS and not any(fnmatchcase(value, glob) for glob in allowed.security_options)
    ]
    if rights.devices and not allowed.devices:
        problems.append(Problem(f"{here}.devices", _denial_message("devices of the host", "devices")))
    problems += [
        Problem(f"{here}.x-tidegate.hooks.{name}", _denial_message("the host's network", "host_network"))
        for name, hook in service.hooks.items()
        if hook.host_network and not allowed.host_network
    ]
    return problems


def _denial_message(what: str, setting: str, values: Iterable[str] = ()) -> str:
    listed = ", ".join(values)
    return f"{what} is not allowed in this environment; allow.{setting} allows {listed or 'none'}"


def _host_mounts(container: Container) -> Iterator[str]:
    """The host paths that the container mounts."""
    for volume in container.volumes:
        source = volume.partition(":")[0]
        if source.startswith("/"):
            yield source
    yield from (mount.source for mount in container.mounts if mount.kind is MountKind.BIND)


def _is_inside(path: str, folders: Iterable[str]) -> bool:
    """Whether the path is one of the folders or below one."""
    plain = "/" + normpath(path).lstrip("/")
    return any(fnmatchcase(plain, folder) or fnmatchcase(plain, folder.rstrip("/") + "/*") for folder in folders)


def _capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")
