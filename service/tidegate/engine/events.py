"""Builders of the events: each gives an event its kind, its message and its data. `docs/events.md` documents them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace

from tidegate.analysis.verdict import Verdict
from tidegate.clock import Time
from tidegate.core.decisions import Mark, MarkKind, Move, Shift, Start, Track
from tidegate.core.event_kinds import EventKind
from tidegate.core.hooks import TaskRun
from tidegate.core.model import (
    Event,
    Instance,
    ObservedState,
    Rollout,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Fleet
from tidegate.core.probes import ProbeCounts, ProbeStats
from tidegate.core.rollout_state import format_names
from tidegate.core.routing import RouterState
from tidegate.core.waits import WaitingFor

__all__ = [
    "EventKind",
    "error",
    "find_memory_kills",
    "log",
    "mark",
    "move",
    "out_of_memory",
    "pinned",
    "proxy_restarted",
    "recovered",
    "simple",
    "started",
    "stopped",
    "task",
    "track",
    "traffic_shifted",
    "verdict",
    "with_probes",
    "with_wait",
]

MARKS = {
    MarkKind.STEP_STARTED: EventKind.STEP_STARTED,
    MarkKind.TRAFFIC_CONFIRMED: EventKind.TRAFFIC_CONFIRMED,
    MarkKind.TRAFFIC_DIVERGED: EventKind.TRAFFIC_DIVERGED,
    MarkKind.STEP_READY: EventKind.STEP_READY,
    MarkKind.BAKE_EXTENDED: EventKind.BAKE_EXTENDED,
    MarkKind.WAITING_FOR_APPROVAL: EventKind.WAITING_FOR_APPROVAL,
    MarkKind.WAITING_FOR_GROUP: EventKind.WAITING_FOR_GROUP,
}


def context_data(rollout: Rollout, router_state: RouterState | None) -> dict[str, object]:
    """The step and phase, and the proxy's cumulative counters, of which the report takes differences. `by_release` is left
    out when the proxy has no counters by release."""
    traffic = None if router_state is None or router_state.traffic is None else asdict(router_state.traffic)
    data: dict[str, object] = {"step": rollout.cursor, "phase": rollout.phase.value, "traffic": traffic}
    if router_state is not None and router_state.by_release:
        data["by_release"] = {release: asdict(stats) for release, stats in router_state.by_release.items()}
    return data


def with_probes(events: Sequence[Event], probed: ProbeStats | None) -> Sequence[Event]:
    """The events, with the prober's cumulative counters added to each that has counters of the proxy."""
    if probed is None:
        return events
    counts = {
        "since": probed.since,
        **_probe_counts(probed.total),
        "by_release": {release: _probe_counts(counted) for release, counted in probed.by_release.items()},
        "failures": [asdict(failure) for failure in probed.failures],
    }
    return [replace(event, data={**event.data, "probed": counts}) if "traffic" in event.data else event for event in events]


def with_wait(event: Event, waiting: WaitingFor) -> Event:
    """The event with what the rollout waits for after it."""
    return replace(event, data={**event.data, "waiting_for": asdict(waiting)})


def _probe_counts(counts: ProbeCounts) -> dict[str, object]:
    return {"requests": counts.requests, "failed": counts.failed, "slow": counts.slow}


def simple(kind: EventKind, message: str, rollout: Rollout, now: Time) -> Event:
    """An event with only the step and phase as its data."""
    return Event(kind, message, now, data={"step": rollout.cursor, "phase": rollout.phase.value})


def pinned(rollout: Rollout, image: str, digest: str, is_new: bool, seconds: float, now: Time) -> Event:
    """The image was resolved to a digest. `is_new`: it or its configuration differs from the live release."""
    data = {"release": rollout.new, "image": image, "digest": digest, "new": is_new, "seconds": _rounded(seconds)}
    message = f"Image of {rollout.new} pinned: {image} is {digest}."
    if not is_new:
        message += (
            f" Nothing is new: {rollout.old} has this image and configuration. Its instances are replaced all the same."
        )
    return Event(EventKind.PINNED, message, now, data=data)


def mark(decision: Mark, rollout: Rollout, router_state: RouterState, now: Time) -> list[Event]:
    """A mark of the present step was recorded. The first one carries the target of the step. That instances are about to be
    started is none: an event follows when they were."""
    if decision.mark is MarkKind.STARTING:
        return []
    data, why = context_data(rollout, router_state), decision.reason
    if decision.mark is MarkKind.STEP_STARTED:
        step = rollout.step
        target = f"instances: {_counts(step.fleet)}" if step.route is None else f"traffic to {_counts(step.route)}"
        why = f"Step {rollout.cursor + 1} of {len(rollout.plan)}: {target}."
        data |= {"steps": len(rollout.plan), "fleet": dict(step.fleet)}
        data |= {} if step.route is None else {"route": dict(step.route)}
    elif decision.mark is MarkKind.TRAFFIC_CONFIRMED:
        data |= {"route": _by_release([member.release for member in router_state.members])}
        if router_state.draining:
            data["draining"] = _in_flight(router_state, router_state.draining)
    elif decision.mark is MarkKind.WAITING_FOR_APPROVAL:
        data |= {"approval": rollout.step.gate.approval}
    return [Event(MARKS[decision.mark], why, now, data=data)]


def track(decision: Track, rollout: Rollout, observed: ObservedState, now: Time) -> list[Event]:
    """Instances stopped being ready, became ready again, or are replaced."""
    new_events, data = [], context_data(rollout, observed.router)
    present = {instance.id: instance for instance in observed.instances}
    for name, health in decision.health:
        before, instance = rollout.health.get(name), present[name]
        was_unhealthy = before is not None and before.unhealthy_since is not None
        fields = data | _instance_data(instance)
        if health.unhealthy_since is not None and not was_unhealthy:
            what = f"{format_names([instance])} is not ready: {instance.detail or 'its readiness check failed'}"
            new_events.append(Event(EventKind.INSTANCE_UNHEALTHY, what, now, data=fields))
        elif health.unhealthy_since is None and before is not None and before.unhealthy_since is not None:
            seconds = now - before.unhealthy_since
            what = f"{format_names([instance])} is ready again after {seconds:.1f} s."
            new_events.append(Event(EventKind.INSTANCE_RECOVERED, what, now, data=fields | {"seconds": _rounded(seconds)}))
    new_events += [
        Event(EventKind.INSTANCE_REPLACED, decision.reason, now, data=data | _instance_data(present[name]))
        for name in decision.replaced
    ]
    return new_events


def _instance_data(instance: Instance) -> dict[str, object]:
    return {
        "instance": instance.id,
        "name": format_names([instance]),
        "release": instance.release,
        "state": instance.state.value,
        "restarts": instance.restarts,
        "detail": instance.detail,
    }


def move(to: Move, rollout: Rollout, router_state: RouterState | None, now: Time) -> Event:
    """The rollout moved to the next step, changed its direction, or ended."""
    onwards = to.phase is rollout.phase or to.phase is Phase.RUNNING
    kind = EventKind.STEP_ADVANCED if onwards else EventKind(to.phase.value)
    return Event(
        kind,
        to.reason,
        now,
        data={**context_data(rollout, router_state), "to": {"phase": to.phase.value, "step": to.cursor}},
    )


def started(effect: Start, rollout: Rollout, router_state: RouterState, seconds: float, now: Time) -> Event:
    """Instances were created and started."""
    data = {"release": effect.release, "ordinals": list(effect.ordinals), "seconds": _rounded(seconds)}
    return Event(EventKind.STARTED, effect.reason, now, data=context_data(rollout, router_state) | data)


def traffic_shifted(effect: Shift, rollout: Rollout, router_state: RouterState, seconds: float, now: Time) -> Event:
    """The proxy was written."""
    data = {"route": _by_release([member.release for member in effect.members]), "seconds": _rounded(seconds)}
    if effect.preview:
        return Event(
            EventKind.PREVIEW_SHIFTED,
            effect.reason,
            now,
            data={"step": rollout.cursor, "phase": rollout.phase.value} | data,
        )
    return Event(EventKind.TRAFFIC_SHIFTED, effect.reason, now, data=context_data(rollout, router_state) | data)


def stopped(
    gone: Collection[Instance],
    left: Collection[Instance],
    rollout: Rollout,
    router_state: RouterState,
    seconds: float,
    now: Time,
) -> Event:
    """Instances were asked to stop. `left` were skipped, because they receive traffic or have requests in flight."""
    skipped = f" Not stopping {format_names(left)}: still serving requests." if left else ""
    message = f"Stopping {format_names(gone)}.{skipped}"
    data: dict[str, object] = {
        "stopped": _by_release([instance.release for instance in gone]),
        "seconds": _rounded(seconds),
    }
    if any(instance.id in router_state.draining for instance in gone):
        data["closed"] = _in_flight(router_state, [instance.id for instance in gone])
    return Event(EventKind.STOPPED, message, now, data=context_data(rollout, router_state) | data)


def _in_flight(router_state: RouterState, instances: Collection[str]) -> dict[str, object]:
    """What draining instances still serve; `connections` is None when the proxy does not know it for one of them."""
    counts = [router_state.draining.get(instance, 0) for instance in instances]
    known = [count for count in counts if count is not None]
    tunnels = sum(router_state.tunnels.get(instance, 0) for instance in instances)
    return {"connections": sum(known) if len(known) == len(counts) else None, "tunnels": tunnels}


def task(run: TaskRun, rollout: Rollout, data: Mapping[str, object] | None = None) -> Event:
    """A hook or an OpenAPI comparison started or ended."""
    fields: dict[str, object] = {
        "step": rollout.cursor,
        "phase": rollout.phase.value,
        "task": run.name,
        "state": run.state.value,
    }
    if run.ended_at is None:
        return Event(EventKind.TASK_STARTED, run.message, run.started_at, data=fields)
    return Event(
        EventKind.TASK_ENDED,
        run.message,
        run.ended_at,
        data=fields | {"seconds": _rounded(run.ended_at - run.started_at)} | dict(data or {}),
    )


def verdict(made: Verdict, rollout: Rollout, router_state: RouterState, now: Time) -> Event:
    """The checks were evaluated. The message of an interim verdict says that it is one."""
    early = "" if made.final else "Interim: "
    data: dict[str, object] = {
        "outcome": made.outcome.value,
        "final": made.final,
        "reasons": {finding.check: finding.reason.value for finding in made.findings},
    }
    return Event(EventKind.VERDICT, f"{early}{made.message}", now, data=context_data(rollout, router_state) | data)


def log(instance: Instance, lines: str, rollout: Rollout, now: Time) -> Event:
    """The last log lines of an instance that failed or never became ready."""
    name = format_names([instance])
    what = instance.detail or f"is {instance.state}" + (
        f", restarted {instance.restarts} times" if instance.restarts else ""
    )
    data = _instance_data(instance) | {"log": lines, "step": rollout.cursor, "phase": rollout.phase.value}
    return Event(EventKind.INSTANCE_LOG, f"{name}: {what}", now, data=data)


def find_memory_kills(
    known: Mapping[str, int], instances: Collection[Instance], fresh: Collection[str] = ()
) -> tuple[list[Instance], dict[str, int]]:
    """The instances that were killed for memory since `known`, which is from the last call, and what is known now.

    A kill of an instance that is not in `known` is old, as nobody can tell when it happened; except of `fresh` ones.
    """
    kills = {one.id: max(1, one.restarts) if one.out_of_memory else 0 for one in instances}
    before = {id_: known.get(id_, 0 if id_ in fresh else count) for id_, count in kills.items()}
    return [instance for instance in instances if kills[instance.id] > before[instance.id]], kills


def out_of_memory(instance: Instance, now: Time) -> Event:
    """An instance was killed for exceeding a memory limit."""
    name = format_names([instance])
    restarts = f" and restarted; restart {instance.restarts}" if instance.restarts else ""
    data = {"instance": instance.id, "name": name, "release": instance.release, "restarts": instance.restarts}
    return Event(EventKind.OUT_OF_MEMORY, f"{name} was killed for running out of memory{restarts}.", now, data=data)


def error(kind: EventKind, message: str, pause_seconds: float, retryable: bool, now: Time) -> Event:
    """`DRIVER_ERROR` or `INTERNAL_ERROR`: a tick failed and changed nothing; it is retried after the pause."""
    return Event(kind, message, now, data={"retryable": retryable, "pause_seconds": _rounded(pause_seconds)})


def recovered(seconds: float, now: Time) -> Event:
    """The first tick after errors that succeeded."""
    return Event(EventKind.RECOVERED, f"Recovered after {seconds:.1f} s.", now, data={"seconds": _rounded(seconds)})


def proxy_restarted(now: Time) -> Event:
    """Reading the proxy's state had to start it."""
    return Event(EventKind.WARNING, "The proxy was down and has been restarted; requests in between failed.", now)


def _rounded(seconds: float) -> float:
    return round(seconds, 3)


def _by_release(releases: Sequence[str]) -> dict[str, int]:
    return {release: releases.count(release) for release in sorted(set(releases))}


def _counts(route: Fleet) -> str:
    return ", ".join(f"{count} of {release}" for release, count in route.items()) or "nothing"
