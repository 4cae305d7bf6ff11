"""All that a rollout was judged from, as one JSON document: to be judged again anywhere, without a server."""

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
    """What `tidegate analysis replay` reads: values as the judge has them, times in seconds since the epoch."""

    rollout: dict[str, Any]
    measurements: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]


ReplayRecord = tuple[Rollout, tuple[Measurement, ...], tuple[Verdict, ...]]  # the verdicts are those that were told
_ADAPTER: TypeAdapter[ReplayRecord] = TypeAdapter(
    ReplayRecord, config=ConfigDict(extra="forbid", ser_json_inf_nan="strings")
)


def encode(record: ReplayRecord) -> dict[str, Any]:
    """As JSON-able data. Of hooks' variables only the names: the values may be secrets, and nothing is judged from them."""
    driven_rollout, measured, told_verdicts = record
    hooks = {
        name: replace(hook, environment=dict.fromkeys(hook.environment, "…")) for name, hook in driven_rollout.hooks.items()
    }
    rollout, measurements, verdicts = json.loads(
        _ADAPTER.dump_json((replace(driven_rollout, hooks=hooks), measured, told_verdicts))
    )
    return {"rollout": rollout, "measurements": measurements, "verdicts": verdicts}


def decode(data: object) -> ReplayRecord:
    """From what `encode` made. Raises `InvalidSpec` with every mistake."""
    if not isinstance(data, dict) or not {"rollout", "measurements", "verdicts"} <= set(data):
        raise InvalidSpec([Problem("record", "is no record of a rollout: it needs rollout, measurements and verdicts")])
    try:
        return _ADAPTER.validate_python((data["rollout"], data["measurements"], data["verdicts"]))
    except ValidationError as error:
        problems = [Problem(".".join(map(str, mistake["loc"])), mistake["msg"]) for mistake in error.errors()]
        raise InvalidSpec(problems) from None
