"""What each step of a plan starts and stops, for people who read the plan before it is carried out. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tidegate.core.plan import Fleet, Plan


@dataclass(frozen=True, slots=True)
class StepChange:
    """The instances that a step starts and stops, by release."""

    start: Fleet
    stop: Fleet


def step_changes(plan: Plan, live: Fleet) -> Iterator[StepChange]:
    """The change of each step, in order; `live` are the instances before the first one."""
    before = live
    for step in plan:
        after = step.fleet
        started = {release: count - before.get(release, 0) for release, count in after.items()}
        stopped = {release: count - after.get(release, 0) for release, count in before.items()}
        yield StepChange(_positive(started), _positive(stopped))
        before = after


def _positive(counts: Fleet) -> Fleet:
    return {release: count for release, count in counts.items() if count > 0}
