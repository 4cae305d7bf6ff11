"""`tidegate`: the command line. `docs/cli.md` tells every command, option and exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tidegate import __version__
from tidegate.cli import admin, governing, judging, show, stages, tending, tokens
from tidegate.cli.client import CommandError
from tidegate.cli.context import Context, Format
from tidegate.cli.exits import Exit
from tidegate.cli.terminal import Terminal, json_text
from tidegate.core.plain import visible
from tidegate.errors import TidegateError

app = typer.Typer(
    name="tidegate",
    help="Moves a service from one release to the next without downtime.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Stages": (
        stages.deploy,
        stages.verify,
        stages.promote,
        stages.rollback,
        stages.pause,
        stages.resume,
        stages.watch,
    ),
    "Between rollouts": (tending.scale, tending.repair),
    "Services and rollouts": (show.status, show.events, show.report, show.services, show.rollouts, show.apply),
    "Freezes and audit": (governing.freeze, governing.thaw, governing.freezes, governing.audit),
    "Server": (admin.serve, admin.engine, admin.migrate, admin.restored, admin.prune, admin.check),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(judging.app, name="judge", rich_help_panel="Services and rollouts")
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
    out, err = Terminal(), Terminal(stderr=True)
    ctx.obj = Context(server, token_file, environment, patience, output, out, err, ca_file)


def main() -> None:
    """Run the command and end the process with its exit code."""
    try:
        app()
    except CommandError as error:
        _complain(str(error), error.problem)
        sys.exit(error.code)
    except TidegateError as error:
        _complain(error.message, {})
        sys.exit(Exit.REFUSED)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


def _complain(message: str, problem: dict[str, object]) -> None:
    """The error for a person; for a program that asked for JSON also the server's problem document."""
    sys.stderr.write(visible(f"error: {message}\n", keep="\n"))
    if problem and any(word in ("json", "-ojson", "--output=json") for word in sys.argv[1:]):
        sys.stdout.write(json_text(problem, indent=2) + "\n")


if __name__ == "__main__":
    main()
