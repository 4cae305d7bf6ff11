"""What happened in a rollout and why, from its events and verdicts. Pure.

    report(rollout, events, verdicts) -> Report

Requests are counted from the cumulative counters of proxy and prober, which events carry: `report_counts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tidegate.core.judge.verdict import Time, Verdict
from tidegate.core.kinds import Kind
from tidegate.core.model import Event, Rollout, RolloutKind
from tidegate.core.phases import Phase
from tidegate.core.probing import Probed, ProbeFailure
from tidegate.core.report_counts import (
    Carried,
    ProbedCounts,
    ReleaseTraffic,
    by_release,
    carried,
    difference,
    integer,
    mapping,
    probed,
    probed_sum,
    release_sum,
    sequence,
    traffic_sum,
)
from tidegate.core.report_work import Drained, TaskStory, drained, tasks
from tidegate.core.routing import Traffic

TURNS = frozenset({Kind.ROLLING_BACK, Kind.FAILED})
ENDS = TURNS | {Kind.STEPPED, Kind.SUCCEEDED, Kind.ROLLED_BACK}
WISHES = frozenset({Kind.PROMOTED, Kind.ROLLBACK_ASKED, Kind.PAUSED, Kind.RESUMED, Kind.VERIFY_ASKED})
NOTES = frozenset({Kind.WARNING, Kind.TROUBLE, Kind.RECOVERED, Kind.FAULT, Kind.TAKEN_OVER})
WORDS = {
    Phase.PENDING: "has not begun",
    Phase.RUNNING: "is on its way",
    Phase.ROLLING_BACK: "is on its way back",
    Phase.SUCCEEDED: "succeeded",
    Phase.ROLLED_BACK: "was rolled back",
    Phase.FAILED: "failed and was halted",
}


class Judged(Protocol):
    """A stored verdict and the step it was for."""

    @property
    def step(self) -> int: ...
    @property
    def phase(self) -> Phase: ...
    @property
    def verdict(self) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """One step as it happened, from when it was entered to when it was left.

    The switch lasts until all of the step stood (`settled`), the bake from there until it was left. None: not yet, or not
    known; then `unknown` says why. `requests`, `lost` and `errors` are of both; what they count is said in
    `routing.Traffic`. `by_release` is of both, too: empty, with the reason in `releases_unknown`, where nothing is known of
    any. `probed` is None where nobody probed.
    """

    number: int  # from 1, in the order in which they happened
    step: int  # from 0, in the plan of that time
    phase: Phase
    did: str
    entered: Time
    shifted: Time | None
    settled: Time | None
    left: Time | None
    seconds: float | None
    switch: Traffic | None
    bake: Traffic | None
    requests: int | None
    lost: int | None
    errors: int | None
    unknown: str = ""
    by_release: tuple[ReleaseTraffic, ...] = ()
    releases_unknown: str = ""
    probed: ProbedCounts | None = None
    drained: Drained | None = None  # None: nothing was in flight on what left the route


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
class Wish:
    """What a person or Jenkins asked for: `promoted`, `rollback_asked`, `paused`, `resumed`, `verify_asked`."""

    kind: str
    by: str
    reason: str
    at: Time


@dataclass(frozen=True, slots=True)
class Note:
    """Trouble with an outside part, a warning, or an engine that took over."""

    kind: str
    sentence: str
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
    exposed: Time | None  # when the new release first took traffic
    decided: Time | None  # when it was decided to turn back or to halt
    decision_seconds: float | None  # from exposed to decided
    requests: int | None
    lost: int | None
    errors: int | None
    by_release: tuple[ReleaseTraffic, ...]  # empty, with the reason in the next, where nothing is known of any
    releases_unknown: str
    probed: ProbedCounts | None  # None: nobody probed
    probe_failures: tuple[ProbeFailure, ...]  # the first few of each engine
    batches: tuple[Batch, ...]
    verdicts: tuple[StepVerdict, ...]
    tasks: tuple[TaskStory, ...]
    failures: tuple[FailureLog, ...]
    wishes: tuple[Wish, ...]
    notes: tuple[Note, ...]


def report(rollout: Rollout, events: Sequence[Event], verdicts: Iterable[Judged]) -> Report:
    """`events` are all of the rollout's, by number; `verdicts` all of its, oldest first."""
    batches = _batches(events, [*dict.fromkeys(each for each in (rollout.old, rollout.new) if each is not None)])
    exposed = next((each.at for each in events if _exposes(each, rollout.new)), None)
    decided = next((each.at for each in events if each.kind in TURNS), None)
    counts = traffic_sum([_whole(each) for each in batches])
    releases, releases_unknown = release_sum([(each.by_release, each.releases_unknown) for each in batches])
    return Report(
        rollout=rollout.id,
        service=rollout.service,
        old=rollout.old,
        new=rollout.new,
        requested_by=rollout.requested_by,
        phase=rollout.phase,
        reason=rollout.reason,
        summary=_summary(rollout, batches, counts),
        created=rollout.created,
        started=next((each.at for each in events if each.kind == Kind.STEPPED), None),
        finished=rollout.finished,
        seconds=None if rollout.finished is None else rollout.finished - rollout.created,
        exposed=exposed,
        decided=decided,
        decision_seconds=None if exposed is None or decided is None else max(0.0, decided - exposed),
        requests=None if counts is None else counts.requests,
        lost=None if counts is None else counts.lost,
        errors=None if counts is None else counts.errors,
        by_release=releases,
        releases_unknown=releases_unknown,
        probed=probed_sum([each.probed for each in batches]),
        probe_failures=_probe_failures(events),
        batches=batches,
        verdicts=tuple(StepVerdict(each.step, each.phase, each.verdict) for each in verdicts),
        tasks=tasks(events),
        failures=_failures(events),
        wishes=tuple(_wish(each) for each in events if each.kind in WISHES),
        notes=tuple(Note(each.kind, each.sentence, each.at) for each in events if each.kind in NOTES),
    )


def _exposes(event: Event, release: str) -> bool:
    """Whether from this event on the release takes traffic."""
    return event.kind in (Kind.SHIFTED, Kind.ROUTED) and release in mapping(event, "route")


# -- batches ----------------------------------------------------------------------------------------------------------


def _batches(events: Sequence[Event], ours: Sequence[str]) -> tuple[Batch, ...]:
    """Each begins with an `entered`. Its counters go on from where those of the one before ended, so none is missed."""
    found: list[Batch] = []
    before, last = Carried(), None
    for part in _parts(events):
        seen = [carried(event) for event in part]
        begin = Carried(before.traffic or seen[0].traffic, before.by_release or seen[0].by_release, seen[0].probed)
        found.append(_batch(len(found) + 1, part, [begin, *seen[1:]], last, ours))
        before = seen[-1] if part[-1].kind in ENDS else Carried()
        last = next((each.probed for each in reversed(seen) if each.probed is not None), last)
    return tuple(found)


def _parts(events: Sequence[Event]) -> list[list[Event]]:
    """From each `entered` to what ended the step, inclusive, or to the last event there is."""
    parts: list[list[Event]] = []
    inside = False
    for event in events:
        if event.kind == Kind.ENTERED:
            parts.append([])
            inside = True
        if inside:
            parts[-1].append(event)
        if event.kind in ENDS:
            inside = False
    return parts


def _batch(number: int, part: Sequence[Event], seen: Sequence[Carried], last: Probed | None, ours: Sequence[str]) -> Batch:
    """`seen` is what each event carries, the first with what the batch before ended with; `last` what the prober had."""
    entered = part[0]
    left = part[-1].at if part[-1].kind in ENDS else None
    stood = max((place for place, event in enumerate(part) if event.kind == Kind.SETTLED), default=None)
    traffic = [each.traffic for each in seen]
    switch, unknown = difference(traffic if stood is None else traffic[: stood + 1])
    bake, later = (None, "") if stood is None else difference(traffic[stood:])
    whole = traffic_sum([switch] if stood is None else [switch, bake])
    releases, releases_unknown = by_release(seen, ours)
    return Batch(
        number=number,
        step=integer(entered.data.get("step")),
        phase=Phase(str(entered.data.get("phase", Phase.RUNNING))),
        did=_did(part),
        entered=entered.at,
        shifted=next((event.at for event in part if event.kind == Kind.ROUTED), None),
        settled=None if stood is None else part[stood].at,
        left=left,
        seconds=None if left is None else left - entered.at,
        switch=switch,
        bake=bake,
        requests=None if whole is None else whole.requests,
        lost=None if whole is None else whole.lost,
        errors=None if whole is None else whole.errors,
        unknown=unknown or later,
        by_release=releases,
        releases_unknown=releases_unknown,
        probed=probed(last, [each.probed for each in seen]),
        drained=drained(part),
    )


def _did(part: Sequence[Event]) -> str:
    """What was started, where traffic went, what was stopped."""
    started, stopped = Counter[str](), Counter[str]()
    route: Mapping[str, int] | None = None
    for event in part:
        if event.kind == Kind.STARTED:
            started[str(event.data.get("release"))] += len(sequence(event, "ordinals"))
        elif event.kind == Kind.STOPPED:
            stopped.update(mapping(event, "stopped"))
        elif event.kind in (Kind.SHIFTED, Kind.ROUTED):
            route = mapping(event, "route")
    told = [f"started {_counts(started)}"] if started else []
    told += [f"traffic to {_counts(route)}"] if route is not None else []
    told += [f"stopped {_counts(stopped)}"] if stopped else []
    return "; ".join(told) or "nothing was done"


def _counts(releases: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {release}" for release, count in sorted(releases.items())) or "nothing"


# -- the rest ---------------------------------------------------------------------------------------------------------


def _whole(batch: Batch) -> Traffic | None:
    if batch.requests is None or batch.lost is None or batch.errors is None:
        return None
    return Traffic(batch.requests, batch.lost, batch.errors)


def _probe_failures(events: Sequence[Event]) -> tuple[ProbeFailure, ...]:
    """Each once: every event has all that its engine kept so far."""
    found = (failure for event in events if (seen := carried(event).probed) is not None for failure in seen.failures)
    return tuple(dict.fromkeys(found))


def _failures(events: Sequence[Event]) -> tuple[FailureLog, ...]:
    """One for each instance; an engine that took over may have asked again."""
    found: dict[str, FailureLog] = {}
    for event in events:
        if event.kind == Kind.LOG:
            data = event.data
            told = FailureLog(
                instance=str(data.get("name", "")),
                release=str(data.get("release", "")),
                detail=str(data.get("detail", "")) or event.sentence,
                restarts=integer(data.get("restarts")),
                log=str(data.get("log", "")),
                at=event.at,
            )
            found.setdefault(str(data.get("instance", "")), told)
    return tuple(found.values())


def _wish(event: Event) -> Wish:
    return Wish(event.kind, str(event.data.get("by", "")), str(event.data.get("reason", "")), event.at)


def _way(rollout: Rollout) -> str:
    """What it was for."""
    if rollout.kind is RolloutKind.REPAIR:
        return f"repair of {rollout.new}"
    if rollout.kind is RolloutKind.SCALE:
        return f"scaling of {rollout.new} from {rollout.old_replicas} instances"
    return f"from {rollout.old} to {rollout.new}" if rollout.old else f"to {rollout.new}"


def _summary(rollout: Rollout, batches: Sequence[Batch], counts: Traffic | None) -> str:
    """One sentence."""
    way = f"{rollout.service} {_way(rollout)}"
    took = "" if rollout.finished is None else f" after {rollout.finished - rollout.created:.1f} s"
    steps = f"{len(batches)} step{'' if len(batches) == 1 else 's'}"
    if counts is not None:
        seen = f"{counts.requests} requests seen, {counts.lost} lost, {counts.errors} answered with an application error"
    else:
        seen = "how many requests were seen or lost is not known" if batches else "no traffic was moved"
    turned = rollout.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED) and rollout.reason
    return f"{way} {WORDS[rollout.phase]}{took}, {steps}; {seen}" + (f"; {rollout.reason}" if turned else "")
