"""Loading a service from the text of a Compose file and the files sent with it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping

from dotenv import parser

from tidegate.compose import extension, schema, service, yaml
from tidegate.compose.files import ComposeFiles, EnvVariable, ReferencedFile, referenced_files
from tidegate.core.model import Service

SINGLE_QUOTED = re.compile(r"[^=]*=[^\S\r\n]*'")


def load_service(
    text: str, name: str, environment: str, variables: Mapping[str, str], files: Mapping[str, bytes] | None = None
) -> Service:
    """The service defined in the text. Raises `InvalidSpec` with all mistakes."""
    given = ComposeFiles(files or {}, parse_env_file)
    return service.parse_service(yaml.load(text), name, environment, variables, given, schema.find_problems)


def find_referenced_files(text: str, name: str, variables: Mapping[str, str]) -> tuple[ReferencedFile, ...]:
    """The files that the service and its group refer to. Raises `InvalidSpec` when the text is not YAML."""
    document = yaml.load(text)
    names = (name, *(extension.group_members(document, name) if extension.is_in_group(document, name) else ()))
    return tuple(
        dict.fromkeys(file for service_name in names for file in referenced_files(document, service_name, variables))
    )


def parse_env_file(text: str) -> Iterator[EnvVariable]:
    """The variables of an env file, not interpolated. Raises `ValueError` with the number of the first invalid line."""
    for binding in parser.parse_stream(io.StringIO(text)):
        if binding.error:
            line = binding.original.line + len(binding.original.string) - len(binding.original.string.lstrip("\r\n"))
            raise ValueError(f"line {line}: expected NAME=VALUE")
        if binding.key is not None:
            yield EnvVariable(
                binding.original.line, binding.key, binding.value, bool(SINGLE_QUOTED.match(binding.original.string))
            )
