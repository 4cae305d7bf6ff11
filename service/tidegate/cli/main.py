"""`tidegate`: the command line. `docs/cli.md` documents the commands and exit codes."""

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
    help="Deploys services on plain Docker without downtime: rolling or blue-green, with checks, approvals and rollback.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Rollouts": (
        rollouts.deploy,
        rollouts.verify,
        rollouts.promote,
        rollouts.rollback,
        rollouts.pause,
        rollouts.resume,
        watch.watch,
    ),
    "Scale and repair": (scale_repair.scale, scale_repair.repair),
    "Inspect": (status.status, status.events, report.report, status.services, status.rollouts, status.apply),
    "Freezes and audit": (freezes.freeze, freezes.thaw, freezes.freezes, audit.audit),
    "Server": (admin.serve, admin.engine, admin.prune, admin.check),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(analysis.app, name="analysis", rich_help_panel="Inspect")
app.add_typer(admin.db, name="db", rich_help_panel="Server")
app.add_typer(tokens.app, name="token", rich_help_panel="Server")


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
        float,
        typer.Option(
            envvar="TIDEGATE_PATIENCE_SECONDS", min=0.0, help="Keep retrying an unreachable server for this many seconds."
        ),
    ] = 30.0,
    output: Annotated[Format, typer.Option("--output", "-o", help="Output format: text or json.")] = Format.TEXT,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Deploys services on plain Docker without downtime: rolling or blue-green, with checks, approvals and rollback."""
    out, err = SafeConsole(), SafeConsole(stderr=True)
    ctx.obj = Context(server, token_file, environment, patience, output, out, err, ca_file)


def main() -> None:
    """Run the command and exit with its code."""
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
    """Print the error to standard error; with JSON output also the server's problem document to standard output."""
    sys.stderr.write(escape(f"Error: {message}\n", allowed="\n"))
    if problem and any(word in ("json", "-ojson", "--output=json") for word in sys.argv[1:]):
        sys.stdout.write(json_text(problem, indent=2) + "\n")


if __name__ == "__main__":
    main()
