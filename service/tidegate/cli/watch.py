"""Following a rollout: live on a terminal, plain lines elsewhere, one JSON document a line for programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidegate.cli.api_client import FINAL_PHASES, ApiClient, CommandError, Json
from tidegate.cli.console import json_text
from tidegate.cli.context import Context, Output, RolloutName, rich_safe, rollout_line, transition
from tidegate.cli.exit_codes import BY_PHASE, ExitCode
from tidegate.text import escape

StopCondition = Callable[[Json], bool]
SHOWN_EVENTS = 8
STYLES = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow", "ready": "green", "failed": "bold red"}


def is_finished(rollout: Json) -> bool:
    """Until the very end."""
    return rollout["phase"] in FINAL_PHASES


def needs_approval(rollout: Json) -> bool:
    """Until a person is asked, or the end."""
    return is_finished(rollout) or rollout["waiting_for"] not in (None, "", "none")


def has_verdict(rollout: Json) -> bool:
    """Until the first verdict that counts, a hold, or the end."""
    verdict = rollout.get("verdict")
    return (
        needs_approval(rollout)
        or rollout["cursor"] > 0
        or bool(verdict and (verdict["final"] or verdict["outcome"] == "FAIL"))
    )


def follow(context: Context, client: ApiClient, rollout: Json, until: StopCondition, *, machine: bool) -> Json:
    """Show what happens until `until` says enough; return the rollout as it then stands.

    A rollout on its way back is followed to its end, whatever was asked: the stage has failed, and how it ends matters.
    """
    if machine or not context.out.is_terminal:
        return _print_events(context, client, rollout, until, machine=machine)
    return _follow_live(context, client, rollout, until)


def _enough(rollout: Json, until: StopCondition) -> bool:
    return is_finished(rollout) if rollout["phase"] == "rolling_back" else until(rollout)


def _print_events(context: Context, client: ApiClient, rollout: Json, until: StopCondition, *, machine: bool) -> Json:
    """A line an event. An event is printed before the question whether that was enough."""
    after = 0
    while True:
        events = client.events(rollout["id"], after)
        rollout = client.rollout(rollout["id"])
        for event in events:
            after = event["number"]
            context.line(json_text(event) if machine else event_line(event))
        if _enough(rollout, until) and not client.events(rollout["id"], after, 0):
            return rollout


def event_line(event: Json) -> str:
    """`14:03:07  shifted  traffic goes to …`."""
    return f"{event['at'][11:19]}  {event['kind']:<20} {escape(event['message'])}"


def _follow_live(context: Context, client: ApiClient, rollout: Json, until: StopCondition) -> Json:
    """A picture that is drawn anew with each event and each second; the story stays above it when it ends."""
    after, all_events = 0, list[Json]()
    with Live(console=context.out, refresh_per_second=8, transient=False) as live:
        while True:
            events = client.events(rollout["id"], after, 1)
            rollout = client.rollout(rollout["id"])
            all_events += events
            after = all_events[-1]["number"] if all_events else 0
            live.update(render(rollout, fetch_instances(client, rollout), all_events[-SHOWN_EVENTS:]))
            if _enough(rollout, until) and not events:
                return rollout


def fetch_instances(client: ApiClient, rollout: Json) -> Json:
    """What runs and takes traffic now; the picture goes without it when the platform does not answer."""
    try:
        return client.get(f"/v1/services/{rollout['service']}/instances")
    except CommandError as error:
        return {"instances": None, "traffic": None, "problem": str(error)}


def render(rollout: Json, observed: Json, events: list[Json]) -> RenderableType:
    """One screen: where it stands, the batches, the instances, the traffic, the verdict and the last events."""
    parts: list[RenderableType] = [_headline(rollout), _steps(rollout), _fleet(observed)]
    if rollout.get("verdict"):
        parts.append(_verdict(rollout["verdict"]))
    parts += [Text(event_line(event), style="dim", no_wrap=True, overflow="ellipsis") for event in events]
    return Group(*parts)


def _headline(rollout: Json) -> Text:
    text = Text()
    text.append(f"{rollout['service']}  ", style="bold")
    text.append(f"{transition(rollout)}  ")
    text.append(rollout["phase"], style="bold")
    text.append("  PAUSED" if rollout.get("paused") else "", style="yellow")
    if rollout["waiting_for"] not in (None, "", "none"):
        text.append(f"  waiting for {rollout['waiting_for']}", style="yellow")
    if rollout.get("reason"):
        text.append(f"  {rollout['reason']}", style="dim")
    return text


def _steps(rollout: Json) -> Text:
    """One mark for each step: done, present, to come."""
    text = Text("steps  ")
    for number, step in enumerate(rollout["steps"]):
        here = number == rollout["cursor"] and rollout["phase"] not in FINAL_PHASES
        done = number < rollout["cursor"] or rollout["phase"] in FINAL_PHASES
        text.append("● " if done else "◐ " if here else "○ ", style="green" if done else "bold" if here else "dim")
        if here:
            wanted = ", ".join(f"{count} of {release}" for release, count in step["route"].items())
            text.append(f"(traffic to {wanted or 'nothing'}) ", style="bold")
    return text


def _fleet(observed: Json) -> RenderableType:
    if observed["instances"] is None:
        return Text(f"instances unknown: {observed['problem']}", style="yellow")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("release", "instance", "state", "traffic", "in flight", ""):
        table.add_column(column)
    for instance in sorted(observed["instances"], key=lambda one: (one["release"], one["ordinal"])):
        traffic = "yes" if instance["routed"] else "draining" if instance.get("draining") else "–"
        flight = instance.get("in_flight")
        row = (
            instance["release"],
            instance["ordinal"],
            instance["state"],
            traffic,
            "–" if flight is None else flight,
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
    """Follow a rollout to its end: live on a terminal, plain lines elsewhere, JSON lines with -o json."""
    context: Context = ctx.obj
    client = context.client()
    rollout = client.rollout(context.named(name))
    machine = context.as_json(output)
    try:
        rollout = follow(context, client, rollout, is_finished, machine=machine)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if not machine:
        context.line(rollout_line(rollout))
    raise typer.Exit(BY_PHASE[rollout["phase"]])
