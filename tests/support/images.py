"""Images of the demo's application for tests: a version is a tag with its variables set."""

from __future__ import annotations

from collections.abc import Mapping

import docker
from docker.errors import DockerException

import images
from support.prerequisites import missing, program

LABEL = images.LABEL
remove_images = images.remove_images


def engine_client() -> docker.DockerClient:
    """A client of the engine that the environment names; skips, or fails in CI, where none answers."""
    client = docker.from_env(timeout=60)
    try:
        client.ping()
    except DockerException:
        client.close()
        missing("a Docker engine")
    return client


def demo_image(client: docker.DockerClient, tag: str, environment: Mapping[str, str], *, healthcheck: str = "") -> str:
    """Build the image `tag` with these variables set; returns its id. What it understands is told in `app.c`.

    `healthcheck` is the interval of a HEALTHCHECK (`1s`); empty: the image has none. The program is compiled once for each
    state of its source, and the engine's own cache makes repeats quick. `remove_images` takes the tags away again.
    """
    program("gcc")
    return images.demo_image(client, tag, environment, healthcheck=healthcheck)
