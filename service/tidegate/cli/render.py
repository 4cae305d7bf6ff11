"""What the command line shows with rich: the status of a rollout, its report, and tables of the analysis.

Importing rich takes long, so commands import this module only when they print one of these.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tidegate.cli.console import cell_text
from tidegate.cli.context import format_transition
from tidegate.cli.exit_codes import CommandError, ExitCode, Json
from tidegate.cli.watch import STYLES, Rates, format_event, format_waiting, is_final
from tidegate.text import escape

UNLIMITED_WIDTH = 10_000  # of text that is not for a terminal: nothing is wrapped


class SafeConsole(Console):
    """A rich console that also escapes the control characters that rich lets through."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape text; keep rich's own control segments, such as the cursor movements of a live display."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape(segment.text, allowed="\n"), segment.style)


def make_console(file: IO[str], width: int | None = None) -> SafeConsole:
    """A console for a terminal, without colours if `NO_COLOR` is set; for a file or pipe, without styles and wrapping."""
    if file.isatty():
        return SafeConsole(file=file, width=width)
    return SafeConsole(file=file, width=width or UNLIMITED_WIDTH, no_color=True, force_terminal=False, soft_wrap=True)


def make_live(console: Console) -> Live:
    """A display that is redrawn; call its `update`."""
    return Live(console=console, refresh_per_second=8, transient=False)


# -- status -------------------------------------------------------------------------------------------------------------


def render_status(rollout: Json, observed: Json, events: Sequence[Json], rates: Rates | None = None) -> RenderableType:
    """One screen: phase, what it waits for, steps, instances, traffic, verdict and the latest events."""
    parts: list[RenderableType] = [_headline(rollout)]
    if waiting := format_waiting(rollout):
        parts.append(Text(f"waiting  {escape(waiting)}", style="yellow"))
    is_routed = any(step["route"] is not None for step in rollout["steps"])
    parts += [_steps(rollout), _instances(observed, rates, is_routed=is_routed)]
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
            is_routed = step["route"] is not None
            counts = (step["route"] if is_routed else step["fleet"]).items()
            targets = ", ".join(f"{count} of {release}" for release, count in counts) or "nothing"
            text.append(f"(traffic to {targets}) " if is_routed else f"(instances: {targets}) ", style="bold")
    return text


def _instances(observed: Json, rates: Rates | None, *, is_routed: bool) -> RenderableType:
    if observed["instances"] is None:
        return Text(f"instances unknown: {observed['problem']}", style="yellow")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("release", "instance", "state", *(("traffic", "in flight") if is_routed else ()), ""):
        table.add_column(column)
    for instance in sorted(observed["instances"], key=lambda instance: (instance["release"], instance["ordinal"])):
        traffic = "yes" if instance["receives_traffic"] else "draining" if instance.get("draining") else "–"
        traffic = "down" if instance.get("down") else traffic
        in_flight = instance.get("in_flight")
        row = (
            instance["release"],
            instance["ordinal"],
            instance["state"],
            *((traffic, "–" if in_flight is None else in_flight) if is_routed else ()),
            instance["detail"],
        )
        table.add_row(*(Text(cell_text(cell)) for cell in row), style=STYLES.get(instance["state"], "yellow"))
    return Group(table, *_traffic(observed["traffic"], rates)) if observed["traffic"] else table


def _traffic(traffic: Json, rates: Rates | None) -> list[Text]:
    """The proxy's counters, and for each release its rates of the last seconds."""
    text = f"requests {traffic['requests']}, lost {traffic['lost']}, application errors {traffic['errors']}"
    lines = [Text(f"proxy  {text}", style="red" if traffic["lost"] else "")]
    for release, rate in (rates.update(traffic["releases"]) if rates is not None else {}).items():
        lines.append(Text(f"  {release}  {rate}"))
    return lines


def _verdict(verdict: Json) -> RenderableType:
    lines: list[Any] = [Text(f"verdict  {verdict['outcome']}  {verdict['message']}", style=STYLES[verdict["outcome"]])]
    for finding in verdict["findings"]:
        lines.append(Text(f"  {finding['check']}: {finding['message']}", style=STYLES[finding["outcome"]]))
    return Group(*lines)


# -- report -------------------------------------------------------------------------------------------------------------

REPORT_WIDTH = 140


def write_report(file: Path, report: Json) -> None:
    """Write the report: as JSON if the file's name ends in `.json`, otherwise as text."""
    try:
        if file.suffix == ".json":
            file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
            return
        with file.open("w") as out:
            make_console(out, REPORT_WIDTH).print(render_report(report))
    except OSError as error:
        raise CommandError(f"Cannot write the report to {file}: {error.strerror or error}.", ExitCode.USAGE) from error


def render_report(report: Json) -> RenderableType:
    """Summary, batches, failed probes, drains, hooks, verdicts with their evidence, requests of people, failures."""
    steps = _batches(report["steps"]) if report["is_routed"] else _unrouted_batches(report["steps"])
    parts: list[RenderableType] = [Text(report["summary"], style="bold"), _facts(report), steps]
    parts += [
        _line(probe_failure, f"Probe failed: {probe_failure['reason']}", "red")
        for probe_failure in report["probe_failures"]
    ]
    parts += [
        _line({"at": batch["started_at"]}, f"step {batch['step'] + 1}: {_drained(batch['drained'])}")
        for batch in report["steps"]
        if batch["drained"]
    ]
    parts += [_task(task) for task in report["tasks"]]
    parts += [_report_verdict(verdict) for verdict in report["verdicts"]]
    parts += [
        _line(signal, f"{signal['kind']} by {signal['by']}: {signal['reason'] or 'no reason given'}")
        for signal in report["signals"]
    ]
    parts += [_line(note, f"{note['kind']}: {note['message']}", "yellow") for note in report["notes"]]
    parts += [_failure(failure) for failure in report["failures"]]
    return Group(*parts)


def _facts(report: Json) -> Text:
    duration = "not finished" if report["seconds"] is None else f"{report['seconds']:.1f} s"
    decision = report["decision_seconds"]
    decided = "" if decision is None else f", decided {decision:.1f} s after the first request"
    counts = f"requests {_known(report['requests'])}, lost {_known(report['lost'])}, errors {_known(report['errors'])}"
    counted = f"; {counts}; {_probes(report['probed'])}" if report["is_routed"] else ""
    releases = f"{report['old'] or 'nothing'} → {report['new']}"
    totals = f"{duration}{decided}{counted}"
    return Text(
        "\n".join([f"{report['service']}  {releases}  requested by {report['requested_by']}", totals, *_totals(report)])
    )


def _totals(report: Json) -> list[str]:
    """One line per release with its totals, or the reason why they are unknown."""
    if not report["is_routed"]:
        return []
    if report["releases_unknown"]:
        return [f"by release: {report['releases_unknown']}"] if report["steps"] else []
    return [f"{name}: {'; '.join(_release_totals(row, probed))}" for name, row, probed in _by_release(report)]


def _by_release(counted: Json) -> list[tuple[str, Json | None, Json | None]]:
    """Per release: its name, the proxy's counts and the prober's counts; None where one of them has none."""
    proxied = {row["release"]: row for row in counted["by_release"]}
    probed = counted["probed"]["by_release"] if counted["probed"] else {}
    return [(name, proxied.get(name), probed.get(name)) for name in dict.fromkeys([*proxied, *probed])]


def _release_totals(row: Json | None, probed: Json | None) -> list[str]:
    parts = []
    if row is not None:
        counts = ", ".join(f"{name} {_known(row[name])}" for name in ("requests", "lost", "errors"))
        parts.append(counts + (f" ({row['unknown_reason']})" if row["unknown_reason"] else ""))
    return parts + ([_probes(probed)] if probed is not None else [])


def _probes(counts: Json | None) -> str:
    return "not probed" if counts is None else f"probes {_probe_counts(counts)}"


def _probe_counts(counts: Json | None) -> str:
    return "–" if counts is None else f"{counts['requests']}, {counts['failed']} failed, {counts['slow']} slow"


def _line(record: Json, text: str, style: str = "") -> Text:
    return Text(f"{record['at'][11:19]}  {escape(text)}", style=style)


def _known(value: object) -> str:
    return "unknown" if value is None else str(value)


def _batches(batches: Sequence[Json]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("#", "actions", "started", "seconds", "requests", "lost", "errors", "probes", ""):
        table.add_column(column, overflow="fold")
    for batch in batches:
        counts = [_known(batch[name]) for name in ("requests", "lost", "errors")]
        seconds = "–" if batch["seconds"] is None else f"{batch['seconds']:.1f}"
        probes = _probe_counts(batch["probed"])
        row = (
            batch["number"],
            batch["actions"],
            batch["started_at"][11:19],
            seconds,
            *counts,
            probes,
            batch["unknown_reason"],
        )
        table.add_row(*(Text(cell_text(cell)) for cell in row), style="red" if batch["lost"] else "")
        for name, counts_of_release, probed in _by_release(batch):
            release_counts = [
                "–" if counts_of_release is None else _known(counts_of_release[key])
                for key in ("requests", "lost", "errors")
            ]
            release_row = (
                "",
                f"  of {name}",
                "",
                "",
                *release_counts,
                _probe_counts(probed),
                counts_of_release and counts_of_release["unknown_reason"],
            )
            table.add_row(*(Text(cell_text(cell)) for cell in release_row), style="dim")
    return table


def _unrouted_batches(batches: Sequence[Json]) -> Table:
    """The steps of a service without a proxy."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("#", "actions", "started", "seconds"):
        table.add_column(column, overflow="fold")
    for batch in batches:
        seconds = "–" if batch["seconds"] is None else f"{batch['seconds']:.1f}"
        row = (batch["number"], batch["actions"], batch["started_at"][11:19], seconds)
        table.add_row(*(Text(cell_text(cell)) for cell in row))
    return table


def _report_verdict(row: Json) -> RenderableType:
    verdict = row["verdict"]
    when = "at the end of the bake" if verdict["final"] else "during the bake"
    head = f"step {row['step'] + 1}, {verdict['at'][11:19]}, {when}: {verdict['outcome']}: {verdict['message']}"
    lines: list[RenderableType] = [Text(head, style=STYLES[verdict["outcome"]])]
    lines += [Text(f"    {finding['check']}: {finding['message']}") for finding in verdict["findings"]]
    return Group(*lines)


def _drained(counts: Json) -> str:
    finished, closed = _known(counts["finished"]), _known(counts["closed"])
    count = counts["upgraded_finished"] + counts["upgraded_closed"]
    upgraded = f" ({count} of them upgraded connections, {counts['upgraded_closed']} closed)" if count else ""
    return f"Drained requests: {finished} finished, {closed} closed{upgraded}"


def _task(task: Json) -> RenderableType:
    style = {"passed": "green", "failed": "red", "warned": "yellow", "unknown": "yellow"}.get(task["state"], "")
    seconds = "still running" if task["seconds"] is None else f"{task['seconds']:.1f} s"
    lines = [f"    {line}" for line in (*task["changes"], *task["log"].rstrip().splitlines())]
    return Group(_line({"at": task["started_at"]}, f"{task['message']} ({seconds})", style), *map(Text, lines))


def _failure(failure: Json) -> RenderableType:
    head = Text(f"Last log lines of {failure['instance']} ({failure['detail'] or 'no detail'})", style="bold red")
    return Group(head, Text(failure["log"].rstrip() or "(none)"))
