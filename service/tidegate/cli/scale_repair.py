"""`tidegate scale`, `repair` and `remove`: change the running instances without a new release."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.console import relative_time
from tidegate.cli.context import Context, Key, Output, Reason, ServiceName, Wait
from tidegate.cli.exit_codes import CommandError, ExitCode, Json
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


def remove(
    ctx: typer.Context,
    service: ServiceName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Despite a freeze, and although live services depend on it; requires --reason."),
    ] = False,
    reason: Reason = "",
    wait: Wait = True,
    key: Key = "",
    output: Output = None,
) -> None:
    """Remove a service: drain and stop its instances, and free its route and addresses. Asks before it does.

    Volumes, images, and the history of its rollouts are kept. Until it has ended, a rollback starts the live release again.
    """
    context: Context = ctx.obj
    client, name = context.client(), context.service(service)
    present = client.get(f"/v1/services/{name}")
    if not yes:
        _confirm(name, present)
    query: Json = {"force": str(force).lower(), "reason": reason}
    rollout = client.delete(f"/v1/services/{name}", key=key, **query)
    if rollout:
        finish(context, client, rollout, Until.END, wait=wait, output=output)
    context.message(f"Removed {name}, which was never deployed.", output)


def _confirm(service: str, present: Json) -> None:
    """Ask on the terminal. Raise `CommandError` without one, or if the answer is not yes."""
    live = present["live_release"]
    what = f"{live['replicas']} instances of {live['id']} stop" if live else "nothing is live"
    listen = f", and nothing listens on {present['listen']} any more" if present["listen"] else ""
    if not sys.stdin.isatty():
        raise CommandError(f"Not removing {service} without a terminal to ask on. Add --yes.", ExitCode.USAGE)
    if not typer.confirm(f"Remove {service}: {what}{listen}?", err=True):
        raise CommandError(f"{service} is not removed.", ExitCode.REFUSED)


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
