"""Files that a proxy reads: templates, and changes that a crash leaves whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import jinja2

from tidegate.errors import RouterError

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("tidegate.drivers.routers"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # not HTML; the names that go in are checked by `core.spec`
)


def replace(path: Path, text: str, accepted: Callable[[Path], None] = lambda draft: None) -> None:
    """Put a new file in the old one's place, with its owner and rights, careful of a crash. `accepted` raises when the
    proxy does not take the draft; then nothing is changed. Raises `RouterError`."""
    path = path.resolve()  # a link stays one
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as draft:
            draft.write(text.encode(errors="surrogateescape"))
            draft.flush()
            os.fsync(draft.fileno())
        name = Path(draft.name)
        try:
            accepted(name)
            if path.exists():
                _copy_owner_and_mode(name, path.stat())
            name.rename(path)
        finally:
            name.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise RouterError(f"{path} cannot be written: {error.strerror or error}", retryable=False) from error


def update(path: Path, text: str) -> None:
    """Replace it when it has another text: a crash, or somebody's editor, may have left it behind or ahead."""
    if read(path) != text:
        replace(path, text)


def read(path: Path) -> str:
    """Its text, in whatever encoding its comments are; nothing when there is no such file. Raises `RouterError`."""
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise RouterError(f"{path} cannot be read: {error.strerror or error}", retryable=False) from error


def _copy_owner_and_mode(path: Path, old: os.stat_result) -> None:
    path.chmod(old.st_mode & 0o777)
    mine = path.stat()
    if (mine.st_uid, mine.st_gid) != (old.st_uid, old.st_gid):
        os.chown(path, old.st_uid, old.st_gid)


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
