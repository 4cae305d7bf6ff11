"""`tidegate scale` and `repair`: change the running instances without a new release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.console import relative_time
from tidegate.cli.context import Context, Key, Output, Reason, ServiceName, Wait
from tidegate.cli.exit_codes import Json
from tidegate.cli.rollouts import finish
from tidegate.core.phases import Until

if TYPE_CHECKING:
    from tidegate.cli.api_client import ApiClient


def scale(
    ctx: typer.Context,
    service: ServiceName,
    replicas: Annotated[int, typer.Argument(min=1, max=1000, metavar="N", help="The number of instances.")],
    force: Annotated[bool, typer.Option("--force", help="More instances despite a freeze; requires --reason.")] = False,
    reason: Reason = "",
    wait: Wait = True,
    key: Key = "",
    output: Output = None,
) -> None:
    """Change the number of running instances and wait for completion. The next deploy uses the Compose file's number."""
    body: Json = {"replicas": replicas, "force": force, "reason": reason}
    _change(ctx, service, "scale", body, wait=wait, key=key, output=output)


def repair(
    ctx: typer.Context, service: ServiceName, reason: Reason = "", wait: Wait = True, key: Key = "", output: Output = None
) -> None:
    """Restore a drifted service to its release, even if automatic repair has stopped, and wait for completion."""
    _change(ctx, service, "repair", {"reason": reason}, wait=wait, key=key, output=output)


def _change(ctx: typer.Context, service: str, action: str, body: Json, *, wait: bool, key: str, output: Output) -> None:
    context: Context = ctx.obj
    client, name = context.client(), context.service(service)
    rollout = client.post(f"/v1/services/{name}/{action}", body, key=key)
    finish(context, client, rollout, Until.END, wait=wait, output=output)


def fetch_drift(client: ApiClient, service: str) -> Json | None:
    """The service's drift from its release between rollouts; None: there is none."""
    drift: Json | None = client.get(f"/v1/services/{service}")["drift"]
    return drift


def format_drift(drift: Json) -> str:
    """One line: state, since when, what differs, and why it is not repaired."""
    reason = f": {drift['reason']}" if drift["reason"] else ""
    return f"drift ({drift['state']}) {relative_time(drift['since'])}: {drift['message']}{reason}"
