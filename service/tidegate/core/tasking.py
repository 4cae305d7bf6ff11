"""The rungs of `decide` for hooks and comparisons: when each is begun, and what its end leads to."""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.core.decisions import Decision, Run, Wait
from tidegate.core.tasks import BLOCKING, COMPARE, TaskState
from tidegate.core.view import View


def run_before(view: View) -> Decision | None:
    """What comes before anything of the step is done."""
    return _next(view, view.step.gate.before)


def run_tasks(view: View) -> Decision | None:
    """What is done once the step stands."""
    return _next(view, view.step.gate.tasks)


def _next(view: View, names: Sequence[str]) -> Decision | None:
    """One after the other; each once in a rollout. What is paused begins none, but one that runs is looked after."""
    for name in names:
        run = view.task(name)
        if (run is not None and run.state.ended) or (name == COMPARE and view.forced):
            continue
        if run is None and view.rollout.paused:
            return Wait(view.now + view.rollout.policy.look_seconds, f"paused before {name}")
        return Run(name, f"running {name}")
    return None


def task_failed(view: View) -> str:
    """One sentence when a task failed that traffic must not be moved after."""
    return next(
        (each.sentence for each in view.rollout.tasks if each.state is TaskState.FAILED and each.name in BLOCKING), ""
    )


def unknown_task(view: View) -> str:
    """One sentence when a task of this step ended without anything that can be said."""
    ended = (view.task(name) for name in view.step.gate.tasks)
    return next((each.sentence for each in ended if each is not None and each.state is TaskState.UNKNOWN), "")
