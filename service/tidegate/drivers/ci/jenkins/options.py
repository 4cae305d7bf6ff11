"""The settings of the Jenkins driver: `[environments.NAME.ci]` with `driver = "jenkins"`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tidegate.drivers.http.urls import BaseUrl
from tidegate.errors import CIError

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class JenkinsOptions(BaseModel):
    """Where Jenkins is, and as whom it is spoken to. The token itself is never a setting: it is read at each use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: BaseUrl  # Jenkins' root, http(s)://host:port, with a path where it has one
    user: str = Field(pattern=r"^[^:\s]+$")  # may read the jobs, update and cancel their builds
    token_file: Path | None = None  # holds the user's API token in one line
    token_env: str | None = None  # the name of an environment variable with it
    timeout_seconds: float = Field(default=10.0, gt=0, le=300)
    ca_file: Path | None = None  # the authorities that are trusted, instead of the system's
    stop_obsolete: bool = False  # older builds of a job that wait for a node are stopped; where a job serves one service

    @model_validator(mode="after")
    def _has_one_token(self) -> JenkinsOptions:
        if (self.token_file is None) == (self.token_env is None):
            raise ValueError("give either token_file or token_env")
        return self

    def token(self) -> str:
        """The token as it is now. Raises `CIError`, whose message names the setting and never what it holds."""
        token = (
            _read_token_file(self.token_file) if self.token_file is not None else _read_token_variable(self.token_env or "")
        )
        if not token or not token.isprintable():
            raise CIError(f"{'token_file' if self.token_file else 'token_env'} must hold one line, an API token of Jenkins")
        return token


def _read_token_file(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        kind = error.strerror if isinstance(error, OSError) else "not text"
        raise CIError(f"token_file {file} cannot be read: {kind}") from None


def _read_token_variable(name: str) -> str:
    """A name that cannot be one is not shown: it may be the token, put in the wrong place."""
    if not VARIABLE.fullmatch(name):
        raise CIError("token_env must be the name of an environment variable")
    if name not in os.environ:
        raise CIError(f"token_env: there is no environment variable {name}")
    return os.environ[name].strip()
