"""Freezes, and who asked for what."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from tidegate.cli.context import Context, Output

Environment = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="As the server's settings name it.")]


def freeze(
    ctx: typer.Context,
    environment: Environment,
    reason: Annotated[str, typer.Option(help="Told to whoever is kept from deploying.")],
    hours: Annotated[float | None, typer.Option(min=0.0, help="Until it ends by itself; never if left out.")] = None,
    output: Output = None,
) -> None:
    """Nothing moves forward in an environment: no rollout begins, those under way begin no further batch."""
    context: Context = ctx.obj
    body = {"reason": reason} | ({} if hours is None else {"hours": hours})
    created = context.client().put(f"/v1/environments/{quote(environment, safe='')}/freeze", body)
    if context.as_json(output):
        context.print_json(created)
    else:
        until = f", until {created['until']}" if created["until"] else ""
        context.line(f"{environment} is frozen by {created['by']}: {created['reason']}{until}")


def thaw(ctx: typer.Context, environment: Environment) -> None:
    """Lift the freeze of an environment."""
    context: Context = ctx.obj
    context.client().delete(f"/v1/environments/{quote(environment, safe='')}/freeze")
    context.line(f"{environment} is not frozen")


def freezes(ctx: typer.Context, output: Output = None) -> None:
    """The environments that are frozen now."""
    context: Context = ctx.obj
    active = context.client().get("/v1/freezes")["freezes"]
    if context.as_json(output):
        context.print_json(active)
        return
    columns = ("environment", "by", "reason", "at", "until")
    context.table(columns, ([row[column] for column in columns] for row in active))
