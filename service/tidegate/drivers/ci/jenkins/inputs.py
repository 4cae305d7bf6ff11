"""The input steps of a build that wait for a person, and how to answer them after a decision elsewhere. Pure.

The pipeline names its inputs `Tidegate-<rollout>-<step>-<binding>`; all others are ignored. The description of the reason
ends with `Evidence version <evidence id>`, by which an input that shows outdated evidence is recognised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tidegate.core.approvals import awaited_answer, evidence_id
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import SignalKind
from tidegate.core.phases import Phase
from tidegate.ports import Notice

#: The `tree` parameter of the request for a build's inputs.
TREE = "actions[_class,executions[id,settled,input[parameters[name,description]]]]"
REASON = "reason"  # name of the parameter for the reason, in any case
MAX_REASON_CHARS = 2_000
#: How each of our reasons begins. The library takes no such answer for an approval, whatever the rollout waits for.
CLOSED = "Tidegate closed this input: "
_OURS = re.compile(r"Tidegate-(.+)-(\d+)-[0-9a-f]+")
_EVIDENCE = re.compile(r"\bEvidence version ([0-9a-f]{8})\s*$")

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
    ASK_AGAIN = "ask again"  # proceed with a reason that makes the library open the input again


@dataclass(frozen=True, slots=True)
class PendingInput:
    """A rollout's input step without an answer. `step`: the rollout step that it asks about, from 0. `evidence`: the
    `evidence_id` of what it shows; empty if the input has none."""

    id: str
    step: int
    parameters: tuple[str, ...] = ()
    evidence: str = ""

    @property
    def reason_parameter(self) -> str:
        """The name of the parameter for a reason; empty if the input has none."""
        return next((name for name in self.parameters if name.lower() == REASON), "")


def find_pending_inputs(build: Mapping[str, Any], rollout: str) -> tuple[PendingInput, ...]:
    """The rollout's pending inputs in Jenkins' description of a build."""
    pending = []
    for action in _dicts(build.get("actions")):
        for execution in _dicts(action.get("executions")):
            name = _OURS.fullmatch(str(execution.get("id")))
            if name and name[1] == rollout and not execution.get("settled"):
                input_step = execution.get("input")
                parameters = tuple(_dicts(input_step.get("parameters"))) if isinstance(input_step, dict) else ()
                names = tuple(str(one.get("name")) for one in parameters)
                pending.append(PendingInput(name[0], int(name[2]), names, _evidence(parameters)))
    return tuple(pending)


def asked_rollouts(build: Mapping[str, Any]) -> frozenset[str]:
    """The rollouts with a pending input in Jenkins' description of a build."""
    names = (
        _OURS.fullmatch(str(execution.get("id")))
        for action in _dicts(build.get("actions"))
        for execution in _dicts(action.get("executions"))
        if not execution.get("settled")
    )
    return frozenset(name[1] for name in names if name is not None)


def _evidence(parameters: Iterable[Mapping[str, Any]]) -> str:
    shown = (_EVIDENCE.search(str(one.get("description") or "")) for one in parameters)
    return next((match[1] for match in shown if match is not None), "")


def choose_answer(waiting: PendingInput, notice: Notice) -> InputAnswer | None:
    """The answer that follows from the rollout's state; None while a person has to answer.

    An input about the rollout's current step is only answered to show other evidence, while an approval is pending: after
    an approval elsewhere, the event of the next step answers it.
    """
    rollout = notice.rollout
    if rollout.phase is Phase.SUCCEEDED:
        return InputAnswer.PROCEED
    if rollout.phase in ROLLBACK_PHASES or notice.event.kind in ROLLBACK_EVENTS:
        return InputAnswer.ABORT
    if waiting.step < rollout.cursor:
        return InputAnswer.PROCEED
    is_asked = waiting.step == rollout.cursor and awaited_answer(rollout, notice.signals) is not None
    if is_asked and waiting.evidence and waiting.evidence != evidence_id(rollout, notice.signals):
        return InputAnswer.ASK_AGAIN
    return None


def format_reason(waiting: PendingInput, notice: Notice, answer: InputAnswer) -> str:
    """The reason for the answer, such as `approved by NAME: REASON` for everybody who approved the step elsewhere."""
    if answer is InputAnswer.ASK_AGAIN:
        return f"{CLOSED}the evidence has changed"
    given = (
        signal for signal in notice.signals if signal.kind is SignalKind.PROMOTE and signal.step in (None, waiting.step)
    )
    names = [f"{signal.by}: {signal.reason}" if signal.reason else signal.by for signal in given]
    text = f"{CLOSED}approved by {'; '.join(names)}" if names else f"{CLOSED}decided elsewhere: {notice.event.message}"
    return text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 1] + "…"


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    """The objects in a list; nothing if the value is not a list."""
    return (item for item in (value if isinstance(value, list) else ()) if isinstance(item, dict))
