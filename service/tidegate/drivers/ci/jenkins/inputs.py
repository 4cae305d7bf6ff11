"""The input steps of a build that wait for a person, and how to answer them after a decision elsewhere. Pure.

The pipeline names its inputs `Tidegate-<rollout>-<step>-<approvals so far>`; all others are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout, SignalKind
from tidegate.core.phases import Phase
from tidegate.ports import Notice

#: The `tree` parameter of the request for a build's inputs.
TREE = "actions[_class,executions[id,settled,input[parameters[name]]]]"
REASON = "reason"  # name of the parameter for the reason, in any case
MAX_REASON_CHARS = 500

ROLLBACK_PHASES = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.REFUSED, Phase.FAILED})
ROLLBACK_EVENTS = frozenset(
    {
        EventKind.ROLLBACK_REQUESTED,
        EventKind.ROLLING_BACK,
        EventKind.ROLLED_BACK,
        EventKind.REFUSED,
        EventKind.FAILED,
    }
)


class InputAnswer(StrEnum):
    """The answer to an input step."""

    PROCEED = "proceed"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class PendingInput:
    """A rollout's input step without an answer. `step`: the rollout step that it asks about, from 0."""

    id: str
    step: int
    parameters: tuple[str, ...] = ()

    @property
    def reason_parameter(self) -> str:
        """The name of the parameter for a reason; empty if the input has none."""
        return next((name for name in self.parameters if name.lower() == REASON), "")


def find_pending_inputs(build: Mapping[str, Any], rollout: str) -> tuple[PendingInput, ...]:
    """The rollout's pending inputs in Jenkins' description of a build."""
    ours = re.compile(rf"Tidegate-{re.escape(rollout)}-(\d+)-\d+")
    pending = []
    for action in _dicts(build.get("actions")):
        for execution in _dicts(action.get("executions")):
            name = ours.fullmatch(str(execution.get("id")))
            if name and not execution.get("settled"):
                input_step = execution.get("input")
                parameters = _dicts(input_step.get("parameters")) if isinstance(input_step, dict) else ()
                pending.append(PendingInput(name[0], int(name[1]), tuple(str(one.get("name")) for one in parameters)))
    return tuple(pending)


def choose_answer(waiting: PendingInput, rollout: Rollout, event: Event) -> InputAnswer | None:
    """The answer that follows from the rollout's state; None while a person has to answer.

    An input about the rollout's current step is never answered, even while no approval is pending: one may become pending
    again, and the pipeline would take our answer for it. The event of the next step answers the input.
    """
    if rollout.phase is Phase.SUCCEEDED:
        return InputAnswer.PROCEED
    if rollout.phase in ROLLBACK_PHASES or event.kind in ROLLBACK_EVENTS:
        return InputAnswer.ABORT
    return InputAnswer.PROCEED if waiting.step < rollout.cursor else None


def format_reason(waiting: PendingInput, notice: Notice) -> str:
    """The reason for the answer: `approved by NAME: REASON` for everybody who approved the step elsewhere."""
    given = (
        signal for signal in notice.signals if signal.kind is SignalKind.PROMOTE and signal.step in (None, waiting.step)
    )
    names = [f"{signal.by}: {signal.reason}" if signal.reason else signal.by for signal in given]
    text = f"approved by {'; '.join(names)}" if names else f"decided outside Jenkins: {notice.event.message}"
    return text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 1] + "…"


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    """The objects in a list; nothing if the value is not a list."""
    return (item for item in (value if isinstance(value, list) else ()) if isinstance(item, dict))
