"""Draining and tasks in a report. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidegate.clock import Time
from tidegate.core.event_kinds import EventKind
from tidegate.core.hooks import TaskState
from tidegate.core.model import Event
from tidegate.core.report.traffic import integer, sequence


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What was in flight on the instances that left the route in a step: `finished` until it ended by itself, `closed` when
    its time was over; `tunnels_…` are the upgraded connections among them. None where the proxy cannot tell."""

    finished: int | None
    closed: int | None
    upgraded_finished: int
    upgraded_closed: int


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A hook or a comparison: how it ended, what it printed, what it found."""

    name: str
    state: TaskState
    started_at: Time
    seconds: float | None  # None: it still runs
    message: str
    log: str
    changes: tuple[str, ...]


def drain_report(part: Sequence[Event]) -> DrainReport | None:
    """Of the events of one step; None where nothing left the route."""
    left, closed = (
        _event_data(part, EventKind.TRAFFIC_CONFIRMED, "draining"),
        _event_data(part, EventKind.STOPPED, "closed"),
    )
    if not left and not closed:
        return None
    before, after = (_sum_known([each.get("connections") for each in result]) for result in (left, closed))
    tunnels, cut = (sum(integer(each.get("tunnels")) for each in result) for result in (left, closed))
    waited = None if before is None or after is None else max(0, before - after)
    return DrainReport(waited, after, max(0, tunnels - cut), cut)


def _event_data(part: Sequence[Event], kind: EventKind, name: str) -> list[Mapping[str, object]]:
    result = [event.data.get(name) for event in part if event.kind == kind]
    return [each for each in result if isinstance(each, Mapping)]


def _sum_known(counts: Sequence[object]) -> int | None:
    """The sum; one that is not known makes it unknown."""
    return None if None in counts else sum(integer(count) for count in counts)


def task_reports(events: Sequence[Event]) -> tuple[TaskReport, ...]:
    """Each task that started, in order. An engine that took over records an end once."""
    task_reports: dict[str, TaskReport] = {}
    for event in events:
        if event.kind not in (EventKind.TASK_STARTED, EventKind.TASK_ENDED):
            continue
        name, ended = str(event.data.get("task")), event.kind == EventKind.TASK_ENDED
        seconds = event.data.get("seconds")
        taken = float(seconds) if isinstance(seconds, int | float) else 0.0
        begun = task_reports[name].started_at if name in task_reports else event.at - taken
        changes = tuple(str(each) for each in sequence(event, "changes"))
        state = TaskState(str(event.data.get("state")))
        log = str(event.data.get("log", ""))
        task_reports[name] = TaskReport(name, state, begun, taken if ended else None, event.message, log, changes)
    return tuple(task_reports.values())
