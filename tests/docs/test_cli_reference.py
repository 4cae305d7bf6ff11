"""The reference of the commands is current, and every command's help ends with two examples that it accepts."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tidegate.cli.examples import EXAMPLES
from tidegate.cli.main import app
from tidegate.cli.reference import commands, man_page, markdown

PAGE = Path(__file__).parents[2] / "docs" / "cli-reference.md"


def walk(words: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        path = f"{words} {name}".strip()
        if hasattr(command, "commands"):
            yield from walk(path, command)
        else:
            yield path, command


ALL = dict(walk("", typer.main.get_group(app)))


def test_the_page_is_current() -> None:
    """`UPDATE=1 pytest tests/docs/test_cli_reference.py` writes it."""
    if os.environ.get("UPDATE"):
        PAGE.write_text(markdown(app))
    assert PAGE.read_text() == markdown(app)


def test_there_are_examples_of_what_there_is() -> None:
    assert set(EXAMPLES) == set(ALL)


@pytest.mark.parametrize("words", ALL)
def test_help_ends_with_two_examples(words: str) -> None:
    command = ALL[words]
    context = command.make_context(f"tidegate {words}", [], resilient_parsing=True, max_content_width=200)
    paragraphs = [part.strip() for part in command.get_help(context).split("\n\n")]
    assert [" ".join(part.split()) for part in paragraphs[-3:]] == ["Examples:", *EXAMPLES[words]]


@pytest.mark.parametrize(("words", "example"), [(words, one) for words, both in EXAMPLES.items() for one in both])
def test_the_command_accepts_its_example(words: str, example: str) -> None:
    line = [word for word in shlex.split(example) if not word.startswith("TIDEGATE_")]
    assert line[: 1 + len(words.split())] == ["tidegate", *words.split()]
    ALL[words].make_context(words, line[1 + len(words.split()) :])


def test_man_pages_are_what_troff_understands() -> None:
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    pages = "\n".join(man_page(command) for command in commands(app))
    command = ["groff", "-man", "-Tutf8", "-ww", "-z"]
    done = subprocess.run(command, input=pages, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
