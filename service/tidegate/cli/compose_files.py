"""The part of a request that defines services: the Compose files, their variables, and the files they refer to."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tidegate.cli.context import ComposeOptions
from tidegate.cli.exit_codes import CommandError, ExitCode, Json
from tidegate.compose.document import Location
from tidegate.compose.files import MAX_FILE_BYTES, ReferencedFile
from tidegate.compose.loader import ComposeInput, find_referenced_files, find_used_variables, parse_dotenv
from tidegate.errors import InvalidSpec
from tidegate.web.machine import machine_fingerprint

PROJECT_VARIABLE = "COMPOSE_PROJECT_NAME"
DOTENV = ".env"


@dataclass(frozen=True)
class Gathered:
    """The input of a service with all variables and files, and of the former those that are needed."""

    compose: ComposeInput
    folder: Path
    used: frozenset[str]


def gather(options: ComposeOptions, service: str) -> Gathered:
    """Read the files of the options, their variables, and the files that they refer to. Raises `CommandError` for a file
    that is missing, too large or outside the folder."""
    texts = [_read_text(file) for file in options.files]
    folder = options.files[0].resolve().parent
    given, wrong = read_variables(options, folder)
    project = options.project or os.environ.get(PROJECT_VARIABLE) or given.get(PROJECT_VARIABLE, "")
    location = Location(project, str(folder), str(Path.home()))
    compose = ComposeInput(texts[0], given, overrides=tuple(texts[1:]), location=location)
    try:
        compose = _with_files(compose, folder, service)
        used = {*find_used_variables(compose, service), *options.variables}
    except InvalidSpec:
        used = set(options.variables)  # the server reports what is wrong with the texts
    if unusable := [text for name, text in wrong.items() if name in used and name not in options.variables]:
        raise CommandError("Cannot use variables:\n  " + "\n  ".join(unusable), ExitCode.USAGE)
    return Gathered(compose, folder, frozenset(used))


def collect(options: ComposeOptions, service: str) -> Json:
    """The fields of the request. Of the variables only those that are used are sent, and those given with --set. Raises
    `CommandError` like `gather`."""
    gathered = gather(options, service)
    compose, location = gathered.compose, gathered.compose.location
    return {
        "compose": compose.text,
        "overrides": list(compose.overrides),
        "variables": {name: value for name, value in compose.variables.items() if name in gathered.used},
        "files": {name: _as_json(content) for name, content in compose.files.items()},
        "source": {
            "project": location.project,
            "folder": location.folder,
            "home": location.home,
            "machine": machine_fingerprint(),
        },
    }


def _read_text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or error
        raise CommandError(f"Cannot read the file {file}: {problem}.", ExitCode.USAGE) from error


def read_variables(options: ComposeOptions, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The variables by Compose's precedence: --set, the process environment (--env), --env-file or `.env`; and messages
    by the names of those whose value in a file cannot be used."""
    missing = [name for name in options.env if name not in os.environ]
    if missing:
        raise CommandError(f"--env: not set in the environment of this process: {', '.join(missing)}.", ExitCode.USAGE)
    process = {name: os.environ[name] for name in options.env} | dict(options.variables)
    dotenv = folder / DOTENV
    files = options.env_files or ((dotenv,) if dotenv.is_file() else ())
    values: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for file in files:
        try:
            found, problems = parse_dotenv(_read_text(file), values | process)
        except ValueError as error:
            raise CommandError(f"Cannot read {file}: {error}.", ExitCode.USAGE) from error
        wrong = {name: text for name, text in wrong.items() if name not in found}
        wrong |= {name: f"{file}: {text}" for name, text in problems.items() if name not in process}
        values |= found | dict.fromkeys(problems, "")
    return values | process, wrong


def _with_files(compose: ComposeInput, folder: Path, service: str) -> ComposeInput:
    """The input with the contents of all files that it refers to, also those that `extends` and `include` lead to."""
    contents: dict[str, bytes] = {}
    examined: set[str] = set()
    problems: list[str] = []
    while new := [file for file in find_referenced_files(compose, service) if file.name not in examined]:
        for referenced in new:
            examined.add(referenced.name)
            try:
                content = _content(folder, referenced)
            except (OSError, ValueError) as error:
                problems.append(f"{referenced.name}: {getattr(error, 'strerror', None) or error}")
                continue
            contents |= {} if content is None else {referenced.name: content}
        compose = replace(compose, files=contents)
    if problems:
        raise CommandError("Cannot read files that the Compose file refers to:\n  " + "\n  ".join(problems), ExitCode.USAGE)
    return compose


def _content(folder: Path, needed: ReferencedFile) -> bytes | None:
    """None for an optional file that does not exist."""
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
    return data


def _as_json(data: bytes) -> str | Mapping[str, str]:
    """Text, or `{base64: …}` for binary content."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
