"""The stages of a rollout and the wishes in between: deploy, verify, promote, rollback, pause, resume, watch."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli import compose_files, watch
from tidegate.cli.api_client import FINAL_PHASES, ApiClient, CommandError, Json
from tidegate.cli.context import (
    ComposeFile,
    Context,
    Output,
    Reason,
    RolloutName,
    ServiceName,
    Variables,
    Wait,
    rollout_line,
)
from tidegate.cli.exit_codes import BY_OUTCOME, BY_PHASE, ExitCode


class Until(StrEnum):
    """How far `deploy` follows."""

    VERDICT = "verdict"
    APPROVAL = "approval"
    END = "end"


STOP_CONDITIONS = {Until.VERDICT: watch.has_verdict, Until.APPROVAL: watch.needs_approval, Until.END: watch.is_finished}


def variables(pairs: list[str] | None) -> dict[str, str]:
    """`NAME=VALUE` options as a mapping; every malformed one is named."""
    wrong = [pair for pair in pairs or () if "=" not in pair]
    if wrong:
        raise CommandError(f"--set wants NAME=VALUE, found: {', '.join(wrong)}", ExitCode.USAGE)
    return dict(pair.split("=", 1) for pair in pairs or ())


def compose_body(file: Path | None, pairs: list[str] | None, service: str) -> Json:
    """The part of a request that defines a service: the Compose file, its variables, and the files that it names."""
    body: Json = {"variables": variables(pairs)}
    if file is not None:
        try:
            body["compose"] = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"Compose file: {error}", ExitCode.USAGE) from error
        body["files"] = compose_files.collect(file, body["compose"], service.rpartition("/")[2], body["variables"])
    return body


def deploy(
    ctx: typer.Context,
    service: ServiceName,
    file: ComposeFile = None,
    sets: Variables = None,
    image: Annotated[str, typer.Option(help="This image instead of the one in the file.")] = "",
    until: Annotated[
        Until, typer.Option(help="Follow to the first verdict, the first approval it waits for, or the end.")
    ] = Until.APPROVAL,
    wait: Wait = True,
    key: Annotated[str, typer.Option(help="Idempotency key: the same key never starts a second rollout.")] = "",
    force: Annotated[bool, typer.Option("--force", help="In spite of a freeze or a quarantine; needs --reason.")] = False,
    reason: Reason = "",
    output: Output = None,
) -> None:
    """Start a rollout to a new release and follow it."""
    context: Context = ctx.obj
    client, name = context.client(), context.service(service)
    body = compose_body(file, sets, name) | ({"image": image} if image else {})
    body |= {"force": force, "reason": reason}
    rollout = client.post(f"/v1/services/{name}/rollouts", body, key=key)
    finish(context, client, rollout, STOP_CONDITIONS[until], wait=wait, output=output)


def finish(
    context: Context, client: ApiClient, rollout: Json, until: watch.StopCondition, *, wait: bool, output: Output = None
) -> None:
    """Follow if asked to, print how it stands, and end with its exit code."""
    machine = context.as_json(output)
    if wait:
        try:
            rollout = (
                watch.follow(context, client, rollout, until, machine=False)
                if not machine
                else _wait_silently(client, rollout, until)
            )
        except KeyboardInterrupt:
            context.err.print(f"\nstopped watching; the rollout goes on: tidegate watch {rollout['id']}", highlight=False)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    if machine:
        context.print_json(rollout)
    else:
        context.line(rollout_line(rollout))
    raise typer.Exit(BY_PHASE.get(rollout["phase"], ExitCode.DONE))


def _wait_silently(client: ApiClient, rollout: Json, until: watch.StopCondition) -> Json:
    """Wait without printing: one JSON document is all that a program shall read."""
    after = 0
    while not (watch.is_finished(rollout) if rollout["phase"] == "rolling_back" else until(rollout)):
        events = client.events(rollout["id"], after)
        after = events[-1]["number"] if events else after
        rollout = client.rollout(rollout["id"])
    return rollout


def verify(ctx: typer.Context, name: RolloutName, output: Output = None) -> None:
    """Judge now, and tell the verdict of the present step with its evidence."""
    context: Context = ctx.obj
    client = context.client()
    rollout = client.rollout(context.named(name))
    if rollout["phase"] not in FINAL_PHASES:
        before = (rollout.get("verdict") or {}).get("at")
        client.post(f"/v1/rollouts/{rollout['id']}/verify")
        rollout = _await_verdict(client, rollout["id"], before)
    verdict = rollout.get("verdict")
    if verdict is None:
        raise CommandError("no verdict: this step asks no checks, or has not settled yet", ExitCode.INCONCLUSIVE)
    if context.as_json(output):
        context.print_json(verdict)
    else:
        context.out.print(watch.render(rollout, watch.fetch_instances(client, rollout), []))
    raise typer.Exit(BY_OUTCOME[verdict["outcome"]])


def _await_verdict(client: ApiClient, rollout_id: str, before: str | None, seconds: float = 60.0) -> Json:
    """The rollout once it has a newer verdict than `before`, or has ended."""
    deadline = time.monotonic() + seconds
    while True:
        rollout = client.rollout(rollout_id)
        verdict = rollout.get("verdict")
        newer = verdict is not None and verdict["at"] != before
        if newer or rollout["phase"] in FINAL_PHASES or time.monotonic() > deadline:
            return rollout
        time.sleep(0.25)


def promote(
    ctx: typer.Context,
    name: RolloutName,
    reason: Reason = "",
    full: Annotated[bool, typer.Option("--full", help="Give every hold that follows, too.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="On to the end without bakes, checks and holds; needs --reason.")
    ] = False,
    wait: Wait = True,
    output: Output = None,
) -> None:
    """Approve what the rollout waits for, and follow it to the next hold or the end."""
    context: Context = ctx.obj
    client = context.client()
    rollout = client.rollout(context.named(name))
    current = client.get(f"/v1/rollouts/{rollout['id']}")
    approval = current.get("approval")
    binding = {"binding": approval["binding"]} if approval else {}
    body = {"reason": reason, "full": full, "force": force, **binding}
    if_match = "" if approval else current["etag"]
    rollout = client.post(f"/v1/rollouts/{rollout['id']}/promote", body, if_match=if_match)
    here = current["cursor"]
    finish(
        context,
        client,
        rollout,
        lambda now: watch.is_finished(now) or (watch.needs_approval(now) and (now["cursor"] > here or _more_needed(now))),
        wait=wait,
        output=output,
    )


def _more_needed(rollout: Json) -> bool:
    """Whether this approval was one of several that are needed."""
    return bool(rollout["approval"] and rollout["approval"]["given"])


def rollback(
    ctx: typer.Context,
    name: RolloutName,
    reason: Reason = "",
    wait: Wait = True,
    key: Annotated[str, typer.Option(help="Idempotency key, for a rollback of a finished rollout.")] = "",
    output: Output = None,
) -> None:
    """Turn a live rollout back; with none live, start one to the last good release. Exit 0 when that is done."""
    context: Context = ctx.obj
    client = context.client()
    if "/" in context.named(name):
        rollout = client.post(f"/v1/services/{context.named(name)}/rollback", {"reason": reason}, key=key)
    else:
        rollout = client.post(f"/v1/rollouts/{name}/rollback", {"reason": reason})
    try:
        finish(context, client, rollout, watch.is_finished, wait=wait, output=output)
    except typer.Exit as ended:
        if ended.exit_code == ExitCode.ROLLED_BACK:
            raise typer.Exit(ExitCode.DONE) from None
        raise


def pause(ctx: typer.Context, name: RolloutName, reason: Reason = "", output: Output = None) -> None:
    """Hold still: no traffic is moved and no step begun until `resume`. Deadlines stop."""
    _signal(ctx, name, "pause", reason, output)


def resume(ctx: typer.Context, name: RolloutName, reason: Reason = "", output: Output = None) -> None:
    """Go on after a pause."""
    _signal(ctx, name, "resume", reason, output)


def _signal(ctx: typer.Context, name: str, kind: str, reason: str, output: Output) -> None:
    context: Context = ctx.obj
    client = context.client()
    rollout = client.rollout(context.named(name))
    rollout = client.post(f"/v1/rollouts/{rollout['id']}/{kind}", {"reason": reason})
    if context.as_json(output):
        context.print_json(rollout)
    else:
        context.line(rollout_line(rollout))
