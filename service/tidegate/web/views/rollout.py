"""A rollout and its events as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, Field

from tidegate.core.hooks import TaskRun, TaskState
from tidegate.core.model import (
    Event,
    Gate,
    Rollout,
    RolloutKind,
    Signal,
    Step,
)
from tidegate.core.phases import Phase
from tidegate.web.views.approval import ApprovalView, approval_view
from tidegate.web.views.timestamps import Timestamp, optional_timestamp, timestamp
from tidegate.web.views.verdict import VerdictView


class GateView(BaseModel):
    """What must hold to leave a step."""

    bake_seconds: float
    analyzed: bool = Field(description="Whether the checks are judged before the step is left.")
    approval: str = Field(description="The approval that is waited for; empty: none.")
    surplus_gone: bool = Field(description="Whether it waits until no surplus instance is left.")
    keep_old: bool = Field(default=False, description="The bake only keeps the old release warm; promote ends it.")
    before: list[str] = Field(default=[], description="Tasks that come before anything of the step.")
    tasks: list[str] = Field(default=[], description="Tasks that are done once it stands.")
    group_point: int = Field(default=0, description="The point at which the rollouts of a group wait for each other.")


class StepView(BaseModel):
    """One desired state: how many of each release exist, how many take traffic, and the gate."""

    fleet: dict[str, int]
    route: dict[str, int]
    gate: GateView
    preview: dict[str, int] = Field(default={}, description="How many of each are reached by the preview.")
    share: float | None = Field(default=None, description="Of the new requests, for the new release; null: by instances.")


class PreviewView(BaseModel):
    """How the new release is reached before it takes traffic."""

    listen: str
    header: str


class TaskView(BaseModel):
    """A hook, or the comparison of what both releases promise."""

    name: str
    state: TaskState
    started_at: Timestamp
    ended_at: Timestamp | None
    message: str


class MarksView(BaseModel):
    """When the present step was entered, first matched by the proxy, stood, and began to wait for a person."""

    step_started: Timestamp | None
    traffic_confirmed: Timestamp | None
    step_ready: Timestamp | None
    waiting_for_approval: Timestamp | None


class BuildView(BaseModel):
    """The build that asked."""

    job: str
    number: int
    url: str


class RolloutView(BaseModel):
    """One attempt to move a service from one release to another."""

    id: str
    service: str = Field(description="environment/service")
    old: str | None = Field(description="The release before; null when nothing ran.")
    new: str
    kind: RolloutKind = Field(description="Whether it leads to a release, repairs what serves, or changes its number.")
    phase: Phase
    reason: str = Field(description="Why it is in this phase.")
    paused: bool
    cursor: int = Field(description="The present step, from 0.")
    steps: list[StepView]
    batch: int | None = Field(description="The batch that the present step brings, from 1; null on the way back.")
    batches: int | None = Field(description="How many there are in all.")
    waiting_for: Literal["approval", "decision"] | None = Field(
        description="What a person is waited for: `approval` (a hold of the plan) or `decision` (an inconclusive verdict,"
        " or a FAIL with failure_action pause). Both are given with promote, or turned down with rollback."
    )
    approval: ApprovalView | None = Field(description="While a person is waited for.")
    forced: bool = Field(description="Asked for in spite of a freeze and of a quarantine.")
    image: str = Field(description="Of the new release.")
    digest: str = Field(description="What the image was resolved to; empty until then.")
    build: BuildView | None
    tasks: list[TaskView] = Field(description="Those that were begun, in their order.")
    preview: PreviewView | None
    group: str = Field(description="Of the rollouts that are promoted and turned back as one; empty: it is alone.")
    marks: MarksView
    extensions: int = Field(description="How often the bake was prolonged because the verdict was inconclusive.")
    verdict: VerdictView | None = Field(description="Of the present step.")
    created: Timestamp
    finished: Timestamp | None
    requested_by: str
    requested_via: str = Field(description="The token that vouched for this person; empty: the token asked for itself.")
    version: int = Field(description="Grows with each change; the ETag.")
    links: dict[str, str]


class RolloutsView(BaseModel):
    """A page of rollouts, the newest first."""

    rollouts: list[RolloutView]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


class EventView(BaseModel):
    """A numbered fact in a rollout's story."""

    number: int
    kind: str
    message: str
    at: Timestamp
    data: dict[str, Any]


class EventsView(BaseModel):
    """Events, oldest first."""

    events: list[EventView]
    last: int = Field(description="The number of the last event; send it as `after` to get the next ones.")
    reached: bool = Field(description="Whether the rollout has reached `until` and `events` holds the last event.")


def rollout_view(rollout: Rollout, signals: Sequence[Signal] = ()) -> RolloutView:
    """`signals` are needed only while the rollout is held: an approval that was given is not waited for."""
    approval = approval_view(rollout, signals)
    batch, batches = _batches(rollout)
    here = f"/v1/rollouts/{rollout.id}"
    return RolloutView(
        id=rollout.id,
        service=rollout.service,
        old=rollout.old,
        new=rollout.new,
        kind=rollout.kind,
        phase=rollout.phase,
        reason=rollout.reason,
        paused=rollout.paused,
        cursor=rollout.cursor,
        steps=[_step(step) for step in rollout.plan],
        batch=batch,
        batches=batches,
        waiting_for=approval and approval.kind,
        approval=approval,
        forced=rollout.forced,
        image=rollout.image,
        digest=rollout.digest,
        build=rollout.build and BuildView(**asdict(rollout.build)),
        tasks=[_task(task) for task in rollout.tasks],
        preview=rollout.backend.preview and PreviewView(**asdict(rollout.backend.preview)),
        group=rollout.group,
        marks=MarksView(
            step_started=optional_timestamp(rollout.step_started_at),
            traffic_confirmed=optional_timestamp(rollout.traffic_confirmed_at),
            step_ready=optional_timestamp(rollout.step_ready_at),
            waiting_for_approval=optional_timestamp(rollout.approval_since),
        ),
        extensions=rollout.extensions,
        verdict=rollout.verdict and VerdictView.of(rollout.verdict),
        created=timestamp(rollout.created),
        finished=optional_timestamp(rollout.finished),
        requested_by=rollout.requested_by,
        requested_via=rollout.requested_via,
        version=rollout.version,
        links={
            "self": here,
            "events": f"{here}/events",
            "report": f"{here}/report",
            "service": f"/v1/services/{rollout.service}",
        },
    )


def _task(run: TaskRun) -> TaskView:
    return TaskView(
        name=run.name,
        state=run.state,
        started_at=timestamp(run.started_at),
        ended_at=optional_timestamp(run.ended_at),
        message=run.message,
    )


def _step(step: Step) -> StepView:
    preview, share = dict(step.preview), step.share
    return StepView(fleet=dict(step.fleet), route=dict(step.route), gate=_gate(step.gate), preview=preview, share=share)


def _gate(gate: Gate) -> GateView:
    return GateView(
        bake_seconds=gate.bake_seconds,
        analyzed=gate.analyzed,
        approval=gate.approval,
        surplus_gone=gate.surplus_gone,
        keep_old=gate.keeps_old,
        before=list(gate.tasks_before),
        tasks=list(gate.tasks),
        group_point=gate.group_point,
    )


def _batches(rollout: Rollout) -> tuple[int | None, int | None]:
    """The present batch and how many there are. Steps that only clear up, or make room, bring none."""
    if rollout.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        return None, None
    bring = [
        number
        for number, step in enumerate(rollout.plan)
        if step.route.get(rollout.new) and (not step.gate.surplus_gone or number == 0)
    ]
    return sum(1 for number in bring if number <= rollout.cursor), len(bring)


def event_view(event: Event) -> EventView:
    """From the value."""
    return EventView(
        number=event.number, kind=event.kind, message=event.message, at=timestamp(event.at), data=dict(event.data)
    )
