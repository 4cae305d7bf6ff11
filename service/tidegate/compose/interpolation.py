"""Interpolation of `${NAME}` in a Compose document, as defined by the Compose specification. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from tidegate.errors import InvalidSpec, Problem

HEAD = re.compile(r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_]\w*)|(?P<open>\{))")  # any other dollar sign is literal
BRACED = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:(?P<rule>:?[-?+])(?P<word>.*))?", re.DOTALL)
BOUND = re.compile(r"\$\$|\$\{|\}")
MAX_DEPTH = 10  # of nested defaults
INVALID = "invalid ${…}; write $$ for a literal dollar sign"
OWN = "x-tidegate"
MAX_TEXT = 1_048_576  # characters of all values of one request, with their variables replaced
MAX_FILES_BYTES = 16 * 1_048_576  # of all secrets and configs of one request, each counted as often as it is mounted

Complain = Callable[[str], None]
Unset = Callable[[str, str], str]  # from the variable's name and the message in the file to the error message


class TooMuchText(ValueError):
    """The values of a request come to more than `MAX_TEXT` characters, or its files to more than `MAX_FILES_BYTES`."""


class Variables(Mapping[str, str]):
    """The values for `${NAME}`. Counts the text that is made of them while it is made.

    A file of 1 KB whose variables double with each line would otherwise take all memory. One object counts for all services
    of a request.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._given = frozenset(values)
        self._used: set[str] = set()
        self._total = {"characters": 0, "bytes": 0}

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Variables:
        """The same object if it counts already."""
        return values if isinstance(values, cls) else cls(values)

    def over(self, values: Mapping[str, str]) -> Variables:
        """Other values that count towards the same limit."""
        other = Variables(values)
        other._total, other._used, other._given = self._total, self._used, self._given
        return other

    def separate(self) -> Variables:
        """The same values and limit, with the names that are asked for recorded apart."""
        other = self.over(self._values)
        other._used = set()
        return other

    @property
    def used(self) -> tuple[str, ...]:
        """The names of the given values that were asked for, sorted."""
        return tuple(sorted(self._used))

    def __getitem__(self, name: str) -> str:
        value = self._values[name]
        if name in self._given:
            self._used.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def count(self, text: str) -> str:
        """The text, once it is counted. Raises `TooMuchText`."""
        self._add("characters", len(text), MAX_TEXT, "the values, with their variables replaced, come to")
        return text

    def count_file(self, content: bytes) -> bytes:
        """The contents of a mounted file, once they are counted. Raises `TooMuchText`."""
        self._add("bytes", len(content), MAX_FILES_BYTES, "the mounted secrets and configs come to")
        return content

    def _add(self, unit: str, size: int, limit: int, what: str) -> None:
        self._total[unit] += size
        if self._total[unit] > limit:
            advice = "shorten them, mount large data as a volume, or send the services of a group one by one"
            raise TooMuchText(f"{what} more than {limit:,} {unit}; {advice}")


def interpolate(value: object, variables: Variables, problems: list[Problem], path: str) -> object:
    """The document with all variables replaced; mistakes are added to `problems`. Raises `InvalidSpec` if it gets too
    large."""
    try:
        if isinstance(value, str):
            return interpolate_text(value, variables, lambda message: problems.append(Problem(path, message)))
        if isinstance(value, list):
            return [interpolate(item, variables, problems, f"{path}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, Mapping):
            return {
                variables.count(str(key)): variables.count(item)
                if isinstance(item, str) and _is_excluded(str(key), path)
                else item
                if _is_excluded(str(key), path)
                else interpolate(item, variables, problems, f"{path}.{key}" if path else str(key))
                for key, item in value.items()
            }
    except TooMuchText as error:
        raise InvalidSpec([Problem(path, str(error))]) from error
    return value


def _is_excluded(key: str, path: str) -> bool:
    """Not interpolated: PromQL queries, which have `$release`, `$service` and `$window`, and other tools' extensions."""
    return (key == "query" and f".{OWN}" in path) or (key.startswith("x-") and key != OWN)


def unset_message(name: str, word: str) -> str:
    """The error message for a variable that is not set."""
    advice = f": {word}" if word else f"; add it to .env, or pass --set {name}=… or --env {name}"
    return f"the variable {name} is not set{advice}"


def interpolate_text(
    text: str, variables: Variables, complain: Complain, unset: Unset = unset_message, depth: int = 0
) -> str:
    """A text with its variables replaced. `unset` builds the message for a variable that is not set. Raises
    `TooMuchText`."""
    parts, at = [], 0
    while (match := HEAD.search(text, at)) is not None:
        parts.append(variables.count(text[at : match.start()]))
        at = match.end()
        if match["escaped"]:
            parts.append("$")
        elif match["plain"]:
            parts.append(_value(match["plain"], "", "", variables, complain, unset, depth))
        else:
            end = _find_closing_brace(text, at)
            braced = None if end is None else BRACED.fullmatch(text, at, end)
            if end is None or braced is None or depth == MAX_DEPTH:
                complain(INVALID if depth < MAX_DEPTH else f"defaults nested deeper than {MAX_DEPTH} levels")
                return ""
            parts.append(
                _value(braced["name"], braced["rule"] or "", braced["word"] or "", variables, complain, unset, depth)
            )
            at = end + 1
    return "".join(parts) + variables.count(text[at:])


def _find_closing_brace(text: str, at: int) -> int | None:
    """The position of the brace that closes the one opened before `at`; None when there is none."""
    open_ones = 1
    for match in BOUND.finditer(text, at):
        open_ones += {"${": 1, "}": -1}.get(match[0], 0)
        if not open_ones:
            return match.start()
    return None


def _value(name: str, rule: str, word: str, variables: Variables, complain: Complain, unset: Unset, depth: int) -> str:
    value = variables.get(name)
    is_set = bool(value) if rule.startswith(":") else value is not None
    if is_set and not rule.endswith("+"):
        return variables.count(value or "")
    if rule.endswith("+") and not is_set:
        return ""
    message = interpolate_text(word, variables, complain, unset, depth + 1) if word else ""
    if rule.endswith(("-", "+")):
        return message
    complain(unset(name, message))
    return ""
