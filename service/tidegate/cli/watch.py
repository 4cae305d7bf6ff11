"""Follow a rollout: live on a terminal, one line per event elsewhere, one JSON document per event for programs."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import typer

from tidegate.cli.console import json_text, relative_time
from tidegate.cli.context import Context, Output, RolloutName, format_rollout
from tidegate.cli.exit_codes import BY_PHASE, CommandError, ExitCode, Json
from tidegate.core.phases import Phase, Until

if TYPE_CHECKING:
    from tidegate.cli.api_client import ApiClient

EventSink = Callable[[Json], None]
SHOWN_EVENTS = 8
RATE_SECONDS = 10.0  # rates are averages over this time
STYLES = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow", "ready": "green", "failed": "bold red"}


def is_final(rollout: Json) -> bool:
    """Whether the rollout has ended."""
    return not Phase(rollout["phase"]).live


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
    """Like `follow`, but redraw the whole status on the terminal with each event and each second.

    Logs of instances and hooks follow the display, since they do not fit into it.
    """
    from tidegate.cli.render import make_live, render_status

    after, reached, all_events, rates = 0, False, list[Json](), Rates()
    with make_live(context.out) as live:
        while not reached:
            page = client.poll_events(rollout["id"], after, until, 1)
            after, reached = page["last"], page["reached"]
            all_events += page["events"]
            rollout = client.rollout(rollout["id"])
            observed = fetch_instances(client, rollout)
            live.update(render_status(rollout, observed, all_events[-SHOWN_EVENTS:], rates))
    for event in all_events:
        if event["data"].get("log"):
            print_event(context, event)
    return rollout


def show_progress(context: Context, client: ApiClient, rollout: Json, until: Until) -> Json:
    """Follow for a person: live on a terminal, one line per event elsewhere."""
    if context.is_terminal:
        return follow_live(context, client, rollout, until)
    return follow(client, rollout, until, lambda event: print_event(context, event))


def print_event(context: Context, event: Json) -> None:
    """Print an event, and below it the log lines that it recorded of an instance or a hook."""
    context.line(format_event(event))
    for line in str(event["data"].get("log") or "").splitlines():
        context.line(f"          | {line}", style="dim")
    sys.stdout.flush()


def format_event(event: Json) -> str:
    """`14:03:07  traffic_shifted      Traffic goes to …`."""
    return f"{event['at'][11:19]}  {event['kind']:<20} {event['message']}"


def format_waiting(rollout: Json, now: datetime | None = None) -> str:
    """What the rollout waits for, since when, until when, and what happens then; empty when it waits for nothing."""
    waiting = rollout["waiting_for"]
    if waiting is None:
        return ""
    since = f"since {relative_time(waiting['since'], now)}"
    if waiting["until"] is None:
        return f"{waiting['reason']} ({since}, no deadline); {waiting['then']}"
    return f"{waiting['reason']} ({since}, deadline {relative_time(waiting['until'], now)}); then {waiting['then']}"


def next_commands(rollout: Json) -> Iterator[str]:
    """For a live rollout, the commands that a person may need next: those that answer what it waits for, or follow it."""
    if is_final(rollout):
        return
    name, waiting = rollout["id"], rollout["waiting_for"]
    if rollout["paused"]:
        yield f"Resume:     tidegate resume {name}"
    elif waiting is not None and waiting["kind"] in ("approval", "decision"):
        yield f"Approve:    tidegate promote {name}"
    elif waiting is not None and waiting["kind"] == "freeze":
        yield f"Lift the freeze: tidegate thaw {rollout['service'].partition('/')[0]}"
    else:
        yield f"Follow:     tidegate watch {name}"
    yield f"Roll back:  tidegate rollback {name}"


def print_rollout(context: Context, rollout: Json) -> None:
    """Print the rollout in one line; if it is live, also what it waits for and the commands that answer it."""
    context.line(format_rollout(rollout))
    if not is_final(rollout):
        if waiting := format_waiting(rollout):
            context.line(waiting, style="yellow")
        for line in next_commands(rollout):
            context.line(f"  {line}")


def fetch_instances(client: ApiClient, rollout: Json) -> Json:
    """The instances and the traffic now. An error is returned as `problem`, so the rest can still be shown."""
    try:
        return client.get(f"/v1/services/{rollout['service']}/instances")
    except CommandError as error:
        return {"instances": None, "traffic": None, "problem": str(error)}


class Rates:
    """The rates of requests and errors of each release, from the proxy's counters in the last `RATE_SECONDS`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._history: deque[tuple[float, Mapping[str, Json]]] = deque()

    def update(self, counters: Mapping[str, Json]) -> dict[str, str]:
        """Add the present counters by release; return a text for each release with a rate. A proxy that reloads starts
        its counters again, and so does this."""
        now, history = self._clock(), self._history
        last = history[-1][1] if history else {}
        if any(name in counters and counters[name]["requests"] < before["requests"] for name, before in last.items()):
            history.clear()
        history.append((now, counters))
        while len(history) > 2 and history[1][0] <= now - RATE_SECONDS:
            history.popleft()
        start, first = history[0]
        return {name: _rate(now - start, first.get(name), counts) for name, counts in counters.items() if now > start}


def _rate(seconds: float, before: Json | None, counts: Json) -> str:
    requests, errors, lost = (counts[key] - (before[key] if before else 0) for key in ("requests", "errors", "lost"))
    share = f"{100 * (errors + lost) / requests:.3g} %" if requests else "0 %"
    return f"{requests / seconds:.3g} requests/s, errors {share} ({errors + lost} of {requests} in {seconds:.0f} s)"


def watch(ctx: typer.Context, name: RolloutName, output: Output = None) -> None:
    """Follow a rollout to its end: live on a terminal, one line per event elsewhere, JSON lines with -o json."""
    context: Context = ctx.obj
    client = context.client()
    rollout = client.rollout(context.named(name))
    machine = context.as_json(output)
    try:
        if machine:
            rollout = follow(client, rollout, Until.END, _print_json_line)
        else:
            rollout = show_progress(context, client, rollout, Until.END)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if not machine:
        context.line(format_rollout(rollout))
    raise typer.Exit(BY_PHASE[rollout["phase"]])


def _print_json_line(event: Json) -> None:
    sys.stdout.write(json_text(event) + "\n")
    sys.stdout.flush()
