"""`tidegate`: the command line. `docs/cli.md` documents the commands and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tidegate import __version__
from tidegate.cli import (
    admin,
    adoption,
    analysis,
    freezes,
    lint,
    logs,
    plans,
    quarantine,
    reference,
    repeats,
    rollouts,
    scale_repair,
    status,
    tokens,
    watch,
)
from tidegate.cli.console import json_text
from tidegate.cli.context import Context, Format
from tidegate.cli.examples import add_examples
from tidegate.cli.exit_codes import CommandError, ExitCode, Json
from tidegate.errors import TidegateError
from tidegate.text import escape

app = typer.Typer(
    name="tidegate",
    help="Deploys services on plain Docker without downtime: rolling or blue-green, with checks, approvals and rollback.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() and sys.stderr.isatty() else None,  # plain help and errors in pipes
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Compose files": (lint.init, lint.lint),
    "Rollouts": (
        plans.plan,
        rollouts.deploy,
        rollouts.verify,
        rollouts.promote,
        rollouts.rollback,
        repeats.restart,
        repeats.retry,
        rollouts.pause,
        rollouts.resume,
        watch.watch,
    ),
    "Scale and repair": (scale_repair.scale, scale_repair.repair, scale_repair.remove),
    "Docker Compose": (adoption.import_, adoption.release),
    "Inspect": (
        status.status,
        status.events,
        logs.logs,
        logs.exec_,
        status.report,
        status.services,
        status.rollouts,
        status.history,
        status.environments,
        status.apply,
    ),
    "Freezes and audit": (freezes.freeze, freezes.thaw, freezes.freezes, status.audit),
    "Server": (admin.serve, admin.engine, admin.prune, admin.check, reference.man),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(command.__name__.rstrip("_"), rich_help_panel=panel)(command)
app.add_typer(analysis.app, name="analysis", rich_help_panel="Inspect")
app.add_typer(quarantine.app, name="quarantine", rich_help_panel="Freezes and audit")
app.add_typer(admin.db, name="db", rich_help_panel="Server")
app.add_typer(tokens.app, name="token", rich_help_panel="Server")


add_examples(app)


def _print_version(requested: bool) -> None:
    if requested:
        sys.stdout.write(f"tidegate {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    server: Annotated[str, typer.Option(envvar="TIDEGATE_SERVER", help="URL of the server.")] = "http://127.0.0.1:7070",
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="TIDEGATE_TOKEN_FILE", help="File that contains the API token. Alternative: the variable TIDEGATE_TOKEN."
        ),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(envvar="TIDEGATE_CA_FILE", help="PEM file with the CA certificates to trust.")
    ] = None,
    environment: Annotated[
        str, typer.Option(envvar="TIDEGATE_ENVIRONMENT", help="Default environment for services named without one.")
    ] = "",
    patience: Annotated[
        float | None,
        typer.Option(
            envvar="TIDEGATE_PATIENCE_SECONDS",
            min=0.0,
            help="Keep retrying an unreachable server for so many seconds. Default: 30; for commands that only read: 5.",
        ),
    ] = None,
    output: Annotated[Format, typer.Option("--output", "-o", help="Output format: text or json.")] = Format.TEXT,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Deploys services on plain Docker without downtime: rolling or blue-green, with checks, approvals and rollback."""
    ctx.obj = Context(server, token_file, environment, patience, output, ca_file)


def main() -> None:
    """Run the command and exit with its code."""
    try:
        app()
    except CommandError as error:
        _fail(str(error), error.code, error.problem)
    except TidegateError as error:
        found = getattr(error, "problems", ())
        errors = {"errors": [{"path": problem.path, "message": problem.message} for problem in found]} if found else {}
        _fail(error.message, ExitCode.REFUSED, errors)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except SystemExit as ended:
        if ended.code == ExitCode.USAGE and _wants_json():
            _print_problem("Invalid command line; standard error has the details.", ExitCode.USAGE, {})
        raise


def _fail(message: str, code: ExitCode, problem: Json) -> NoReturn:
    """Print the error to standard error, and with JSON output a problem document to standard output; then exit."""
    sys.stderr.write(escape(f"Error: {message}\n", allowed="\n"))
    if _wants_json():
        _print_problem(message, code, problem)
    sys.exit(code)


def _print_problem(message: str, code: ExitCode, problem: Json) -> None:
    """The server's problem document, or one with the same fields for a problem of the command itself."""
    document = {"title": code.name.lower().replace("_", " "), "detail": message} | problem | {"exit_code": int(code)}
    sys.stdout.write(json_text(document, indent=2) + "\n")


def _wants_json() -> bool:
    """Whether the command line asks for JSON; it may be one that could not be parsed."""
    words = sys.argv[1:]
    pairs = pairwise(words)
    return any(word in ("-ojson", "--output=json") for word in words) or any(
        option in ("-o", "--output") and value == "json" for option, value in pairs
    )


if __name__ == "__main__":
    main()
