"""Views of rollouts and their events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import AliasPath, Field

from tidegate.core.approvals import approval_wait
from tidegate.core.build import BuildEndPolicy
from tidegate.core.hooks import TaskState
from tidegate.core.model import Rollout, RolloutKind, Signal
from tidegate.core.phases import Phase
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.waits import WaitKind
from tidegate.web.views.approval import ApprovalView, approval_view
from tidegate.web.views.timestamps import Timestamp, View
from tidegate.web.views.verdict import VerdictView


class GateView(View):
    """The conditions for leaving a step."""

    bake_seconds: float
    analyzed: bool = Field(description="Whether the checks must pass.")
    approval: str = Field(description="The name of the required approval; empty if none.")
    surplus_gone: bool = Field(description="Whether all surplus instances must be gone.")
    keep_old: bool = Field(
        validation_alias="keeps_old", description="The bake only keeps the old release running; promote ends it."
    )
    before: list[str] = Field(validation_alias="tasks_before", description="Tasks to run before the step.")
    tasks: list[str] = Field(description="Tasks to run once the step is ready.")
    group_point: int = Field(description="Where the rollouts of a group wait for each other, from 1; 0: they do not.")


class StepView(View):
    """One desired state: the number of instances of each release that exist and that receive traffic, and the gate."""

    fleet: dict[str, int]
    route: dict[str, int] | None = Field(description="Null for a service without a proxy: all its instances work.")
    gate: GateView
    preview: dict[str, int] = Field(description="The number of instances of each release behind the preview.")
    share: float | None = Field(description="The share of new requests for the new release, in [0, 1]; null: by instances.")


class PreviewView(View):
    """How to reach the new release before it receives traffic."""

    listen: str
    header: str


class TaskView(View):
    """A hook, or the comparison of both releases' OpenAPI documents."""

    name: str
    state: TaskState
    started_at: Timestamp
    ended_at: Timestamp | None
    message: str


class MarksView(View):
    """When the current step started, its traffic was confirmed, it became ready, and it began to wait for a person."""

    step_started: Timestamp | None = Field(validation_alias="step_started_at")
    traffic_confirmed: Timestamp | None = Field(validation_alias="traffic_confirmed_at")
    step_ready: Timestamp | None = Field(validation_alias="step_ready_at")
    waiting_for_approval: Timestamp | None = Field(validation_alias="approval_since")


class BuildView(View):
    """The CI build that requested the rollout."""

    job: str
    number: int
    url: str
    on_end: BuildEndPolicy | None = Field(
        default=None,
        description="What happens to the rollout when the build is over first; null: `on_build_end` of the environment.",
    )


class WaitingForView(View):
    """What a rollout waits for."""

    kind: WaitKind = Field(
        description="What ends the wait. A person answers `approval` (required by the plan) and `decision` (after an"
        " inconclusive verdict, or a FAIL with failure_action pause): promote accepts, rollback refuses."
    )
    reason: str
    since: Timestamp
    until: Timestamp | None = Field(description="When the wait ends at the latest; null if it has no limit.")
    then: str = Field(description="What happens at `until`; if that is null, what ends the wait.")


class FieldNoteView(View):
    """A key of the Compose file that has another effect than with `docker compose`, or none."""

    field: str
    message: str


class RolloutFields(View):
    """The parts of a rollout that are shown as they are stored."""

    id: str
    service: str = Field(description="environment/service")
    old: str | None = Field(description="The previous release; null for the first one.")
    new: str
    kind: RolloutKind = Field(
        description="Whether it deploys a release, repairs the live one, or changes its number of instances."
    )
    phase: Phase
    reason: str = Field(description="Why the rollout is in this phase.")
    rollback_cause: RollbackCause | None = Field(
        description="What started the rollback; checks, health, hook and comparison put the release into quarantine."
    )
    paused: bool
    cursor: int = Field(description="The index of the current step, from 0.")
    steps: list[StepView] = Field(validation_alias="plan")
    forced: bool = Field(description="Requested despite a freeze or a quarantine.")
    image: str = Field(description="The image of the new release.")
    digest: str = Field(description="The digest of the image; empty until it is resolved.")
    build: BuildView | None
    warnings: list[str] = Field(
        description="What is allowed in the service's definition, but needs attention; and checks without data."
    )
    notes: list[FieldNoteView] = Field(description="How the Compose file is honoured otherwise than by `docker compose`.")
    tasks: list[TaskView] = Field(description="The tasks that have started, in order.")
    preview: PreviewView | None = Field(None, validation_alias=AliasPath("backend", "preview"))
    group: str = Field(description="The group of rollouts that are promoted and rolled back together; empty if none.")
    extensions: int = Field(description="How often the bake was extended after an inconclusive verdict.")
    verdict: VerdictView | None = Field(description="The latest verdict of the current step.")
    created: Timestamp
    finished: Timestamp | None
    requested_by: str
    requested_via: str = Field(description="The token that vouched for the person; empty if the token is the requester.")
    version: int = Field(description="Increases with each change; the ETag.")


class RolloutView(RolloutFields):
    """A rollout of a service from one release to another."""

    batch: int | None = Field(description="The batch that the current step brings, from 1; null during a rollback.")
    batches: int | None = Field(description="The number of batches; null during a rollback.")
    waiting_for: WaitingForView | None = Field(description="What the rollout waits for; null while it does not wait.")
    approval: ApprovalView | None = Field(description="The approval or decision that the rollout waits for.")
    marks: MarksView
    links: dict[str, str]


class RolloutsView(View):
    """A page of rollouts, newest first."""

    rollouts: list[RolloutView]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


class EventView(View):
    """A numbered entry of a rollout's event log."""

    number: int
    kind: str
    message: str
    at: Timestamp
    data: dict[str, Any]


class EventsView(View):
    """Events, oldest first."""

    events: list[EventView]
    last: int = Field(description="The number of the last event; send it as `after` to get the next ones.")
    reached: bool = Field(description="Whether the rollout has reached `until` and `events` holds the last event.")


def rollout_view(rollout: Rollout, signals: Sequence[Signal] = ()) -> RolloutView:
    """The view of a rollout. `signals` are needed only while it waits for approval: they hold those already given."""
    approval = approval_view(rollout, signals)
    batch, batches = _batches(rollout)
    here = f"/v1/rollouts/{rollout.id}"
    return RolloutView(
        **dict(RolloutFields.model_validate(rollout)),
        batch=batch,
        batches=batches,
        waiting_for=_waiting_for(rollout, approval),
        approval=approval,
        marks=MarksView.model_validate(rollout),
        links={
            "self": here,
            "events": f"{here}/events",
            "report": f"{here}/report",
            "service": f"/v1/services/{rollout.service}",
        },
    )


def _waiting_for(rollout: Rollout, approval: ApprovalView | None) -> WaitingForView | None:
    """What the engine recorded; for a person's answer, what the rollout still waits for after the given approvals."""
    waiting = rollout.waiting_for
    if approval is not None and rollout.approval_since is not None:
        waiting = approval_wait(rollout, rollout.approval_since)
    elif waiting is not None and waiting.kind in (WaitKind.APPROVAL, WaitKind.DECISION):
        waiting = None
    return None if waiting is None else WaitingForView.model_validate(waiting)


def _batches(rollout: Rollout) -> tuple[int | None, int | None]:
    """The current batch and the number of batches. Steps that only remove instances bring none."""
    if rollout.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.REFUSED):
        return None, None
    bring = [
        number
        for number, step in enumerate(rollout.plan)
        if step.serving.get(rollout.new) and (not step.gate.surplus_gone or number == 0)
    ]
    return sum(1 for number in bring if number <= rollout.cursor), len(bring)
