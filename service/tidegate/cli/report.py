"""`tidegate report`: a rollout's report on the terminal or in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tidegate.cli.api_client import CommandError, Json
from tidegate.cli.console import SafeConsole
from tidegate.cli.context import Context, Output, RolloutName, rich_safe
from tidegate.cli.exit_codes import ExitCode
from tidegate.cli.watch import STYLES
from tidegate.text import escape

WIDTH = 140


def write(file: Path, report: Json) -> None:
    """Write the report: as JSON if the file's name ends in `.json`, otherwise as text."""
    try:
        if file.suffix == ".json":
            file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
            return
        with file.open("w") as out:
            SafeConsole(file=out, width=WIDTH, no_color=True).print(render(report))
    except OSError as error:
        raise CommandError(f"Cannot write the report to {file}: {error.strerror or error}.", ExitCode.USAGE) from error


def render(report: Json) -> RenderableType:
    """Summary, batches, failed probes, drains, hooks, verdicts with their evidence, requests of people, failures."""
    parts: list[RenderableType] = [Text(report["summary"], style="bold"), _facts(report), _batches(report["steps"])]
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
    parts += [_verdict(verdict) for verdict in report["verdicts"]]
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
    releases = f"{report['old'] or 'nothing'} → {report['new']}"
    totals = f"{duration}{decided}; {counts}; {_probes(report['probed'])}"
    return Text(
        "\n".join([f"{report['service']}  {releases}  requested by {report['requested_by']}", totals, *_totals(report)])
    )


def _totals(report: Json) -> list[str]:
    """One line per release with its totals, or the reason why they are unknown."""
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
        table.add_row(*(rich_safe(cell) for cell in row), style="red" if batch["lost"] else "")
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
            table.add_row(*(rich_safe(cell) for cell in release_row), style="dim")
    return table


def _verdict(row: Json) -> RenderableType:
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
    client = context.client()
    answer = client.get(f"/v1/rollouts/{client.rollout(context.named(name))['id']}/report")
    if file is not None:
        write(file, answer)
        context.line(f"Wrote the report to {file}.")
    elif context.as_json(output):
        context.print_json(answer)
    else:
        context.out.print(render(answer))
