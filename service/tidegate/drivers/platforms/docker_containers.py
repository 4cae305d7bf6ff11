"""A release's container as the engine wants it, and an engine's container as an instance. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from tidegate.core.model import Release

PREFIX = "tidegate."
ENVIRONMENT, SERVICE, RELEASE, ORDINAL, IMAGE = (
    PREFIX + word for word in ("environment", "service", "release", "ordinal", "image")
)
PORT, PROBE = PREFIX + "port", PREFIX + "probe"  # what takes traffic; how readiness is asked: path, port, seconds
SHORT = 12  # characters of an id that Docker itself shows
LOG_SIZE = "10m"


def labels(release: Release, ordinal: int) -> dict[str, str]:
    """How Tidegate finds its containers again, and how Prometheus' own Docker discovery tells releases apart."""
    environment, _, service = release.service.partition("/")
    own = {ENVIRONMENT: environment, SERVICE: service, RELEASE: release.id, ORDINAL: str(ordinal), IMAGE: release.image}
    container, health = release.container, release.container.health
    own[PORT] = str(container.port)
    if health.path:
        own[PROBE] = f"{health.timeout_seconds:g} {health.port or container.port} {health.path}"
    return {**release.container.labels, **own}


def name(release: Release, ordinal: int) -> str:
    """Never the same twice: one that is still being removed does not stand in the way."""
    return f"tidegate-{release.service.replace('/', '-')}-{release.id}-{ordinal}-{secrets.token_hex(3)}"


def variables(release: Release, ordinal: int) -> dict[str, str]:
    """The service's own variables, and which instance this is."""
    own = {"TIDEGATE_SERVICE": release.service, "TIDEGATE_RELEASE": release.id, "TIDEGATE_ORDINAL": str(ordinal)}
    return {**release.container.environment, **own}


def configuration(api: Any, release: Release, ordinal: int, network: str, publish: str) -> dict[str, Any]:
    """The arguments of `create_container`. `publish`: an address of the host on which a random port is published."""
    container = release.container
    port = f"{container.port}/tcp"
    host = api.create_host_config(
        network_mode=network,
        restart_policy={"Name": "unless-stopped"},
        port_bindings={port: (publish, None)} if publish else None,
        binds=list(container.volumes) or None,
        mem_limit=container.memory_bytes or None,
        nano_cpus=int(container.cpus * 1e9) or None,
        init=container.init or None,
        read_only=container.read_only or None,
        log_config={"Type": "json-file", "Config": {"max-size": LOG_SIZE, "max-file": "2"}},
    )
    return {
        "image": release.digest,
        "name": name(release, ordinal),
        "labels": labels(release, ordinal),
        "environment": variables(release, ordinal),
        "command": _list(container.command),
        "entrypoint": _list(container.entrypoint),
        "user": container.user or None,
        "working_dir": container.working_dir or None,
        "stop_signal": container.stop_signal or None,
        "healthcheck": _healthcheck(release),
        "ports": [container.port] if publish else None,
        "host_config": host,
    }


def _list(words: tuple[str, ...] | None) -> list[str] | None:
    return None if words is None else list(words)


def _healthcheck(release: Release) -> dict[str, Any] | None:
    check = release.container.healthcheck
    if check is None:
        return None
    nanoseconds = 1_000_000_000
    return {
        "test": list(check.test),
        "interval": int(check.interval_seconds * nanoseconds),
        "timeout": int(check.timeout_seconds * nanoseconds),
        "retries": check.retries,
        "start_period": int(check.start_period_seconds * nanoseconds),
    }


def address(listed: Mapping[str, Any], port: int, publish: str) -> str:
    """`ip:port` as the proxy reaches it; empty while it has none."""
    if publish:
        public = (each.get("PublicPort") for each in listed.get("Ports") or () if each.get("PrivatePort") == port)
        found = next((each for each in public if each), None)
        return f"{publish}:{found}" if found else ""
    networks = (listed.get("NetworkSettings") or {}).get("Networks") or {}
    ip = next((each["IPAddress"] for each in networks.values() if each.get("IPAddress")), "")
    return f"{ip}:{port}" if ip else ""
