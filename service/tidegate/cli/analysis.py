"""`tidegate analysis`: replay a rollout's analysis from its stored samples, and simulate the analysis."""

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

app = typer.Typer(help="Replay the analysis of a rollout, and simulate its error rates.", no_args_is_help=True)

RecordName = Annotated[
    str, typer.Argument(help="A rollout's ID, a service for its latest rollout, or a file written by --save.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting, such as margin=2%, errors.margin=2%, latency.shadow=true or false_abort=5%; repeatable.",
    ),
]


@app.command()
def replay(
    ctx: typer.Context,
    rollout: RecordName,
    settings: Settings = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write the stored samples to this JSON file.")] = None,
    output: Output = None,
) -> None:
    """Repeat the analysis of a rollout from its stored samples, optionally with other settings. Changes nothing."""
    from tidegate.analysis.replay import replay as repeat  # numpy is slow to import, and no other command needs it
    from tidegate.analysis.replay import with_settings
    from tidegate.web.replay_record import decode
    from tidegate.web.views.verdict import VerdictView

    context: Context = ctx.obj
    data = _record(context, rollout)
    if save is not None:
        _save(save, data)
    analyzed, measurements, recorded = decode(data)
    if not measurements:
        raise CommandError(f"Cannot replay {analyzed.id}: it has no stored measurements.", ExitCode.USAGE)
    verdicts = repeat(with_settings(analyzed, _pairs(settings or [])), measurements)
    decisive = next((verdict for verdict in verdicts if verdict.outcome is Outcome.FAIL), verdicts[-1])
    if context.as_json(output):
        context.print_json(
            {
                "rollout": analyzed.id,
                "measurements": len(measurements),
                "recorded": None if not recorded else VerdictView.model_validate(recorded[-1]).model_dump(mode="json"),
                "replayed": VerdictView.model_validate(decisive).model_dump(mode="json"),
                "evidence_history": [
                    {"at": verdict.at, "outcome": verdict.outcome, "evidence": verdict.evidence} for verdict in verdicts
                ],
            }
        )
        return
    context.out.print(_evidence_table(verdicts))
    if recorded:
        context.out.print(_verdict_line("recorded", recorded[-1]))
    context.out.print(_verdict_line("replayed", decisive))
    for finding in decisive.findings:
        context.out.print(Text(f"  {finding.message}", style=STYLES[finding.outcome.value]))


def _record(context: Context, name: str) -> Json:
    """Read the record from the file `name` if it exists, otherwise from the server."""
    file = Path(name)
    if file.suffix == ".json" and file.is_file():
        try:
            record: Json = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise CommandError(f"Cannot read {file}: {error}.", ExitCode.USAGE) from error
        return record
    client = context.client()
    answer: Json = client.get(f"/v1/rollouts/{client.rollout(context.named(name))['id']}/record")
    return answer


def _save(file: Path, data: Json) -> None:
    try:
        file.write_text(json.dumps(data, ensure_ascii=False) + "\n")
    except OSError as error:
        raise CommandError(f"Cannot write {file}: {error.strerror}.", ExitCode.USAGE) from error


def _pairs(settings: Sequence[str]) -> dict[str, str]:
    wrong = [setting for setting in settings if "=" not in setting]
    if wrong:
        raise CommandError(f"Invalid --set: expected NAME=VALUE, found {', '.join(wrong)}.", ExitCode.USAGE)
    return {name: value for name, _, value in (setting.partition("=") for setting in settings)}


def _verdict_line(label: str, verdict: Verdict) -> Text:
    return Text(f"{label}  {verdict.message}", style=STYLES[verdict.outcome.value])


def _evidence_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("seconds", "outcome", "evidence", "threshold"):
        table.add_column(column, justify="right")
    start = verdicts[0].at
    for verdict in _thinned(verdicts):
        evidence = "–" if verdict.evidence is None else f"{verdict.evidence:.3g}"
        threshold = "–" if verdict.threshold is None else f"{verdict.threshold:.3g}"
        row = (f"{verdict.at - start:.0f}", verdict.outcome.value, evidence, threshold)
        table.add_row(*(rich_safe(cell) for cell in row), style=STYLES[verdict.outcome.value])
    return table


def _thinned(verdicts: Sequence[Verdict], limit: int = 20) -> Sequence[Verdict]:
    """About `limit` verdicts evenly spaced, with the first, the last, and every change of the outcome."""
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
    grid: Annotated[str, typer.Option("--grid", help="A TOML file, or a built-in grid: public, validation, bluegreen.")],
    replicates: Annotated[int | None, typer.Option(min=1, help="Rollouts per cell. Default: the grid's.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Number of processes. Default: number of processors.")] = None,
    size: Annotated[list[str] | None, typer.Option("--size", help="Simulate only these sizes; repeatable.")] = None,
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="Simulate only these scenarios; repeatable.")
    ] = None,
    output: Output = None,
) -> None:
    """Simulate rollouts: how often the analysis rolls back a good release, and how soon a bad one."""
    from tidegate.simulation import compare, grids  # numpy is slow to import, and no other command needs it

    context: Context = ctx.obj
    run_options = compare.RunOptions(replicates, jobs, sizes=frozenset(size or ()), scenarios=frozenset(scenario or ()))
    result = compare.compare(grids.load_grid(grid), run_options, lambda text: context.err.print(text, style="dim"))
    if context.as_json(output):
        context.print_json(result.rows())
    else:
        context.out.print(result.text(), markup=False, highlight=False, soft_wrap=True)
