"""Reads the files that a Compose file refers to (`env_file`, `secrets`, `configs`), to send them with the request."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from tidegate.cli.exit_codes import CommandError, ExitCode, Json
from tidegate.compose.files import MAX_FILE_BYTES, ReferencedFile
from tidegate.compose.loader import find_referenced_files
from tidegate.errors import InvalidSpec


def collect(file: Path, text: str, service: str, variables: Mapping[str, str]) -> Json:
    """Return the contents by name. Raise `CommandError` for a file that is missing, too large or outside the folder."""
    try:
        files = find_referenced_files(text, service, variables)
    except InvalidSpec:
        return {}  # the server reports what is wrong with the text
    folder = file.resolve().parent
    contents: Json = {}
    problems = []
    for referenced in files:
        try:
            content = _content(folder, referenced)
        except (OSError, ValueError) as error:
            problems.append(f"{referenced.name}: {getattr(error, 'strerror', None) or error}")
            continue
        if content is not None:
            contents[referenced.name] = content
    if problems:
        raise CommandError(f"Cannot read files that {file} refers to:\n  " + "\n  ".join(problems), ExitCode.USAGE)
    return contents


def _content(folder: Path, needed: ReferencedFile) -> str | Json | None:
    """Text, or `{base64: …}` for binary content; None for an optional file that does not exist."""
    path = (folder / needed.name).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"is outside {folder}; move it inside that folder, links included")
    if not needed.required and not path.exists():
        return None
    if path.exists() and not path.is_file():
        raise ValueError("is not a regular file")
    with path.open("rb") as opened:
        data = opened.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"is larger than the limit of {MAX_FILE_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
