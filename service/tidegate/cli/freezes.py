"""`tidegate freeze`, `thaw` and `freezes`."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from tidegate.cli.context import Context, Output

Environment = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="Environment name from the server's settings.")]


def freeze(
    ctx: typer.Context,
    environment: Environment,
    reason: Annotated[str, typer.Option(help="Shown to everyone whose deploy is refused.")],
    hours: Annotated[
        float | None, typer.Option(min=0.0, help="Lift the freeze automatically after this many hours. Default: never.")
    ] = None,
    output: Output = None,
) -> None:
    """Freeze an environment: no rollout starts, and running ones start no further batch. Rollbacks stay possible."""
    context: Context = ctx.obj
    body = {"reason": reason} | ({} if hours is None else {"hours": hours})
    created = context.client().put(f"/v1/environments/{quote(environment, safe='')}/freeze", body)
    if context.as_json(output):
        context.print_json(created)
    else:
        until = f", until {created['until']}" if created["until"] else ""
        context.line(f"{environment} is frozen by {created['by']}: {created['reason']}{until}")


def thaw(ctx: typer.Context, environment: Environment) -> None:
    """Lift the freeze of an environment. Rollouts that wait for it continue."""
    context: Context = ctx.obj
    context.client().delete(f"/v1/environments/{quote(environment, safe='')}/freeze")
    context.message(f"{environment} is no longer frozen.")


def freezes(ctx: typer.Context, output: Output = None) -> None:
    """List the environments that are frozen now."""
    context: Context = ctx.obj
    active = context.reader().get("/v1/freezes")["freezes"]
    if context.as_json(output):
        context.print_json(active)
        return
    context.table(("environment", "by", "reason", "at", "until"), active)
