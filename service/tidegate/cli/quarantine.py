"""`tidegate quarantine`: releases that were rolled back for what was found."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from tidegate.cli.context import Context, Output

app = typer.Typer(help="List releases in quarantine, and lift it.", no_args_is_help=True)


@app.command("list")
def list_(
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(metavar="[SERVICE]", help="ENVIRONMENT/SERVICE. Default: all services.")] = "",
    output: Output = None,
) -> None:
    """List the releases in quarantine: what was found, when, and by which rollout."""
    context: Context = ctx.obj
    query = f"?service={quote(context.service(service), safe='')}" if service else ""
    releases = context.reader().get(f"/v1/quarantine{query}")["releases"]
    if context.as_json(output):
        context.print_json(releases)
        return
    context.table(("service", "release", "at", "rollout", "finding"), releases)


@app.command()
def lift(
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(help="ENVIRONMENT/SERVICE.")],
    release: Annotated[str, typer.Argument(help="A release in quarantine, such as v2-4.")],
    reason: Annotated[str, typer.Option(help="Why the finding does not count; recorded in the audit log.")],
    output: Output = None,
) -> None:
    """Allow the image of this release to be deployed again with this configuration."""
    context: Context = ctx.obj
    key = context.service(service)
    path = f"/v1/services/{quote(key)}/releases/{quote(release, safe='')}/lift-quarantine"
    lifted = context.client().post(path, {"reason": reason})
    if context.as_json(output):
        context.print_json(lifted)
    else:
        context.line(f"{lifted['image']} of {key} is no longer in quarantine.")
