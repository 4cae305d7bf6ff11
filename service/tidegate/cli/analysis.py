"""`tidegate analysis`: replay a rollout's analysis from its stored samples, and simulate the analysis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.context import Context, Output
from tidegate.cli.exit_codes import CommandError, ExitCode, Json
from tidegate.cli.watch import STYLES

if TYPE_CHECKING:
    from tidegate.analysis.verdict import Verdict

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
    from tidegate.analysis.verdict import Outcome
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
    _print_evidence(context, verdicts)
    for label, verdict in [*([("recorded", recorded[-1])] if recorded else []), ("replayed", decisive)]:
        context.line(f"{label}  {verdict.message}", STYLES[verdict.outcome.value])
    for finding in decisive.findings:
        context.line(f"  {finding.message}", STYLES[finding.outcome.value])


def _record(context: Context, name: str) -> Json:
    """Read the record from the file `name` if it exists, otherwise from the server."""
    file = Path(name)
    if file.suffix == ".json" and file.is_file():
        try:
            record: Json = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise CommandError(f"Cannot read {file}: {error}.", ExitCode.USAGE) from error
        return record
    client = context.reader()
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


def _print_evidence(context: Context, verdicts: Sequence[Verdict]) -> None:
    start = verdicts[0].at
    rows = [
        {
            "seconds": f"{verdict.at - start:.0f}",
            "outcome": verdict.outcome.value,
            "evidence": "–" if verdict.evidence is None else f"{verdict.evidence:.3g}",
            "threshold": "–" if verdict.threshold is None else f"{verdict.threshold:.3g}",
        }
        for verdict in _thinned(verdicts)
    ]
    context.table(("seconds", "outcome", "evidence", "threshold"), rows, lambda row: STYLES[str(row["outcome"])])


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
    result = compare.compare(grids.load_grid(grid), run_options, context.notice)
    if context.as_json(output):
        context.print_json(result.rows())
    else:
        for line in result.text().splitlines():
            context.line(line)
