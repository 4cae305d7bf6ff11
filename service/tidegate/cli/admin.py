"""The server's own commands: serve, engine, db, prune, check. They read the server's settings.

What they work with is imported by each for itself: it takes a second, and no other command needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.context import Context, Output, rich_safe
from tidegate.cli.exit_codes import ExitCode

db = typer.Typer(help="The database's schema, and a restored backup.", no_args_is_help=True)
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", envvar="TIDEGATE_SETTINGS", help="The server's settings, a TOML file.")
]


def serve(
    settings: SettingsFile = None,
    with_engine: Annotated[bool, typer.Option("--with-engine", help="Drive the rollouts in this process, too.")] = False,
) -> None:
    """Answer the API, until SIGTERM."""
    from tidegate.cli import server

    server.serve(settings, with_engine)


def engine(settings: SettingsFile = None) -> None:
    """Drive the rollouts, until SIGTERM."""
    from tidegate.cli import server

    server.run_engine(settings)


@db.command()
def migrate(ctx: typer.Context, settings: SettingsFile = None) -> None:
    """Bring the database's schema up to date."""
    from tidegate.cli import server

    context: Context = ctx.obj
    with server.open_wiring(settings) as wiring:
        wiring.store.migrate()
    context.line("the schema is up to date")


@db.command()
def after_restore(ctx: typer.Context, settings: SettingsFile = None) -> None:
    """After a backup was put back, before an engine is started: proxies have seen newer fences than it knows."""
    from tidegate.cli import server

    context: Context = ctx.obj
    with server.open_wiring(settings) as wiring:
        server.raise_fences(wiring)
    context.line("fences go on above all that proxies have seen; engines may be started")


def prune(
    ctx: typer.Context,
    settings: SettingsFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much it would be.")] = False,
    output: Output = None,
) -> None:
    """Forget what is older than the settings' `retention` says, now and not only when an engine does it by itself."""
    from tidegate.cli import server

    context: Context = ctx.obj
    with server.open_wiring(settings) as wiring:
        samples, rollouts, releases = server.prune(wiring, dry_run=dry_run)
    if context.as_json(output):
        context.print_json({"dry_run": dry_run, "samples": samples, "rollouts": rollouts, "releases": releases})
    elif dry_run:
        context.line(f"would be pruned: {samples} samples, {rollouts} rollouts, and the releases that none tells of then")
    else:
        context.line(f"pruned: {samples} samples, {rollouts} rollouts, {releases} releases")


def check(ctx: typer.Context, settings: SettingsFile = None, output: Output = None) -> None:
    """Look at every configured part, and say in one table what is wrong and how to mend it."""
    from tidegate.cli import server

    context: Context = ctx.obj
    with server.open_wiring(settings) as wiring:
        diagnoses = [(where, line) for where, lines in server.run_checks(wiring) for line in lines]
    if context.as_json(output):
        rows = [{"where": w, "part": d.part, "ok": d.ok, "found": d.found, "fix": d.fix} for w, d in diagnoses]
        context.print_json(rows)
    else:
        marks = {True: "[green]ok[/]", False: "[bold red]wrong[/]"}
        context.marked_table(
            ("where", "part", "", "found", "fix"),
            ((w, rich_safe(d.part), marks[d.ok], rich_safe(d.found), rich_safe(d.fix)) for w, d in diagnoses),
        )
    if not all(line.ok for _, line in diagnoses):
        raise typer.Exit(ExitCode.UNHEALTHY)
