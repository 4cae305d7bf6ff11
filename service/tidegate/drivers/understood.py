"""Answers from outside that make no sense: one error for all of it, the driver's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tidegate.errors import DriverError

P = ParamSpec("P")
T = TypeVar("T")

#: What comes of taking an answer for what it should be: other types, other keys, too deep, too large.
SENSELESS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def understood(kind: type[DriverError], who: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """For a method that reads answers of `who`: one that makes no sense is a `kind`, which may be another the next time."""

    def wrap(method: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(method)
        def call(*arguments: P.args, **options: P.kwargs) -> T:
            try:
                return method(*arguments, **options)
            except SENSELESS as error:
                said = f"{type(error).__name__}: {str(error)[:200]}"
                raise kind(f"an answer of {who} makes no sense ({said}); is it the one of the settings?") from error

        return call

    return wrap
