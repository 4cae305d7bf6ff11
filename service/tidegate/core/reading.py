"""Reading a mapping key by key, with every mistake kept and none fatal. Pure."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from tidegate.errors import Problem

T = TypeVar("T")


class Reader:
    """One mapping of the document. Each `take` consumes a key; `finish` complains of those that nobody took."""

    def __init__(self, value: object, path: str, problems: list[Problem]) -> None:
        self.path, self.problems = path, problems
        self._taken: set[str] = set()
        self._refused: dict[str, str] = {}
        self.values: Mapping[str, object] = {}
        if isinstance(value, Mapping):
            self.values = {str(key): each for key, each in value.items()}
        elif value is not None:
            self.complain("", f"found {shown(value)}; a mapping is needed")

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def at(self, key: str) -> str:
        """The path of a key."""
        return f"{self.path}.{key}" if key else self.path

    def complain(self, key: str, message: str) -> None:
        """Note a mistake at a key; the first one there is the cause of those that follow."""
        if all(problem.path != self.at(key) for problem in self.problems):
            self.problems.append(Problem(self.at(key), message))

    def take(self, key: str, read: Callable[[object], T], otherwise: T) -> T:
        """The value of a key through `read`, which raises `ValueError` with what is allowed."""
        self._taken.add(key)
        value = self.values.get(key)
        if value is None:
            return otherwise
        try:
            return read(value)
        except ValueError as error:
            self.complain(key, f"found {shown(value)}; allowed: {error}")
            return otherwise

    def inner(self, key: str) -> Reader:
        """The mapping under a key; an empty one when it is absent."""
        self._taken.add(key)
        return Reader(self.values.get(key), self.at(key), self.problems)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Known words that cannot be honoured, each with what to do instead."""
        self._refused.update(reasons)

    def finish(self) -> None:
        """Complain of every key that nobody took."""
        for key in self.values:
            if key in self._taken:
                continue
            if key in self._refused:
                self.complain(key, f"not supported: {self._refused[key]}")
            else:
                self.complain(key, f"unknown key{_nearest(key, self._taken)}")


def _nearest(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), 1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"


def shown(value: object) -> str:
    """A value in a message, bounded."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def text(value: object) -> str:
    """Text that is not empty."""
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError("text")


def flag(value: object) -> bool:
    """true or false."""
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def whole(least: int, most: int = 100_000) -> Callable[[object], int]:
    """A whole number within bounds; a number in quotes, as interpolation gives, counts."""

    def read(value: object) -> int:
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise ValueError(f"a whole number from {least} to {most}")

    return read


def decimal(value: object) -> float:
    """A number that is not negative."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
    except ValueError:
        number = -1.0
    if number >= 0:
        return number
    raise ValueError("a number of at least 0")


def one_of(kind: Callable[[str], T], words: Iterable[str]) -> Callable[[object], T]:
    """One of these words."""
    allowed = list(words)

    def read(value: object) -> T:
        if isinstance(value, str) and value in allowed:
            return kind(value)
        raise ValueError(", ".join(allowed))

    return read


def pairs(value: object) -> dict[str, str]:
    """A mapping, or a list of NAME=VALUE."""
    if isinstance(value, Mapping) and all(
        isinstance(each, str | int | float | bool) or each is None for each in value.values()
    ):
        return {str(key): _scalar(each) for key, each in value.items()}
    if isinstance(value, list) and all(isinstance(each, str) and "=" in each for each in value):
        return dict(each.split("=", 1) for each in value)
    raise ValueError("a mapping of text, or a list of NAME=VALUE")


def words(value: object) -> tuple[str, ...]:
    """A command: text, split as a shell does, or a list of words."""
    if isinstance(value, str):
        try:
            return tuple(shlex.split(value))
        except ValueError as error:
            raise ValueError(f"text that a shell could split ({error}), or a list of words") from None
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    raise ValueError("text, or a list of words")


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
