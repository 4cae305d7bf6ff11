"""Options and output shared by all commands: server address, token, output format, tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tidegate.cli.api_client import ApiClient, CommandError, Json
from tidegate.cli.console import json_text, relative_time
from tidegate.cli.exit_codes import ExitCode
from tidegate.text import escape

ROLLOUT_ID = re.compile(r"[0-9a-f]{12,32}")
TIMES = frozenset({"at", "created", "expires", "last_used", "since", "until"})  # columns with ISO 8601 timestamps


class Format(StrEnum):
    """Output format."""

    TEXT = "text"
    JSON = "json"


Output = Annotated[Format | None, typer.Option("--output", "-o", help="Output format: text for people, json for programs.")]


@dataclass
class Context:
    """The options given before the command, and the consoles to print to."""

    server: str
    token_file: Path | None
    environment: str
    patience_seconds: float
    output: Format
    out: Console
    err: Console
    ca_file: Path | None = None

    def client(self) -> ApiClient:
        """Return a client for the server. The token comes from the environment or a file, never from the command line."""
        if self.ca_file is not None and not self.ca_file.is_file():
            raise CommandError(
                f"Cannot read the CA file {self.ca_file}: no such file. Set --ca-file to a PEM file.", ExitCode.USAGE
            )
        return ApiClient(self.server, self._token(), self.patience_seconds, self.ca_file)

    def _token(self) -> str:
        if self.token_file is None:
            return os.environ.get("TIDEGATE_TOKEN", "").strip()
        try:
            return self.token_file.read_text().strip()
        except OSError as error:
            raise CommandError(
                f"Cannot read the token file {self.token_file}: {error.strerror or error}. Check --token-file.",
                ExitCode.USAGE,
            ) from error

    def service(self, name: str) -> str:
        """Return `environment/service`, adding the default environment to a bare service name."""
        if "/" in name:
            return name
        if not self.environment:
            text = f"No environment given for {name}. Write ENVIRONMENT/{name}, or set TIDEGATE_ENVIRONMENT."
            raise CommandError(text, ExitCode.USAGE)
        return f"{self.environment}/{name}"

    def named(self, name: str) -> str:
        """Return a rollout's ID unchanged, a service's name with its environment."""
        return name if ROLLOUT_ID.fullmatch(name) else self.service(name)

    def as_json(self, output: Format | None) -> bool:
        """Whether to print JSON: the command's own --output wins over the one before the command."""
        return (output or self.output) is Format.JSON

    def print_json(self, answer: object) -> None:
        """Print one JSON document, unstyled and unwrapped."""
        self.out.file.write(json_text(answer, indent=2) + "\n")

    def line(self, text: str) -> None:
        """Print one line of text, unwrapped, without interpreting markup."""
        self.out.print(escape(text), markup=False, highlight=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        """Print a table with these fields of each row; timestamps as relative times, lists joined by commas."""
        self.marked_table(columns, ([rich_safe(_cell(column, row[column])) for column in columns] for row in rows))

    def marked_table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table whose cells contain rich markup."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.out.print(table)


def _cell(column: str, value: object) -> object:
    if column in TIMES:
        return relative_time(str(value)) if value else ""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def rich_safe(cell: object) -> str:
    """Return a cell's text with rich markup and control characters escaped."""
    return "" if cell is None else escape(str(cell)).replace("[", "\\[")


def format_transition(rollout: Json) -> str:
    """`v1-3 → v2-4`, or for a rollout that keeps its release `scale of v2-4`."""
    kind = rollout["kind"]
    return f"{rollout['old'] or 'nothing'} → {rollout['new']}" if kind == "release" else f"{kind} of {rollout['new']}"


def format_rollout(rollout: Json) -> str:
    """One line: ID, service, releases, phase, step and reason."""
    step = f"step {rollout['cursor'] + 1}/{len(rollout['steps'])}"
    pause = ", paused" if rollout["paused"] else ""
    reason = f": {rollout['reason']}" if rollout["reason"] else ""
    return (
        f"{rollout['id']}  {rollout['service']}  {format_transition(rollout)}  {rollout['phase']} ({step}{pause}){reason}"
    )


RolloutName = Annotated[
    str, typer.Argument(metavar="ROLLOUT|SERVICE", help="A rollout's ID, or ENVIRONMENT/SERVICE for its latest rollout.")
]
ServiceName = Annotated[str, typer.Argument(metavar="SERVICE", help="ENVIRONMENT/SERVICE.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Reason, recorded with the rollout and in the audit log.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the rollout, or return as soon as it is accepted.")]
ComposeFile = Annotated[Path | None, typer.Option("--file", "-f", help="The Compose file. Default: the stored definition.")]
Variables = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a variable of the Compose file; repeatable.")
]
