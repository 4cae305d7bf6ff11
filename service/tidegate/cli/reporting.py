"""A rollout's report on a terminal and as a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tidegate.cli.client import CommandError, Json
from tidegate.cli.context import rich_safe
from tidegate.cli.exits import Exit
from tidegate.cli.following import STYLES

WIDTH = 140


def write(file: Path, report: Json) -> None:
    """As JSON where the file's name ends so, otherwise as text."""
    try:
        if file.suffix == ".json":
            file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
            return
        with file.open("w") as out:
            Console(file=out, width=WIDTH, no_color=True).print(render(report))
    except OSError as error:
        raise CommandError(f"the report cannot be written: {error}", Exit.USAGE) from error


def render(report: Json) -> RenderableType:
    """What happened, the batches, the verdicts with their evidence, what people asked, what failed."""
    parts: list[RenderableType] = [Text(report["summary"], style="bold"), _facts(report), _batches(report["batches"])]
    parts += [_verdict(each) for each in report["verdicts"]]
    parts += [_line(each, f"{each['kind']} by {each['by']}: {each['reason'] or '–'}") for each in report["wishes"]]
    parts += [_line(each, f"{each['kind']}: {each['sentence']}", "yellow") for each in report["notes"]]
    parts += [_failure(each) for each in report["failures"]]
    return Group(*parts)


def _facts(report: Json) -> Text:
    seconds = "not finished" if report["seconds"] is None else f"{report['seconds']:.1f} s"
    after = report["decision_seconds"]
    decided = "" if after is None else f", decided {after:.1f} s after first exposure"
    counts = f"requests {_known(report['requests'])}, lost {_known(report['lost'])}, errors {_known(report['errors'])}"
    way = f"{report['old'] or 'nothing'} → {report['new']}"
    return Text(f"{report['service']}  {way}  asked by {report['requested_by']}\n{seconds}{decided}; {counts}")


def _line(fact: Json, text: str, style: str = "") -> Text:
    return Text(f"{fact['at'][11:19]}  {text}", style=style)


def _known(value: object) -> str:
    return "unknown" if value is None else str(value)


def _batches(batches: Sequence[Json]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("#", "what", "began", "seconds", "requests", "lost", "errors", ""):
        table.add_column(column, overflow="fold")
    for each in batches:
        counts = [_known(each[name]) for name in ("requests", "lost", "errors")]
        seconds = "–" if each["seconds"] is None else f"{each['seconds']:.1f}"
        row = (each["number"], each["did"], each["entered"][11:19], seconds, *counts, each["unknown"])
        table.add_row(*(rich_safe(cell) for cell in row), style="red" if each["lost"] else "")
    return table


def _verdict(row: Json) -> RenderableType:
    verdict = row["verdict"]
    when = "at the end of the bake" if verdict["final"] else "an early look"
    head = f"step {row['step'] + 1}, {verdict['at'][11:19]}, {when}: {verdict['outcome']}: {verdict['sentence']}"
    lines: list[RenderableType] = [Text(head, style=STYLES[verdict["outcome"]])]
    lines += [Text(f"    {each['check']}: {each['sentence']}") for each in verdict["findings"]]
    return Group(*lines)


def _failure(failure: Json) -> RenderableType:
    head = Text(f"last lines of {failure['instance']} ({failure['detail'] or 'no detail'})", style="bold red")
    return Group(head, Text(failure["log"].rstrip() or "(none)"))
