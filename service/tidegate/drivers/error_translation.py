"""What goes wrong between us and others, for all drivers: what lies below an error, and answers that make no sense."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog

from tidegate.errors import DriverError

logger = structlog.get_logger("tidegate.drivers")
P = ParamSpec("P")
T = TypeVar("T")

#: What comes of taking an answer for what it should be: other types, other keys, too deep, too large.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def guard_response(kind: type[DriverError], who: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """For a method that reads answers of `who`: one that makes no sense is a `kind`, which may be another the next time."""

    def wrap(method: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(method)
        def call(*arguments: P.args, **options: P.kwargs) -> T:
            try:
                return method(*arguments, **options)
            except MALFORMED as error:
                # It may be a mistake of ours in reading it: then only this tells where.
                logger.warning("an answer makes no sense", who=who, exc_info=True)
                message = f"{type(error).__name__}: {str(error)[:200]}"
                raise kind(f"an answer of {who} makes no sense ({message}); is it the one of the settings?") from error

        return call

    return wrap


def root_cause(error: BaseException) -> BaseException:
    """The first reason of all, below what urllib3 and requests wrap around it."""
    following: object = getattr(error, "reason", None)
    if not isinstance(following, BaseException):
        following = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    return root_cause(following) if isinstance(following, BaseException) else error


def describe_cause(error: BaseException) -> str:
    """The innermost reason, without the objects' addresses that urllib3 prints."""
    text = str(root_cause(error))
    return text.rpartition(">: ")[2] or text
