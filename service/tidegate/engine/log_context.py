"""What the engine logs: each event of a rollout as one line, with the fields that identify the rollout."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from tidegate.analysis.verdict import Outcome
from tidegate.core.build import Build
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout

logger = structlog.get_logger("tidegate.engine")

ERRORS = frozenset({EventKind.FAILED, EventKind.INTERNAL_ERROR})
WARNINGS = frozenset(
    {
        EventKind.WARNING,
        EventKind.TRAFFIC_DIVERGED,
        EventKind.INSTANCE_LOG,
        EventKind.OUT_OF_MEMORY,
        EventKind.ROLLING_BACK,
        EventKind.ROLLED_BACK,
        EventKind.DRIVER_ERROR,
        EventKind.TAKEN_OVER,
    }
)
#: The data of an event that its log line has. Other data is large, or comes from applications and may be secret.
DATA = (
    *("step", "phase", "release", "image", "digest", "task", "state", "outcome", "final"),
    *("instance", "name", "restarts", "detail", "seconds", "pause_seconds", "retryable"),
)


def build_label(build: Build | None) -> str:
    """The CI build that requested a rollout, as `job #number`; empty when no build did."""
    return f"{build.job} #{build.number}" if build else ""


def log_fields(rollout: Rollout) -> dict[str, str]:
    """Fields to bind to the logger. Names and numbers only, since other fields of a rollout may contain secrets."""
    environment, _, service = rollout.service.partition("/")
    about = {"rollout": rollout.id, "environment": environment, "service": service}
    return about | ({"build": build_label(rollout.build)} if rollout.build else {})


def log_event(event: Event, **fields: object) -> None:
    """Log an event: its message, its kind, and the data that is short and no secret."""
    failed = event.kind == EventKind.VERDICT and event.data.get("outcome") == Outcome.FAIL
    write = logger.error if event.kind in ERRORS else logger.warning if event.kind in WARNINGS or failed else logger.info
    data = {name: event.data[name] for name in DATA if event.data.get(name) not in (None, "")}
    write(event.message, kind=event.kind, **data, **fields)


def log_events(events: Iterable[Event]) -> None:
    """Log events of the rollout whose fields are bound."""
    for event in events:
        log_event(event)
