"""`tidegate apply`, `status`, `events`, `report`, `services`, `rollouts` and `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli import scale_repair, watch
from tidegate.cli.context import (
    ComposeFile,
    Context,
    Env,
    EnvFile,
    Output,
    ProjectName,
    RolloutName,
    ServiceName,
    Variables,
    format_rollout,
)
from tidegate.cli.exit_codes import CommandError, ExitCode, Json
from tidegate.cli.rollouts import compose_body, compose_options, print_notes


def apply(
    ctx: typer.Context,
    service: ServiceName,
    file: ComposeFile = None,
    sets: Variables = None,
    env_file: EnvFile = None,
    env: Env = None,
    project: ProjectName = "",
    output: Output = None,
) -> None:
    """Store a service's definition without deploying anything."""
    context: Context = ctx.obj
    if not file:
        raise CommandError("No Compose file given. Add --file compose.yaml.", ExitCode.USAGE)
    name = context.service(service)
    answer = context.client().put(
        f"/v1/services/{name}", compose_body(compose_options(file, sets, env_file, env, project), name)
    )
    print_notes(context, answer["notes"])
    if context.as_json(output):
        context.print_json(answer)
    else:
        context.line(f"Stored {name}, version {answer['version']}.")


def status(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="[ROLLOUT|SERVICE]",
            help="A rollout's ID, or ENVIRONMENT/SERVICE for its latest rollout. Default: all services.",
        ),
    ] = "",
    output: Output = None,
) -> None:
    """Show a rollout's phase, what it waits for, its instances, traffic and verdict, and its service's drift.

    Without a name: all services, as `tidegate services` does.
    """
    if not name:
        services(ctx, output)
        return
    context: Context = ctx.obj
    client = context.reader()
    rollout = client.rollout(context.named(name))
    observed = watch.fetch_instances(client, rollout)
    drift = scale_repair.fetch_drift(client, rollout["service"])
    if context.as_json(output):
        context.print_json({"rollout": rollout, "drift": drift, **observed})
        return
    from tidegate.cli.render import render_status

    context.line(format_rollout(rollout))
    if drift is not None:
        context.line(scale_repair.format_drift(drift))
    context.out.print(render_status(rollout, observed, client.events(rollout["id"], 0, 0)[-watch.SHOWN_EVENTS :]))
    for line in watch.next_commands(rollout):
        context.line(f"  {line}")


def events(
    ctx: typer.Context,
    name: RolloutName,
    after: Annotated[int, typer.Option(help="Show only events with a higher number.")] = 0,
    output: Output = None,
) -> None:
    """List the events of a rollout."""
    context: Context = ctx.obj
    client = context.reader()
    page = client.events(client.rollout(context.named(name))["id"], after, 0)
    if context.as_json(output):
        context.print_json(page)
        return
    for event in page:
        watch.print_event(context, event)


def services(ctx: typer.Context, output: Output = None) -> None:
    """List all services with their live release, live rollout and state: what is wrong, or waited for."""
    context: Context = ctx.obj
    page = context.reader().get("/v1/services")["services"]
    if context.as_json(output):
        context.print_json(page)
        return
    rows = [
        {**service, "service": f"{service['environment']}/{service['name']}", "state": format_state(service)}
        for service in page
    ]
    context.table(("service", "replicas", "live", "rollout", "state"), rows, lambda row: "red" if row["overdue"] else "")


def format_state(service: Json) -> str:
    """`1 unhealthy; overdue: Waiting for shop/1 …`: the state of a service in a list."""
    parts = [f"{service['unhealthy']} unhealthy"] if service["unhealthy"] else []
    if service["drift"] is not None:
        parts.append(f"drift ({service['drift']['state']}): {service['drift']['message']}")
    if service["waiting_for"] is not None:
        parts.append("overdue: " * service["overdue"] + service["waiting_for"]["reason"])
    return "; ".join(parts) or ("rolling out" if service["rollout"] else "ok" if service["live"] else "not deployed")


def rollouts(
    ctx: typer.Context,
    service: Annotated[str, typer.Option(help="Show only rollouts of this ENVIRONMENT/SERVICE.")] = "",
    phase: Annotated[str, typer.Option(help="Show only rollouts in this phase.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    output: Output = None,
) -> None:
    """List the latest rollouts, newest first."""
    context: Context = ctx.obj
    filters = {"service": context.service(service) if service else "", "phase": phase}
    query = {name: value for name, value in filters.items() if value}
    page = context.reader().get("/v1/rollouts", limit=limit, **query)["rollouts"]
    if context.as_json(output):
        context.print_json(page)
        return
    context.table(("id", "service", "old", "new", "phase", "created", "reason"), page)


def history(
    ctx: typer.Context,
    service: ServiceName,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Maximum number of releases.")] = 20,
    output: Output = None,
) -> None:
    """List the releases of a service, newest first: image, who requested it, what became of it.

    Return to one that is `good` with `tidegate rollback SERVICE --to RELEASE`.
    """
    context: Context = ctx.obj
    page = context.reader().get(f"/v1/services/{context.service(service)}/releases", limit=limit)["releases"]
    if context.as_json(output):
        context.print_json(page)
        return
    columns = ("id", "state", "image", "replicas", "created", "requested_by", "rollout", "reason")
    context.table(columns, page, lambda row: "green" if row["state"] == "live" else "")


def environments(ctx: typer.Context, output: Output = None) -> None:
    """List the environments with their services and freezes."""
    context: Context = ctx.obj
    page = context.reader().get("/v1/environments")["environments"]
    if context.as_json(output):
        context.print_json(page)
        return
    rows = [{**each, "freeze": each["freeze"]["reason"] if each["freeze"] else ""} for each in page]
    context.table(("name", "services", "has_metrics", "freeze"), rows)


def report(
    ctx: typer.Context,
    name: RolloutName,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Write the report to this file, as JSON if the name ends in .json.")
    ] = None,
    output: Output = None,
) -> None:
    """Show what happened and why: batches, verdicts with their evidence, requests and losses per batch and release."""
    context: Context = ctx.obj
    client = context.reader()
    answer = client.get(f"/v1/rollouts/{client.rollout(context.named(name))['id']}/report")
    if file is not None:
        from tidegate.cli.render import write_report

        write_report(file, answer)
        context.message(f"Wrote the report to {file}.", output)
    elif context.as_json(output):
        context.print_json(answer)
    else:
        from tidegate.cli.render import render_report

        context.out.print(render_report(answer))


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
    entries = context.reader().get("/v1/audit", limit=limit, **query)["entries"]
    if context.as_json(output):
        context.print_json(entries)
        return
    context.table(("at", "action", "subject", "by", "via", "source", "reason", "rollout", "build"), entries)
