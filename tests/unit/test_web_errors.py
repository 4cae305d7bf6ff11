"""Every error of ours is a problem of the API."""

from __future__ import annotations

import inspect

import pytest

from tidegate import errors
from tidegate.web.errors import PROBLEM_TYPES

CLASSES = sorted(
    (
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, errors.TidegateError) and not each.__name__.startswith("_")
    ),
    key=lambda each: each.__name__,
)


@pytest.mark.parametrize("error", CLASSES, ids=lambda each: each.__name__)
def test_every_error_is_mapped(error: type[errors.TidegateError]) -> None:
    kind = PROBLEM_TYPES[error]
    assert 400 <= kind.status < 600
    assert kind.code == kind.code.lower()
    assert kind.title


def test_what_is_refused_is_the_clients_matter_and_what_fails_is_not() -> None:
    servers = {errors.InvalidSettings, errors.UnknownDriver}
    for error in CLASSES:
        if issubclass(error, errors.Refused) and error not in servers:
            assert PROBLEM_TYPES[error].status < 500, error
        if issubclass(error, errors.DriverError):
            assert PROBLEM_TYPES[error].status in (502, 503), error


def test_codes_tell_errors_apart() -> None:
    codes = [kind.code for error, kind in PROBLEM_TYPES.items()]
    assert len(set(codes)) == len(codes)
