"""Looking: status, events, services, rollouts, report."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli import scale_repair, watch
from tidegate.cli.api_client import CommandError
from tidegate.cli.context import ComposeFile, Context, Output, RolloutName, ServiceName, Variables, rollout_line
from tidegate.cli.exit_codes import ExitCode
from tidegate.cli.rollouts import compose_body


def apply(
    ctx: typer.Context, service: ServiceName, file: ComposeFile = None, sets: Variables = None, output: Output = None
) -> None:
    """Store a service's definition without deploying anything."""
    context: Context = ctx.obj
    if file is None:
        raise CommandError("which Compose file? give --file compose.yaml", ExitCode.USAGE)
    name = context.service(service)
    answer = context.client().put(f"/v1/services/{name}", compose_body(file, sets, name))
    if context.as_json(output):
        context.print_json(answer)
    else:
        context.line(f"{name} stored, version {answer['version']}")


def status(ctx: typer.Context, name: RolloutName, output: Output = None) -> None:
    """How a rollout stands, with its instances, traffic and verdict."""
    context: Context = ctx.obj
    client = context.client()
    rollout = client.rollout(context.named(name))
    world = watch.fetch_instances(client, rollout)
    drift = scale_repair.drift_of(client, rollout["service"])
    if context.as_json(output):
        context.print_json({"rollout": rollout, "drift": drift, **world})
        return
    context.line(rollout_line(rollout))
    if drift is not None:
        context.line(scale_repair.drift_line(drift))
    context.out.print(watch.render(rollout, world, client.events(rollout["id"], 0, 0)[-watch.SHOWN_EVENTS :]))


def events(
    ctx: typer.Context,
    name: RolloutName,
    after: Annotated[int, typer.Option(help="Only those with a higher number.")] = 0,
    output: Output = None,
) -> None:
    """A rollout's story so far."""
    context: Context = ctx.obj
    client = context.client()
    page = client.events(client.rollout(context.named(name))["id"], after, 0)
    if context.as_json(output):
        context.print_json(page)
        return
    for event in page:
        context.line(watch.event_line(event))


def services(ctx: typer.Context, output: Output = None) -> None:
    """All services, what serves, and what is on its way."""
    context: Context = ctx.obj
    page = context.client().get("/v1/services")["services"]
    if context.as_json(output):
        context.print_json(page)
        return
    columns = ("service", "replicas", "strategy", "live", "rollout")
    rows = ((f"{s['environment']}/{s['name']}", s["replicas"], s["strategy"], s["live"], s["rollout"]) for s in page)
    context.table(columns, rows)


def rollouts(
    ctx: typer.Context,
    service: Annotated[str, typer.Option(help="Only of this ENVIRONMENT/SERVICE.")] = "",
    phase: Annotated[str, typer.Option(help="Only in this phase.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    output: Output = None,
) -> None:
    """The latest rollouts."""
    context: Context = ctx.obj
    wanted = {"service": context.service(service) if service else "", "phase": phase}
    query = {name: value for name, value in wanted.items() if value}
    page = context.client().get("/v1/rollouts", limit=limit, **query)["rollouts"]
    if context.as_json(output):
        context.print_json(page)
        return
    columns = ("id", "service", "old", "new", "phase", "created", "reason")
    context.table(columns, ([row[column] for column in columns] for row in page))
