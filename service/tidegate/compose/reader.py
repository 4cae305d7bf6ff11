"""A reader of mappings that collects all mistakes instead of stopping at the first. Pure."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from tidegate.core.compose import Note
from tidegate.core.image_reference import ImageReference
from tidegate.errors import Problem

T = TypeVar("T")
MAX_PROBLEMS = 200  # further ones are dropped
BOOLEAN_WORDS = {"true": True, "yes": True, "on": True, "y": True, "false": False, "no": False, "off": False, "n": False}


@dataclass(frozen=True, slots=True)
class Findings:
    """What reading a document finds, in lists that grow: mistakes, and keys that have another effect than in Compose."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


class Reader:
    """Reads one mapping of the document. Each `take` consumes a key; `finish` reports the unknown keys."""

    def __init__(self, value: object, path: str, findings: Findings, *, extensible: bool = False) -> None:
        self.path, self.findings = path, findings
        self._extensible = extensible  # Compose allows keys that begin with x-
        self._known_keys: set[str] = set()
        self._refused: dict[str, str] = {}
        self._ignored: dict[str, str] = {}
        self.values: Mapping[str, object] = {}
        if isinstance(value, Mapping):
            self.values = {str(key): item for key, item in value.items()}
        elif value is not None:
            self.complain("", f"found {format_value(value)}; allowed: a mapping")

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def at(self, key: str) -> str:
        """The path of a key."""
        return f"{self.path}.{key}" if key and self.path else key or self.path

    def complain(self, key: str, message: str) -> None:
        """Report a mistake at a key. Only the first one is kept, since it usually causes the others."""
        problems = self.findings.problems
        if len(problems) < MAX_PROBLEMS and all(problem.path != self.at(key) for problem in problems):
            problems.append(Problem(self.at(key), message))

    def note(self, key: str, message: str) -> None:
        """Say that a key has another effect than with `docker compose`, or none."""
        self.findings.notes.append(Note(self.at(key), message))

    def take(self, key: str, read: Callable[[object], T], otherwise: T, *, secret: bool = False) -> T:
        """The value of a key, read by `read`, which raises `ValueError` with the allowed values; `otherwise` when absent or
        wrong. Messages do not contain a `secret` value."""
        self._known_keys.add(key)
        value = self.values.get(key)
        if value is None:
            return otherwise
        try:
            return read(value)
        except (ValueError, OverflowError) as error:  # OverflowError: an integer too large for a float
            self.complain(key, f"allowed: {error}" if secret else f"found {format_value(value)}; allowed: {error}")
            return otherwise

    def inner(self, key: str) -> Reader:
        """The mapping under a key; an empty one when it is absent."""
        self._known_keys.add(key)
        return Reader(
            self.values.get(key), self.at(key), self.findings, extensible=self._extensible and not key.startswith("x-")
        )

    def tolerate(self, *keys: str) -> None:
        """Accept these keys and ignore them."""
        self._known_keys.update(keys)

    def ignore(self, reasons: Mapping[str, str]) -> None:
        """Accept these keys without effect, each with a note that says why."""
        self._ignored.update(reasons)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Reject these keys, each with what to do instead."""
        self._refused.update(reasons)

    def finish(self) -> None:
        """Report every key that was not read."""
        for key in self.values:
            if len(self.findings.problems) >= MAX_PROBLEMS:
                return
            if key in self._known_keys or (self._extensible and key.startswith("x-") and not self._misspelt(key)):
                continue
            if key in self._ignored:
                if key in self:
                    self.note(key, f"ignored: {self._ignored[key]}")
            elif key in self._refused:
                self.complain(key, f"not supported: {self._refused[key]}")
            else:
                self.complain(key, f"unknown key{_closest_key(key, self._known_keys)}")

    @staticmethod
    def finish_all(*readers: Reader) -> None:
        """Report every key that was not read of each reader."""
        for reader in readers:
            reader.finish()

    def _misspelt(self, key: str) -> bool:
        """Whether an extension key looks like a misspelt key of ours."""
        return bool(
            difflib.get_close_matches(key, [known for known in self._known_keys if known.startswith("x-")], 1, 0.85)
        )


def _closest_key(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), 1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"


def format_value(value: object) -> str:
    """A value for a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def text(value: object) -> str:
    """Non-empty text."""
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError("text")


def image(value: object) -> str:
    """The name of an image, with a tag or a digest."""
    reference = value if isinstance(value, str) else ""
    ImageReference.parse(reference)
    return reference


def boolean(value: object) -> bool:
    """true or false; as text, for example after interpolation, also Compose's other words for them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in BOOLEAN_WORDS:
        return BOOLEAN_WORDS[value.lower()]
    raise ValueError("true or false")


def integer(minimum: int, maximum: int = 100_000) -> Callable[[object], int]:
    """A reader of whole numbers within bounds, also as text, for example after interpolation."""

    def read(value: object) -> int:
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return value
        raise ValueError(f"a whole number from {minimum} to {maximum}")

    return read


def decimal(value: object) -> float:
    """A number from 0 to 1000000."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
    except ValueError:
        number = -1.0
    if 0 <= number <= 1_000_000:
        return number
    raise ValueError("a number from 0 to 1000000")


def one_of(kind: Callable[[str], T], words: Iterable[str]) -> Callable[[object], T]:
    """A reader of one of these words."""
    allowed = list(words)

    def read(value: object) -> T:
        if isinstance(value, str) and value in allowed:
            return kind(value)
        raise ValueError(", ".join(allowed))

    return read


def list_of(allowed: str) -> Callable[[object], list[object]]:
    """A reader of a list with any entries; `allowed` describes it in messages."""

    def read(value: object) -> list[object]:
        if isinstance(value, list):
            return value
        raise ValueError(allowed)

    return read


def string_list(value: object) -> tuple[str, ...]:
    """A list of text."""
    if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
        return tuple(value)
    raise ValueError("a list of text")


def string_or_list(value: object) -> tuple[str, ...]:
    """One text, or a list of text."""
    return string_list([value] if isinstance(value, str) else value)


def pairs(value: object) -> dict[str, str]:
    """A mapping, or a list of NAME=VALUE; a name alone has an empty value."""
    return {name: item or "" for name, item in named_values(value).items()}


def named_values(value: object) -> dict[str, str | None]:
    """Like `pairs`, with None for a name without a value."""
    if isinstance(value, Mapping) and all(
        isinstance(item, str | int | float | bool) or item is None for item in value.values()
    ):
        result = {str(key): _scalar(item) for key, item in value.items()}
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        split = [item.partition("=") for item in value]
        result = {name: item if equals else None for name, equals, item in split}
    else:
        raise ValueError("a mapping of text, or a list of NAME=VALUE")
    if "" in result:
        raise ValueError("names that are not empty")
    return result


def command(value: object) -> tuple[str, ...]:
    """A command: text, split as a shell does, or a list of words."""
    if isinstance(value, str):
        try:
            return tuple(shlex.split(value))
        except ValueError as error:
            raise ValueError(f"text that a shell could split ({error}), or a list of words") from None
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    raise ValueError("text, or a list of words")


def _scalar(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)
