"""Models of paths, queries and headers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tidegate.core.phases import Phase, Until
from tidegate.web.requests import Person, ReasonField, Word

MAX_WAIT_SECONDS = 300.0  # of a long poll
MAX_LOG_WAIT_SECONDS = 25.0  # of a request that waits for log lines
MAX_ROWS = 200


class ServicePath(BaseModel):
    """The path of a service."""

    environment: Word = Field(description="An environment in the server's settings.")
    service: Word = Field(description="The service's name in that environment.")

    @property
    def key(self) -> str:
        """`environment/service`."""
        return f"{self.environment}/{self.service}"


class ReleasePath(ServicePath):
    """The path of a release."""

    release: Word = Field(description="The ID of the release.")


class EnvironmentPath(BaseModel):
    """The path of an environment."""

    environment: Word = Field(description="An environment in the server's settings.")


class RolloutPath(BaseModel):
    """The path of a rollout."""

    rollout: Word = Field(description="The ID of the rollout.")


class TokenPath(BaseModel):
    """The path of a token."""

    token: Word = Field(description="The ID of the token.")


class PageQuery(BaseModel):
    """A page of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=MAX_ROWS, description="Maximum number of items.")
    cursor: str = Field(default="", description="`next` of the previous page.")


class MeQuery(BaseModel):
    """What the token may do."""

    model_config = ConfigDict(extra="forbid")

    service: Word | None = Field(default=None, description="Also return what it may do for this environment/service.")


class BuildQuery(BaseModel):
    """A build that waits for its turn."""

    model_config = ConfigDict(extra="forbid")

    job: Word = Field(min_length=1, max_length=500, description="The full name of the job.")
    number: int = Field(ge=1, le=2**53, description="The build number.")


class QuarantineQuery(BaseModel):
    """Which releases in quarantine."""

    model_config = ConfigDict(extra="forbid")

    service: Word | None = Field(default=None, description="Only releases of this environment/service.")


class AuditQuery(PageQuery):
    """A page of the audit log, optionally of one subject."""

    subject: Word | None = Field(
        default=None, description="Only entries of this environment/service, environment or token."
    )


class ServiceRolloutsQuery(PageQuery):
    """A page of the rollouts of a service."""

    phase: Phase | None = Field(default=None, description="Only rollouts in this phase.")


class RolloutsQuery(ServiceRolloutsQuery):
    """A page of all rollouts."""

    service: Word | None = Field(default=None, description="Only rollouts of this environment/service.")


class EventsQuery(BaseModel):
    """Which events, and how long to wait for new ones."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(default=0, ge=0, le=2**53, description="Only events with a higher number.")
    wait: float = Field(
        default=0.0, ge=0, le=MAX_WAIT_SECONDS, description="Seconds to wait if there is no such event yet."
    )
    until: Until = Field(
        default=Until.END,
        description="What `reached` in the response means: the first verdict that counts (final, or FAIL), the first"
        " approval or decision, or the end. Each also ends at the next one.",
    )


class RemoveQuery(BaseModel):
    """Why and on whose behalf a service is removed."""

    model_config = ConfigDict(extra="forbid")

    reason: ReasonField
    on_behalf_of: Person
    force: bool = Field(
        default=False,
        description="Despite a freeze, and although live services depend on it; requires the scope `force` and a reason.",
    )


class LogsQuery(BaseModel):
    """Which lines of the logs of a service."""

    model_config = ConfigDict(extra="forbid")

    lines: int = Field(default=100, ge=1, le=2000, description="How many of the last lines of each instance.")
    release: Word = Field(default="", description="Only instances of this release.")
    instance: Word = Field(default="", description="Only the instance with this ID.")
    after: str = Field(default="", max_length=4000, description="`next` of the previous response: only what follows.")
    wait: float = Field(default=0.0, ge=0, le=MAX_LOG_WAIT_SECONDS, description="Seconds to wait if there is no line yet.")


_KEY_PATTERN = r"^[\x21-\x7e]{1,1000}$"
_KEY = "A value of your choice. A repeated request with the same value takes effect once."
_ETAG = "The ETag of the rollout; the request fails with 412 if the rollout has changed since."


class KeyHeader(BaseModel):
    """Headers of a request that creates a rollout."""

    key: str = Field(alias="Idempotency-Key", pattern=_KEY_PATTERN, description=_KEY)


class OptionalKeyHeader(BaseModel):
    """Headers of a request that may create a rollout."""

    key: str | None = Field(default=None, alias="Idempotency-Key", pattern=_KEY_PATTERN, description=_KEY)


class SignalHeader(BaseModel):
    """Headers of a signal."""

    key: str | None = Field(default=None, alias="Idempotency-Key", pattern=_KEY_PATTERN, description=_KEY)
    if_match: str | None = Field(default=None, alias="If-Match", description=_ETAG)


class PutHeader(BaseModel):
    """Headers of a request that stores a definition."""

    if_match: str | None = Field(
        default=None,
        alias="If-Match",
        description="The ETag of the definition to replace; fails with 412 if it has changed since.",
    )
    if_none_match: Literal["*"] | None = Field(
        default=None, alias="If-None-Match", description="`*`: store only if the service does not exist."
    )
