"""`tidegate serve`, `engine`, `db`, `prune` and `check`. They read the server's settings.

Each imports `tidegate.cli.server` itself: the import takes a second, and no other command needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.context import Context, Output
from tidegate.cli.exit_codes import ExitCode

db = typer.Typer(help="Migrate the database, and prepare it after a restore.", no_args_is_help=True)
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", envvar="TIDEGATE_SETTINGS", help="The server's settings, a TOML file.")
]


def serve(
    settings: SettingsFile = None,
    with_engine: Annotated[bool, typer.Option("--with-engine", help="Also run an engine in this process.")] = False,
) -> None:
    """Run the API server until SIGTERM."""
    from tidegate.cli import server

    server.serve(settings, with_engine)


def engine(settings: SettingsFile = None) -> None:
    """Run an engine, which drives the rollouts, until SIGTERM."""
    from tidegate.cli import server

    server.run_engine(settings)


@db.command()
def migrate(ctx: typer.Context, settings: SettingsFile = None) -> None:
    """Migrate the database to the current schema."""
    from tidegate.cli import server

    context: Context = ctx.obj
    with server.open_wiring(settings) as wiring:
        before, after = wiring.store.migrate()
    if before == after:
        context.message(f"The database schema is up to date ({after}).")
    else:
        context.message(f"Migrated the database schema from {before or 'an empty database'} to {after}.")


@db.command()
def after_restore(ctx: typer.Context, settings: SettingsFile = None) -> None:
    """Run once after restoring a backup, before starting any engine: raises the fencing tokens above those the proxies
    have seen."""
    from tidegate.cli import server

    context: Context = ctx.obj
    with server.open_wiring(settings) as wiring:
        server.raise_fences(wiring)
    context.message("Fencing tokens raised. You can start the engines now.")


def prune(
    ctx: typer.Context,
    settings: SettingsFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be deleted, delete nothing.")] = False,
    output: Output = None,
) -> None:
    """Delete data older than the `[retention]` settings now instead of waiting for the hourly cleanup."""
    from tidegate.cli import server

    context: Context = ctx.obj
    with server.open_wiring(settings) as wiring:
        samples, rollouts, releases = server.prune(wiring, dry_run=dry_run)
    if context.as_json(output):
        context.print_json({"dry_run": dry_run, "samples": samples, "rollouts": rollouts, "releases": releases})
    elif dry_run:
        context.line(
            f"Would delete {samples} samples and {rollouts} rollouts, and any release no remaining rollout refers to."
        )
    else:
        context.line(f"Deleted {samples} samples, {rollouts} rollouts and {releases} releases.")


def check(ctx: typer.Context, settings: SettingsFile = None, output: Output = None) -> None:
    """Check every configured part: print what is wrong and how to fix it. Exits 8 when something is wrong."""
    from tidegate.cli import server
    from tidegate.ports import CheckStatus

    context: Context = ctx.obj
    with server.open_wiring(settings) as wiring:
        diagnoses = list(server.run_checks(wiring))
    rows = [{"where": w, "part": d.part, "status": d.status, "result": d.result, "fix": d.fix} for w, d in diagnoses]
    if context.as_json(output):
        context.print_json(rows)
    else:
        styles = {CheckStatus.OK: "green", CheckStatus.WARNING: "yellow", CheckStatus.WRONG: "bold red"}
        columns = ("where", "part", "status", "result", "fix")
        context.table(columns, rows, lambda row: styles[CheckStatus(str(row["status"]))])
    if any(diagnosis.status is CheckStatus.WRONG for _, diagnosis in diagnoses):
        raise typer.Exit(ExitCode.UNHEALTHY)
