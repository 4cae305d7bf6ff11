"""`tidegate analysis`: judge a rollout again from what was measured, and simulate how often the judge is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.cli.api_client import CommandError, Json
from tidegate.cli.context import Context, Output, rich_safe
from tidegate.cli.exit_codes import ExitCode
from tidegate.cli.watch import STYLES

app = typer.Typer(help="Judge again, offline, and simulate.", no_args_is_help=True)

RecordName = Annotated[str, typer.Argument(help="The rollout's id, or a service for its latest one; or a file of --save.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="margin=2%, errors.margin=2%, latency.shadow=true, warmup=30s, false_abort=5%; repeatable."),
]


@app.command()
def replay(
    ctx: typer.Context,
    rollout: RecordName,
    settings: Settings = None,
    save: Annotated[Path | None, typer.Option("--save", help="Keep all that was measured in this file, as JSON.")] = None,
    output: Output = None,
) -> None:
    """Judge a rollout again from the samples that were stored, perhaps with other settings. Nothing is changed."""
    from tidegate.analysis import replay as again  # numpy takes a while, and no other command needs it
    from tidegate.web.replay_record import decode
    from tidegate.web.views.verdict import VerdictView

    context: Context = ctx.obj
    data = _record(context, rollout)
    if save is not None:
        _save(save, data)
    driven, measurements, recorded = decode(data)
    if not measurements:
        raise CommandError(f"{driven.id} was never judged: there is nothing to judge again", ExitCode.USAGE)
    verdicts = again.replay(again.with_settings(driven, _pairs(settings or [])), measurements)
    ended = next((verdict for verdict in verdicts if verdict.outcome is Outcome.FAIL), verdicts[-1])
    if context.as_json(output):
        context.print_json(
            {
                "rollout": driven.id,
                "measurements": len(measurements),
                "recorded": None if not recorded else VerdictView.of(recorded[-1]).model_dump(mode="json"),
                "replayed": VerdictView.of(ended).model_dump(mode="json"),
                "evidence_history": [
                    {"at": verdict.at, "outcome": verdict.outcome, "evidence": verdict.evidence} for verdict in verdicts
                ],
            }
        )
        return
    context.out.print(_evidence_table(verdicts))
    if recorded:
        context.out.print(_line("then", recorded[-1]))
    context.out.print(_line("now", ended))
    for finding in ended.findings:
        context.out.print(Text(f"  {finding.message}", style=STYLES[finding.outcome.value]))


def _record(context: Context, name: str) -> Json:
    """From a file where there is one of that name, else from the server."""
    file = Path(name)
    if file.suffix == ".json" and file.is_file():
        try:
            record: Json = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise CommandError(f"{file} cannot be read: {error}", ExitCode.USAGE) from error
        return record
    client = context.client()
    answer: Json = client.get(f"/v1/rollouts/{client.rollout(context.named(name))['id']}/record")
    return answer


def _save(file: Path, data: Json) -> None:
    try:
        file.write_text(json.dumps(data, ensure_ascii=False) + "\n")
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}", ExitCode.USAGE) from error


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    wrong = [setting for setting in settings if "=" not in setting]
    if wrong:
        raise CommandError(f"--set needs NAME=VALUE; found: {', '.join(wrong)}", ExitCode.USAGE)
    return {name: value for name, _, value in (setting.partition("=") for setting in settings)}


def _line(when: str, verdict: Verdict) -> Text:
    return Text(f"{when:5} {verdict.message}", style=STYLES[verdict.outcome.value])


def _evidence_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("seconds", "outcome", "evidence", "threshold"):
        table.add_column(column, justify="right")
    begun = verdicts[0].at
    for verdict in _thinned(verdicts):
        evidence = "–" if verdict.evidence is None else f"{verdict.evidence:.3g}"
        needed = "–" if verdict.needed is None else f"{verdict.needed:g}"
        row = (f"{verdict.at - begun:.0f}", verdict.outcome.value, evidence, needed)
        table.add_row(*(rich_safe(cell) for cell in row), style=STYLES[verdict.outcome.value])
    return table


def _thinned(verdicts: Sequence[Verdict], limit: int = 20) -> Sequence[Verdict]:
    """The first, the last, and some between; and wherever the outcome changes."""
    stride = max(1, len(verdicts) // limit)
    return [
        verdict
        for number, verdict in enumerate(verdicts)
        if number % stride == 0
        or number == len(verdicts) - 1
        or (number and verdict.outcome is not verdicts[number - 1].outcome)
    ]


@app.command()
def simulate(
    ctx: typer.Context,
    grid: Annotated[str, typer.Option("--grid", help="A TOML file, or one of: public, validation, bluegreen.")],
    replicates: Annotated[int | None, typer.Option(min=1, help="Rollouts a cell, instead of the grid's own.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; as many as there are processors if left out.")] = None,
    size: Annotated[list[str] | None, typer.Option("--size", help="Only these sizes; may be repeated.")] = None,
    scenario: Annotated[list[str] | None, typer.Option("--scenario", help="Only these noises and faults.")] = None,
    rivals: Annotated[bool, typer.Option("--rivals", help="Beside it the rules of other tools.")] = False,
    output: Output = None,
) -> None:
    """How often the judge turns back a good release, and how soon a bad one, in simulated rollouts."""
    from tidegate.simulation import compare, grids  # numpy takes a while, and no other command needs it

    context: Context = ctx.obj
    wanted = compare.RunOptions(
        replicates, jobs, sizes=frozenset(size or ()), scenarios=frozenset(scenario or ()), rivals=rivals
    )
    result = compare.compare(grids.load_grid(grid), wanted, lambda text: context.err.print(text, style="dim"))
    if context.as_json(output):
        context.print_json(result.rows())
    else:
        context.out.print(result.text(), markup=False, highlight=False, soft_wrap=True)
