"""`tidegate restart` and `retry`: deploy again what was deployed before."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli.context import Context, Key, Output, Reason, RolloutName, ServiceName, Wait
from tidegate.cli.exit_codes import Json
from tidegate.cli.rollouts import UntilOption, finish
from tidegate.core.phases import Until


def restart(
    ctx: typer.Context,
    service: ServiceName,
    force: Annotated[bool, typer.Option("--force", help="Restart despite a freeze; requires --reason.")] = False,
    reason: Reason = "",
    wait: Wait = True,
    key: Key = "",
    output: Output = None,
) -> None:
    """Replace every instance of the live release without downtime, in the batches of the service.

    The new instances have the same image and configuration, so there are no bakes, checks, hooks and approvals.
    """
    context: Context = ctx.obj
    client, body = context.client(), {"force": force, "reason": reason}
    rollout = client.post(f"/v1/services/{context.service(service)}/restart", body, key=key)
    finish(context, client, rollout, Until.END, wait=wait, output=output)


def retry(
    ctx: typer.Context,
    name: RolloutName,
    until: UntilOption = Until.APPROVAL,
    wait: Wait = True,
    key: Key = "",
    force: Annotated[bool, typer.Option("--force", help="Despite a freeze or a quarantine; requires --reason.")] = False,
    reason: Reason = "",
    output: Output = None,
) -> None:
    """Start a rollout that was refused, rolled back or halted again, with the same definition and image.

    For causes outside the release, such as a proxy that did not answer. A release in quarantine needs --force.
    """
    context: Context = ctx.obj
    client = context.client()
    body: Json = {"force": force, "reason": reason}
    rollout = client.post(f"/v1/rollouts/{client.rollout(context.named(name))['id']}/retry", body, key=key)
    finish(context, client, rollout, until, wait=wait, output=output)
