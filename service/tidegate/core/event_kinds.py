"""The kinds of events. `docs/events.md` describes them with their data."""

from __future__ import annotations

from enum import StrEnum


class EventKind(StrEnum):
    """The kind of an event. Names are part of the API: they are added to, never renamed."""

    # recorded with a request
    CREATED = "created"  # the rollout was requested
    PROMOTED = "promoted"  # a person or Jenkins approved
    ROLLBACK_REQUESTED = "rollback_requested"  # a person or Jenkins requested a rollback
    PAUSED = "paused"  # no new step starts and no traffic moves until it is resumed
    RESUMED = "resumed"  # the rollout was resumed
    FORCED = "forced"  # the remaining bakes, checks and approvals are skipped
    VERIFY_REQUESTED = "verify_requested"  # a verdict was requested now

    # before anything moves
    PINNED = "pinned"  # the image was resolved to a digest on every host
    WARNING = "warning"  # the rollout continues, but needs attention

    # the marks of a step
    STEP_STARTED = "step_started"  # a step started
    TRAFFIC_CONFIRMED = "traffic_confirmed"  # the proxy matches the step
    TRAFFIC_DIVERGED = "traffic_diverged"  # it no longer does; bake, drain time and verdict start again
    STEP_READY = "step_ready"  # the step is ready; the bake starts
    BAKE_EXTENDED = "bake_extended"  # INCONCLUSIVE, so the bake is repeated
    WAITING_FOR_APPROVAL = "waiting_for_approval"  # a person must answer
    WAITING_FOR_GROUP = "waiting_for_group"  # the others of the group are not ready yet
    FROZEN = "frozen"  # the environment is frozen, so the next step waits

    # effects
    STARTED = "started"  # instances were created and started
    TRAFFIC_SHIFTED = "traffic_shifted"  # the proxy was written
    STOPPED = "stopped"  # instances were asked to stop
    PREVIEW_SHIFTED = "preview_shifted"  # the preview leads to other instances
    TASK_STARTED = "task_started"  # a hook or a comparison started
    TASK_ENDED = "task_ended"  # it ended, with its result

    # instances
    INSTANCE_UNHEALTHY = "instance_unhealthy"  # an instance that was ready no longer is
    INSTANCE_RECOVERED = "instance_recovered"  # it is ready again
    INSTANCE_REPLACED = "instance_replaced"  # it did not become ready again in time and is replaced

    # analysis
    VERDICT = "verdict"  # the checks were evaluated; recorded if new, final or requested
    OUT_OF_MEMORY = "out_of_memory"  # an instance was killed for exceeding a memory limit
    INSTANCE_LOG = "instance_log"  # the last log lines of an instance that failed or never became ready

    # direction
    STEP_ADVANCED = "step_advanced"  # the next step, or the first
    ROLLING_BACK = "rolling_back"  # the rollback started, with the reason
    SUCCEEDED = "succeeded"  # the new release is live
    ROLLED_BACK = "rolled_back"  # the old release is live, or nothing was changed
    SUPERSEDED = "superseded"  # a repair ended because another rollout was requested
    REFUSED = "refused"  # it cannot be done as requested; nothing was changed
    FAILED = "failed"  # halted: no traffic moves any more, a person must act

    # the build
    DETACHED = "detached"  # the build left the rollout to itself
    BUILD_ENDED = "build_ended"  # the build that requested the rollout is over, with what follows

    # the engine
    DRIVER_ERROR = "driver_error"  # an external part failed; nothing was changed, Tidegate retries
    RECOVERED = "recovered"  # the external part works again
    TAKEN_OVER = "taken_over"  # another engine took over an expired lease
    INTERNAL_ERROR = "internal_error"  # an error in Tidegate itself; it retries
