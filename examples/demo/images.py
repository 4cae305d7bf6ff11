"""Images of the demo's application, built FROM scratch through the Docker API: no registry, no network."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import docker

from build import compile_c

SOURCE = Path(__file__).resolve().parent / "app.c"
LABEL = "tidegate.demo"


def demo_image(
    client: docker.DockerClient, tag: str, environment: Mapping[str, str], *, healthcheck: str = "", source: Path = SOURCE
) -> str:
    """Build the image `tag` with these variables set; returns its id. The engine's own cache makes repeats quick.

    `healthcheck` is the interval of a HEALTHCHECK (`1s`); empty: the image has none. `source`: the program.
    """
    program = compile_c(source, "-static", "-pthread", "-lm").read_bytes()
    lines = ["FROM scratch", "COPY app /app", f"LABEL {LABEL}=1", "EXPOSE 8080"]
    lines += [f'ENV {name}="{value}"' for name, value in environment.items()]
    if healthcheck:
        lines.append(f'HEALTHCHECK --interval={healthcheck} --timeout=1s CMD ["/app", "healthy"]')
    lines.append('ENTRYPOINT ["/app"]')
    context = _tar({"Dockerfile": ("\n".join(lines).encode(), 0o644), "app": (program, 0o755)})
    image, _ = client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True)
    return str(image.id)


def remove_images(client: docker.DockerClient, prefix: str) -> None:
    """Remove the tags that begin with `prefix`, of images made here."""
    for image in client.images.list(filters={"label": LABEL}):
        for tag in image.tags:
            if tag.startswith(prefix):
                client.images.remove(tag, force=True)


def _tar(files: Mapping[str, tuple[bytes, int]]) -> io.BytesIO:
    """A build context in memory. Fixed times, so that the engine's cache recognises what did not change."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    packed.seek(0)
    return packed
