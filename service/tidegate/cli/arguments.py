"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RolloutName = Annotated[str, typer.Argument(metavar="ROLLOUT|SERVICE", help="A rollout's id, or ENVIRONMENT/SERVICE.")]
ServiceName = Annotated[str, typer.Argument(metavar="SERVICE", help="ENVIRONMENT/SERVICE.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; kept with the rollout.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow until it ends, or only ask for it.")]
ComposeFile = Annotated[Path | None, typer.Option("--file", "-f", help="The Compose file; else the stored definition.")]
Variables = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A variable of the Compose file.")]
