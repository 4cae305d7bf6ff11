"""Validation of a document with the Compose specification's JSON Schema.

`compose-spec.json` is the unchanged file of the specification's repository, as shipped by check-jsonschema 0.39.0; its
licence, Apache 2.0, is `compose-spec.LICENSE`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from tidegate.compose.reader import format_value
from tidegate.errors import Problem

FILE = "compose-spec.json"
SHA256 = "d549057ebc2925f39f62799eab0db7b9e2c18b35b6c00595199116da3ed10e64"
SECRET_KEYS = re.compile(r"\b(environment|content|env_file)\b")  # where values may be secrets
TYPE_NAMES = {"object": "a mapping", "array": "a list", "string": "text", "integer": "a whole number", "number": "a number"}
TYPE_NAMES |= {"boolean": "true or false", "null": "nothing"}


@functools.cache
def validator() -> Any:
    """The validator of the schema, cached."""
    kind = extend(Draft202012Validator, {"uniqueItems": _unique})
    return kind(json.loads((resources.files(__package__) / FILE).read_text()))


def _unique(_: Any, wanted: bool, instance: object, __: Any) -> Iterator[ValidationError]:
    """A faster check: the library compares each entry with all others, which takes 8 s for 1000 objects."""
    entries = instance if wanted and isinstance(instance, list) else []
    if len({json.dumps(entry, sort_keys=True) for entry in entries}) < len(entries):
        yield ValidationError("duplicate entries")


def find_problems(document: Mapping[str, object]) -> tuple[Problem, ...]:
    """The mistakes, one for each path, at the innermost wrong value."""
    problems = {problem.path: problem for error in validator().iter_errors(document) for problem in _problems_of(error)}
    return tuple(problems.values())


def _problems_of(error: ValidationError) -> Iterator[Problem]:
    keyword, path = str(error.validator), format_path(error.absolute_path)
    if keyword in ("oneOf", "anyOf"):
        yield from _closest_branch(error, path)
    elif keyword in ("additionalProperties", "propertyNames"):
        yield from (Problem(f"{path}.{name}" if path else name, "unknown key") for name in _unexpected_keys(error))
    elif keyword == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        yield from (Problem(f"{path}.{name}", "is required") for name in missing)
    elif keyword != "unevaluatedProperties":  # names all keys when one is wrong; they are reported one by one instead
        yield Problem(path, _format_message(error, path))


def _closest_branch(error: ValidationError, path: str) -> Iterator[Problem]:
    """The mistakes in the branch of `oneOf` that has the value's type."""
    branches: dict[int, list[ValidationError]] = {}
    for nested in error.context or ():
        branches.setdefault(int(nested.relative_schema_path[0]), []).append(nested)
    tried = [branch for branch in branches.values() if not any(_is_another_type(one) for one in branch)]
    if len(tried) == 1:
        for nested in tried[0]:
            yield from _problems_of(nested)
    else:
        yield Problem(
            path, _found_prefix(error, path) + f"allowed: {' or '.join(dict.fromkeys(_types(error.validator_value)))}"
        )


def _is_another_type(error: ValidationError) -> bool:
    return error.validator == "type" and not error.relative_path


def _types(schemas: Iterable[Any]) -> Iterator[str]:
    for schema in schemas:
        inner = validator().schema["$defs"][schema["$ref"].removeprefix("#/$defs/")] if "$ref" in schema else schema
        if "oneOf" in inner:
            yield from _types(inner["oneOf"])
        else:
            yield from (TYPE_NAMES[name] for name in _as_list(inner.get("type", "string")))


def _as_list(value: object) -> Sequence[str]:
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]


def _unexpected_keys(error: ValidationError) -> list[str]:
    known, patterns = error.schema.get("properties", {}), error.schema.get("patternProperties", {})
    return [name for name in error.instance if name not in known and not any(re.search(one, name) for one in patterns)]


def _format_message(error: ValidationError, path: str) -> str:
    wanted: Any = error.validator_value
    allowed: dict[str, Callable[[], str]] = {
        "type": lambda: " or ".join(TYPE_NAMES[name] for name in _as_list(wanted)),
        "enum": lambda: ", ".join(map(str, wanted)),
        "uniqueItems": lambda: "no duplicates",
        "minimum": lambda: f"at least {wanted}",
        "maximum": lambda: f"at most {wanted}",
        "pattern": lambda: f"text that matches {wanted}",
    }
    keyword = str(error.validator)
    message = (
        f"allowed: {allowed[keyword]()}"
        if keyword in allowed
        else f"Compose's schema has {keyword}: {format_value(wanted)}"
    )
    return _found_prefix(error, path) + message


def _found_prefix(error: ValidationError, path: str) -> str:
    return "" if SECRET_KEYS.search(path) else f"found {format_value(error.instance)}; "


def format_path(path: Iterable[str | int]) -> str:
    """The path as text, such as `services.shop.volumes[0].source`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
