"""Follow a rollout: live on a terminal, one line per event elsewhere, one JSON document per event for programs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidegate.cli.api_client import ApiClient, CommandError, Json, is_final
from tidegate.cli.console import json_text, relative_time
from tidegate.cli.context import Context, Output, RolloutName, format_rollout, format_transition, rich_safe
from tidegate.cli.exit_codes import BY_PHASE, ExitCode
from tidegate.core.phases import Until
from tidegate.text import escape

EventSink = Callable[[Json], None]
SHOWN_EVENTS = 8
STYLES = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow", "ready": "green", "failed": "bold red"}


def follow(client: ApiClient, rollout: Json, until: Until, on_event: EventSink) -> Json:
    """Pass every event to `on_event` until the server reports that `until` is reached; return the rollout as it is then."""
    after, reached = 0, False
    while not reached:
        page = client.poll_events(rollout["id"], after, until)
        after, reached = page["last"], page["reached"]
        for event in page["events"]:
            on_event(event)
    return client.rollout(rollout["id"])


def follow_live(context: Context, client: ApiClient, rollout: Json, until: Until) -> Json:
    """Like `follow`, but redraw the whole status on the terminal with each event and each second."""
    after, reached, all_events = 0, False, list[Json]()
    with Live(console=context.out, refresh_per_second=8, transient=False) as live:
        while not reached:
            page = client.poll_events(rollout["id"], after, until, 1)
            after, reached = page["last"], page["reached"]
            all_events += page["events"]
            rollout = client.rollout(rollout["id"])
            live.update(render(rollout, fetch_instances(client, rollout), all_events[-SHOWN_EVENTS:]))
    return rollout


def show_progress(context: Context, client: ApiClient, rollout: Json, until: Until) -> Json:
    """Follow for a person: live on a terminal, one line per event elsewhere."""
    if context.out.is_terminal:
        return follow_live(context, client, rollout, until)
    return follow(client, rollout, until, lambda event: context.line(format_event(event)))


def format_event(event: Json) -> str:
    """`14:03:07  traffic_shifted      Traffic goes to …`."""
    return f"{event['at'][11:19]}  {event['kind']:<20} {escape(event['message'])}"


def format_waiting(rollout: Json, now: datetime | None = None) -> str:
    """What the rollout waits for, since when, until when, and what happens then; empty when it waits for nothing."""
    waiting = rollout["waiting_for"]
    if waiting is None:
        return ""
    since = f"since {relative_time(waiting['since'], now)}"
    if waiting["until"] is None:
        return f"{waiting['reason']} ({since}, no deadline); {waiting['then']}"
    return f"{waiting['reason']} ({since}, deadline {relative_time(waiting['until'], now)}); then {waiting['then']}"


def fetch_instances(client: ApiClient, rollout: Json) -> Json:
    """The instances and the traffic now. An error is returned as `problem`, so the rest can still be shown."""
    try:
        return client.get(f"/v1/services/{rollout['service']}/instances")
    except CommandError as error:
        return {"instances": None, "traffic": None, "problem": str(error)}


def render(rollout: Json, observed: Json, events: list[Json]) -> RenderableType:
    """One screen: phase, what it waits for, steps, instances, traffic, verdict and the latest events."""
    parts: list[RenderableType] = [_headline(rollout)]
    if waiting := format_waiting(rollout):
        parts.append(Text(f"waiting  {escape(waiting)}", style="yellow"))
    parts += [_steps(rollout), _instances(observed)]
    if rollout["verdict"]:
        parts.append(_verdict(rollout["verdict"]))
    parts += [Text(format_event(event), style="dim", no_wrap=True, overflow="ellipsis") for event in events]
    return Group(*parts)


def _headline(rollout: Json) -> Text:
    text = Text()
    text.append(f"{rollout['service']}  ", style="bold")
    text.append(f"{format_transition(rollout)}  ")
    text.append(rollout["phase"], style="bold")
    text.append("  PAUSED" if rollout["paused"] else "", style="yellow")
    if rollout["reason"]:
        text.append(f"  {rollout['reason']}", style="dim")
    return text


def _steps(rollout: Json) -> Text:
    """One mark per step: done, current, to come."""
    text = Text("steps  ")
    for number, step in enumerate(rollout["steps"]):
        current = number == rollout["cursor"] and not is_final(rollout)
        done = number < rollout["cursor"] or is_final(rollout)
        text.append("● " if done else "◐ " if current else "○ ", style="green" if done else "bold" if current else "dim")
        if current:
            targets = ", ".join(f"{count} of {release}" for release, count in step["route"].items())
            text.append(f"(traffic to {targets or 'nothing'}) ", style="bold")
    return text


def _instances(observed: Json) -> RenderableType:
    if observed["instances"] is None:
        return Text(f"instances unknown: {observed['problem']}", style="yellow")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("release", "instance", "state", "traffic", "in flight", ""):
        table.add_column(column)
    for instance in sorted(observed["instances"], key=lambda instance: (instance["release"], instance["ordinal"])):
        traffic = "yes" if instance["receives_traffic"] else "draining" if instance.get("draining") else "–"
        in_flight = instance.get("in_flight")
        row = (
            instance["release"],
            instance["ordinal"],
            instance["state"],
            traffic,
            "–" if in_flight is None else in_flight,
            instance["detail"],
        )
        table.add_row(*(rich_safe(cell) for cell in row), style=STYLES.get(instance["state"], "yellow"))
    return Group(table, _traffic(observed["traffic"])) if observed["traffic"] else table


def _traffic(traffic: Json) -> Text:
    text = f"requests {traffic['requests']}, lost {traffic['lost']}, application errors {traffic['errors']}"
    return Text(f"proxy  {text}", style="red" if traffic["lost"] else "")


def _verdict(verdict: Json) -> RenderableType:
    lines: list[Any] = [Text(f"verdict  {verdict['outcome']}  {verdict['message']}", style=STYLES[verdict["outcome"]])]
    for finding in verdict["findings"]:
        lines.append(Text(f"  {finding['check']}: {finding['message']}", style=STYLES[finding["outcome"]]))
    return Group(*lines)


def watch(ctx: typer.Context, name: RolloutName, output: Output = None) -> None:
    """Follow a rollout to its end: live on a terminal, one line per event elsewhere, JSON lines with -o json."""
    context: Context = ctx.obj
    client = context.client()
    rollout = client.rollout(context.named(name))
    machine = context.as_json(output)
    try:
        if machine:
            rollout = follow(client, rollout, Until.END, lambda event: context.line(json_text(event)))
        else:
            rollout = show_progress(context, client, rollout, Until.END)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if not machine:
        context.line(format_rollout(rollout))
    raise typer.Exit(BY_PHASE[rollout["phase"]])
