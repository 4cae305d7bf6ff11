"""The reference of all commands, generated from them: as a page of the documentation, and as man pages."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main

from tidegate import __version__
from tidegate.cli.context import Context
from tidegate.cli.examples import EXAMPLES
from tidegate.cli.exit_codes import CommandError, ExitCode

HEADER = """\
# Command reference

Every command, option and argument of `tidegate`, generated from the commands themselves. [The command line](cli.md)
explains how they fit together.
"""


@dataclass(frozen=True, slots=True)
class CommandHelp:
    """What is known of one command. `words`: `token create`; empty for `tidegate` itself."""

    words: str
    usage: str
    paragraphs: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]  # as it is written, and what it is
    examples: tuple[str, ...]


def commands(app: typer.Typer) -> Iterator[CommandHelp]:
    """`tidegate` itself, and then all of its commands by name."""
    group: Any = typer.main.get_group(app)
    yield _describe("", group)
    yield from _walk("", group)


def _walk(words: str, group: Any) -> Iterator[CommandHelp]:
    for name, command in sorted(group.commands.items()):
        path = f"{words} {name}".strip()
        if hasattr(command, "commands"):
            yield from _walk(path, command)
        else:
            yield _describe(path, command)


def _describe(words: str, command: Any) -> CommandHelp:
    context = command.make_context("tidegate", [], resilient_parsing=True)
    usage = " ".join(("tidegate", *words.split(), *command.collect_usage_pieces(context)))
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")]
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    parameters = [(name, " ".join(text.split())) for name, text in filter(None, records) if not name.endswith("--help")]
    return CommandHelp(words, usage, tuple(paragraphs), tuple(parameters), EXAMPLES.get(words, ()))


# -- the page -----------------------------------------------------------------------------------------------------------


def markdown(app: typer.Typer) -> str:
    """The page of the documentation."""
    return HEADER + "".join(f"\n{_section(command)}" for command in commands(app))


def _section(command: CommandHelp) -> str:
    title = f"## tidegate {command.words}".rstrip()
    parts = [title, "```\n" + command.usage + "\n```", *map(_escape, command.paragraphs)]
    if command.parameters:
        rows = [f"| `{name.replace('|', chr(92) + '|')}` | {_escape(text)} |" for name, text in command.parameters]
        parts.append("\n".join(("| Option or argument | Meaning |", "|---|---|", *rows)))
    if command.examples:
        parts.append("```sh\n" + "\n".join(command.examples) + "\n```")
    return "\n\n".join(parts) + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# -- man pages ----------------------------------------------------------------------------------------------------------


def man_page(command: CommandHelp) -> str:
    """The man page of a command, in section 1."""
    name = f"tidegate {command.words}".strip()
    first, *others = command.paragraphs or ("",)
    lines = [
        f'.TH "{name.replace(" ", "-").upper()}" "1" "" "Tidegate {__version__}" "Tidegate"',
        *(".SH NAME", f"{_roff(name.replace(' ', '-'))} \\- {_roff(first)}"),
        *(".SH SYNOPSIS", f".B {_roff(command.usage)}"),
    ]
    if others:
        lines.append(".SH DESCRIPTION")
        lines += [line for paragraph in others for line in (".PP", _roff(paragraph))]
    if command.parameters:
        lines.append(".SH OPTIONS")
        lines += [line for name, text in command.parameters for line in (".TP", f".B {_roff(name)}", _roff(text))]
    if command.examples:
        lines += [".SH EXAMPLES", ".nf", *map(_roff, command.examples), ".fi"]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Text as troff prints it: without its own escapes, and no line is a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def man(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to write them, such as /usr/local/share/man/man1.")
    ],
) -> None:
    """Write the man pages of all commands to a folder. `man tidegate-deploy` then shows one."""
    from tidegate.cli.main import app

    context: Context = ctx.obj
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pages = list(commands(app))
        for command in pages:
            (folder / f"{'-'.join(('tidegate', *command.words.split()))}.1").write_text(man_page(command))
    except OSError as error:
        raise CommandError(f"Cannot write to {folder}: {error.strerror or error}.", ExitCode.USAGE) from error
    context.line(f"Wrote {len(pages)} man pages to {folder}.")
