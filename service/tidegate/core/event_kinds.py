"""What an event can tell: the closed list of kinds. `docs/events.md` has them with their data."""

from __future__ import annotations

from enum import StrEnum


class EventKind(StrEnum):
    """The kind of an event. Names are part of the API: they are added to, never renamed."""

    # recorded with a request
    CREATED = "created"  # the rollout was asked for
    PROMOTED = "promoted"  # a person or Jenkins gave the approval
    ROLLBACK_REQUESTED = "rollback_requested"  # a person or Jenkins wants it turned back
    PAUSED = "paused"  # no step is begun and no traffic is moved until it is resumed
    RESUMED = "resumed"  # it goes on after a pause
    FORCED = "forced"  # a person skips bakes, checks and holds from here on
    VERIFY_REQUESTED = "verify_requested"  # a verdict is wanted now

    # before anything moves
    PINNED = "pinned"  # the image was resolved to a digest on every host
    WARNING = "warning"  # it goes on, but a person should know

    # the marks of a step
    STEP_STARTED = "step_started"  # a step began
    TRAFFIC_CONFIRMED = "traffic_confirmed"  # the proxy serves what the step wants
    TRAFFIC_DIVERGED = "traffic_diverged"  # it no longer does; bake, drain and verdict start anew
    STEP_READY = "step_ready"  # all of the step stands; the bake counts from here
    BAKE_EXTENDED = "bake_extended"  # inconclusive, so another bake
    WAITING_FOR_APPROVAL = "waiting_for_approval"  # a person is waited for
    WAITING_FOR_GROUP = "waiting_for_group"  # at a point where the rollouts of its group wait for each other
    FROZEN = "frozen"  # the environment is frozen, so the next step is waited with

    # what was done to the world
    STARTED = "started"  # instances were created and started
    TRAFFIC_SHIFTED = "traffic_shifted"  # the proxy was written
    STOPPED = "stopped"  # instances were asked to stop
    PREVIEW_SHIFTED = "preview_shifted"  # the preview leads elsewhere
    TASK_STARTED = "task_started"  # a hook or a comparison began
    TASK_ENDED = "task_ended"  # it ended, and how

    # judging
    VERDICT = "verdict"  # the checks were judged, and the answer is news or final
    INSTANCE_LOG = "instance_log"  # the last log lines of an instance that failed or never became ready

    # direction
    STEP_ADVANCED = "step_advanced"  # on to the next step, or to the first
    ROLLING_BACK = "rolling_back"  # turned back, and why
    SUCCEEDED = "succeeded"  # the new release serves
    ROLLED_BACK = "rolled_back"  # the old release serves, or nothing was touched
    SUPERSEDED = "superseded"  # a repair ended, since another rollout was asked for
    FAILED = "failed"  # halted: no traffic is moved any more, a person must look

    # the engine itself
    DRIVER_ERROR = "driver_error"  # an outside part failed; nothing was touched, it is tried again
    RECOVERED = "recovered"  # the outside part works again
    TAKEN_OVER = "taken_over"  # an engine goes on where another one vanished
    INTERNAL_ERROR = "internal_error"  # an error in Tidegate itself; it is tried again
