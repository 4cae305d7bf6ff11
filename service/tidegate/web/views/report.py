"""The report of a rollout as the API shows it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, Field

from tidegate.core.hooks import TaskState
from tidegate.core.model import Event, Rollout
from tidegate.core.phases import Phase
from tidegate.core.probes import ProbeCounts, ProbeFailure
from tidegate.core.report.build import FailureLog, Report, StepReport, build_report
from tidegate.core.report.drain import DrainReport, TaskReport
from tidegate.core.report.traffic import ProbedCounts, ReleaseTraffic
from tidegate.core.routing import Traffic
from tidegate.ports import Store
from tidegate.web.views.service import TrafficView
from tidegate.web.views.timestamps import Timestamp, optional_timestamp, timestamp
from tidegate.web.views.verdict import VerdictView

PAGE = 500


class ReleaseTrafficView(BaseModel):
    """The requests that the proxy sent to one release. Null where they are not known; `unknown` says why."""

    release: str
    requests: int | None
    lost: int | None
    errors: int | None
    unknown_reason: str


class ProbesView(BaseModel):
    """Requests of the prober."""

    requests: int
    failed: int = Field(description="Not answered in time, or with other than 2xx and 3xx.")
    slow: int = Field(description="Answered, and more slowly than the probe's `slow`.")


class ProbedView(ProbesView):
    """Requests of the prober, as far as events carried them: an engine that vanished took its last ones with it."""

    by_release: dict[str, ProbesView] = Field(description="By what the answer's header named; empty where none did.")


class ProbeFailureView(BaseModel):
    """A request of the prober that failed."""

    at: Timestamp
    reason: str


class DrainedView(BaseModel):
    """What was in flight on the instances that left the route. Null where the proxy cannot tell."""

    finished: int | None = Field(description="Ended by themselves.")
    closed: int | None = Field(description="Still there when their time was over.")
    upgraded_finished: int = Field(description="Of those, upgraded connections, as far as the proxy tells them apart.")
    upgraded_closed: int


class TaskReportView(BaseModel):
    """A hook or a comparison of both releases."""

    name: str
    state: TaskState
    started_at: Timestamp
    seconds: float | None
    message: str
    log: str = Field(description="Of a hook: its last lines.")
    changes: list[str] = Field(description="Of a comparison: what differs, the worst first.")


class BatchView(BaseModel):
    """One step as it happened. Counts are null where they are not known; `unknown` says why."""

    number: int = Field(description="From 1, in the order in which they happened.")
    step: int = Field(description="From 0, in the plan of that time.")
    phase: Phase
    actions: str
    started_at: Timestamp
    traffic_confirmed_at: Timestamp | None
    ready_at: Timestamp | None
    ended_at: Timestamp | None
    seconds: float | None
    switch: TrafficView | None = Field(description="From the step's beginning until all of it stood.")
    bake: TrafficView | None = Field(description="From there until it was left.")
    requests: int | None
    lost: int | None
    errors: int | None
    unknown_reason: str
    by_release: list[ReleaseTrafficView] = Field(description="Of switch and bake. Empty where not known.")
    releases_unknown: str = Field(description="Why nothing is known by release; empty where it is.")
    probed: ProbedView | None = Field(description="Null where nobody probed.")
    drained: DrainedView | None = Field(description="Null where nothing was in flight on what left the route.")


class StepVerdictView(BaseModel):
    """A verdict and the step it was for."""

    step: int
    phase: Phase
    verdict: VerdictView


class FailureView(BaseModel):
    """The last log lines of an instance that failed or never became ready."""

    instance: str
    release: str
    detail: str
    restarts: int
    log: str
    at: Timestamp


class SignalRecordView(BaseModel):
    """What a person or Jenkins asked for."""

    kind: str
    by: str
    reason: str
    at: Timestamp


class NoteView(BaseModel):
    """Trouble with an outside part, a warning, or an engine that took over."""

    kind: str
    message: str
    at: Timestamp


class ReportView(BaseModel):
    """What happened in a rollout and why. Counts and times are null where not known, or not yet."""

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
    seconds: float | None = Field(description="From created to finished.")
    exposed_at: Timestamp | None = Field(description="When the new release first took traffic.")
    decided_at: Timestamp | None = Field(description="When it was decided to turn back or to halt.")
    decision_seconds: float | None = Field(description="From exposed to decided.")
    requests: int | None
    lost: int | None
    errors: int | None
    by_release: list[ReleaseTrafficView] = Field(description="Empty where not known.")
    releases_unknown: str = Field(description="Why nothing is known by release; empty where it is.")
    probed: ProbedView | None = Field(description="Null where nobody probed.")
    probe_failures: list[ProbeFailureView] = Field(description="The first few of each engine that drove the rollout.")
    steps: list[BatchView]
    verdicts: list[StepVerdictView]
    tasks: list[TaskReportView]
    failures: list[FailureView]
    signals: list[SignalRecordView]
    notes: list[NoteView]


def load_report(store: Store, rollout: Rollout) -> Report:
    """From all that is stored of it."""
    return build_report(rollout, list(_events(store, rollout.id)), store.verdicts(rollout.id))


def report_view(report: Report) -> ReportView:
    """From the value."""
    verdicts = [
        StepVerdictView(step=verdict.step, phase=verdict.phase, verdict=VerdictView.of(verdict.verdict))
        for verdict in report.verdicts
    ]
    return ReportView(
        rollout=report.rollout,
        service=report.service,
        old=report.old,
        new=report.new,
        requested_by=report.requested_by,
        phase=report.phase,
        reason=report.reason,
        summary=report.summary,
        created=timestamp(report.created),
        started=optional_timestamp(report.started),
        finished=optional_timestamp(report.finished),
        seconds=report.seconds,
        exposed_at=optional_timestamp(report.exposed_at),
        decided_at=optional_timestamp(report.decided_at),
        decision_seconds=report.decision_seconds,
        requests=report.requests,
        lost=report.lost,
        errors=report.errors,
        by_release=[_release(row) for row in report.by_release],
        releases_unknown=report.releases_unknown,
        probed=_probed(report.probed),
        probe_failures=[_probe_failure(probe_failure) for probe_failure in report.probe_failures],
        steps=[_batch(batch) for batch in report.steps],
        verdicts=verdicts,
        tasks=[_task(task) for task in report.tasks],
        failures=[_failure(failure) for failure in report.failures],
        signals=[
            SignalRecordView(kind=signal.kind, by=signal.by, reason=signal.reason, at=timestamp(signal.at))
            for signal in report.signals
        ],
        notes=[NoteView(kind=note.kind, message=note.message, at=timestamp(note.at)) for note in report.notes],
    )


def _events(store: Store, rollout: str) -> Iterator[Event]:
    """All of them, page by page."""
    after = 0
    while page := store.events(rollout, after, PAGE):
        yield from page
        after = page[-1].number


def _failure(failure: FailureLog) -> FailureView:
    return FailureView(
        instance=failure.instance,
        release=failure.release,
        detail=failure.detail,
        restarts=failure.restarts,
        log=failure.log,
        at=timestamp(failure.at),
    )


def _batch(batch: StepReport) -> BatchView:
    return BatchView(
        number=batch.number,
        step=batch.step,
        phase=batch.phase,
        actions=batch.actions,
        started_at=timestamp(batch.started_at),
        traffic_confirmed_at=optional_timestamp(batch.traffic_confirmed_at),
        ready_at=optional_timestamp(batch.ready_at),
        ended_at=optional_timestamp(batch.ended_at),
        seconds=batch.seconds,
        switch=_traffic(batch.switch),
        bake=_traffic(batch.bake),
        requests=batch.requests,
        lost=batch.lost,
        errors=batch.errors,
        unknown_reason=batch.unknown_reason,
        by_release=[_release(row) for row in batch.by_release],
        releases_unknown=batch.releases_unknown,
        probed=_probed(batch.probed),
        drained=None if batch.drained is None else _drained(batch.drained),
    )


def _task(task: TaskReport) -> TaskReportView:
    return TaskReportView(
        name=task.name,
        state=task.state,
        started_at=timestamp(task.started_at),
        seconds=task.seconds,
        message=task.message,
        log=task.log,
        changes=list(task.changes),
    )


def _drained(drained: DrainReport) -> DrainedView:
    return DrainedView(
        finished=drained.finished,
        closed=drained.closed,
        upgraded_finished=drained.upgraded_finished,
        upgraded_closed=drained.upgraded_closed,
    )


def _release(row: ReleaseTraffic) -> ReleaseTrafficView:
    counts = row.counts
    return ReleaseTrafficView(
        release=row.release,
        requests=None if counts is None else counts.requests,
        lost=None if counts is None else counts.lost,
        errors=None if counts is None else counts.errors,
        unknown_reason=row.unknown_reason,
    )


def _probed(counts: ProbedCounts | None) -> ProbedView | None:
    if counts is None:
        return None
    releases = {name: _probes(each) for name, each in counts.by_release.items()}
    return ProbedView(**dict(_probes(counts.total)), by_release=releases)


def _probes(counts: ProbeCounts) -> ProbesView:
    return ProbesView(requests=counts.requests, failed=counts.failed, slow=counts.slow)


def _probe_failure(failure: ProbeFailure) -> ProbeFailureView:
    return ProbeFailureView(at=timestamp(failure.at), reason=failure.reason)


def _traffic(traffic: Traffic | None) -> TrafficView | None:
    return None if traffic is None else TrafficView(requests=traffic.requests, lost=traffic.lost, errors=traffic.errors)
