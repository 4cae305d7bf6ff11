"""`tidegate token`: API tokens. `create --local` writes to the database directly, for the first token."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from tidegate.cli.admin import SettingsFile
from tidegate.cli.context import Context, Output

app = typer.Typer(help="Create, list and delete API tokens.", no_args_is_help=True)

Scopes = Annotated[
    list[str],
    typer.Option("--scope", help="read, deploy, promote, rollback, logs, force, freeze, vouch, admin; repeatable."),
]
Services = Annotated[
    list[str] | None, typer.Option("--service", help="Glob for ENVIRONMENT/SERVICE; repeatable. Default: all services.")
]
Days = Annotated[
    float | None, typer.Option("--expires-days", min=0.0, help="Days until the token expires. Default: never.")
]


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Owner name, recorded in the audit log.")],
    scope: Scopes,
    service: Services = None,
    expires_days: Days = None,
    local: Annotated[bool, typer.Option("--local", help="Write to the database directly, without a server.")] = False,
    settings: SettingsFile = None,
    output: Output = None,
) -> None:
    """Create a token and print it. It cannot be shown again."""
    context: Context = ctx.obj
    if local:
        from tidegate.cli.server import open_wiring  # takes a second to import, and only --local needs it
        from tidegate.web.auth import new_token

        expires = time.time() + expires_days * 86_400 if expires_days is not None else None
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
    """List all tokens, without their secrets."""
    context: Context = ctx.obj
    listed = context.reader().get("/v1/tokens")["tokens"]
    if context.as_json(output):
        context.print_json(listed)
        return
    context.table(("id", "name", "scopes", "services", "created", "expires", "last_used"), listed)


@app.command()
def drop(ctx: typer.Context, token_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Delete a token. It stops working immediately."""
    context: Context = ctx.obj
    context.client().delete(f"/v1/tokens/{token_id}")
    context.message(f"Deleted token {token_id}.")
