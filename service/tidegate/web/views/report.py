"""View of the report of a rollout."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import AliasPath, Field

from tidegate.core.hooks import TaskState
from tidegate.core.model import Event, Rollout
from tidegate.core.phases import Phase
from tidegate.core.report.build import Report, build_report
from tidegate.store_port import Store
from tidegate.web.views.service import TrafficView
from tidegate.web.views.timestamps import Timestamp, View
from tidegate.web.views.verdict import VerdictView

PAGE = 500


class ReleaseTrafficView(View):
    """Requests that the proxy sent to one release. Null if unknown, for the reason in `unknown_reason`."""

    release: str
    requests: int | None = Field(default=None, validation_alias=AliasPath("counts", "requests"))
    lost: int | None = Field(default=None, validation_alias=AliasPath("counts", "lost"))
    errors: int | None = Field(default=None, validation_alias=AliasPath("counts", "errors"))
    unknown_reason: str


class ProbesView(View):
    """Requests sent by the prober."""

    requests: int
    failed: int = Field(description="No response in time, or a status other than 2xx and 3xx.")
    slow: int = Field(description="Slower than the probe's `slow`.")


class ProbedView(ProbesView):
    """Requests sent by the prober, as far as events report them: the last ones before an engine crash are missing."""

    requests: int = Field(validation_alias=AliasPath("total", "requests"))
    failed: int = Field(
        validation_alias=AliasPath("total", "failed"),
        description="No response in time, or a status other than 2xx and 3xx.",
    )
    slow: int = Field(validation_alias=AliasPath("total", "slow"), description="Slower than the probe's `slow`.")
    by_release: dict[str, ProbesView] = Field(
        description="By the release that the response header names; empty without it."
    )


class ProbeFailureView(View):
    """A failed request of the prober."""

    at: Timestamp
    reason: str


class DrainedView(View):
    """Requests in flight on instances that were removed from the proxy. Null if the proxy does not report them."""

    finished: int | None = Field(description="Completed within the drain timeout.")
    closed: int | None = Field(description="Closed at the drain timeout.")
    upgraded_finished: int = Field(
        description="Of those in `finished`, upgraded connections (WebSocket), if the proxy reports them."
    )
    upgraded_closed: int = Field(description="The same of those in `closed`.")


class TaskReportView(View):
    """A hook, or the comparison of both releases' OpenAPI documents."""

    name: str
    state: TaskState
    started_at: Timestamp
    seconds: float | None
    message: str
    log: str = Field(description="The last log lines of a hook.")
    changes: list[str] = Field(description="The differences found by a comparison, most severe first.")


class BatchView(View):
    """One step as it was executed. Counts are null if unknown, for the reason in `unknown_reason`."""

    number: int = Field(description="From 1, in order of execution.")
    step: int = Field(description="The index in the plan at that time, from 0.")
    phase: Phase
    actions: str
    started_at: Timestamp
    traffic_confirmed_at: Timestamp | None
    ready_at: Timestamp | None
    ended_at: Timestamp | None
    seconds: float | None
    switch: TrafficView | None = Field(description="Traffic from the start of the step until it was ready.")
    bake: TrafficView | None = Field(description="Traffic from then until the end of the step.")
    requests: int | None
    lost: int | None
    errors: int | None
    unknown_reason: str
    by_release: list[ReleaseTrafficView] = Field(description="Requests of switch and bake by release. Empty if unknown.")
    releases_unknown: str = Field(description="Why `by_release` is unknown; empty if it is known.")
    probed: ProbedView | None = Field(description="Null if no prober ran.")
    drained: DrainedView | None = Field(description="Null if no instance that was removed had requests in flight.")


class StepVerdictView(View):
    """A verdict and its step."""

    step: int
    phase: Phase
    verdict: VerdictView


class FailureView(View):
    """The last log lines of an instance that failed or never became ready."""

    instance: str
    release: str
    detail: str
    restarts: int
    log: str
    at: Timestamp


class SignalRecordView(View):
    """A signal from a person or Jenkins."""

    kind: str
    by: str
    reason: str
    at: Timestamp


class NoteView(View):
    """A driver error, a warning, or a takeover by another engine."""

    kind: str
    message: str
    at: Timestamp


class ReportView(View):
    """What happened in a rollout and why. Counts and times are null if unknown or not reached yet."""

    rollout: str
    service: str
    old: str | None
    new: str
    requested_by: str
    phase: Phase
    reason: str
    summary: str
    created: Timestamp
    started: Timestamp | None
    finished: Timestamp | None
    seconds: float | None = Field(description="From `created` to `finished`.")
    is_routed: bool = Field(description="False: the service has no proxy, so there are no requests to count.")
    exposed_at: Timestamp | None = Field(description="When the new release first received traffic, or ran without a proxy.")
    decided_at: Timestamp | None = Field(description="When a rollback or halt was decided.")
    decision_seconds: float | None = Field(description="From `exposed_at` to `decided_at`.")
    requests: int | None
    lost: int | None
    errors: int | None
    by_release: list[ReleaseTrafficView] = Field(description="Empty if unknown.")
    releases_unknown: str = Field(description="Why `by_release` is unknown; empty if it is known.")
    probed: ProbedView | None = Field(description="Null if no prober ran.")
    probe_failures: list[ProbeFailureView] = Field(
        description="The first failures that each engine of the rollout recorded."
    )
    steps: list[BatchView]
    verdicts: list[StepVerdictView]
    tasks: list[TaskReportView]
    failures: list[FailureView]
    signals: list[SignalRecordView]
    notes: list[NoteView]


def load_report(store: Store, rollout: Rollout) -> Report:
    """The report of a rollout, from its stored events and verdicts."""
    return build_report(rollout, list(_events(store, rollout.id)), store.verdicts(rollout.id))


def _events(store: Store, rollout: str) -> Iterator[Event]:
    """All events of the rollout, read in pages."""
    after = 0
    while page := store.events(rollout, after, PAGE):
        yield from page
        after = page[-1].number
