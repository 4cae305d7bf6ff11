"""Builds the Docker configuration of a release's container. Pure."""

from __future__ import annotations

import io
import secrets
import tarfile
from collections.abc import Iterator
from typing import Any

from docker.api.client import APIClient
from docker.types import LogConfig, Mount, Ulimit
from docker.utils import version_gte

from tidegate.core.container import Container, File, MountKind, Network
from tidegate.core.model import Release
from tidegate.drivers.platforms.docker.containers import format_headers_variable, format_probe_label
from tidegate.drivers.platforms.docker.labels import (
    COMPOSE_HASH,
    COMPOSE_NUMBER,
    COMPOSE_ONEOFF,
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    ENVIRONMENT,
    HEADERS_VARIABLE,
    IMAGE,
    ORDINAL,
    PORT,
    PROBE,
    RELEASE,
    SERVICE,
    WANTS,
)
from tidegate.drivers.platforms.docker.options import DockerHostOptions, DockerOptions

NANO = 1_000_000_000
START_INTERVAL_API = "1.44"  # of Docker 25


def container_config(
    api: APIClient, release: Release, ordinal: int, shared: DockerOptions, host: DockerHostOptions
) -> dict[str, Any]:
    """The arguments of `create_container`."""
    container = release.container
    ports = sorted({container.port, container.health.port or container.port} - {0})
    named = _network_aliases(container, shared.network)
    return {
        "image": release.digest or release.image,
        "name": container_name(release, ordinal),
        "labels": container_labels(release, ordinal, shared),
        "environment": environment_variables(release, ordinal),
        "command": _list(container.command),
        "entrypoint": _list(container.entrypoint),
        "user": container.user or None,
        "working_dir": container.working_dir or None,
        "stop_signal": container.stop_signal or None,
        "healthcheck": _healthcheck(release),
        "start_interval": container.healthcheck.start_interval_seconds if container.healthcheck else 0.0,
        "ports": ports,
        "tty": container.tty,
        "stdin_open": container.stdin_open,
        "hostname": container.naming.hostname or None,
        "domainname": container.naming.domainname or None,
        "networking_config": {"EndpointsConfig": {shared.network: {"Aliases": named}}} if named else None,
        "host_config": api.create_host_config(
            network_mode=shared.network,
            restart_policy={"Name": shared.restart},
            port_bindings=dict.fromkeys(ports, (host.address, host.ports or None)) if host.address else None,
            log_config=_log_config(container, shared),
            init=container.init or None,
            read_only=container.read_only or None,
            **_mount_options(container),
            **_limit_options(container),
            **_privilege_options(container),
        ),
    }


def _mount_options(container: Container) -> dict[str, Any]:
    mounts = [
        Mount(
            mount.target,
            mount.source or None,
            mount.kind.value,
            mount.read_only,
            propagation=mount.propagation or None,
            tmpfs_size=mount.size_bytes or None,
            tmpfs_mode=mount.mode or None,
        )
        for mount in container.mounts
    ]
    mounts += [Mount(folder, None, "volume") for folder in volume_folders(container)]
    return {
        "binds": list(container.volumes) or None,
        "mounts": mounts or None,
        "tmpfs": dict(container.tmpfs) or None,
    }


def _limit_options(container: Container) -> dict[str, Any]:
    limits = container.limits
    return {
        "mem_limit": container.memory_bytes or None,
        "nano_cpus": round(container.cpus * NANO) or None,
        "mem_reservation": limits.memory_reservation_bytes or None,
        "memswap_limit": limits.memory_swap_bytes or None,
        "pids_limit": limits.pids or None,
        "shm_size": limits.shm_bytes or None,
        "cpu_shares": limits.cpu_shares or None,
        "cpuset_cpus": limits.cpuset or None,
        "oom_score_adj": limits.oom_score_adj or None,
        "ulimits": [Ulimit(name=ulimit.name, soft=ulimit.soft, hard=ulimit.hard) for ulimit in limits.ulimits] or None,
    }


def _privilege_options(container: Container) -> dict[str, Any]:
    rights, naming = container.rights, container.naming
    return {
        "cap_add": list(rights.cap_add) or None,
        "cap_drop": list(rights.cap_drop) or None,
        "security_opt": list(rights.security_opt) or None,
        "group_add": list(rights.group_add) or None,
        "devices": list(rights.devices) or None,
        "sysctls": dict(rights.sysctls) or None,
        "ipc_mode": rights.ipc or None,
        "extra_hosts": list(naming.extra_hosts) or None,
        "dns": list(naming.dns) or None,
        "dns_search": list(naming.dns_search) or None,
        "dns_opt": list(naming.dns_opt) or None,
    }


def _log_config(container: Container, shared: DockerOptions) -> LogConfig | None:
    """The service's log configuration, else that of the settings."""
    if container.log is not None:
        return LogConfig(type=container.log.driver, config=dict(container.log.options))
    return LogConfig(type=shared.log_driver, config=shared.log_options) if shared.log_driver else None


# -- networks -------------------------------------------------------------------------------------------------------------
def _network_aliases(container: Container, network: str) -> list[str]:
    """The aliases on the network of the settings, if the service lists it too. Docker's default bridge has no aliases."""
    aliases = (extra.aliases for extra in container.naming.networks if extra.name == network != "bridge")
    return list(next(aliases, ()))


def extra_networks(container: Container, network: str) -> Iterator[Network]:
    """All networks to join in addition to that of the settings."""
    yield from (extra for extra in container.naming.networks if extra.name != network)


# -- labels and names ----------------------------------------------------------------------------------------------------
def container_labels(release: Release, ordinal: int, shared: DockerOptions) -> dict[str, str]:
    """The labels by which Tidegate finds its containers, even without its database."""
    environment, _, service = release.service.partition("/")
    container = release.container
    own = {ENVIRONMENT: environment, SERVICE: service, RELEASE: release.id, ORDINAL: str(ordinal), IMAGE: release.image}
    own[PORT] = str(container.port)
    own[PROBE] = format_probe_label(container)
    wants = {"files": container.files, "networks": tuple(extra_networks(container, shared.network))}
    if any(wants.values()):
        own[WANTS] = " ".join(word for word, wanted in wants.items() if wanted)
    return {**container.labels, **_compose_labels(release, ordinal), **own}


def _compose_labels(release: Release, ordinal: int) -> dict[str, str]:
    """The labels by which `docker compose ps` and `docker compose logs` find containers of the project."""
    if not release.container.project:
        return {}
    return {
        COMPOSE_PROJECT: release.container.project,
        COMPOSE_SERVICE: release.service.partition("/")[2],
        COMPOSE_NUMBER: str(ordinal + 1),
        COMPOSE_ONEOFF: "False",
        COMPOSE_HASH: f"tidegate-{release.id}",  # of none of its own containers
    }


def container_name(release: Release, ordinal: int) -> str:
    """A unique name, so that a container that is still being removed does not block a new one. Of a service that runs alone
    always the same name: then Docker refuses a second container, whatever two engines believe."""
    prefix = f"tidegate-{release.service.replace('/', '-')}"
    return f"{prefix}-alone" if release.container.alone else f"{prefix}-{release.id}-{ordinal}-{secrets.token_hex(3)}"


def environment_variables(release: Release, ordinal: int) -> dict[str, str]:
    """The service's variables, and those that identify the instance."""
    own = {"TIDEGATE_SERVICE": release.service, "TIDEGATE_RELEASE": release.id, "TIDEGATE_ORDINAL": str(ordinal)}
    variables = {**release.container.environment, **own}
    variables.pop(HEADERS_VARIABLE, None)
    health = release.container.health
    return variables | ({HEADERS_VARIABLE: format_headers_variable(health)} if health.headers else {})


def _list(words: tuple[str, ...] | None) -> list[str] | None:
    return None if words is None else list(words)


def _healthcheck(release: Release) -> dict[str, Any] | None:
    check = release.container.healthcheck
    if check is None:
        return None
    if check.is_disabled:
        return {"test": ["NONE"]}
    return {
        "test": list(check.test),
        "interval": round(check.interval_seconds * NANO),
        "timeout": round(check.timeout_seconds * NANO),
        "retries": check.retries,
        "start_period": round(check.start_period_seconds * NANO),
    }


def create_container(api: APIClient, wanted: dict[str, Any]) -> dict[str, Any]:
    """Create a container; returns Docker's response. The SDK does not know `start_interval`: it is added to the request."""
    options = {name: value for name, value in wanted.items() if name not in ("name", "start_interval")}
    body = api.create_container_config(**options)
    if wanted["start_interval"] and has_start_interval(api.api_version):
        body["Healthcheck"]["StartInterval"] = round(wanted["start_interval"] * NANO)
    created: dict[str, Any] = api.create_container_from_config(body, wanted["name"])  # type: ignore[no-untyped-call]
    return created


def has_start_interval(api_version: str) -> bool:
    """Whether Docker with this API version has `start_interval`."""
    return version_gte(api_version, START_INTERVAL_API)


def volume_folders(container: Container) -> tuple[str, ...]:
    """Directories of files that need a volume, because they are read-only or hidden by a tmpfs."""
    hidden = [*container.tmpfs, *(mount.target for mount in container.mounts if mount.kind is MountKind.TMPFS)]
    folders = {
        file.directory
        for file in container.files
        if container.read_only or any(f"{file.directory}/".startswith(f"{at}/") for at in hidden)
    }
    return tuple(sorted(folders))


def build_archives(container: Container) -> Iterator[tuple[str, bytes]]:
    """(directory, tar archive) for each of those directories, and one archive for all other files."""
    own = volume_folders(container)
    for folder in own:
        yield folder, _tar([file for file in container.files if file.directory == folder], folder)
    rest = [file for file in container.files if file.directory not in own]
    if rest:
        yield "/", _tar(rest, "/")


def _tar(files: list[File], folder: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            entry = tarfile.TarInfo(file.target.removeprefix(folder).lstrip("/"))
            entry.size, entry.mode, entry.uid, entry.gid = len(file.data), file.mode, file.uid, file.gid
            archive.addfile(entry, io.BytesIO(file.data))
    return buffer.getvalue()
