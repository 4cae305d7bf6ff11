"""Models of request bodies, paths, queries and headers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tidegate import text
from tidegate.compose.files import MAX_FILES, relative_name
from tidegate.core.build import BuildEndPolicy
from tidegate.core.build_queue import LivePolicy
from tidegate.core.image_reference import IMAGE_PATTERN, MAX_IMAGE_CHARS

MAX_REPLICAS = 1000  # as in a Compose file
Line = Annotated[str, Field(pattern=text.LINE_PATTERN)]  # shown in logs and on terminals


def _visible(name: str) -> str:
    if invisible := text.find_invisible(name):
        raise ValueError(f"found the invisible character {invisible}: two names that look alike must be one")
    if name and not name.strip():
        raise ValueError("must not be blank")
    return name


Name = Annotated[str, Field(pattern=text.NAME_PATTERN), AfterValidator(_visible)]
Word = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # databases do not accept NUL


class Body(BaseModel):
    """A JSON body. Unknown fields and other types are rejected."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _normalized_name(name: str) -> str:
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
    """A file that is not UTF-8 text."""

    base64: Annotated[str, AfterValidator(_base64)] = Field(description="The content in base64.")


FileName = Annotated[str, AfterValidator(_normalized_name)]
FilesField = Annotated[
    dict[FileName, str | FileBytes],
    Field(
        default={},
        max_length=MAX_FILES,
        description="The files named by env_file, secrets, configs, extends and include in the Compose file: a map from the"
        " name, relative to the Compose file, to the text or to {base64: …}. No response contains them.",
    ),
]


def file_contents(files: Mapping[str, str | FileBytes]) -> dict[str, bytes]:
    """The bytes of each file."""
    return {
        name: content.encode() if isinstance(content, str) else base64.b64decode(content.base64)
        for name, content in files.items()
    }


class SourceBody(Body):
    """Where the Compose file is. Clients on the machine of the Docker hosts send it for relative bind mounts."""

    project: str = Field(
        default="",
        max_length=64,
        pattern=r"^([a-z0-9][a-z0-9_-]*)?$",
        description="The name of the Compose project, instead of `name` in the file.",
    )
    folder: Word = Field(
        default="",
        max_length=1000,
        description="The absolute path of its folder. The folder's name is the project's name if nothing else names it.",
    )
    home: Word = Field(default="", max_length=1000, description="The user's home folder, for ~ in bind mounts.")
    machine: str = Field(
        default="",
        max_length=64,
        pattern=r"^[0-9a-f]*$",
        description="The client's machine: the SHA-256 of `tidegate` and the contents of /etc/machine-id.",
    )


OverridesField = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(
        default=[],
        max_length=10,
        description="The texts of further Compose files, merged over `compose` in this order as docker compose does.",
    ),
]


class ServiceBody(Body):
    """The definition of a service."""

    compose: str = Field(min_length=1, description="The text of the Compose file.")
    overrides: OverridesField
    variables: dict[Word, Word] = Field(default={}, description="Values for ${NAME} in the Compose file.")
    files: FilesField
    source: SourceBody = SourceBody()


Person = Annotated[
    Name,
    Field(
        default="",
        max_length=100,
        description="The person on whose behalf the token acts; requires the scope `vouch`. Default: the token itself.",
    ),
]
ReasonField = Annotated[
    Line, Field(default="", max_length=2_000, description="Recorded with the rollout and in the audit log.")
]


class BuildBody(Body):
    """The CI build that sends the request."""

    job: Name = Field(min_length=1, max_length=500, description="The full name of the job: env.JOB_NAME.")
    number: int = Field(ge=1, le=2**53, description="The build number: env.BUILD_NUMBER.")
    url: str = Field(  # not a `Line`, whose pattern would replace this one
        default="",
        max_length=1000,
        pattern=r"^(https?://[A-Za-z0-9\[][!-~]*)?$",
        description="The URL of the build: env.BUILD_URL.",
    )
    on_end: Annotated[BuildEndPolicy, Field(strict=False)] | None = Field(
        default=None,
        description="What happens to the rollout when the build is over first. Default: `on_build_end` of the environment.",
    )


class DefinitionBody(Body):
    """The definition to deploy. Without `compose`, the stored one is used."""

    compose: str | None = Field(default=None, min_length=1, description="The text of the Compose file.")
    overrides: OverridesField
    variables: dict[Word, Word] = Field(default={}, description="Values for ${NAME} in the Compose file.")
    files: FilesField
    source: SourceBody = SourceBody()
    image: str | None = Field(
        default=None,
        max_length=MAX_IMAGE_CHARS,
        pattern=f"^{IMAGE_PATTERN}$",
        description="Deploy this image instead of the one in the definition.",
    )


class PlanBody(DefinitionBody):
    """A deployment to plan."""

    force: bool = Field(default=False, description="Plan a deployment that ignores freezes and quarantine.")


class DeployBody(DefinitionBody):
    """What to deploy."""

    plan: str = Field(
        default="",
        max_length=64,
        pattern=r"^[0-9a-f]*$",
        description="The ID of a plan: the deployment is refused unless it is exactly what the plan says.",
    )
    build: BuildBody | None = Field(
        default=None, description="The build to report progress to; older builds of its job are refused afterwards."
    )
    on_live: Annotated[LivePolicy, Field(strict=False)] = Field(
        default=LivePolicy.FAIL,
        description="With `build`, while a rollout of the service is live: `fail`, `wait` (send the request again until it"
        " is the build's turn), or `supersede` (also roll back an older build of the job that waits for a person).",
    )
    on_behalf_of: Person
    force: bool = Field(
        default=False, description="Ignore freezes and quarantine; requires the scope `force` and a reason."
    )
    reason: ReasonField


class ImportBody(ServiceBody):
    """What to import."""

    listen: str = Field(
        default="",
        max_length=60,
        description="Where the proxy listens while a container has the published port, such as `127.0.0.1:18080`.",
    )
    on_behalf_of: Person
    reason: ReasonField


class SignalBody(Body):
    """The reason for a signal."""

    reason: ReasonField
    on_behalf_of: Person


class RollbackBody(SignalBody):
    """A rollback of a service."""

    to: str = Field(
        default="",
        max_length=64,
        pattern=r"^[a-z0-9-]*$",
        description="The ID of the release to return to. Default: the last good one before the live release.",
    )


class ScaleBody(SignalBody):
    """The new number of instances."""

    force: bool = Field(
        default=False, description="More instances despite a freeze; requires the scope `force` and a reason."
    )

    replicas: int = Field(ge=1, le=MAX_REPLICAS, description="The number of instances of the live release.")


class ForceBody(SignalBody):
    """A request that a freeze or a quarantine may refuse."""

    force: bool = Field(
        default=False, description="Despite a freeze or a quarantine; requires the scope `force` and a reason."
    )


class PromoteBody(SignalBody):
    """An approval."""

    full: bool = Field(default=False, description="Also approve every later step of the rollout.")
    force: bool = Field(
        default=False,
        description="Skip all remaining bakes, checks and approvals; requires the scope `force` and a reason.",
    )
    binding: str = Field(
        default="",
        max_length=64,
        description="`approval.binding` of what is approved. Unlike the ETag, it does not change with each verdict.",
    )


class FreezeBody(Body):
    """A freeze of an environment."""

    reason: Line = Field(min_length=1, max_length=500, description="Shown to everyone whose deployment is refused.")
    on_behalf_of: Person
    hours: float | None = Field(
        default=None, gt=0, le=8_760, description="Hours until the freeze ends. Default: until it is lifted."
    )


class TokenBody(Body):
    """A new token."""

    name: Name = Field(min_length=1, max_length=100, description="The owner, shown as the requester of rollouts.")
    scopes: list[Literal["read", "deploy", "promote", "rollback", "logs", "force", "freeze", "vouch", "admin"]] = Field(
        min_length=1, description="Every other scope includes read; admin includes all."
    )
    services: list[Annotated[Line, Field(min_length=1, max_length=200)]] = Field(
        default=["*"], min_length=1, description="Globs over environment/service."
    )
    expires_days: float | None = Field(
        default=None, gt=0, le=36_500, description="Days until the token expires. Default: never."
    )
