"""Images of the demo's application for tests: a version is a tag with its variables set."""

from __future__ import annotations

from collections.abc import Mapping

import docker

import images
from support.need import program

LABEL = images.LABEL
remove_images = images.remove_images


def demo_image(client: docker.DockerClient, tag: str, environment: Mapping[str, str], *, healthcheck: str = "") -> str:
    """Build the image `tag` with these variables set; returns its id. What it understands is told in `app.c`.

    `healthcheck` is the interval of a HEALTHCHECK (`1s`); empty: the image has none. The program is compiled once for each
    state of its source, and the engine's own cache makes repeats quick. `remove_images` takes the tags away again.
    """
    program("gcc")
    return images.demo_image(client, tag, environment, healthcheck=healthcheck)
