"""What has to be done at a step besides moving instances and traffic: hooks, and the comparison of two releases.

Each is done once in a rollout. What is recorded of it is a `TaskRun`; what runs meanwhile is asked from the platform.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tidegate.clock import Time

if TYPE_CHECKING:
    from tidegate.core.model import Release

PRE_DEPLOY = "pre_deploy"  # before anything is started: expand the schema
PRE_PROMOTE = "pre_promote"  # the new release is up and takes no traffic: smoke tests against the preview
POST_PROMOTE = "post_promote"  # only the new release is left: contract the schema
ON_ROLLBACK = "on_rollback"  # the old release serves again
COMPARE = "compare"  # not a hook: the documents of both releases are compared

HOOKS = (PRE_DEPLOY, PRE_PROMOTE, POST_PROMOTE, ON_ROLLBACK)
#: Their failure turns the rollout back; that of the others is told, since traffic was moved already.
BLOCKING = frozenset({PRE_DEPLOY, PRE_PROMOTE, COMPARE})


class ReleaseRole(StrEnum):
    """Which of the two releases."""

    NEW = "new"
    OLD = "old"


class TaskState(StrEnum):
    """How a task stands, or ended."""

    RUNNING = "running"
    PASSED = "passed"
    WARNED = "warned"  # it goes on, but a person should know
    FAILED = "failed"
    UNKNOWN = "unknown"  # nothing can be said, so a person is asked

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self is not TaskState.RUNNING


@dataclass(frozen=True, slots=True)
class Hook:
    """A short-lived container of one of the releases. `image` empty: that release's own."""

    command: tuple[str, ...]
    entrypoint: tuple[str, ...] | None = None  # None: as the release's instances have it
    release: ReleaseRole = ReleaseRole.NEW
    image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 300.0
    host_network: bool = False  # to reach what listens on the engine's loopback only


@dataclass(frozen=True, slots=True)
class TaskRun:
    """A task that was begun: when, and how it ended. `message` says what came of it."""

    name: str
    state: TaskState
    started_at: Time
    ended_at: Time | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A hook to be run for a rollout; the same rollout and name are the same job."""

    rollout: str
    service: str  # environment/name
    name: str
    release: Release
    hook: Hook
    variables: Mapping[str, str]  # what it is told besides `hook.environment`


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job stands. `status` is its exit status, None while it runs; `log` its last lines."""

    status: int | None
    log: str = ""
    detail: str = ""  # why it could not run, or was killed; one sentence
