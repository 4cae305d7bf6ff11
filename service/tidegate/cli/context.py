"""Options and output shared by all commands: server address, token, output format, tables."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.console import cell_text, json_text, relative_time, table_lines
from tidegate.cli.exit_codes import CommandError, ExitCode, Json
from tidegate.text import escape

if TYPE_CHECKING:  # both take long to import, and not every command needs them
    from rich.console import Console

    from tidegate.cli.api_client import ApiClient

ROLLOUT_ID = re.compile(r"[0-9a-f]{12,32}")
TIMES = frozenset({"at", "created", "expires", "last_used", "since", "until"})  # columns with ISO 8601 timestamps
PATIENCE_SECONDS = 30.0
READ_PATIENCE_SECONDS = 5.0  # for commands that only read: a person waits for them and can repeat them


class Format(StrEnum):
    """Output format."""

    TEXT = "text"
    JSON = "json"


Output = Annotated[Format | None, typer.Option("--output", "-o", help="Output format: text for people, json for programs.")]


@dataclass(frozen=True)
class ComposeOptions:
    """What the options of a command say about Compose files; without files, the stored definition is meant."""

    files: tuple[Path, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)  # of --set
    env_files: tuple[Path, ...] = ()
    env: tuple[str, ...] = ()
    project: str = ""


@dataclass
class Context:
    """The options given before the command, and the output."""

    server: str
    token_file: Path | None
    environment: str
    patience_seconds: float | None  # None: the command's default
    output: Format
    ca_file: Path | None = None

    @cached_property
    def out(self) -> Console:
        """The console for what plain lines cannot show: styles and live displays."""
        from tidegate.cli.render import make_console

        return make_console(sys.stdout)

    @property
    def is_terminal(self) -> bool:
        """Whether standard output is a terminal. Elsewhere there are no colours, no tables and no live displays."""
        return sys.stdout.isatty()

    def client(self) -> ApiClient:
        """Return a client for a command that changes or follows something, which a short outage must not interrupt."""
        return self._client(PATIENCE_SECONDS)

    def reader(self) -> ApiClient:
        """Return a client for a command that only reads."""
        return self._client(READ_PATIENCE_SECONDS)

    def _client(self, patience_seconds: float) -> ApiClient:
        """The token comes from the environment or a file, never from the command line."""
        from tidegate.cli.api_client import ApiClient

        if self.ca_file is not None and not self.ca_file.is_file():
            raise CommandError(
                f"Cannot read the CA file {self.ca_file}: no such file. Set --ca-file to a PEM file.", ExitCode.USAGE
            )
        if self.patience_seconds is not None:
            patience_seconds = self.patience_seconds
        return ApiClient(self.server, self._token(), patience_seconds, self.ca_file, notify=self.notice)

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
        sys.stdout.write(json_text(answer, indent=2) + "\n")

    def message(self, text: str, output: Format | None = None) -> None:
        """Print what was done: a line, or with JSON output a document with this `message`."""
        if self.as_json(output):
            self.print_json({"message": text})
        else:
            self.line(text)

    def line(self, text: str, style: str = "") -> None:
        """Print one line of text, unwrapped, without interpreting markup; `style` is for terminals."""
        if style and self.is_terminal:
            self.out.print(escape(text), style=style, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stdout.write(escape(text) + "\n")

    def notice(self, text: str) -> None:
        """Print a line about the command itself to standard error."""
        sys.stderr.write(escape(text) + "\n")

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Mapping[str, object]],
        style: Callable[[Mapping[str, object]], str] = lambda row: "",
    ) -> None:
        """Print these fields of each row: on a terminal a table that fits it, elsewhere lines of fields separated by tabs.

        Timestamps are shown as relative times. `style` gives the style of a row.
        """
        rows = list(rows)
        cells = [[_cell(column, row[column]) for column in columns] for row in rows]
        if not self.is_terminal:
            for line in (columns, *cells):
                sys.stdout.write("\t".join(line) + "\n")
            return
        for text, number in table_lines(columns, cells, self.out.width):
            self.line(text, "" if number is None else "bold" if number < 0 else style(rows[number]))


def _cell(column: str, value: object) -> str:
    return relative_time(str(value)) if column in TIMES and value else cell_text(value)


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
ComposeFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--file", "-f", help="The Compose file; repeatable, each merged over those before. Default: the stored definition."
    ),
]
EnvFile = Annotated[
    list[Path] | None,
    typer.Option("--env-file", metavar="FILE", help="Read variables from this file instead of .env; repeatable."),
]
Env = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME", help="Take this variable from the environment of this process; repeatable."),
]
ProjectName = Annotated[
    str,
    typer.Option(
        "--project-name",
        "-p",
        help="The Compose project. Default: COMPOSE_PROJECT_NAME, `name` in the file, or the name of its folder.",
    ),
]
Variables = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a variable of the Compose file; repeatable.")
]
Image = Annotated[str, typer.Option(help="Image to deploy instead of the one in the Compose file.")]
Key = Annotated[str, typer.Option("--key", help="Idempotency key: requests with the same key start one rollout only.")]
OnBehalfOf = Annotated[
    str, typer.Option("--on-behalf-of", metavar="PERSON", help="Who requests or approves this; requires the scope vouch.")
]
DetailedExitCode = Annotated[
    bool, typer.Option("--detailed-exit-code", help="Exit with 9 instead of 0 when the rollout waits for a person.")
]
