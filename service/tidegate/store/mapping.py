"""Conversion between the core's dataclasses and table rows.

A stored value with an unknown or a missing field is an error: pydantic raises `ValidationError`, which the store turns into
a `StoreError`. A field with a default may be missing, so that rows written by an older release can still be read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter
from sqlalchemy import Row

from tidegate.analysis.measurement import Measurement
from tidegate.analysis.verdict import Verdict
from tidegate.core.container import Container
from tidegate.core.model import Event, Release, Rollout, RolloutKind, Service, Signal
from tidegate.core.phases import Phase
from tidegate.core.records import (
    AuditEntry,
    DeploymentPlan,
    Drift,
    Freeze,
    Idempotency,
    ReleaseRow,
    ServiceRow,
    Token,
    VerdictRow,
)
from tidegate.core.waits import WaitingFor

T = TypeVar("T")
AnyRow = Row[Any]
Values = dict[str, Any]  # by column

# JSON has no NaN and infinity, and PostgreSQL rejects them: they are stored as strings.
CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="strings", hide_input_in_errors=True)


class Codec(Generic[T]):
    """Converts one type to JSON data and back.

    The type is wrapped in a tuple: pydantic accepts a configuration for a tuple and applies it to the items, but not for a
    plain dataclass, and the core does not depend on pydantic.
    """

    def __init__(self, adapter: TypeAdapter[tuple[T]]) -> None:
        self._adapter = adapter

    def encode(self, value: T) -> Any:
        """The value as JSON data: dicts, lists, strings, numbers, None."""
        return json.loads(self._adapter.dump_json((value,)))[0]

    def text(self, value: T) -> bytes:
        """The value as JSON text."""
        return self._adapter.dump_json((value,))

    def of_text(self, text: bytes) -> T:
        """The value; raises pydantic's `ValidationError` for unknown, missing or mistyped fields."""
        return self._adapter.validate_json(text)[0]

    def decode(self, data: Any) -> T:
        """The value; raises pydantic's `ValidationError` for unknown, missing or mistyped fields."""
        return self._adapter.validate_python((data,))[0]


ROLLOUT = Codec(TypeAdapter(tuple[Rollout], config=CONFIG))
SERVICE = Codec(TypeAdapter(tuple[Service], config=CONFIG))
RELEASE = Codec(TypeAdapter(tuple[Release], config=CONFIG))
VERDICT = Codec(TypeAdapter(tuple[Verdict], config=CONFIG))
MEASUREMENT = Codec(TypeAdapter(tuple[Measurement], config=CONFIG))
SIGNAL = Codec(TypeAdapter(tuple[Signal], config=CONFIG))
EVENT = Codec(TypeAdapter(tuple[Event], config=CONFIG))
WAITING_FOR = Codec(TypeAdapter(tuple[WaitingFor], config=CONFIG))
DRIFT = Codec(TypeAdapter(tuple[Drift], config=CONFIG))
FREEZE = Codec(TypeAdapter(tuple[Freeze], config=CONFIG))
AUDIT = Codec(TypeAdapter(tuple[AuditEntry], config=CONFIG))
PLAN = Codec(TypeAdapter(tuple[DeploymentPlan], config=CONFIG))
TOKEN = Codec(TypeAdapter(tuple[Token], config=CONFIG))

#: The columns of a rollout that its engine writes.
ENGINE_COLUMNS = (
    "plan", "policy", "digest", "phase", "cursor", "reason", "step_started_at", "starting_at", "traffic_confirmed_at",
    "step_ready_at", "approval_since", "unrouted_at", "health", "replaced", "extensions", "question", "verdict",
    "backend", "next_listen", "waiting_for", "tasks", "group_point", "finished", "preexisting", "rollback_cause",
)  # fmt: skip
_ROLLOUT_FIELDS = frozenset(Rollout.__dataclass_fields__)
_RELEASE_FIELDS = frozenset(Release.__dataclass_fields__)


def _select_fields(row: AnyRow, fields: frozenset[str]) -> Mapping[str, Any]:
    """The columns of the row that are fields of the dataclass."""
    return {name: value for name, value in row._mapping.items() if name in fields}


def rollout_values(rollout: Rollout) -> Values:
    """The columns that come from the dataclass."""
    values: Values = ROLLOUT.encode(rollout)
    return values


def engine_values(rollout: Rollout) -> Values:
    """The columns that a save writes."""
    values = rollout_values(rollout)
    return {name: values[name] for name in ENGINE_COLUMNS}


def rollout_of(row: AnyRow) -> Rollout:
    """From a row of `rollouts`."""
    return ROLLOUT.decode(_select_fields(row, _ROLLOUT_FIELDS))


def service_values(service: Service) -> Values:
    """The columns that come from the definition."""
    return {
        "key": service.key,
        "environment": service.environment,
        "backend": None if service.backend is None else service.backend.name,
        "definition": SERVICE.encode(service),
    }


def definition_values(service: Service) -> Any:
    """The definition without its container, whose values may be secrets: the release of the rollout has it."""
    return SERVICE.encode(replace(service, container=Container(service.container.port)))


def service_of(row: AnyRow) -> ServiceRow:
    """From a row of `services`, joined with its live rollout: id and kind as `rollout` and `rollout_kind`, and the columns
    `waiting_for` and `health`."""
    drift = None if row.drift is None else DRIFT.decode(row.drift)
    repairing = row.rollout_kind == RolloutKind.REPAIR.value
    waiting = None if row.waiting_for is None else WAITING_FOR.decode(row.waiting_for)
    unhealthy = sum(1 for health in (row.health or {}).values() if health["unhealthy_since"] is not None)
    service = SERVICE.decode(row.definition)
    return ServiceRow(service, row.version, row.live, row.rollout, repairing, drift, waiting, unhealthy)


def release_values(release: Release) -> Values:
    """All columns but `number` and the times."""
    values: Values = RELEASE.encode(release)
    return values


def release_of(row: AnyRow) -> ReleaseRow:
    """From a row of `releases`."""
    release = RELEASE.decode(_select_fields(row, _RELEASE_FIELDS))
    found = row.quarantined_at, row.quarantined_by, row.finding
    return ReleaseRow(release, row.number, row.created, row.good_at, *found)


def verdict_values(rollout: Rollout, verdict: Verdict) -> Values:
    """A row of `verdicts`, for the present step."""
    return {
        "rollout": rollout.id,
        "step": rollout.cursor,
        "phase": rollout.phase.value,
        "verdict": VERDICT.encode(verdict),
    }


def verdict_of(row: AnyRow) -> VerdictRow:
    """From a row of `verdicts`."""
    return VerdictRow(row.step, Phase(row.phase), VERDICT.decode(row.verdict))


def measurement_values(rollout: str, measurement: Measurement) -> Values:
    """A row of `measurements`. Compression shrinks a measurement, many similar numbers, to about a tenth."""
    return {"rollout": rollout, "measurement": zlib.compress(MEASUREMENT.text(measurement))}


def measurement_of(row: AnyRow) -> Measurement:
    """From a row of `measurements`."""
    return MEASUREMENT.of_text(zlib.decompress(row.measurement))


def signal_values(rollout: str, signal: Signal) -> Values:
    """A row of `signals`; the database assigns the number."""
    return {"rollout": rollout, **SIGNAL.encode(signal)}


def signal_of(row: AnyRow) -> Signal:
    """From a row of `signals`."""
    return SIGNAL.decode(_select_fields(row, frozenset(Signal.__dataclass_fields__)))


def event_values(rollout: str, event: Event, number: int) -> Values:
    """A row of `events`."""
    return {**EVENT.encode(event), "rollout": rollout, "number": number}


def event_of(row: AnyRow) -> Event:
    """From a row of `events`."""
    return EVENT.decode(_select_fields(row, frozenset(Event.__dataclass_fields__)))


def token_values(token: Token) -> Values:
    """A row of `tokens`."""
    values: Values = TOKEN.encode(token)
    return values


def token_of(row: AnyRow) -> Token:
    """From a row of `tokens`."""
    return TOKEN.decode(_select_fields(row, frozenset(Token.__dataclass_fields__)))


def freeze_values(freeze: Freeze) -> Values:
    """A row of `freezes`."""
    values: Values = FREEZE.encode(freeze)
    return values


def freeze_of(row: AnyRow) -> Freeze:
    """From a row of `freezes`."""
    return FREEZE.decode(_select_fields(row, frozenset(Freeze.__dataclass_fields__)))


def audit_values(entry: AuditEntry) -> Values:
    """A row of `audit`; the database assigns the number."""
    values: Values = AUDIT.encode(entry)
    return {name: value for name, value in values.items() if name != "number"}


def audit_of(row: AnyRow) -> AuditEntry:
    """From a row of `audit`."""
    return AUDIT.decode(_select_fields(row, frozenset(AuditEntry.__dataclass_fields__)))


def idempotency_of(row: AnyRow) -> Idempotency:
    """From a row of `idempotency`."""
    return Idempotency(row.scope, row.key, row.digest, row.status, row.response)
