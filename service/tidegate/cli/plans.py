"""`tidegate plan`: what a deployment would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import typer

from tidegate.cli.console import duration
from tidegate.cli.context import ComposeFile, Context, Env, EnvFile, Image, Output, ProjectName, ServiceName, Variables
from tidegate.cli.exit_codes import ExitCode, Json
from tidegate.cli.rollouts import Force, compose_body, compose_options


def plan(
    ctx: typer.Context,
    service: ServiceName,
    file: ComposeFile = None,
    sets: Variables = None,
    env_file: EnvFile = None,
    env: Env = None,
    project: ProjectName = "",
    image: Image = "",
    force: Force = False,
    output: Output = None,
) -> None:
    """Show what a deployment would do: changes, steps, warnings, and everything that would refuse it. Nothing changes.

    Exits 1 if the deployment would be refused. Otherwise the last line has the ID for `tidegate deploy --plan ID`, which is
    refused unless it is exactly this deployment.
    """
    context: Context = ctx.obj
    name = context.service(service)
    options = compose_options(file, sets, env_file, env, project)
    body = compose_body(options, name) | ({"image": image} if image else {}) | {"force": force}
    answer = context.reader().post(f"/v1/services/{name}/plan", body)
    if context.as_json(output):
        context.print_json(answer)
    else:
        for line in format_plan(answer):
            context.line(line)
    raise typer.Exit(ExitCode.REFUSED if answer["refusals"] else ExitCode.DONE)


def format_plan(answer: Json) -> Iterator[str]:
    """The lines for people."""
    for service in answer["services"]:
        yield f"{service['service']}: {service['live'] or 'nothing is live'} → new release of {service['image']}"
        if service["live"] is not None:
            yield "Changes:" if service["changes"] else "Changes: none"
            yield from (f"  {change['message']}" for change in service["changes"])
        yield "Steps:"
        yield from (f"  {number}. {format_step(step)}" for number, step in enumerate(service["steps"], start=1))
        yield from (f"Note: {note['field']}: {note['message']}" for note in service["notes"])
        yield from (f"Warning: {warning}" for warning in service["warnings"])
    if answer["refusals"]:
        yield f"Refused, for {len(answer['refusals'])} reason{'s' * (len(answer['refusals']) > 1)}:"
        for refusal in answer["refusals"]:
            place = f"{refusal['path']}: " if refusal["path"] else ""
            yield f"  {place}{refusal['detail']}"
        return
    yield f"Plan {answer['id']}: add --plan {answer['id']} to `tidegate deploy` to deploy exactly this."


def format_step(step: Json) -> str:
    """`start 1 of new; traffic to 4 of v1-1, 1 of new; bake 60 s with checks; wait for approval`."""
    gate = step["gate"]
    parts = [f"run {' and '.join(gate['before'])}"] if gate["before"] else []
    parts += [f"start {_counts(step['start'])}"] if step["start"] else []
    share = "" if step["share"] is None else f" ({100 * step['share']:.3g} % of the requests to new)"
    parts += [f"traffic to {_counts(step['route']) or 'nothing'}{share}"] if step["route"] is not None else []
    parts += [f"preview of {_counts(step['preview'])}"] if step["preview"] else []
    stop = "stop" if step["route"] is None else "drain and stop"
    parts += [f"{stop} {_counts(step['stop'])}"] if step["stop"] else []
    parts += [f"run {' and '.join(gate['tasks'])}"] if gate["tasks"] else []
    if gate["bake_seconds"] >= 1:
        what = "keep the old release for" if gate["keep_old"] else "bake"
        parts.append(f"{what} {duration(gate['bake_seconds'], 2)}" + (", with checks" if gate["analyzed"] else ""))
    parts += ["wait for the group"] if gate["group_point"] else []
    parts += ["wait for approval"] if gate["approval"] else []
    return "; ".join(parts)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {release}" for release, count in counts.items())
