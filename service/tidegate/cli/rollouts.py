"""`tidegate deploy`, `verify`, `promote`, `rollback`, `pause` and `resume`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli import watch
from tidegate.cli.ci_build import current_build
from tidegate.cli.context import (
    ComposeFile,
    ComposeOptions,
    Context,
    DetailedExitCode,
    Env,
    EnvFile,
    Image,
    Key,
    OnBehalfOf,
    Output,
    ProjectName,
    Reason,
    RolloutName,
    ServiceName,
    Variables,
    Wait,
    format_rollout,
)
from tidegate.cli.exit_codes import BY_OUTCOME, BY_PHASE, CommandError, ExitCode, Json
from tidegate.cli.watch import is_final
from tidegate.core.phases import Until

if TYPE_CHECKING:
    from tidegate.cli.api_client import ApiClient

Force = Annotated[bool, typer.Option("--force", help="Deploy despite a freeze or a quarantine; requires --reason.")]

UntilOption = Annotated[
    Until, typer.Option("--until", help="Follow until the first verdict, the first approval, or the end.")
]


def variables(pairs: list[str] | None) -> dict[str, str]:
    """Parse `NAME=VALUE` options. Raise `CommandError` that names every malformed one."""
    wrong = [pair for pair in pairs or () if "=" not in pair]
    if wrong:
        raise CommandError(f"Invalid --set: expected NAME=VALUE, found {', '.join(wrong)}.", ExitCode.USAGE)
    return dict(pair.split("=", 1) for pair in pairs or ())


def compose_options(
    files: list[Path] | None,
    sets: list[str] | None,
    env_files: list[Path] | None = None,
    env: list[str] | None = None,
    project: str = "",
) -> ComposeOptions:
    """The options of a command, as one value. Raises `CommandError` for options that need a Compose file."""
    options = ComposeOptions(tuple(files or ()), variables(sets), tuple(env_files or ()), tuple(env or ()), project)
    if not options.files and (options.env_files or options.env or options.project):
        text = "--env-file, --env and --project-name need a Compose file. Add --file compose.yaml."
        raise CommandError(text, ExitCode.USAGE)
    return options


def compose_body(options: ComposeOptions, service: str) -> Json:
    """The part of a request that defines a service."""
    if not options.files:
        return {"variables": dict(options.variables)}
    from tidegate.cli import compose_files  # its libraries take long to import

    return compose_files.collect(options, service.rpartition("/")[2])


def deploy(
    ctx: typer.Context,
    service: ServiceName,
    file: ComposeFile = None,
    sets: Variables = None,
    env_file: EnvFile = None,
    env: Env = None,
    project: ProjectName = "",
    image: Image = "",
    build_first: Annotated[
        bool,
        typer.Option("--build", help="Run docker build first, and push the image if its name has a registry."),
    ] = False,
    plan: Annotated[
        str, typer.Option(metavar="ID", help="Refuse unless this is exactly the deployment of this `tidegate plan`.")
    ] = "",
    until: UntilOption = Until.APPROVAL,
    wait: Wait = True,
    key: Key = "",
    force: Force = False,
    reason: Reason = "",
    person: OnBehalfOf = "",
    detailed: DetailedExitCode = False,
    output: Output = None,
) -> None:
    """Start a rollout to a new release and follow it. Repeated in a Jenkins build, it follows the same rollout."""
    context: Context = ctx.obj
    client, name = context.client(), context.service(service)
    options = compose_options(file, sets, env_file, env, project)
    if build_first:
        image = build_image(context, client, options, name, image)
    body = compose_body(options, name) | ({"image": image} if image else {})
    body |= {"force": force, "reason": reason, "plan": plan, "on_behalf_of": person}
    build = current_build(os.environ)
    if build is not None:
        body["build"] = build.body
        key = key or build.key("deploy")
    rollout = client.post(f"/v1/services/{name}/rollouts", body, key=key)
    print_notes(context, rollout["notes"])
    if not wait or context.as_json(output):  # otherwise they are among the events that are shown
        for warning in rollout["warnings"]:
            context.notice(f"Warning: {warning}")
    finish(context, client, rollout, until, wait=wait, output=output, detailed=detailed)


def build_image(context: Context, client: ApiClient, options: ComposeOptions, name: str, image: str) -> str:
    """Build the image of `environment/service` and return its name. Raises `CommandError`."""
    if not options.files or image:
        text = "--build needs a Compose file with `build`. Add --file compose.yaml."
        raise CommandError("Choose --build or --image, not both." if image else text, ExitCode.USAGE)
    from tidegate.cli import image_build

    environment = name.partition("/")[0]
    known = {each["name"]: each for each in client.get("/v1/environments")["environments"]}
    if environment not in known:
        raise CommandError(f"Unknown environment {environment}. Known: {', '.join(known) or 'none'}.", ExitCode.REFUSED)
    return image_build.build_image(context, options, name, known[environment])


def print_notes(context: Context, notes: list[Json]) -> None:
    """Print how the Compose file is honoured otherwise than by `docker compose`."""
    for note in notes:
        context.notice(f"Note: {note['field']}: {note['message']}")


def finish(
    context: Context,
    client: ApiClient,
    rollout: Json,
    until: Until,
    *,
    wait: bool,
    output: Output = None,
    detailed: bool = False,
) -> None:
    """Follow the rollout if `wait`, print its state, and exit with the code for it; `detailed`: with a code of its own if
    it waits for a person. With JSON, print one document only."""
    machine = context.as_json(output)
    if wait:
        try:
            if machine:
                rollout = watch.follow(client, rollout, until, lambda event: None)
            else:
                rollout = watch.show_progress(context, client, rollout, until)
        except KeyboardInterrupt:
            context.notice(f"Stopped watching; the rollout continues. Watch it again: tidegate watch {rollout['id']}")
            if machine:
                context.print_json(rollout)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    if machine:
        context.print_json(rollout)
    else:
        watch.print_rollout(context, rollout)
    waiting = ExitCode.WAITING if detailed and rollout["approval"] else ExitCode.DONE
    raise typer.Exit(BY_PHASE.get(rollout["phase"], waiting))


def verify(ctx: typer.Context, name: RolloutName, output: Output = None) -> None:
    """Run the checks of the current step now and print the verdict with its evidence."""
    context: Context = ctx.obj
    client = context.client()
    rollout = client.rollout(context.named(name))
    if not is_final(rollout):
        before = (rollout["verdict"] or {}).get("at")
        client.post(f"/v1/rollouts/{rollout['id']}/verify")
        rollout = _await_verdict(client, rollout["id"], before)
    verdict = rollout["verdict"]
    if verdict is None:
        text = "No verdict: this step runs no checks, or its instances are not ready yet. See `tidegate status`."
        raise CommandError(text, ExitCode.INCONCLUSIVE)
    if context.as_json(output):
        context.print_json(verdict)
    else:
        from tidegate.cli.render import render_status

        context.out.print(render_status(rollout, watch.fetch_instances(client, rollout), []))
    raise typer.Exit(BY_OUTCOME[verdict["outcome"]])


def _await_verdict(client: ApiClient, rollout_id: str, before: str | None, seconds: float = 60.0) -> Json:
    """Return the rollout when it has a newer verdict than `before` or has ended, after `seconds` at the latest."""
    deadline = time.monotonic() + seconds
    while True:
        rollout = client.rollout(rollout_id)
        verdict = rollout["verdict"]
        newer = verdict is not None and verdict["at"] != before
        if newer or is_final(rollout) or time.monotonic() > deadline:
            return rollout
        time.sleep(0.25)


def promote(
    ctx: typer.Context,
    name: RolloutName,
    reason: Reason = "",
    full: Annotated[bool, typer.Option("--full", help="Also give every later approval.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Skip all bakes, checks and approvals up to the end; requires --reason.")
    ] = False,
    binding: Annotated[
        str, typer.Option(help="Approve only what has this `approval.binding` in `status -o json`; safe to repeat.")
    ] = "",
    person: OnBehalfOf = "",
    wait: Wait = True,
    detailed: DetailedExitCode = False,
    output: Output = None,
) -> None:
    """Give the approval that the rollout waits for, and follow it to the next approval or the end."""
    context: Context = ctx.obj
    client = context.client()
    rollout = client.rollout(context.named(name))
    current = client.get(f"/v1/rollouts/{rollout['id']}")
    approval = current.get("approval")
    body = {"reason": reason, "full": full, "force": force, "on_behalf_of": person}
    bound, if_match, key = binding or (approval["binding"] if approval else ""), "", ""
    if bound:
        body["binding"] = bound
    else:
        if_match = current["etag"]
    build = current_build(os.environ)
    if binding and build is not None:
        key = build.key(f"promote-{binding}-{person}")
    rollout = client.post(f"/v1/rollouts/{rollout['id']}/promote", body, key=key, if_match=if_match)
    finish(context, client, rollout, Until.APPROVAL, wait=wait, output=output, detailed=detailed)


def rollback(
    ctx: typer.Context,
    name: RolloutName,
    reason: Reason = "",
    to: Annotated[str, typer.Option(help="Release to return to, such as v1-1. Default: the last good one.")] = "",
    wait: Wait = True,
    key: Annotated[str, typer.Option(help="Idempotency key, for a rollback to the last good release.")] = "",
    output: Output = None,
) -> None:
    """Roll back the live rollout; if none is live, return to the last good release. Exits 0 when that has succeeded."""
    context: Context = ctx.obj
    client = context.client()
    if "/" in context.named(name):
        body = {"reason": reason, "to": to}
        rollout = client.post(f"/v1/services/{context.named(name)}/rollback", body, key=key)
    elif to:
        raise CommandError("--to needs the service: tidegate rollback ENVIRONMENT/SERVICE --to RELEASE", ExitCode.USAGE)
    else:
        rollout = client.post(f"/v1/rollouts/{name}/rollback", {"reason": reason})
    try:
        finish(context, client, rollout, Until.END, wait=wait, output=output)
    except typer.Exit as ended:
        if ended.exit_code == ExitCode.ROLLED_BACK:
            raise typer.Exit(ExitCode.DONE) from None
        raise


def pause(ctx: typer.Context, name: RolloutName, reason: Reason = "", output: Output = None) -> None:
    """Pause the rollout: no traffic moves and no new step starts until `resume`. Deadlines stop."""
    _signal(ctx, name, "pause", reason, output)


def resume(ctx: typer.Context, name: RolloutName, reason: Reason = "", output: Output = None) -> None:
    """Resume a paused rollout."""
    _signal(ctx, name, "resume", reason, output)


def _signal(ctx: typer.Context, name: str, kind: str, reason: str, output: Output) -> None:
    context: Context = ctx.obj
    client = context.client()
    rollout = client.rollout(context.named(name))
    rollout = client.post(f"/v1/rollouts/{rollout['id']}/{kind}", {"reason": reason})
    if context.as_json(output):
        context.print_json(rollout)
    else:
        context.line(format_rollout(rollout))
