"""`tidegate`: the command line. `docs/cli.md` tells every command, option and exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tidegate import __version__
from tidegate.cli import admin, analysis, audit, freezes, report, rollouts, scale_repair, status, tokens, watch
from tidegate.cli.api_client import CommandError
from tidegate.cli.console import SafeConsole, json_text
from tidegate.cli.context import Context, Format
from tidegate.cli.exit_codes import ExitCode
from tidegate.errors import TidegateError
from tidegate.text import escape

app = typer.Typer(
    name="tidegate",
    help="Moves a service from one release to the next without downtime.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Stages": (
        rollouts.deploy,
        rollouts.verify,
        rollouts.promote,
        rollouts.rollback,
        rollouts.pause,
        rollouts.resume,
        watch.watch,
    ),
    "Between rollouts": (scale_repair.scale, scale_repair.repair),
    "Services and rollouts": (status.status, status.events, report.report, status.services, status.rollouts, status.apply),
    "Freezes and audit": (freezes.freeze, freezes.thaw, freezes.freezes, audit.audit),
    "Server": (admin.serve, admin.engine, admin.prune, admin.check),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(analysis.app, name="analysis", rich_help_panel="Services and rollouts")
app.add_typer(admin.db, name="db", rich_help_panel="Server")
app.add_typer(tokens.app, name="token", rich_help_panel="Server")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"tidegate {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    server: Annotated[str, typer.Option(envvar="TIDEGATE_SERVER", help="The server's address.")] = "http://127.0.0.1:7070",
    token_file: Annotated[
        Path | None, typer.Option(envvar="TIDEGATE_TOKEN_FILE", help="File with the API token; or set TIDEGATE_TOKEN.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(envvar="TIDEGATE_CA_FILE", help="Authorities that may vouch for the server, a PEM file.")
    ] = None,
    environment: Annotated[str, typer.Option(envvar="TIDEGATE_ENVIRONMENT", help="For services named without one.")] = "",
    patience: Annotated[
        float,
        typer.Option(envvar="TIDEGATE_PATIENCE_SECONDS", min=0.0, help="Seconds that a silent server is asked again."),
    ] = 30.0,
    output: Annotated[Format, typer.Option("--output", "-o", help="text or json.")] = Format.TEXT,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Its version.")] = False,
) -> None:
    """Options that stand before the command."""
    out, err = SafeConsole(), SafeConsole(stderr=True)
    ctx.obj = Context(server, token_file, environment, patience, output, out, err, ca_file)


def main() -> None:
    """Run the command and end the process with its exit code."""
    try:
        app()
    except CommandError as error:
        _print_error(str(error), error.problem)
        sys.exit(error.code)
    except TidegateError as error:
        _print_error(error.message, {})
        sys.exit(ExitCode.REFUSED)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)


def _print_error(message: str, problem: dict[str, object]) -> None:
    """The error for a person; for a program that asked for JSON also the server's problem document."""
    sys.stderr.write(escape(f"error: {message}\n", keep="\n"))
    if problem and any(word in ("json", "-ojson", "--output=json") for word in sys.argv[1:]):
        sys.stdout.write(json_text(problem, indent=2) + "\n")


if __name__ == "__main__":
    main()
