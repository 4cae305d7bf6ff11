"""Secrets and configs as files of a container that is created and not started yet.

The engines share no file system, so the content goes through the engine's archive call, into the container's own file
system. That cannot be written where it is read-only, and what is written below a tmpfs is hidden by it: there the file's
folder is an anonymous volume, which goes with its container.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

from tidegate.core.container import Container, File, MountKind


def folders(container: Container) -> tuple[str, ...]:
    """The folders that need a volume of their own."""
    hidden = [*container.tmpfs, *(each.target for each in container.mounts if each.kind is MountKind.TMPFS)]
    found = {
        each.directory
        for each in container.files
        if container.read_only or any(f"{each.directory}/".startswith(f"{at}/") for at in hidden)
    }
    return tuple(sorted(found))


def archives(container: Container) -> Iterator[tuple[str, bytes]]:
    """Where to unpack, and what: a tar for each of those folders, and one for all the rest."""
    own = folders(container)
    for folder in own:
        yield folder, _tar([each for each in container.files if each.directory == folder], folder)
    rest = [each for each in container.files if each.directory not in own]
    if rest:
        yield "/", _tar(rest, "/")


def _tar(files: list[File], folder: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for each in files:
            entry = tarfile.TarInfo(each.target.removeprefix(folder).lstrip("/"))
            entry.size, entry.mode, entry.uid, entry.gid = len(each.data), each.mode, each.uid, each.gid
            archive.addfile(entry, io.BytesIO(each.data))
    return made.getvalue()
