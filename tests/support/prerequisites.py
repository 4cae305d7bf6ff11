"""The programs that tests use. A missing server is a skip on a laptop and a failure in CI."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def missing(what: str) -> None:
    """Skip, or fail when `CI` is set: no suite goes green by not running."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI never skips", pytrace=False)
    pytest.skip(f"{what} is missing")


def program(name: str) -> str:
    """The path of a program that the test needs."""
    found = shutil.which(name)
    if found is None:
        missing(name)
    assert found is not None
    return found


def run(*words: str) -> str:
    """What a command says; it has to end well."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
