"""What happened in a rollout and why, from its events and verdicts. Pure.

    report(rollout, events, verdicts) -> Report

Requests are counted from the cumulative counters of proxy and prober, which events carry: `traffic`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.event_kinds import EventKind
from tidegate.core.model import Event, Rollout, RolloutKind
from tidegate.core.phases import Phase
from tidegate.core.probes import ProbeFailure, ProbeStats
from tidegate.core.report.drain import DrainReport, TaskReport, drain_report, task_reports
from tidegate.core.report.traffic import (
    EventCounters,
    ProbedCounts,
    ReleaseTraffic,
    integer,
    mapping,
    probe_difference,
    read_counters,
    sequence,
    sum_probes,
    sum_releases,
    sum_traffic,
    traffic_by_release,
    traffic_difference,
)
from tidegate.core.routing import Traffic

TURNING_POINTS = frozenset({EventKind.ROLLING_BACK, EventKind.FAILED})
STEP_ENDS = TURNING_POINTS | {EventKind.STEP_ADVANCED, EventKind.SUCCEEDED, EventKind.ROLLED_BACK}
SIGNAL_KINDS = frozenset(
    {EventKind.PROMOTED, EventKind.ROLLBACK_REQUESTED, EventKind.PAUSED, EventKind.RESUMED, EventKind.VERIFY_REQUESTED}
)
NOTE_KINDS = frozenset(
    {
        EventKind.WARNING,
        EventKind.DRIVER_ERROR,
        EventKind.RECOVERED,
        EventKind.INTERNAL_ERROR,
        EventKind.TAKEN_OVER,
        EventKind.OUT_OF_MEMORY,
    }
)
PHASE_PHRASES = {
    Phase.PENDING: "has not started",
    Phase.RUNNING: "is running",
    Phase.ROLLING_BACK: "is rolling back",
    Phase.SUCCEEDED: "succeeded",
    Phase.ROLLED_BACK: "was rolled back",
    Phase.REFUSED: "was refused",
    Phase.FAILED: "failed and was halted",
}


class StoredVerdict(Protocol):
    """A stored verdict and the step it was for."""

    @property
    def step(self) -> int: ...
    @property
    def phase(self) -> Phase: ...
    @property
    def verdict(self) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step as it happened.

    The switch lasts until the step was ready (`ready_at`), the bake from there to the end of the step. None: not yet, or
    unknown; then `unknown_reason` says why. `requests`, `lost` and `errors` cover both; `routing.Traffic` defines them.
    `by_release` covers both, too; it is empty, with `releases_unknown`, if nothing is known. `probed` is None without a
    prober.
    """

    number: int  # from 1, in the order in which they happened
    step: int  # from 0, in the plan of that time
    phase: Phase
    actions: str
    started_at: Time
    traffic_confirmed_at: Time | None
    ready_at: Time | None
    ended_at: Time | None
    seconds: float | None
    switch: Traffic | None
    bake: Traffic | None
    requests: int | None
    lost: int | None
    errors: int | None
    unknown_reason: str = ""
    by_release: tuple[ReleaseTraffic, ...] = ()
    releases_unknown: str = ""
    probed: ProbedCounts | None = None
    drained: DrainReport | None = None  # None: nothing was in flight on what left the route


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """A verdict with its findings, and the step it was for."""

    step: int
    phase: Phase
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class FailureLog:
    """The last log lines of an instance that failed or never became ready."""

    instance: str  # `release/ordinal`
    release: str
    detail: str
    restarts: int
    log: str
    at: Time


@dataclass(frozen=True, slots=True)
class ReportedSignal:
    """What a person or Jenkins asked for: `promoted`, `rollback_requested`, `paused`, `resumed`, `verify_requested`."""

    kind: str
    by: str
    reason: str
    at: Time


@dataclass(frozen=True, slots=True)
class ReportNote:
    """An error of an external part, a warning, or a takeover by another engine."""

    kind: str
    message: str
    at: Time


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of it. Times are seconds since the epoch; None means not yet, not at all, or not known."""

    rollout: str
    service: str
    old: str | None
    new: str
    requested_by: str
    phase: Phase
    reason: str
    summary: str
    created: Time
    started: Time | None  # when the image was resolved and the first step began
    finished: Time | None
    seconds: float | None  # from created to finished
    exposed_at: Time | None  # when the new release first took traffic, or ran without a proxy
    decided_at: Time | None  # when the rollback or the halt was decided
    decision_seconds: float | None  # from exposed to decided
    is_routed: bool  # False: the service has no proxy, so there are no requests to count
    requests: int | None
    lost: int | None
    errors: int | None
    by_release: tuple[ReleaseTraffic, ...]  # empty, with the reason in the next, where nothing is known of any
    releases_unknown: str
    probed: ProbedCounts | None  # None: nobody probed
    probe_failures: tuple[ProbeFailure, ...]  # the first few of each engine
    steps: tuple[StepReport, ...]
    verdicts: tuple[StepVerdict, ...]
    tasks: tuple[TaskReport, ...]
    failures: tuple[FailureLog, ...]
    signals: tuple[ReportedSignal, ...]
    notes: tuple[ReportNote, ...]


def build_report(rollout: Rollout, events: Sequence[Event], verdicts: Iterable[StoredVerdict]) -> Report:
    """`events` are all of the rollout's, by number; `verdicts` all of its, oldest first."""
    batches = _step_reports(events, [*dict.fromkeys(each for each in (rollout.old, rollout.new) if each is not None)])
    exposed = next((event.at for event in events if _exposes_release(event, rollout)), None)
    decided = next((event.at for event in events if event.kind in TURNING_POINTS), None)
    counts = sum_traffic([_step_traffic(batch) for batch in batches])
    releases, releases_unknown = sum_releases([(batch.by_release, batch.releases_unknown) for batch in batches])
    return Report(
        rollout=rollout.id,
        service=rollout.service,
        old=rollout.old,
        new=rollout.new,
        requested_by=rollout.requested_by,
        phase=rollout.phase,
        reason=rollout.reason,
        summary=_summarize(rollout, batches, counts),
        created=rollout.created,
        started=next((event.at for event in events if event.kind == EventKind.STEP_ADVANCED), None),
        finished=rollout.finished,
        seconds=None if rollout.finished is None else rollout.finished - rollout.created,
        exposed_at=exposed,
        decided_at=decided,
        decision_seconds=None if exposed is None or decided is None else max(0.0, decided - exposed),
        is_routed=rollout.backend is not None,
        requests=None if counts is None else counts.requests,
        lost=None if counts is None else counts.lost,
        errors=None if counts is None else counts.errors,
        by_release=releases,
        releases_unknown=releases_unknown,
        probed=sum_probes([batch.probed for batch in batches]),
        probe_failures=_collect_probe_failures(events),
        steps=batches,
        verdicts=tuple(StepVerdict(verdict.step, verdict.phase, verdict.verdict) for verdict in verdicts),
        tasks=task_reports(events),
        failures=_collect_failure_logs(events),
        signals=tuple(_reported_signal(event) for event in events if event.kind in SIGNAL_KINDS),
        notes=tuple(ReportNote(event.kind, event.message, event.at) for event in events if event.kind in NOTE_KINDS),
    )


def _exposes_release(event: Event, rollout: Rollout) -> bool:
    """Whether from this event on the new release takes traffic; without a proxy, whether it runs."""
    if rollout.backend is None:
        return event.kind == EventKind.STARTED and event.data.get("release") == rollout.new
    shifts = event.kind in (EventKind.TRAFFIC_SHIFTED, EventKind.TRAFFIC_CONFIRMED)
    return shifts and rollout.new in mapping(event, "route")


# -- batches ----------------------------------------------------------------------------------------------------------


def _step_reports(events: Sequence[Event], ours: Sequence[str]) -> tuple[StepReport, ...]:
    """Each starts with `step_started`. Its counters continue from the end of the previous one, so that none is missed."""
    step_reports: list[StepReport] = []
    before, last = EventCounters(), None
    for part in _split_by_step(events):
        counters = [read_counters(event) for event in part]
        begin = EventCounters(
            before.traffic or counters[0].traffic, before.by_release or counters[0].by_release, counters[0].probed
        )
        step_reports.append(_step_report(len(step_reports) + 1, part, [begin, *counters[1:]], last, ours))
        before = counters[-1] if part[-1].kind in STEP_ENDS else EventCounters()
        last = next((each.probed for each in reversed(counters) if each.probed is not None), last)
    return tuple(step_reports)


def _split_by_step(events: Sequence[Event]) -> list[list[Event]]:
    """From each `step_started` to what ended the step, inclusive, or to the last event there is."""
    parts: list[list[Event]] = []
    inside = False
    for event in events:
        if event.kind == EventKind.STEP_STARTED:
            parts.append([])
            inside = True
        if inside:
            parts[-1].append(event)
        if event.kind in STEP_ENDS:
            inside = False
    return parts


def _step_report(
    number: int, part: Sequence[Event], counters: Sequence[EventCounters], last: ProbeStats | None, ours: Sequence[str]
) -> StepReport:
    """`counters` is what each event carries, the first with the end of the step before; `last` the last counts of the
    prober."""
    entered = part[0]
    left = part[-1].at if part[-1].kind in STEP_ENDS else None
    stood = max((place for place, event in enumerate(part) if event.kind == EventKind.STEP_READY), default=None)
    traffic = [each.traffic for each in counters]
    switch, unknown = traffic_difference(traffic if stood is None else traffic[: stood + 1])
    bake, later = (None, "") if stood is None else traffic_difference(traffic[stood:])
    whole = sum_traffic([switch] if stood is None else [switch, bake])
    releases, releases_unknown = traffic_by_release(counters, ours)
    return StepReport(
        number=number,
        step=integer(entered.data.get("step")),
        phase=Phase(str(entered.data.get("phase", Phase.RUNNING))),
        actions=_describe_step(part),
        started_at=entered.at,
        traffic_confirmed_at=next((event.at for event in part if event.kind == EventKind.TRAFFIC_CONFIRMED), None),
        ready_at=None if stood is None else part[stood].at,
        ended_at=left,
        seconds=None if left is None else left - entered.at,
        switch=switch,
        bake=bake,
        requests=None if whole is None else whole.requests,
        lost=None if whole is None else whole.lost,
        errors=None if whole is None else whole.errors,
        unknown_reason=unknown or later,
        by_release=releases,
        releases_unknown=releases_unknown,
        probed=probe_difference(last, [each.probed for each in counters]),
        drained=drain_report(part),
    )


def _describe_step(part: Sequence[Event]) -> str:
    """What was started, where traffic went, what was stopped."""
    started, stopped = Counter[str](), Counter[str]()
    route: Mapping[str, int] | None = None
    for event in part:
        if event.kind == EventKind.STARTED:
            started[str(event.data.get("release"))] += len(sequence(event, "ordinals"))
        elif event.kind == EventKind.STOPPED:
            stopped.update(mapping(event, "stopped"))
        elif event.kind in (EventKind.TRAFFIC_SHIFTED, EventKind.TRAFFIC_CONFIRMED):
            route = mapping(event, "route")
    parts = [f"started {_format_counts(started)}"] if started else []
    parts += [f"traffic to {_format_counts(route)}"] if route is not None else []
    parts += [f"stopped {_format_counts(stopped)}"] if stopped else []
    return "; ".join(parts) or "no change"


def _format_counts(releases: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {release}" for release, count in sorted(releases.items())) or "nothing"


# -- the rest ---------------------------------------------------------------------------------------------------------


def _step_traffic(batch: StepReport) -> Traffic | None:
    if batch.requests is None or batch.lost is None or batch.errors is None:
        return None
    return Traffic(batch.requests, batch.lost, batch.errors)


def _collect_probe_failures(events: Sequence[Event]) -> tuple[ProbeFailure, ...]:
    """Each once: every event repeats what its engine counted so far."""
    result = (
        failure
        for event in events
        if (counters := read_counters(event).probed) is not None
        for failure in counters.failures
    )
    return tuple(dict.fromkeys(result))


def _collect_failure_logs(events: Sequence[Event]) -> tuple[FailureLog, ...]:
    """One for each instance; an engine that took over may have asked again."""
    failure_logs: dict[str, FailureLog] = {}
    for event in events:
        if event.kind == EventKind.INSTANCE_LOG:
            data = event.data
            name = str(data.get("name", ""))
            parts = FailureLog(
                instance=name,
                release=str(data.get("release", "")),
                detail=str(data.get("detail", "")) or event.message.removeprefix(f"{name}: "),
                restarts=integer(data.get("restarts")),
                log=str(data.get("log", "")),
                at=event.at,
            )
            failure_logs.setdefault(str(data.get("instance", "")), parts)
    return tuple(failure_logs.values())


def _reported_signal(event: Event) -> ReportedSignal:
    return ReportedSignal(event.kind, str(event.data.get("by", "")), str(event.data.get("reason", "")), event.at)


def _describe_target(rollout: Rollout) -> str:
    """What it was for."""
    if rollout.kind is RolloutKind.REPAIR:
        return f"repair of {rollout.new}"
    if rollout.kind is RolloutKind.SCALE:
        return f"scaling of {rollout.new} from {rollout.old_replicas} instances"
    if rollout.kind is RolloutKind.REMOVE:
        return "removal"
    return f"from {rollout.old} to {rollout.new}" if rollout.old else f"to {rollout.new}"


def _summarize(rollout: Rollout, batches: Sequence[StepReport], counts: Traffic | None) -> str:
    """One line."""
    way = f"{rollout.service} {_describe_target(rollout)}"
    took = "" if rollout.finished is None else f" after {rollout.finished - rollout.created:.1f} s"
    steps = f"{len(batches)} step{'' if len(batches) == 1 else 's'}"
    if counts is not None:
        counters = f"{counts.requests} requests, {counts.lost} lost, {counts.errors} application errors"
    else:
        counters = "request counts unavailable" if batches else "no traffic was moved"
    explained = rollout.phase not in (Phase.PENDING, Phase.RUNNING, Phase.SUCCEEDED) and rollout.reason
    parts = [f"{way} {PHASE_PHRASES[rollout.phase]}{took}, {steps}"]
    parts += [counters] if rollout.backend is not None else []
    return "; ".join([*parts, rollout.reason] if explained else parts)
