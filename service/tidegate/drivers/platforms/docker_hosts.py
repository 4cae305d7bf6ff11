"""One Docker engine: its client, made when it is first needed, and the calls that Tidegate makes of it."""

from __future__ import annotations

import threading
from typing import Any

import docker
from docker.errors import ImageNotFound, NotFound
from docker.tls import TLSConfig
from pydantic import BaseModel, ConfigDict, Field

from tidegate.core.model import Release
from tidegate.drivers.platforms import docker_containers as containers
from tidegate.drivers.platforms.docker_errors import translated

API_SECONDS = 30
PULL_SECONDS = 600.0


class Tls(BaseModel):
    """Files for a TCP engine with TLS."""

    model_config = ConfigDict(extra="forbid")
    ca: str
    cert: str
    key: str


class HostOptions(BaseModel):
    """One engine.

    `address` empty: containers are reached at their own bridge address, as on the proxy's own host. Otherwise each is
    published on a random port of this address, and reached there.
    """

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    url: str = Field(default="unix:///var/run/docker.sock", pattern=r"^(unix|tcp|ssh)://.+")
    address: str = ""
    tls: Tls | None = None


class Host:
    """An engine by its name. Every method raises `PlatformError` that names it."""

    def __init__(self, options: HostOptions, network: str) -> None:
        self.options, self.name, self.network = options, options.name, network
        self._lock = threading.Lock()
        self._client: docker.DockerClient | None = None

    @property
    def api(self) -> Any:
        """The SDK's low-level client: one listing in a millisecond, where the other inspects each container."""
        with self._lock:
            if self._client is None:
                self._client = docker.DockerClient(
                    base_url=self.options.url,
                    version="auto",
                    timeout=API_SECONDS,
                    tls=self._tls() or False,
                    use_ssh_client=self.options.url.startswith("ssh://"),
                    max_pool_size=32,
                )
            return self._client.api

    def _tls(self) -> TLSConfig | None:
        tls = self.options.tls
        return TLSConfig(client_cert=(tls.cert, tls.key), ca_cert=tls.ca, verify=True) if tls else None

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def listed(self, labels: dict[str, str]) -> list[dict[str, Any]]:
        """All containers with these labels, whatever their state."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with translated(self.name, "listing containers"):
            found: list[dict[str, Any]] = self.api.containers(all=True, filters={"label": wanted})
        return found

    def inspected(self, container: str) -> dict[str, Any] | None:
        """Everything about one; None when it is gone."""
        with translated(self.name, "looking at a container"):
            try:
                found: dict[str, Any] = self.api.inspect_container(container)
            except NotFound:
                return None
        return found

    def create(self, release: Release, ordinal: int) -> str:
        """Create, and return its id."""
        with translated(self.name, f"creating {release.id}/{ordinal}"):
            wanted = containers.configuration(self.api, release, ordinal, self.network, self.options.address)
            return str(self.api.create_container(**wanted)["Id"])

    def start(self, container: str, what: str) -> None:
        """Start a created one; one that cannot be started is removed again."""
        with translated(self.name, f"starting {what}"):
            try:
                self.api.start(container)
            except Exception:
                self.api.remove_container(container, force=True)
                raise

    def remove(self, container: str, grace_seconds: float) -> None:
        """SIGTERM, after the grace SIGKILL, then remove; gone already is fine."""
        with translated(self.name, "stopping a container"):
            try:
                # The call itself takes as long as the container does, so its own limit lies beyond the grace.
                self.api.post(
                    self.api._url("/containers/{0}/stop", container),
                    params={"t": int(grace_seconds)},
                    timeout=grace_seconds + API_SECONDS,
                )
                self.api.remove_container(container, force=True, v=True)
            except NotFound:
                return

    def tail(self, container: str, lines: int) -> str:
        """Its last log lines."""
        with translated(self.name, "reading a log"):
            found: bytes = self.api.logs(container, stdout=True, stderr=True, tail=lines)
        return found.decode(errors="replace")

    def image(self, reference: str) -> dict[str, Any]:
        """The image, pulled when it is not there and a registry has it."""
        with translated(self.name, f"looking for image {reference}"):
            try:
                found: dict[str, Any] = self.api.inspect_image(reference)
            except ImageNotFound:
                found = self._pulled(reference)
        return found

    def _pulled(self, reference: str) -> dict[str, Any]:
        with translated(self.name, f"pulling image {reference}"):
            self._client_for_pull(reference)
            found: dict[str, Any] = self.api.inspect_image(reference)
        return found

    def _client_for_pull(self, reference: str) -> None:
        assert self._client is not None
        try:
            self._client.images.pull(reference, all_tags=False)
        except docker.errors.APIError as error:
            said = str(error.explanation or error)
            raise ImageNotFound(f"{reference}; it cannot be pulled: {said}") from error
