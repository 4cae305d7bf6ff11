"""Resolves an image to the same immutable image on every host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import requests
from docker.errors import APIError

from tidegate.core.container import HealthCommand, PullPolicy
from tidegate.core.image_reference import ImageReference, PinnedImage
from tidegate.core.model import Release
from tidegate.drivers.platforms.docker.compose import missing_resource
from tidegate.drivers.platforms.docker.create import NANO, START_INTERVAL_API, has_start_interval
from tidegate.drivers.platforms.docker.errors import AccessDenied, DockerHostError
from tidegate.drivers.platforms.docker.hosts import DockerHost
from tidegate.errors import PlatformError

Image = Mapping[str, Any]  # Docker's description
Images = Mapping[DockerHost, Image | None]  # None: the host does not have it


def pin_image(release: Release, hosts: Sequence[DockerHost], pool: Executor) -> PinnedImage:
    """Load the image on every host, and check that the release can be started. Raises `PlatformError` if it cannot."""
    pinned, images = load_image(release.digest or release.image, release.container.pull_policy, hosts, pool)
    for host, image in images.items():
        require_readiness_check(host.name, release, image)
        require_port(host.name, release, image)
    warnings = [pinned.warning, *(ignored_start_interval(host.name, release, host.api_version) for host in images)]
    ready_within = max(image_ready_within_seconds(release, image) for image in images.values())
    pinned = replace(pinned, warning=" ".join(filter(None, warnings)), ready_within_seconds=ready_within)
    for missing in pool.map(lambda host: missing_resource(host, release), hosts):
        if missing:
            raise PlatformError(missing, retryable=False)
    return pinned


def load_image(
    reference: str, policy: PullPolicy, hosts: Sequence[DockerHost], pool: Executor
) -> tuple[PinnedImage, Mapping[DockerHost, Image]]:
    """The same image on every host: the registry's digest if every host has it, otherwise the image ID.

    A tag is resolved once. Every host then gets the image with that digest, even if the tag moves meanwhile. Raises
    `PlatformError`.
    """
    wanted, digest, warning = ImageReference.parse(reference), "", ""
    present: Images = dict(zip(hosts, pool.map(lambda host: host.image(str(wanted)), hosts), strict=True))
    if policy is not PullPolicy.NEVER and wanted.name:
        if not wanted.digest and _asks_registry(wanted, policy, present):
            digest, warning = _resolve(wanted, policy, present)
        loaded = pool.map(lambda host: _load(host, wanted, digest, present[host]), hosts)
        present = dict(zip(hosts, loaded, strict=True))
    images = {host: _require_present(host, wanted, policy, image) for host, image in present.items()}
    if digest:
        return PinnedImage(replace(wanted, digest=digest).pinned, warning), images
    return PinnedImage(choose_reference(wanted, {host.name: image for host, image in images.items()}), warning), images


def find_digest(release: Release, hosts: Sequence[DockerHost], pool: Executor) -> str:
    """What `pin_image` would resolve the image to, without pulling it; empty if only a pull shows it. Raises
    `PlatformError`."""
    wanted, policy = ImageReference.parse(release.digest or release.image), release.container.pull_policy
    if wanted.pinned:
        return wanted.pinned
    present: Images = dict(zip(hosts, pool.map(lambda host: host.image(str(wanted)), hosts), strict=True))
    if policy is not PullPolicy.NEVER and wanted.name and _asks_registry(wanted, policy, present):
        return replace(wanted, digest=next(iter(present)).resolve(wanted)).pinned
    images = {host.name: image for host, image in present.items() if image is not None}
    return choose_reference(wanted, images) if len(images) == len(present) else ""


def _asks_registry(wanted: ImageReference, policy: PullPolicy, present: Images) -> bool:
    """Whether the registry decides what a tag means.

    A name without a registry whose image was built or loaded on the hosts never does: somebody else may have the same name
    on Docker Hub.
    """
    if policy is PullPolicy.ALWAYS:
        return True
    if policy is PullPolicy.MISSING and wanted.label != "latest":  # Compose always pulls `latest`
        return False
    loaded = [image for image in present.values() if image is not None]
    return wanted.has_registry or not loaded or any(registry_digests(wanted, image) for image in loaded)


def _resolve(wanted: ImageReference, policy: PullPolicy, present: Images) -> tuple[str, str]:
    """The registry's digest for the tag, or a warning if it did not answer and every host has an image."""
    lacking = next((host for host, image in present.items() if image is None), None)
    if lacking is not None:  # one request instead of two
        lacking.pull(wanted)
        return min(registry_digests(wanted, lacking.image(str(wanted)) or {}), default=""), ""
    try:
        return next(iter(present)).resolve(wanted), ""
    except DockerHostError as error:
        from_registry = any(registry_digests(wanted, image or {}) for image in present.values())
        if policy is PullPolicy.ALWAYS or (isinstance(error, AccessDenied) and from_registry):
            raise
        if not isinstance(error.__cause__, APIError | requests.Timeout):
            raise  # the Docker host itself failed
        text = "Using the image that the Docker hosts have, which may be older"
        return "", f"Cannot resolve {wanted} at registry {wanted.registry}: {error.problem}. {text}."


def _load(host: DockerHost, wanted: ImageReference, digest: str, present: Image | None) -> Image | None:
    """The host's image with this digest, or by its name without one; pulled if the host does not have it."""
    if not digest:
        if present is None:
            host.pull(wanted)
            present = host.image(str(wanted))
        return present
    pinned = replace(wanted, digest=digest).pinned
    image = host.image(pinned)
    for reference in (wanted, ImageReference.parse(pinned)):  # with its tag first: Docker's prune keeps tagged images
        if image is None:
            host.pull(reference)
            image = host.image(pinned)
    return image


def _require_present(host: DockerHost, wanted: ImageReference, policy: PullPolicy, image: Image | None) -> Image:
    if image is not None:
        return image
    never = policy is PullPolicy.NEVER
    fix = "Pull, load or build it there" + (", or remove `pull_policy: never`" if never else ", or push it to a registry")
    raise PlatformError(f"Image {wanted} not found on Docker host {host.name}. {fix}.", retryable=False)


def registry_digests(wanted: ImageReference, image: Image) -> set[str]:
    """The digests by which a registry knows this image under the name that is wanted."""
    found = set()
    for text in image.get("RepoDigests") or ():
        with suppress(ValueError):  # Docker has `<none>@<none>` for an image without a name
            reference = ImageReference.parse(text)
            found |= {reference.digest} if reference.repository == wanted.repository else set()
    return found


def choose_reference(wanted: ImageReference, images: Mapping[str, Image]) -> str:
    """The reference that is the same image on all hosts. Raises `PlatformError` if the hosts have different images."""
    shared = set.intersection(*(registry_digests(wanted, image) for image in images.values()))
    if shared:
        return replace(wanted, digest=min(shared)).pinned
    ids = {str(image["Id"]) for image in images.values()}
    if len(ids) == 1:
        return ids.pop()
    images_by_host = ", ".join(f"{host} has {str(image['Id'])[:19]}" for host, image in images.items())
    raise PlatformError(
        f"{wanted} is not the same image on every host: {images_by_host}. Push it to a registry and pull it on all "
        "hosts, or load one image on all (docker save, docker load).",
        retryable=False,
    )


def image_ready_within_seconds(release: Release, image: Image) -> float:
    """How long a good instance may take by the HEALTHCHECK of the image; 0 if another check decides."""
    if release.container.health.path or release.container.healthcheck is not None:
        return 0.0
    own, base = (image.get("Config") or {}).get("Healthcheck") or {}, HealthCommand(())
    if not own:
        return release.container.health.run_seconds or 0.0

    def seconds(key: str, default: float) -> float:
        return float(own.get(key) or 0) / NANO or default

    return HealthCommand(
        tuple(own.get("Test") or ()),
        seconds("Interval", base.interval_seconds),
        seconds("Timeout", base.timeout_seconds),
        int(own.get("Retries") or base.retries),
        seconds("StartPeriod", base.start_period_seconds),
    ).ready_within_seconds


def ignored_start_interval(host: str, release: Release, api_version: str) -> str:
    """The warning that this host has no `start_interval`; empty if it has, or the service has none."""
    check = release.container.healthcheck
    if check is None or not check.start_interval_seconds or has_start_interval(api_version):
        return ""
    reason = f"it needs Docker 25 (API {START_INTERVAL_API}), this host has API {api_version}"
    return f"healthcheck.start_interval has no effect on Docker host {host}: {reason}."


def require_port(host: str, release: Release, image: Image) -> int:
    """The port that takes traffic: that of the service, or else the only one that the image exposes. Raises
    `PlatformError`."""
    exposed = sorted(
        int(port.partition("/")[0])
        for port in (image.get("Config") or {}).get("ExposedPorts") or ()
        if port.endswith("/tcp")
    )
    if release.container.port or release.container.is_worker:
        return release.container.port
    if len(exposed) == 1:
        return exposed[0]
    found = f"ports {', '.join(map(str, exposed))}" if exposed else "no port"
    raise PlatformError(
        f"Cannot determine the port of {release.image} on Docker host {host}: the image exposes {found}, the Compose file "
        "names none. Set x-tidegate.port to the port that takes traffic, or x-tidegate.worker: true if none does.",
        retryable=False,
    )


def with_port(release: Release, host: DockerHost) -> Release:
    """The release with its port, which its image has if the Compose file names none. Raises `PlatformError`."""
    if release.container.port or release.container.is_worker:
        return release
    wanted, policy = ImageReference.parse(release.digest or release.image), release.container.pull_policy
    image: Image | None = host.image(str(wanted))
    if image is None and wanted.name and policy is not PullPolicy.NEVER:
        image = _load(host, wanted, "", None)
    port = require_port(host.name, release, _require_present(host, wanted, policy, image))
    return replace(release, container=replace(release.container, port=port))


def require_readiness_check(host: str, release: Release, image: Image) -> None:
    """Raise `PlatformError` if neither a HEALTHCHECK nor a health endpoint can show when an instance is ready."""
    container = release.container
    if container.health.path or container.is_worker:
        return
    own = ((image.get("Config") or {}).get("Healthcheck") or {}).get("Test") or ()
    test = container.healthcheck.test if container.healthcheck else own
    if test and test[0] != "NONE":
        return
    raise PlatformError(
        f"Cannot determine readiness of {release.image} on Docker host {host}: the image has no HEALTHCHECK and the "
        "service no health endpoint. Add `x-tidegate: {health: {path: /health}}` or a `healthcheck` to the Compose file.",
        retryable=False,
    )


def remove_image(host: DockerHost, release: Release) -> bool:
    """Remove the image of a release under the names of its repository; whether it was there and is gone. One that a
    container uses, running or not, stays with all of its names, and so does what other repositories call the same image."""
    image = host.image(release.digest)
    if image is None or host.uses_image(str(image["Id"])):
        return False
    repository = ImageReference.parse(release.image).repository
    names = [*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())]
    ours = [name for name in names if _repository(name) == repository]
    for name in ours or ([] if names else [str(image["Id"])]):
        host.remove_image(name)
    return host.image(release.digest) is None


def _repository(name: str) -> str:
    """The repository of a name that Docker has; empty for `<none>@<none>`."""
    try:
        return ImageReference.parse(name).repository
    except ValueError:
        return ""
