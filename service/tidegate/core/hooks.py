"""Tasks of a step: hooks, and the comparison of two releases. Each runs once in a rollout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tidegate.clock import Time
from tidegate.core.container import Container

if TYPE_CHECKING:
    from tidegate.core.model import Release

PRE_DEPLOY = "pre_deploy"  # before anything is started: expand the schema
PRE_PROMOTE = "pre_promote"  # the new release is up and takes no traffic: smoke tests against the preview
POST_PROMOTE = "post_promote"  # only the new release is left: contract the schema
ON_ROLLBACK = "on_rollback"  # the old release serves again
COMPARE = "compare"  # not a hook: the documents of both releases are compared
JOB_PREFIX = "job-"  # of a service of the Compose file that runs to completion before everything else

HOOKS = (PRE_DEPLOY, PRE_PROMOTE, POST_PROMOTE, ON_ROLLBACK)
#: A failure of these rolls back. A failure of the others is a warning, since traffic has moved already.
BLOCKING = frozenset({PRE_DEPLOY, PRE_PROMOTE, COMPARE})


def job_name(service: str) -> str:
    """The name of the task that runs a service of the Compose file."""
    return JOB_PREFIX + service


def is_blocking(task: str) -> bool:
    """Whether a failure of the task rolls back."""
    return task in BLOCKING or task.startswith(JOB_PREFIX)


class ReleaseRole(StrEnum):
    """Which of the two releases."""

    NEW = "new"
    OLD = "old"


class TaskState(StrEnum):
    """The state or result of a task."""

    RUNNING = "running"
    PASSED = "passed"
    WARNED = "warned"  # the rollout continues, but needs attention
    FAILED = "failed"
    UNKNOWN = "unknown"  # no clear result, so a person decides

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self is not TaskState.RUNNING


@dataclass(frozen=True, slots=True)
class Hook:
    """A short-lived container of one of the releases. `image` empty: that release's own.

    With `container` it is a job: a service of the Compose file with an image, a command and a configuration of its own.
    """

    command: tuple[str, ...]
    entrypoint: tuple[str, ...] | None = None  # None: as the release's instances have it
    release: ReleaseRole = ReleaseRole.NEW
    image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 300.0
    host_network: bool = False  # to reach what listens on the engine's loopback only
    container: Container | None = None


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A task that was started: when, and how it ended. `message` has the result."""

    name: str
    state: TaskState
    started_at: Time
    ended_at: Time | None = None
    message: str = ""
    started: bool = True  # False: the platform could not start it, which does not speak against the release

    @property
    def title(self) -> str:
        """As a message names it: `Hook pre_deploy`, `Job migrate`."""
        is_job = self.name.startswith(JOB_PREFIX)
        return f"Job {self.name.removeprefix(JOB_PREFIX)}" if is_job else f"Hook {self.name}"


@dataclass(frozen=True, slots=True)
class Job:
    """A hook to run for a rollout. The same rollout and name are the same job."""

    rollout: str
    service: str  # environment/name
    name: str
    release: Release
    hook: Hook
    variables: Mapping[str, str]  # set in addition to `hook.environment`


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of a job. `status` is its exit status, None while it runs; `log` its last lines."""

    status: int | None
    log: str = ""
    detail: str = ""  # why it could not run, or was killed
    started: bool = True  # False: the platform refused to start it
