"""Checks the Docker hosts for `tidegate check`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from tidegate.drivers.platforms.docker.errors import DockerHostError
from tidegate.drivers.platforms.docker.hosts import DockerHost
from tidegate.drivers.platforms.docker.options import RegistryOptions
from tidegate.drivers.platforms.docker.registries import read_password
from tidegate.errors import PlatformError
from tidegate.ports import CheckStatus, Diagnosis

MIN_FREE_BYTES = 2 * 1024**3  # with less, the next image or log may fill the disk
GIB = 1024**3


def check_host(host: DockerHost) -> tuple[Diagnosis, ...]:
    """All diagnoses of one host; never raises."""
    part = f"docker {host.name}"
    try:
        version, info = host.about()
        network = host.has("network", host.network)
    except DockerHostError as error:
        return (
            Diagnosis(part, CheckStatus.WRONG, f"{error.problem} ({host.options.url})", error.fix or "see Docker's log"),
        )
    running = f"{info.get('ContainersRunning', 0)} of {info.get('Containers', 0)} containers running"
    summary = f"Docker {version.get('Version')}, API {version.get('ApiVersion')}, storage {info.get('Driver')}, {running}"
    diagnoses = [Diagnosis(part, CheckStatus.OK, summary), *_network(part, host, network), *_disk(part, host, info)]
    return (*diagnoses, *_warnings(part, info))


def check_registry(registry: RegistryOptions) -> Diagnosis:
    """Whether the password of a registry in the settings can be read; the registry is not asked."""
    part = f"docker registry {registry.name}"
    try:
        read_password(registry)
    except PlatformError as error:
        return Diagnosis(
            part, CheckStatus.WRONG, error.message, "correct username and password_file in platform.registries"
        )
    return Diagnosis(part, CheckStatus.OK, f"credentials of {registry.username} in {registry.password_file}")


def _network(part: str, host: DockerHost, exists: bool) -> Iterator[Diagnosis]:
    if not exists:
        yield Diagnosis(
            f"{part} network",
            CheckStatus.WRONG,
            host.network_problem(host.network),
            f"run docker network create {host.network} there",
        )
    elif not host.options.address and not host.options.is_local:
        problem = "the proxy cannot reach container addresses on another machine unless this machine routes to them"
        fix = f"set hosts[].address of {host.name} to that machine's IP address, or route to its bridge network"
        yield Diagnosis(f"{part} network", CheckStatus.WARNING, problem, fix)


def _disk(part: str, host: DockerHost, info: Mapping[str, Any]) -> Iterator[Diagnosis]:
    """Free disk space; known for Docker on this machine only."""
    if not host.options.url.startswith("unix://"):
        return
    root = str(info.get("DockerRootDir") or "")
    try:
        usage = shutil.disk_usage(root)
    except OSError:
        return
    summary = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {root}"
    if usage.free >= MIN_FREE_BYTES:
        yield Diagnosis(f"{part} disk", CheckStatus.OK, summary)
    else:
        yield Diagnosis(f"{part} disk", CheckStatus.WRONG, summary, "free space: docker system df, docker image prune")


def _warnings(part: str, info: Mapping[str, Any]) -> Iterator[Diagnosis]:
    """Limits that this host would ignore."""
    if not info.get("MemoryLimit", True):
        yield Diagnosis(
            f"{part} limits", CheckStatus.WARNING, "memory limits have no effect", "enable the memory cgroup in its kernel"
        )
