"""What a report tells of draining and of tasks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidegate.core.judge.verdict import Time
from tidegate.core.kinds import Kind
from tidegate.core.model import Event
from tidegate.core.report_counts import integer, sequence
from tidegate.core.tasks import TaskState


@dataclass(frozen=True, slots=True)
class Drained:
    """What was in flight on the instances that left the route in a step: `waited` until it ended by itself, `closed` when
    its time was over; `tunnels_…` are the upgraded connections among them. None where the proxy cannot tell."""

    waited: int | None
    closed: int | None
    tunnels_waited: int
    tunnels_closed: int


@dataclass(frozen=True, slots=True)
class TaskStory:
    """A hook or a comparison: how it ended, what it printed, what it found."""

    name: str
    state: TaskState
    begun: Time
    seconds: float | None  # None: it still runs
    sentence: str
    log: str
    changes: tuple[str, ...]


def drained(part: Sequence[Event]) -> Drained | None:
    """Of the events of one step; None where nothing left the route."""
    left, closed = _told(part, Kind.ROUTED, "draining"), _told(part, Kind.STOPPED, "closed")
    if not left and not closed:
        return None
    before, after = (_in_all([each.get("connections") for each in found]) for found in (left, closed))
    tunnels, cut = (sum(integer(each.get("tunnels")) for each in found) for found in (left, closed))
    waited = None if before is None or after is None else max(0, before - after)
    return Drained(waited, after, max(0, tunnels - cut), cut)


def _told(part: Sequence[Event], kind: Kind, name: str) -> list[Mapping[str, object]]:
    found = [event.data.get(name) for event in part if event.kind == kind]
    return [each for each in found if isinstance(each, Mapping)]


def _in_all(counts: Sequence[object]) -> int | None:
    """The sum; one that is not known makes it unknown."""
    return None if None in counts else sum(integer(each) for each in counts)


def tasks(events: Sequence[Event]) -> tuple[TaskStory, ...]:
    """Each that was begun, in their order; an engine that took over tells of an end only once."""
    found: dict[str, TaskStory] = {}
    for event in events:
        if event.kind not in (Kind.TASK_STARTED, Kind.TASK_ENDED):
            continue
        name, ended = str(event.data.get("task")), event.kind == Kind.TASK_ENDED
        seconds = event.data.get("seconds")
        taken = float(seconds) if isinstance(seconds, int | float) else 0.0
        begun = found[name].begun if name in found else event.at - taken
        changes = tuple(str(each) for each in sequence(event, "changes"))
        state = TaskState(str(event.data.get("state")))
        log = str(event.data.get("log", ""))
        found[name] = TaskStory(name, state, begun, taken if ended else None, event.sentence, log, changes)
    return tuple(found.values())
