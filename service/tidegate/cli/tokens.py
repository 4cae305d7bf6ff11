"""`tidegate token`: API tokens. `create --local` works on the database itself, for the first one."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from tidegate.cli.admin import SettingsFile
from tidegate.cli.context import Context, Output
from tidegate.clock import Time

app = typer.Typer(help="API tokens: who may do what.", no_args_is_help=True)

Scopes = Annotated[
    list[str], typer.Option("--scope", help="read, deploy, promote, rollback, force, freeze, vouch or admin.")
]
Services = Annotated[list[str] | None, typer.Option("--service", help="Glob over ENVIRONMENT/SERVICE; may be repeated.")]
Days = Annotated[float | None, typer.Option("--expires-days", min=0.0, help="Days until it ends; never if left out.")]


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose it is; stands in the audit as who did it.")],
    scope: Scopes,
    service: Services = None,
    expires_days: Days = None,
    local: Annotated[bool, typer.Option("--local", help="In the database itself, without a server.")] = False,
    settings: SettingsFile = None,
    output: Output = None,
) -> None:
    """Make a token and print it, once."""
    context: Context = ctx.obj
    if local:
        from tidegate.cli.server import open_wiring  # takes a second, and without --local it is not needed
        from tidegate.web.auth import new_token

        expires: Time | None = time.time() + expires_days * 86_400 if expires_days is not None else None
        with open_wiring(settings) as wiring:
            secret, token = new_token(name, scope, service or ["*"], time.time(), expires)
            wiring.store.prepare()
            wiring.store.add_token(token)
            answer = {"id": token.id, "name": token.name, "token": secret}
    else:
        body = {"name": name, "scopes": scope, "services": service or ["*"], "expires_days": expires_days}
        answer = context.client().post("/v1/tokens", body)
    if context.as_json(output):
        context.print_json(answer)
    else:
        context.line(answer["token"])


@app.command("list")
def list_(ctx: typer.Context, output: Output = None) -> None:
    """All tokens, without their secrets."""
    context: Context = ctx.obj
    listed = context.client().get("/v1/tokens")["tokens"]
    if context.as_json(output):
        context.print_json(listed)
        return
    columns = ("id", "name", "scopes", "services", "created", "expires", "last_used")
    rows = ([", ".join(cell) if isinstance(cell := row[column], list) else cell for column in columns] for row in listed)
    context.table(columns, rows)


@app.command()
def drop(ctx: typer.Context, token_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """End a token at once."""
    context: Context = ctx.obj
    context.client().delete(f"/v1/tokens/{token_id}")
    context.line(f"{token_id} is gone")
