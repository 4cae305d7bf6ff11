"""Changing what serves without another release: scale, repair; and how a service was found."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli import watch
from tidegate.cli.api_client import ApiClient, Json
from tidegate.cli.context import Context, Output, Reason, ServiceName, Wait
from tidegate.cli.rollouts import finish

Key = Annotated[str, typer.Option(help="Idempotency key: the same key never starts a second rollout.")]


def scale(
    ctx: typer.Context,
    service: ServiceName,
    replicas: Annotated[int, typer.Argument(min=1, max=1000, metavar="N", help="How many instances are wanted.")],
    reason: Reason = "",
    wait: Wait = True,
    key: Key = "",
    output: Output = None,
) -> None:
    """Give what serves more or fewer instances, and follow it. The next deploy with a Compose file follows the file."""
    _change(ctx, service, "scale", {"replicas": replicas, "reason": reason}, wait=wait, key=key, output=output)


def repair(
    ctx: typer.Context, service: ServiceName, reason: Reason = "", wait: Wait = True, key: Key = "", output: Output = None
) -> None:
    """Bring what serves back to what it should be, also where Tidegate gave that up, and follow it to the end."""
    _change(ctx, service, "repair", {"reason": reason}, wait=wait, key=key, output=output)


def _change(ctx: typer.Context, service: str, action: str, body: Json, *, wait: bool, key: str, output: Output) -> None:
    context: Context = ctx.obj
    client, name = context.client(), context.service(service)
    rollout = client.post(f"/v1/services/{name}/{action}", body, key=key)
    finish(context, client, rollout, watch.is_finished, wait=wait, output=output)


def drift_of(client: ApiClient, service: str) -> Json | None:
    """How it was found between rollouts, when that is other than it should be."""
    drift: Json | None = client.get(f"/v1/services/{service}")["drift"]
    return drift


def drift_line(drift: Json) -> str:
    """One line for a person."""
    reason = f": {drift['reason']}" if drift["reason"] else ""
    return f"drift ({drift['state']}) since {drift['since'][:19]}: {drift['message']}{reason}"
