"""The name of a container image in its parts, and what it was resolved to. The only place that splits one. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

DOCKER_HUB = "docker.io"
MAX_IMAGE_CHARS = 255
_DOMAIN = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?"
_PATH = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[a-z0-9]+:[0-9a-f]{32,128}"
#: The whole grammar, for places that need it as one expression: a name with an optional tag and digest, or an image ID.
IMAGE_PATTERN = rf"(?:(?:{_DOMAIN}/)?{_PATH}(?:/{_PATH})*(?::{_TAG})?(?:@{_DIGEST})?|sha256:[0-9a-f]{{64}})"
_PARTS = re.compile(rf"(?P<name>(?:{_DOMAIN}/)?{_PATH}(?:/{_PATH})*)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """`registry.example:5000/team/shop:v2@sha256:…`. `name` includes the registry, as written; it is empty for an image ID
    (`sha256:…`), which is in `digest`."""

    name: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """The parts of a reference. Raises `ValueError` for anything else."""
        if re.fullmatch(r"sha256:[0-9a-f]{64}", text):
            return cls("", digest=text)
        match = _PARTS.fullmatch(text) if len(text) <= MAX_IMAGE_CHARS else None
        if match is None:
            raise ValueError(
                f"an image such as registry:5000/shop:v2 with a lowercase name, of at most {MAX_IMAGE_CHARS} characters"
            )
        return cls(match["name"], match["tag"] or "", match["digest"] or "")

    def __str__(self) -> str:
        tag, digest = f":{self.tag}" if self.tag else "", f"@{self.digest}" if self.name and self.digest else ""
        return f"{self.name}{tag}{digest}" if self.name else self.digest

    @property
    def has_registry(self) -> bool:
        """Whether the name says which registry it belongs to. Without one, Docker takes Docker Hub's."""
        first, slash, _ = self.name.partition("/")
        return bool(slash) and (first == "localhost" or "." in first or ":" in first)

    @property
    def registry(self) -> str:
        """The host, with its port, of the registry."""
        host = self.name.partition("/")[0] if self.has_registry else DOCKER_HUB
        return DOCKER_HUB if host == f"index.{DOCKER_HUB}" else host

    @property
    def repository(self) -> str:
        """The name as Docker shows it: without the parts that mean Docker Hub."""
        if self.registry != DOCKER_HUB:
            return self.name
        path = self.name.partition("/")[2] if self.has_registry else self.name
        return path.removeprefix("library/")

    @property
    def pinned(self) -> str:
        """Its immutable part, as in `Release.digest`: the repository with the digest, or the image ID; empty for a tag."""
        return f"{self.repository}@{self.digest}" if self.name and self.digest else self.digest

    @property
    def label(self) -> str:
        """What tells it apart from other versions: the tag, else the start of the digest, else `latest`."""
        return self.tag or self.digest.partition(":")[2][:12] or "latest"


@dataclass(frozen=True, slots=True)
class PinnedImage:
    """What an image was resolved to.

    `digest` as in `Release`. `warning`: why it may not be the newest, or what a Docker host ignores; else empty.
    `ready_within_seconds`: how long a good instance may take to become healthy by the HEALTHCHECK of the image; 0: it has
    none, or it does not count.
    """

    digest: str
    warning: str = ""
    ready_within_seconds: float = 0.0
