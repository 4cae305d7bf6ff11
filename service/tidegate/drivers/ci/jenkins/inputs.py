"""The inputs with which a build waits for a person, and what is to be said to them when all is settled elsewhere. Pure.

The pipeline names its inputs `Tidegate-<rollout>-<step>-<approvals so far>`; whatever has another name is not ours.
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

#: What is asked of a build to find them.
TREE = "actions[_class,executions[id,settled,input[parameters[name]]]]"
REASON = "reason"  # the parameter that takes it, in any case
MAX_REASON_CHARS = 500  # characters

ROLLBACK_PHASES = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED})
ROLLBACK_EVENTS = frozenset({EventKind.ROLLBACK_REQUESTED, EventKind.ROLLING_BACK, EventKind.ROLLED_BACK, EventKind.FAILED})


class InputAnswer(StrEnum):
    """What an input is told."""

    PROCEED = "proceed"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class PendingInput:
    """An input of a rollout that nobody answered yet. `step` is the one that it asks about, from 0."""

    id: str
    step: int
    parameters: tuple[str, ...] = ()

    @property
    def reason_parameter(self) -> str:
        """The parameter that takes a reason; empty when it has none."""
        return next((name for name in self.parameters if name.lower() == REASON), "")


def find_pending_inputs(build: Mapping[str, Any], rollout: str) -> tuple[PendingInput, ...]:
    """Those of this rollout, out of what Jenkins told of a build."""
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
    """What it is to be told, by how the rollout stands now; None while a person has to answer it.

    While the rollout is at the input's own step it is left alone, even when it is not held at this moment: it may be held
    there again, and the pipeline would take our answer for an approval. That it goes on is told by the event that follows.
    """
    if rollout.phase is Phase.SUCCEEDED:
        return InputAnswer.PROCEED
    if rollout.phase in ROLLBACK_PHASES or event.kind in ROLLBACK_EVENTS:
        return InputAnswer.ABORT
    return InputAnswer.PROCEED if waiting.step < rollout.cursor else None


def format_reason(waiting: PendingInput, notice: Notice) -> str:
    """Why this input is proceeded: "approved by NAME: REASON" of all who approved its step, elsewhere."""
    given = (
        signal for signal in notice.signals if signal.kind is SignalKind.PROMOTE and signal.step in (None, waiting.step)
    )
    names = [f"{each.by}: {each.reason}" if each.reason else each.by for each in given]
    text = f"approved by {'; '.join(names)}" if names else f"settled outside of Jenkins: {notice.event.message}"
    return text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 1] + "…"


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    """The objects of a list; nothing when it is none."""
    return (item for item in (value if isinstance(value, list) else ()) if isinstance(item, dict))
