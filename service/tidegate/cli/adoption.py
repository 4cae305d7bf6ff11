"""`tidegate import` and `release`: services that Docker Compose runs come under Tidegate, and go back."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli.context import (
    ComposeFile,
    Context,
    Env,
    EnvFile,
    Key,
    OnBehalfOf,
    Output,
    ProjectName,
    Reason,
    ServiceName,
    Variables,
    Wait,
)
from tidegate.cli.exit_codes import CommandError, ExitCode
from tidegate.cli.rollouts import compose_body, compose_options, finish, print_notes
from tidegate.core.phases import Until


def import_(
    ctx: typer.Context,
    service: ServiceName,
    file: ComposeFile = None,
    sets: Variables = None,
    env_file: EnvFile = None,
    env: Env = None,
    project: ProjectName = "",
    listen: Annotated[
        str,
        typer.Option(help="Where the proxy listens while a container has the published port: 127.0.0.1:18080."),
    ] = "",
    wait: Wait = True,
    key: Key = "",
    reason: Reason = "",
    person: OnBehalfOf = "",
    output: Output = None,
) -> None:
    """Take over the running containers of a Compose project: they become the first release, and nothing is restarted.

    The proxy listens at --listen until the first deployment has replaced them; then it takes the published port.
    """
    context: Context = ctx.obj
    if not file:
        raise CommandError("No Compose file given. Add --file compose.yaml.", ExitCode.USAGE)
    client, name = context.client(), context.service(service)
    body = compose_body(compose_options(file, sets, env_file, env, project), name)
    body |= {"listen": listen, "reason": reason, "on_behalf_of": person}
    rollout = client.post(f"/v1/services/{name}/import", body, key=key)
    print_notes(context, rollout["notes"])
    finish(context, client, rollout, Until.END, wait=wait, output=output)


def release(
    ctx: typer.Context,
    service: ServiceName,
    wait: Wait = True,
    key: Key = "",
    reason: Reason = "",
    person: OnBehalfOf = "",
    output: Output = None,
) -> None:
    """Give an imported service back to Docker Compose.

    Containers of Compose keep running; the proxy's address and the instances that Tidegate started are removed.
    """
    context: Context = ctx.obj
    client, name = context.client(), context.service(service)
    rollout = client.post(f"/v1/services/{name}/release", {"reason": reason, "on_behalf_of": person}, key=key)
    finish(context, client, rollout, Until.END, wait=wait, output=output)
