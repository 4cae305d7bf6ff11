"""The shapes of requests. The API's words are the core's words."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tidegate import text
from tidegate.compose.files import MAX_FILES, relative_name
from tidegate.compose.reader import IMAGE, MAX_IMAGE_CHARS
from tidegate.core.phases import Phase

MAX_WAIT_SECONDS = 25.0
MAX_ROWS = 200
MAX_REPLICAS = 1000  # as in a Compose file
Line = Annotated[str, Field(pattern=text.LINE_PATTERN)]  # it ends up in logs and on terminals
Name = Annotated[str, Field(pattern=text.NAME_PATTERN)]
Word = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # no database takes a NUL


class Body(BaseModel):
    """A request's JSON: unknown names and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _own_name(name: str) -> str:
    if relative_name(name) != name:
        raise ValueError(f"write it as {relative_name(name)}")
    return name


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("must be base64") from None
    return text


class FileBytes(Body):
    """A file that is no text in UTF-8."""

    base64: Annotated[str, AfterValidator(_base64)] = Field(description="Its content, in base64.")


FileName = Annotated[str, AfterValidator(_own_name)]
FilesField = Annotated[
    dict[FileName, str | FileBytes],
    Field(
        default={},
        max_length=MAX_FILES,
        description="The files that the Compose file names in env_file, secrets and configs, by their names relative to it:"
        " their text, or {base64: …}. Never answered by any call.",
    ),
]


def file_contents(files: Mapping[str, str | FileBytes]) -> dict[str, bytes]:
    """What stands in each file."""
    return {name: each.encode() if isinstance(each, str) else base64.b64decode(each.base64) for name, each in files.items()}


class ServiceBody(Body):
    """A service's definition."""

    compose: str = Field(min_length=1, description="The Compose file, as text.")
    variables: dict[Word, Word] = Field(default={}, description="Values of the file's ${NAME}s.")
    files: FilesField


Person = Annotated[
    Name,
    Field(
        default="",
        max_length=100,
        description="The person for whom it is asked: a claim, which needs the scope `vouch`. Left out: the token itself.",
    ),
]
ReasonField = Annotated[Line, Field(default="", max_length=500, description="Kept with the rollout and in the audit log.")]


class BuildBody(Body):
    """The build that asks."""

    job: Name = Field(min_length=1, max_length=500, description="The job as Jenkins names it: env.JOB_NAME.")
    number: int = Field(ge=1, le=2**53, description="env.BUILD_NUMBER.")
    url: Line = Field(
        default="", max_length=1000, pattern=r"^(https?://[!-~]*)?$", description="The build's page: env.BUILD_URL."
    )


class DeployBody(Body):
    """What shall be brought up. Without `compose` the stored definition."""

    compose: str | None = Field(default=None, min_length=1, description="The Compose file, as text.")
    variables: dict[Word, Word] = Field(default={}, description="Values of the file's ${NAME}s.")
    files: FilesField
    image: str | None = Field(
        default=None,
        max_length=MAX_IMAGE_CHARS,
        pattern=f"^{IMAGE}$",
        description="This image instead of the one defined.",
    )
    build: BuildBody | None = Field(default=None, description="Told of what becomes of it; an older build is then refused.")
    on_behalf_of: Person
    force: bool = Field(
        default=False, description="In spite of a freeze and of a quarantine; needs the scope `force` and a reason."
    )
    reason: ReasonField


class SignalBody(Body):
    """Why it is asked for."""

    reason: ReasonField
    on_behalf_of: Person


class ScaleBody(SignalBody):
    """How many instances are wanted."""

    replicas: int = Field(ge=1, le=MAX_REPLICAS, description="Of the release that serves.")


class PromoteBody(SignalBody):
    """An approval."""

    full: bool = Field(default=False, description="Give every hold that follows, too.")
    force: bool = Field(
        default=False,
        description="On to the end without any bake, check or hold; needs the scope `force` and a reason.",
    )
    binding: str = Field(
        default="",
        max_length=64,
        description="`binding` of the hold that it is for: unlike the ETag it stays while the checks go on being judged.",
    )


class FreezeBody(Body):
    """Why an environment is frozen, and for how long."""

    reason: Line = Field(min_length=1, max_length=500, description="Told to whoever is kept from deploying.")
    on_behalf_of: Person
    hours: float | None = Field(default=None, gt=0, le=8_760, description="Until it ends by itself; never if left out.")


class TokenBody(Body):
    """A new token."""

    name: Name = Field(min_length=1, max_length=100, description="Whose it is; stands in rollouts as who asked.")
    scopes: list[Literal["read", "deploy", "promote", "rollback", "force", "freeze", "vouch", "admin"]] = Field(
        min_length=1, description="Each of the others includes read; admin includes all."
    )
    services: list[Annotated[Line, Field(min_length=1, max_length=200)]] = Field(
        default=["*"], min_length=1, description="Globs over environment/service."
    )
    expires_days: float | None = Field(default=None, gt=0, le=36_500, description="Days until it ends; never if left out.")


class ServicePath(BaseModel):
    """A service."""

    environment: Word = Field(description="One of the environments in the server's settings.")
    service: Word = Field(description="The service's name in that environment.")

    @property
    def key(self) -> str:
        """`environment/service`."""
        return f"{self.environment}/{self.service}"


class EnvironmentPath(BaseModel):
    """An environment."""

    environment: Word = Field(description="One of the environments in the server's settings.")


class RolloutPath(BaseModel):
    """A rollout."""

    rollout: Word = Field(description="Its id.")


class TokenPath(BaseModel):
    """A token."""

    token: Word = Field(description="Its id.")


class PageQuery(BaseModel):
    """Which part of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=MAX_ROWS, description="How many at most.")
    cursor: str = Field(default="", description="Where to go on: `next` of the page before.")


class AuditQuery(PageQuery):
    """Which part of the audit log."""

    subject: Word | None = Field(default=None, description="Only of this environment/service, environment or token.")


class ServiceRolloutsQuery(PageQuery):
    """Which rollouts of a service."""

    phase: Phase | None = Field(default=None, description="Only in this phase.")


class RolloutsQuery(ServiceRolloutsQuery):
    """Which rollouts."""

    service: Word | None = Field(default=None, description="Only of this environment/service.")


class EventsQuery(BaseModel):
    """Which events, and how long to wait for one."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(default=0, ge=0, le=2**53, description="Only those with a higher number.")
    wait: float = Field(
        default=0.0, ge=0, le=MAX_WAIT_SECONDS, description="Seconds to wait when there is nothing new yet."
    )


_KEY_PATTERN = r"^[\x21-\x7e]{1,200}$"
_KEY = "Of your own choice, the same when the request is repeated: it then never happens twice."
_SEEN = "The ETag of the rollout as it was seen; refused with 412 when it has changed since."


class KeyHeader(BaseModel):
    """For a request that creates."""

    key: str = Field(alias="Idempotency-Key", pattern=_KEY_PATTERN, description=_KEY)


class SignalHeader(BaseModel):
    """For a wish."""

    key: str | None = Field(default=None, alias="Idempotency-Key", pattern=_KEY_PATTERN, description=_KEY)
    if_match: str | None = Field(default=None, alias="If-Match", description=_SEEN)


class PutHeader(BaseModel):
    """For storing a definition."""

    if_match: str | None = Field(
        default=None, alias="If-Match", description="The ETag of the definition to replace; 412 when it is another by now."
    )
    if_none_match: Literal["*"] | None = Field(
        default=None, alias="If-None-Match", description="`*`: only when there is no such service yet."
    )
