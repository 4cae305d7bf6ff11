"""Files that a proxy reads: templates, and atomic replacement."""

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
    autoescape=False,  # not HTML; `compose` and `members` validate the names
)


def replace(path: Path, text: str, accepted: Callable[[Path], None] = lambda draft: None) -> None:
    """Replace the file atomically, keeping its owner and mode. Raises `RouterError`.

    `accepted` receives the draft and raises if the proxy rejects it; the file is then unchanged.
    """
    path = path.resolve()  # a symbolic link is kept
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
        raise RouterError(f"Cannot write {path}: {error.strerror or error}", retryable=False) from error


def update(path: Path, text: str) -> None:
    """Replace the file if its text differs, which a crash or an editor may have caused."""
    if read(path) != text:
        replace(path, text)


def read(path: Path) -> str:
    """The file's text, in any encoding; empty if it does not exist. Raises `RouterError`."""
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise RouterError(f"Cannot read {path}: {error.strerror or error}", retryable=False) from error


def _copy_owner_and_mode(path: Path, old: os.stat_result) -> None:
    path.chmod(old.st_mode & 0o777)
    mine = path.stat()
    if (mine.st_uid, mine.st_gid) != (old.st_uid, old.st_gid):
        os.chown(path, old.st_uid, old.st_gid)


def _sync_folder(folder: Path) -> None:
    """A rename is durable only after its directory has been synced."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
