"""Loading a service from the text of a Compose file and the files sent with it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dotenv import parser

from tidegate.compose import extension, schema, service
from tidegate.compose.assemble import Assembly, assemble
from tidegate.compose.document import NOWHERE, Location
from tidegate.compose.files import UNSET_HINT, ComposeFiles, EnvVariable, ReferencedFile, referenced_files
from tidegate.compose.interpolation import Variables, interpolate_text
from tidegate.core.model import Service

SINGLE_QUOTED = re.compile(r"[^=]*=[^\S\r\n]*'")


@dataclass(frozen=True, slots=True)
class ComposeInput:
    """What a service is read from.

    `text`: the Compose file; `overrides`: those that are merged over it, in order. `files`: the contents of the files that
    these refer to. `image`: deployed instead of the one in the file.
    """

    text: str
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)  # values may be secrets
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    overrides: tuple[str, ...] = ()
    location: Location = NOWHERE
    image: str = ""

    def document(self, name: str) -> tuple[object, Assembly]:
        """The whole document for a service, and what was found while it was assembled. Raises `InvalidSpec`."""
        assembly = Assembly(name, self.files, Variables.of(self.variables))
        return assemble((self.text, *self.overrides), assembly), assembly

    def group_members(self, name: str) -> tuple[str, ...]:
        """The other services that are in a group with this one. Raises `InvalidSpec`."""
        return extension.group_members(self.document(name)[0], name)


def load_service(
    text: str, name: str, environment: str, variables: Mapping[str, str], files: Mapping[str, bytes] | None = None
) -> Service:
    """The service defined in one text. Raises `InvalidSpec` with all mistakes."""
    return read_service(ComposeInput(text, variables, files or {}), name, environment)


def read_service(given: ComposeInput, name: str, environment: str) -> Service:
    """The service defined by the files. Raises `InvalidSpec` with all mistakes."""
    document, assembly = given.document(name)
    options = service.ReadOptions(
        ComposeFiles(given.files, parse_env_file), given.location, given.image, tuple(assembly.problems)
    )
    variables = Variables.of(given.variables).separate()
    return service.parse_service(document, name, environment, variables, options, schema.find_problems)


def find_referenced_files(given: ComposeInput, name: str) -> tuple[ReferencedFile, ...]:
    """The files that the service and its group refer to. Those that other files name are found once these are among the
    given ones. Raises `InvalidSpec` when a text is not YAML."""
    document, _ = given.document(name)
    names = (name, *(extension.group_members(document, name) if extension.is_in_group(document, name) else ()))
    found: dict[ReferencedFile, None] = {}
    for service_name in names:
        whole, assembly = given.document(service_name)
        found |= dict.fromkeys(assembly.missing.values())
        found |= dict.fromkeys(referenced_files(whole, service_name, given.variables))
    return tuple(found)


def find_used_variables(given: ComposeInput, name: str) -> tuple[str, ...]:
    """The names of the given variables whose values the service and its group use. Raises `InvalidSpec` when a text is not
    YAML."""
    document, _ = given.document(name)
    names = (name, *(extension.group_members(document, name) if extension.is_in_group(document, name) else ()))
    used: set[str] = set()
    for service_name in names:
        whole, assembly = given.document(service_name)
        variables = assembly.variables.separate()
        service.examine(whole, service_name, variables, service.ReadOptions(ComposeFiles(given.files, parse_env_file)))
        used |= {*variables.used, *assembly.variables.used}
    return tuple(sorted(used))


def parse_dotenv(text: str, variables: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The variables of a `.env` file, and messages by the names of those whose value cannot be used.

    `${NAME}` in a value is one of `variables`, or one of an earlier line; a name alone takes the value from `variables`.
    Raises `ValueError` with the number of the first invalid line.
    """
    values: dict[str, str] = {}
    problems: dict[str, str] = {}
    for line in parse_env_file(text):
        wrong: list[str] = []
        known = Variables({**values, **variables})
        value = known.get(line.name) if line.value is None else line.value
        if line.value is not None and not line.literal:
            value = interpolate_text(line.value, known, wrong.append, lambda *_: UNSET_HINT)
        if wrong:
            problems[line.name] = f"line {line.number}, {line.name}: {wrong[0]}"
        elif value is not None:
            values[line.name] = value
    return values, problems


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
