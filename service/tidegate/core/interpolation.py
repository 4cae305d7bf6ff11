"""`${NAME}` in a Compose document, by the rules of the Compose specification. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tidegate.errors import Problem

PATTERN = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<rule>:?[-?+])(?P<word>[^}]*))?\}|(?P<wrong>))"
)
UNTOUCHED = {"query"}  # PromQL has its own `$release`, `$service` and `$window`


def interpolated(value: object, variables: Mapping[str, str], problems: list[Problem], path: str) -> object:
    """The document with every variable replaced; what cannot be is added to `problems`."""
    if isinstance(value, str):
        return _text(value, variables, lambda message: problems.append(Problem(path, message)))
    if isinstance(value, list):
        return [interpolated(each, variables, problems, f"{path}[{index}]") for index, each in enumerate(value)]
    if isinstance(value, dict):
        return {
            key: each
            if key in UNTOUCHED
            else interpolated(each, variables, problems, f"{path}.{key}" if path else str(key))
            for key, each in value.items()
        }
    return value


def _text(text: str, variables: Mapping[str, str], complain: Callable[[str], None]) -> str:
    def one(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        if found["wrong"] is not None:
            complain("a lone $: write $$ for the character itself")
            return ""
        return _value(found, variables, complain)

    return PATTERN.sub(one, text)


def _value(found: re.Match[str], variables: Mapping[str, str], complain: Callable[[str], None]) -> str:
    name = found["plain"] or found["name"]
    rule, word = found["rule"] or "", found["word"] or ""
    value = variables.get(name)
    there = bool(value) if rule.startswith(":") else value is not None
    if rule.endswith("+"):
        return word if there else ""
    if there:
        return value or ""
    if rule.endswith("-"):
        return word
    complain(
        f"the variable {name} is not set"
        + (f": {word}" if rule.endswith("?") and word else f"; give it with --set {name}=…")
    )
    return ""
