"""Translates errors for all drivers: root causes, and responses that cannot be parsed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog

from tidegate.errors import DriverError

logger = structlog.get_logger("tidegate.drivers")
P = ParamSpec("P")
T = TypeVar("T")

#: The errors raised when a response does not have the expected structure, depth or size.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def guard_response(kind: type[DriverError], who: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a method that parses responses of `who`: an unexpected structure raises a retryable `kind`."""

    def wrap(method: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(method)
        def call(*arguments: P.args, **options: P.kwargs) -> T:
            try:
                return method(*arguments, **options)
            except MALFORMED as error:
                logger.warning("Unexpected response", source=who, exc_info=True)  # the traceback shows a mistake of ours
                message = f"{type(error).__name__}: {str(error)[:200]}"
                raise kind(f"Unexpected response from {who} ({message}); check the configured address") from error

        return call

    return wrap


def root_cause(error: BaseException) -> BaseException:
    """The innermost error below the layers that libraries wrapped around it."""
    context = None if error.__suppress_context__ else error.__context__
    for below in (error.__cause__, getattr(error, "reason", None), *error.args, context):
        if isinstance(below, BaseException):
            return root_cause(below)
    return error


def describe_cause(error: BaseException) -> str:
    """The innermost error's message, such as `Connection refused`."""
    cause = root_cause(error)
    text = (cause.strerror if isinstance(cause, OSError) else "") or str(cause)
    return text.rpartition(">: ")[2] or text or type(cause).__name__
