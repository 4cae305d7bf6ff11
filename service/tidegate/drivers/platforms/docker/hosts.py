"""One Docker host: its API clients and the calls that Tidegate makes."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO, Any, Literal

import requests
from docker.api.client import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.errors import APIError, ImageNotFound, NotFound
from docker.tls import TLSConfig

from tidegate.core.container import NetworkOrigin, PullPolicy
from tidegate.core.image_reference import ImageReference
from tidegate.core.model import Release
from tidegate.drivers.platforms.docker import create
from tidegate.drivers.platforms.docker.containers import SHORT_ID_CHARS
from tidegate.drivers.platforms.docker.create import build_archives
from tidegate.drivers.platforms.docker.errors import KNOWN_PULL_ERRORS, DockerHostError, translate_errors
from tidegate.drivers.platforms.docker.options import DockerHostOptions, DockerOptions
from tidegate.drivers.platforms.docker.registries import find_credentials
from tidegate.drivers.platforms.docker.transport import BoundedAdapter, EngineAdapter, last_stderr_line
from tidegate.errors import PlatformError

#: Returns the arguments of the SDK's `create_container`, given a client and the settings of platform and host.
Configure = Callable[[APIClient, DockerOptions, DockerHostOptions], dict[str, Any]]

SLOW_CALL_SECONDS = 120.0  # for creating, starting and removing containers on a busy machine
MAX_PULL_SECONDS = 3600.0
MAX_CONNECTIONS = 64
ADDRESS_IN_USE = "address already in use"  # in Docker's message, if a program other than a container has the port


class DockerHost:
    """A Docker host. Every method raises a `PlatformError` that names it. Safe to use from several threads."""

    def __init__(self, options: DockerHostOptions, shared: DockerOptions) -> None:
        self.options, self.name, self._shared = options, options.name, shared
        self._lock = threading.Lock()
        self._clients: dict[float, APIClient] = {}
        self._stderr: IO[bytes] = tempfile.TemporaryFile(mode="a+b")  # noqa: SIM115 - standard error of ssh; closed by close()

    # -- clients --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _translating_errors(self, action: str, seconds: float | None = None, **known: Any) -> Iterator[APIClient]:
        """A client with this timeout (default: `timeout_seconds` of the settings); translates the SDK's errors."""
        try:
            with translate_errors(self.name, action, **known):
                yield self._client(seconds or self._shared.timeout_seconds)
        except DockerHostError as error:
            stderr = "" if isinstance(error.__cause__, APIError) else last_stderr_line(self._stderr)
            if not stderr:
                raise
            fix = f"try ssh {self.options.url.removeprefix('ssh://')} docker version"
            raise DockerHostError(self.name, action, f"ssh failed: {stderr}", fix, retryable=True) from error.__cause__

    def _client(self, seconds: float) -> APIClient:
        with self._lock:
            if seconds not in self._clients:
                version = next((client.api_version for client in self._clients.values()), "")
                self._clients[seconds] = self._new_client(seconds, version or self._version(seconds))
            return self._clients[seconds]

    def _version(self, seconds: float) -> str:
        """The API version of the host."""
        with self._new_client(seconds, MINIMUM_DOCKER_API_VERSION) as client:
            try:
                return str(client.version(api_version=False)["ApiVersion"])
            except KeyError:
                raise ValueError("no API version in the response") from None

    def _new_client(self, seconds: float, version: str) -> APIClient:
        url, tls = self.options.url, self.options.tls
        client = APIClient(
            base_url=url if url.startswith("tcp://") else "unix:///engine",
            version=version,
            timeout=seconds,  # type: ignore[arg-type]  # requests takes fractions; the stubs say int
            tls=TLSConfig(client_cert=(str(tls.cert), str(tls.key)), ca_cert=str(tls.ca), verify=True) if tls else False,
            max_pool_size=MAX_CONNECTIONS,
        )
        client.trust_env = False  # connect as the settings say, whatever the environment has
        if url.startswith("tcp://"):
            client.mount("https://" if tls else "http://", BoundedAdapter(seconds, MAX_CONNECTIONS))
        else:
            client.mount("http+docker://", EngineAdapter(url, seconds, self._stderr))
        return client

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients = {}
            self._stderr.close()

    # -- containers -----------------------------------------------------------------------------------------------------

    def listed(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """All containers with these labels in any state, in one request."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with self._translating_errors("list containers") as api:
            return [_require_object(container) for container in api.containers(all=True, filters={"label": wanted})]

    def inspected(self, container: str) -> dict[str, Any] | None:
        """The full description of a container; None if it does not exist."""
        with self._translating_errors(f"inspect container {container}") as api:
            try:
                return _require_object(api.inspect_container(container))
            except NotFound:
                return None

    def create(self, what: str, configuration: Configure, policy: PullPolicy) -> str:
        """Create a container and return its short id. A pinned image that has been removed is pulled again, unless the
        policy is never to."""
        with self._translating_errors(f"create {what}", SLOW_CALL_SECONDS) as api:
            wanted = configuration(api, self._shared, self.options)
            try:
                created = create.create_container(api, wanted)
            except ImageNotFound:
                if policy is PullPolicy.NEVER or not ImageReference.parse(wanted["image"]).name:
                    raise
                self.pull(ImageReference.parse(wanted["image"]))
                created = create.create_container(api, wanted)
        return str(created["Id"])[:SHORT_ID_CHARS]

    def start(self, container: str, what: str, release: Release | None = None) -> None:
        """Add the release's files and networks to a created container, and start it. May be repeated.

        A container that cannot be started is removed.
        """
        try:
            with self._translating_errors(f"start {what}", SLOW_CALL_SECONDS) as api:
                if release is not None:
                    self._finish(api, container, release)
                self._start_on_free_port(api, container)
        except PlatformError as error:
            if isinstance(error.__cause__, APIError):
                self.remove(container)
            raise

    def _start_on_free_port(self, api: APIClient, container: str) -> None:
        """Start a container. Docker takes the next port of `ports` with each attempt, whatever program has the last one."""
        for attempts_left in range(self.options.port_count - 1, -1, -1):
            try:
                return api.start(container)
            except APIError as error:
                if not attempts_left or ADDRESS_IN_USE not in str(error.explanation):
                    raise
        return None

    def _finish(self, api: APIClient, container: str, release: Release) -> None:
        for folder, tar in build_archives(release.container):
            api.put_archive(container, folder, tar)
        for network in create.extra_networks(release.container, self._shared.network):
            if network.origin is NetworkOrigin.OPTIONAL and not self.has("network", network.name):
                continue  # Docker accepts a missing network for a container that does not run, and then cannot start it
            try:
                api.connect_container_to_network(container, network.name, aliases=list(network.aliases))
            except APIError as error:
                if "already exists in network" not in str(error.explanation):
                    raise

    def stop(self, container: str, grace_seconds: int) -> None:
        """Send the stop signal and, after the grace period, SIGKILL; return when it has ended. No error if it is gone."""
        with self._translating_errors(f"stop container {container}", SLOW_CALL_SECONDS) as api:
            try:
                api.stop(container, timeout=grace_seconds)
            except NotFound:
                return

    def remove(self, container: str, *, volumes: bool = True) -> None:
        """Remove a container and, with `volumes`, its anonymous volumes. No error if it is gone or being removed."""
        with self._translating_errors(f"remove container {container}", SLOW_CALL_SECONDS) as api:
            try:
                api.remove_container(container, force=True, v=volumes)
            except NotFound:
                return
            except APIError as error:
                if "already in progress" not in str(error.explanation):
                    raise

    def tail(self, container: str, lines: int) -> str:
        """The last lines of its log: standard output and standard error in order."""
        with self._translating_errors(f"read the log of container {container}") as api:
            try:
                output: bytes = api.logs(container, stdout=True, stderr=True, tail=lines)
            except NotFound:
                raise PlatformError(
                    f"Cannot read the log of container {container} on Docker host {self.name}: it no longer exists",
                    retryable=False,
                ) from None
        return output.decode(errors="replace")

    def read_log(self, container: str, after_ns: int, lines: int) -> str:
        """At most `lines` lines of its log from `after_ns`, or the last ones with 0, each with Docker's timestamp."""
        since = (after_ns - 1000) / 1e9 if after_ns else None  # a double is exact to 0.3 µs
        with self._translating_errors(f"read the log of container {container}") as api:
            output: bytes = api.logs(container, stdout=True, stderr=True, timestamps=True, tail=lines, since=since)
        return output.decode(errors="replace")

    # -- images, networks, version --------------------------------------------------------------------------------------

    def image(self, reference: str) -> dict[str, Any] | None:
        """The description of an image; None if the host does not have it."""
        with self._translating_errors(f"inspect image {reference}") as api:
            try:
                return _require_object(api.inspect_image(reference))  # type: ignore[no-untyped-call]  # the stubs lack it
            except ImageNotFound:
                return None

    def uses_image(self, image: str) -> bool:
        """Whether any container, running or not, was made from the image with this ID."""
        with self._translating_errors(f"list containers of image {image}") as api:
            return bool(api.containers(all=True, filters={"ancestor": image}))

    def remove_image(self, name: str) -> None:
        """Remove an image by one of its names. No error if it is gone, or if a container began to use it."""
        with self._translating_errors(f"remove image {name}", SLOW_CALL_SECONDS) as api:
            try:
                api.remove_image(name)
            except ImageNotFound:
                return
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise

    def resolve(self, reference: ImageReference) -> str:
        """The digest that its registry has for a tag now. Raises `AccessDenied` if the registry denies access."""
        text, seconds = str(reference), self._shared.registry_seconds
        credentials = find_credentials(reference.registry, self._shared.registries)
        with self._translating_errors(f"resolve image {text}", seconds, known=KNOWN_PULL_ERRORS) as api:
            try:
                answer = api.inspect_distribution(text, auth_config=dict(credentials))  # type: ignore[no-untyped-call]
            except requests.Timeout as error:
                problem = f"registry {reference.registry} did not answer within {seconds:g} s"
                raise DockerHostError(self.name, f"resolve image {text}", problem, "", retryable=False) from error
        return str(_require_object(answer)["Descriptor"]["digest"])

    def pull(self, reference: ImageReference) -> None:
        """Pull an image with the credentials for its registry. `pull_seconds` limits the time without data, and
        `MAX_PULL_SECONDS` the whole."""
        text, deadline = str(reference), time.monotonic() + MAX_PULL_SECONDS
        credentials = find_credentials(reference.registry, self._shared.registries)
        with self._translating_errors(f"pull image {text}", self._shared.pull_seconds, known=KNOWN_PULL_ERRORS) as api:
            for line in api.pull(text, stream=True, decode=True, auth_config=dict(credentials)):
                if "error" in line:
                    raise APIError(str(line["error"]), explanation=str(line["error"]))
                if time.monotonic() > deadline:
                    problem = f"not complete after {MAX_PULL_SECONDS / 60:g} min"
                    fix = "pull it on this host, or make it smaller"
                    raise DockerHostError(self.name, f"pull image {text}", problem, fix, retryable=False)

    @property
    def api_version(self) -> str:
        """The version of its API, such as 1.41."""
        with self._translating_errors("query the version") as api:
            return str(api.api_version)

    @property
    def network(self) -> str:
        """The network in the settings."""
        return self._shared.network

    def network_problem(self, name: str) -> str:
        """The message for a network that does not exist on this host."""
        fix = "correct `network`" if name == self.network else "start what creates it with docker compose up"
        return f"Network {name} not found on Docker host {self.name}. Run docker network create {name} there, or {fix}."

    def make(self, kind: Literal["network", "volume"], name: str, labels: Mapping[str, str]) -> None:
        """Create a network or volume with Docker's defaults. No error if it exists, nor for a volume that Tidegate may not
        create: Docker then creates it with the container, without these labels."""
        with self._translating_errors(f"create {kind} {name}") as api:
            try:
                if kind == "volume":
                    api.create_volume(name, labels=dict(labels))
                else:
                    api.create_network(name, check_duplicate=True, labels=dict(labels))
            except APIError as error:
                is_forbidden = error.status_code == 403 and kind == "volume"
                if not is_forbidden and "already exists" not in str(error.explanation):
                    raise

    def has(self, kind: Literal["network", "volume"], name: str) -> bool:
        """Whether the network or volume exists."""
        with self._translating_errors(f"inspect {kind} {name}") as api:
            try:
                api.inspect_network(name) if kind == "network" else api.inspect_volume(name)
            except NotFound:
                return False
        return True

    def about(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The responses of `/version` and `/info`."""
        with self._translating_errors("query the version") as api:
            return _require_object(api.version()), _require_object(api.info())


def _require_object(value: Any) -> dict[str, Any]:
    """The value, if it is a JSON object; raises `TypeError` otherwise."""
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value
