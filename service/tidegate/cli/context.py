"""What every command is given: where the server is, who asks, and how the answer shall look."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tidegate.cli.api_client import ApiClient, CommandError, Json
from tidegate.cli.console import json_text
from tidegate.cli.exit_codes import ExitCode
from tidegate.text import escape

ROLLOUT_ID = re.compile(r"[0-9a-f]{12,32}")


class Format(StrEnum):
    """How answers are printed."""

    TEXT = "text"
    JSON = "json"


Output = Annotated[
    Format | None, typer.Option("--output", "-o", help="How to print the answer: text for people, json for programs.")
]


@dataclass
class Context:
    """The options that stand before the command."""

    server: str
    token_file: Path | None
    environment: str
    patience_seconds: float
    output: Format
    out: Console
    err: Console
    ca_file: Path | None = None

    def client(self) -> ApiClient:
        """A client for the server. The token comes from the environment or a file, never from the command line."""
        if self.ca_file is not None and not self.ca_file.is_file():
            raise CommandError(f"there is no file {self.ca_file} with authorities", ExitCode.USAGE)
        return ApiClient(self.server, self._token(), self.patience_seconds, self.ca_file)

    def _token(self) -> str:
        if self.token_file is None:
            return os.environ.get("TIDEGATE_TOKEN", "").strip()
        try:
            return self.token_file.read_text().strip()
        except OSError as error:
            raise CommandError(f"token file: {error}", ExitCode.USAGE) from error

    def service(self, name: str) -> str:
        """`environment/service`, with the default environment where only the service is named."""
        if "/" in name:
            return name
        if not self.environment:
            text = f"which environment? write ENVIRONMENT/{name}, or set TIDEGATE_ENVIRONMENT"
            raise CommandError(text, ExitCode.USAGE)
        return f"{self.environment}/{name}"

    def named(self, name: str) -> str:
        """A rollout's id as it is; a service's name made whole."""
        return name if ROLLOUT_ID.fullmatch(name) else self.service(name)

    def as_json(self, output: Format | None) -> bool:
        """Whether this answer is for a program."""
        return (output or self.output) is Format.JSON

    def print_json(self, answer: object) -> None:
        """The answer for a program, one document, unstyled and unwrapped."""
        self.out.file.write(json_text(answer, indent=2) + "\n")

    def line(self, text: str) -> None:
        """One line for a person or a log; never wrapped, no markup read from it."""
        self.out.print(escape(text), markup=False, highlight=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table for people."""
        self.marked_table(columns, ([rich_safe(cell) for cell in row] for row in rows))

    def marked_table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table whose cells are rich markup."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.out.print(table)


def rich_safe(cell: object) -> str:
    """A cell's text with markup characters taken literally, and none that a terminal would obey."""
    return "" if cell is None else escape(str(cell)).replace("[", "\\[")


def transition(rollout: Json) -> str:
    """From where to where, or what is done to the release that stays."""
    kind = rollout["kind"]
    return f"{rollout['old'] or 'nothing'} → {rollout['new']}" if kind == "release" else f"{kind} of {rollout['new']}"


def rollout_line(rollout: Json) -> str:
    """A rollout in one line."""
    way = transition(rollout)
    step = f"step {rollout['cursor'] + 1}/{len(rollout['steps'])}"
    pause = ", paused" if rollout.get("paused") else ""
    reason = f": {rollout['reason']}" if rollout.get("reason") else ""
    return f"{rollout['id']}  {rollout['service']}  {way}  {rollout['phase']} ({step}{pause}){reason}"


RolloutName = Annotated[str, typer.Argument(metavar="ROLLOUT|SERVICE", help="A rollout's id, or ENVIRONMENT/SERVICE.")]
ServiceName = Annotated[str, typer.Argument(metavar="SERVICE", help="ENVIRONMENT/SERVICE.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; kept with the rollout.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow until it ends, or only ask for it.")]
ComposeFile = Annotated[Path | None, typer.Option("--file", "-f", help="The Compose file; else the stored definition.")]
Variables = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A variable of the Compose file.")]
