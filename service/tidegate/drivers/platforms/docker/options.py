"""The settings of the Docker platform: `[environments.NAME.platform]` with `driver = "docker"`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tidegate.core.image_reference import ImageReference

HOST_NAME = r"^[a-z0-9][a-z0-9-]*$"


class DockerTlsOptions(BaseModel):
    """The client certificate files for a `tcp://` host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: Path  # the CA of the host's certificate
    cert: Path
    key: Path


class DockerHostOptions(BaseModel):
    """One Docker host, and how the proxy reaches its containers.

    `address` empty: at their own bridge addresses, which requires that the proxy runs on the same machine or routes to the
    bridge. Otherwise an IP address of the host: each container is published on a port of this address.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=HOST_NAME)
    url: str = "unix:///var/run/docker.sock"  # unix:///path, tcp://host:port, ssh://[user@]host[:port]
    address: str = ""
    ports: str = ""  # "20000-20099": publish on ports of this range only; empty: any free port
    tls: DockerTlsOptions | None = None

    @field_validator("url")
    @classmethod
    def _is_engine_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
            return url
        named = parts.hostname and not parts.hostname.startswith("-") and parts.path in ("", "/")
        if parts.scheme == "tcp" and named and parts.port and parts.username is None:
            return url
        if parts.scheme == "ssh" and named and parts.password is None and not (parts.username or "").startswith("-"):
            return url
        raise ValueError("must be unix:///path, tcp://host:port or ssh://[user@]host[:port]")

    @field_validator("address")
    @classmethod
    def _is_ip_address(cls, address: str) -> str:
        if not address:
            return ""
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            raise ValueError("must be an IP address of the Docker host, or empty") from None
        if ip.is_unspecified:
            raise ValueError("must be one address that the proxy can reach, not the unspecified address")
        return address

    @field_validator("ports")
    @classmethod
    def _is_port_range(cls, ports: str) -> str:
        match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", ports)
        if ports and not (match and 0 < int(match[1]) <= int(match[2]) < 65536):
            raise ValueError('must be a range such as "20000-20099"')
        return ports

    @model_validator(mode="after")
    def _is_consistent(self) -> DockerHostOptions:
        if self.ports and not self.address:
            raise ValueError("ports requires address: only published containers use ports of the host")
        if self.tls and not self.url.startswith("tcp://"):
            raise ValueError("tls requires a tcp:// url")
        return self

    @property
    def port_count(self) -> int:
        """How many ports containers may be published on; 1 if Docker chooses any."""
        first, _, last = self.ports.partition("-")
        return int(last) - int(first) + 1 if self.ports else 1

    @property
    def is_local(self) -> bool:
        """Whether Docker runs on this machine."""
        return self.url.startswith("unix://") or urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")


class RegistryOptions(BaseModel):
    """Credentials for one image registry. The file is read at each use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # host[:port], as image names begin with it; "docker.io" for Docker Hub
    username: str = Field(min_length=1)
    password_file: Path

    @field_validator("name")
    @classmethod
    def _is_host(cls, name: str) -> str:
        try:
            if ImageReference.parse(f"{name}/image").registry == name:
                return name
        except ValueError:
            pass
        raise ValueError("must be a host with an optional port, such as registry.example:5000, without a scheme")


class DockerOptions(BaseModel):
    """The Docker hosts of an environment, and what all its containers have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hosts: Annotated[tuple[DockerHostOptions, ...], Field(min_length=1)]
    network: str = Field(default="bridge", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$")  # must exist on every host
    restart: Literal["unless-stopped", "on-failure"] = "unless-stopped"  # both restart containers after a reboot
    log_driver: str = "json-file"  # empty: Docker's default, without options
    log_options: dict[str, str] = {"max-size": "10m", "max-file": "3"}
    timeout_seconds: float = Field(default=10.0, gt=0, le=300)  # for reads; starting and stopping may take longer
    pull_seconds: float = Field(default=900.0, gt=0)  # maximum time without data while an image is pulled
    registry_seconds: float = Field(default=15.0, gt=0, le=300)  # maximum time to resolve a tag at its registry
    registries: tuple[RegistryOptions, ...] = ()  # before the Docker configuration of the user that runs Tidegate

    @field_validator("hosts")
    @classmethod
    def _have_unique_names(cls, hosts: tuple[DockerHostOptions, ...]) -> tuple[DockerHostOptions, ...]:
        _require_unique("host name", [host.name for host in hosts])
        return hosts

    @field_validator("registries")
    @classmethod
    def _have_unique_registries(cls, registries: tuple[RegistryOptions, ...]) -> tuple[RegistryOptions, ...]:
        _require_unique("registry", [registry.name for registry in registries])
        return registries

    @field_validator("network")
    @classmethod
    def _is_bridge_network(cls, network: str) -> str:
        if network in ("host", "none") or network.startswith("container:"):
            raise ValueError(
                "must give each container its own address: use bridge, or a network created with docker network create"
            )
        return network


def _require_unique(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"duplicate {what} {', '.join(twice)}")
