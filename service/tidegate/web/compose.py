"""The text of a Compose file, and the files that came with it, as a service."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping

from dotenv import parser

from tidegate.core import spec, spec_way
from tidegate.core.model import Service
from tidegate.core.spec_files import EnvLine, Files, Needed, needed
from tidegate.web import compose_schema, compose_yaml

SINGLE_QUOTED = re.compile(r"[^=]*=[^\S\r\n]*'")


def service(
    text: str, name: str, environment: str, variables: Mapping[str, str], files: Mapping[str, bytes] | None = None
) -> Service:
    """The service that the text defines. Raises `InvalidSpec` with every mistake."""
    given = Files(files or {}, env_lines)
    return spec.parse(compose_yaml.load(text), name, environment, variables, given, compose_schema.problems)


def files_needed(text: str, name: str, variables: Mapping[str, str]) -> tuple[Needed, ...]:
    """The files beside the Compose file that the service takes, and those that come together with it. Raises `InvalidSpec`
    where the text is not YAML."""
    document = compose_yaml.load(text)
    names = (name, *(spec_way.fellows(document, name) if spec_way.is_together(document, name) else ()))
    return tuple(dict.fromkeys(file for each in names for file in needed(document, each, variables)))


def env_lines(text: str) -> Iterator[EnvLine]:
    """The variables of an env file, with nothing replaced yet. Raises `ValueError` with the line of what is none."""
    for each in parser.parse_stream(io.StringIO(text)):
        if each.error:
            line = each.original.line + len(each.original.string) - len(each.original.string.lstrip("\r\n"))
            raise ValueError(f"line {line}: NAME=VALUE is needed")
        if each.key is not None:
            yield EnvLine(each.original.line, each.key, each.value, bool(SINGLE_QUOTED.match(each.original.string)))
