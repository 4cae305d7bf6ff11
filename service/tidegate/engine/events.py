"""How each event is made: its kind, one sentence and its data. `docs/events.md` tells users of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace

from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.decisions import Mark, MarkKind, Move, Shift, Start
from tidegate.core.event_kinds import EventKind
from tidegate.core.hooks import TaskRun
from tidegate.core.model import Event, Fleet, Instance, Rollout
from tidegate.core.phases import Phase
from tidegate.core.probes import ProbeCounts, ProbeStats
from tidegate.core.rollout_state import format_names
from tidegate.core.routing import RouterState

__all__ = [
    "EventKind",
    "error",
    "log",
    "mark",
    "move",
    "pinned",
    "proxy_restarted",
    "recovered",
    "shifted",
    "simple",
    "started",
    "stopped",
    "task",
    "verdict",
    "with_probes",
]

#: `shifting` is not told: what follows at once is.
MARKS = {
    MarkKind.STEP_STARTED: EventKind.STEP_STARTED,
    MarkKind.TRAFFIC_CONFIRMED: EventKind.TRAFFIC_CONFIRMED,
    MarkKind.TRAFFIC_DIVERGED: EventKind.TRAFFIC_DIVERGED,
    MarkKind.STEP_READY: EventKind.STEP_READY,
    MarkKind.BAKE_EXTENDED: EventKind.BAKE_EXTENDED,
    MarkKind.WAITING_FOR_APPROVAL: EventKind.WAITING_FOR_APPROVAL,
    MarkKind.WAITING_FOR_GROUP: EventKind.WAITING_FOR_GROUP,
}


def context_data(rollout: Rollout, routed: RouterState | None) -> dict[str, object]:
    """Which step it was in, and the proxy's cumulative counters, which the report differences; those by release are left
    out where there are none."""
    traffic = None if routed is None or routed.traffic is None else asdict(routed.traffic)
    data: dict[str, object] = {"step": rollout.cursor, "phase": rollout.phase.value, "traffic": traffic}
    if routed is not None and routed.by_release:
        data["by_release"] = {release: asdict(each) for release, each in routed.by_release.items()}
    return data


def with_probes(events: Sequence[Event], probed: ProbeStats | None) -> Sequence[Event]:
    """The same, with the prober's cumulative counters where those of the proxy stand; none where it does not probe."""
    if probed is None:
        return events
    counts = {
        "since": probed.since,
        **_probe_counts(probed.total),
        "by_release": {release: _probe_counts(counted) for release, counted in probed.by_release.items()},
        "failures": [asdict(failure) for failure in probed.failures],
    }
    return [replace(event, data={**event.data, "probed": counts}) if "traffic" in event.data else event for event in events]


def _probe_counts(counts: ProbeCounts) -> dict[str, object]:
    return {"requests": counts.seen, "failed": counts.failed, "slow": counts.slow}


def simple(kind: EventKind, message: str, rollout: Rollout, now: Time) -> Event:
    """One without data of its own."""
    return Event(kind, message, now, data={"step": rollout.cursor, "phase": rollout.phase.value})


def pinned(rollout: Rollout, image: str, digest: str, seconds: float, now: Time) -> Event:
    """The image was resolved."""
    data = {"release": rollout.new, "image": image, "digest": digest, "seconds": _rounded(seconds)}
    return Event(EventKind.PINNED, f"{rollout.new}: {image} is {digest}", now, data=data)


def mark(decision: Mark, rollout: Rollout, routed: RouterState, now: Time) -> list[Event]:
    """A moment of the present step was recorded; the first one tells what the step wants."""
    if decision.mark not in MARKS:
        return []
    data, why = context_data(rollout, routed), decision.why
    if decision.mark is MarkKind.STEP_STARTED:
        step = rollout.step
        why = f"step {rollout.cursor + 1} of {len(rollout.plan)}: traffic to {_counts(step.route)}"
        data |= {"steps": len(rollout.plan), "fleet": dict(step.fleet), "route": dict(step.route)}
    elif decision.mark is MarkKind.TRAFFIC_CONFIRMED:
        data |= {"route": _by_release([member.release for member in routed.members])}
        if routed.draining:
            data["draining"] = _in_flight(routed, routed.draining)
    elif decision.mark is MarkKind.WAITING_FOR_APPROVAL:
        data |= {"approval": rollout.step.gate.hold}
    return [Event(MARKS[decision.mark], why, now, data=data)]


def move(to: Move, rollout: Rollout, routed: RouterState | None, now: Time) -> Event:
    """On to the next step, another direction, or the end."""
    onwards = to.phase is rollout.phase or to.phase is Phase.RUNNING
    kind = EventKind.STEP_ADVANCED if onwards else EventKind(to.phase.value)
    return Event(
        kind, to.why, now, data={**context_data(rollout, routed), "to": {"phase": to.phase.value, "step": to.cursor}}
    )


def started(effect: Start, rollout: Rollout, routed: RouterState, seconds: float, now: Time) -> Event:
    """Instances were created and started."""
    data = {"release": effect.release, "ordinals": list(effect.ordinals), "seconds": _rounded(seconds)}
    return Event(EventKind.STARTED, effect.why, now, data=context_data(rollout, routed) | data)


def shifted(effect: Shift, rollout: Rollout, routed: RouterState, seconds: float, now: Time) -> Event:
    """The proxy was written."""
    data = {"route": _by_release([member.release for member in effect.members]), "seconds": _rounded(seconds)}
    if effect.preview:
        return Event(
            EventKind.PREVIEW_SHIFTED, effect.why, now, data={"step": rollout.cursor, "phase": rollout.phase.value} | data
        )
    return Event(EventKind.TRAFFIC_SHIFTED, effect.why, now, data=context_data(rollout, routed) | data)


def stopped(
    gone: Collection[Instance], left: Collection[Instance], rollout: Rollout, routed: RouterState, seconds: float, now: Time
) -> Event:
    """Instances were asked to stop; `left` are those that were not, since they take traffic or have requests in flight."""
    message = f"stopping {format_names(gone)}" + (f"; not {format_names(left)}, which still serve" if left else "")
    data: dict[str, object] = {
        "stopped": _by_release([instance.release for instance in gone]),
        "seconds": _rounded(seconds),
    }
    if any(instance.id in routed.draining for instance in gone):
        data["closed"] = _in_flight(routed, [instance.id for instance in gone])
    return Event(EventKind.STOPPED, message, now, data=context_data(rollout, routed) | data)


def _in_flight(routed: RouterState, instances: Collection[str]) -> dict[str, object]:
    """What is on these now that take nothing new; `connections` None where the proxy cannot tell of one."""
    counts = [routed.draining.get(instance, 0) for instance in instances]
    known = [count for count in counts if count is not None]
    tunnels = sum(routed.tunnels.get(instance, 0) for instance in instances)
    return {"connections": sum(known) if len(known) == len(counts) else None, "tunnels": tunnels}


def task(run: TaskRun, rollout: Rollout, data: Mapping[str, object] | None = None) -> Event:
    """A hook or a comparison began, or ended."""
    fields: dict[str, object] = {
        "step": rollout.cursor,
        "phase": rollout.phase.value,
        "task": run.name,
        "state": run.state.value,
    }
    if run.ended is None:
        return Event(EventKind.TASK_STARTED, run.message, run.begun, data=fields)
    return Event(
        EventKind.TASK_ENDED,
        run.message,
        run.ended,
        data=fields | {"seconds": _rounded(run.ended - run.begun)} | dict(data or {}),
    )


def verdict(made: Verdict, rollout: Rollout, routed: RouterState, now: Time) -> Event:
    """The checks were judged; an early look says so."""
    early = "" if made.final else "early look: "
    data: dict[str, object] = {
        "outcome": made.outcome.value,
        "final": made.final,
        "reasons": {finding.check: finding.reason.value for finding in made.findings},
    }
    return Event(EventKind.VERDICT, f"{early}{made.message}", now, data=context_data(rollout, routed) | data)


def log(instance: Instance, lines: str, rollout: Rollout, now: Time) -> Event:
    """The last lines of an instance that failed or never became ready."""
    name = format_names([instance])
    what = instance.detail or f"is {instance.state}" + (
        f", restarted {instance.restarts} times" if instance.restarts else ""
    )
    data = {
        "instance": instance.id,
        "name": name,
        "release": instance.release,
        "state": instance.state.value,
        "restarts": instance.restarts,
        "detail": instance.detail,
        "log": lines,
        "step": rollout.cursor,
        "phase": rollout.phase.value,
    }
    return Event(EventKind.INSTANCE_LOG, f"{name}: {what}", now, data=data)


def error(kind: EventKind, message: str, pause_seconds: float, retryable: bool, now: Time) -> Event:
    """`TROUBLE` or `FAULT`: something failed, nothing was touched, and it is tried again after the pause."""
    return Event(kind, message, now, data={"retryable": retryable, "pause_seconds": _rounded(pause_seconds)})


def recovered(seconds: float, now: Time) -> Event:
    """What failed works again."""
    return Event(EventKind.RECOVERED, f"it works again, after {seconds:.1f} s", now, data={"seconds": _rounded(seconds)})


def proxy_restarted(now: Time) -> Event:
    """The proxy had ended."""
    return Event(EventKind.WARNING, "the proxy did not run and was started; requests of that time were lost", now)


def _rounded(seconds: float) -> float:
    return round(seconds, 3)


def _by_release(releases: Sequence[str]) -> dict[str, int]:
    return {release: releases.count(release) for release in sorted(set(releases))}


def _counts(route: Fleet) -> str:
    return ", ".join(f"{count} of {release}" for release, count in route.items()) or "nothing"
