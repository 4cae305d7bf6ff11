"""The replay record: all inputs of a rollout's analysis as one JSON document, to repeat the analysis without a server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tidegate.analysis.measurement import Measurement
from tidegate.analysis.verdict import Verdict
from tidegate.core.model import Rollout
from tidegate.errors import InvalidSpec, Problem


class RecordView(BaseModel):
    """The input of `tidegate analysis replay`. Times are in seconds since the epoch."""

    rollout: dict[str, Any]
    measurements: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]


ReplayRecord = tuple[Rollout, tuple[Measurement, ...], tuple[Verdict, ...]]  # the verdicts are those that were recorded
_ADAPTER: TypeAdapter[ReplayRecord] = TypeAdapter(
    ReplayRecord, config=ConfigDict(extra="forbid", ser_json_inf_nan="strings")
)


def encode(record: ReplayRecord) -> dict[str, Any]:
    """The record as JSON data. Values of hook variables are omitted, because they may be secrets."""
    rollout, measurements, verdicts = record
    hooks = {
        name: replace(hook, environment=dict.fromkeys(hook.environment, "…"), container=None)
        for name, hook in rollout.hooks.items()
    }
    values = json.loads(_ADAPTER.dump_json((replace(rollout, hooks=hooks), measurements, verdicts)))
    return dict(zip(("rollout", "measurements", "verdicts"), values, strict=True))


def decode(data: object) -> ReplayRecord:
    """The record in the data that `encode` returned. Raises `InvalidSpec` with every mistake."""
    if not isinstance(data, dict) or not {"rollout", "measurements", "verdicts"} <= set(data):
        raise InvalidSpec(
            [Problem("record", "not a replay record; it must have the keys rollout, measurements and verdicts")]
        )
    try:
        return _ADAPTER.validate_python((data["rollout"], data["measurements"], data["verdicts"]))
    except ValidationError as error:
        problems = [Problem(".".join(map(str, mistake["loc"])), mistake["msg"]) for mistake in error.errors()]
        raise InvalidSpec(problems) from None
