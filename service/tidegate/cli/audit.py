"""`tidegate audit`: the audit log."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli.context import Context, Output


def audit(
    ctx: typer.Context,
    subject: Annotated[
        str, typer.Argument(help="Show only this ENVIRONMENT/SERVICE, environment or token. Default: all.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    output: Output = None,
) -> None:
    """Show who requested what, when, why and from where; newest first."""
    context: Context = ctx.obj
    query = {"subject": subject} if subject else {}
    entries = context.client().get("/v1/audit", limit=limit, **query)["entries"]
    if context.as_json(output):
        context.print_json(entries)
        return
    context.table(("at", "action", "subject", "by", "via", "source", "reason", "rollout", "build"), entries)
