"""The settings of the Jenkins driver: `[environments.NAME.ci]` with `driver = "jenkins"`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tidegate.drivers.urls import BaseUrl
from tidegate.errors import CIError

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class JenkinsOptions(BaseModel):
    """Jenkins' address and Tidegate's user there. The API token is read from a file or variable at each use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: BaseUrl  # Jenkins' root: http(s)://host:port[/path]
    user: str = Field(pattern=r"^[^:\s]+$")  # needs permission to read jobs, and to update and cancel builds
    token_file: Path | None = None  # file with the user's API token
    token_env: str | None = None  # name of an environment variable with the API token
    timeout_seconds: float = Field(default=10.0, gt=0, le=300)
    ca_file: Path | None = None  # trusted CA certificates, instead of the system's
    stop_obsolete: bool = False  # stop older builds of a job that wait for a node; for jobs that deploy one service

    @model_validator(mode="after")
    def _has_one_token(self) -> JenkinsOptions:
        if (self.token_file is None) == (self.token_env is None):
            raise ValueError("set exactly one of token_file and token_env")
        return self

    def token(self) -> str:
        """Read the token. Raises `CIError` with a message that contains the setting and never the token."""
        token = (
            _read_token_file(self.token_file) if self.token_file is not None else _read_token_variable(self.token_env or "")
        )
        if not token or not token.isprintable():
            raise CIError(
                f"{'token_file' if self.token_file else 'token_env'} must contain one line: an API token of Jenkins"
            )
        return token


def _read_token_file(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        kind = error.strerror if isinstance(error, OSError) else "not text"
        raise CIError(f"Cannot read token_file {file}: {kind}") from None


def _read_token_variable(name: str) -> str:
    """An invalid name is not shown: it may be the token itself in the wrong setting."""
    if not VARIABLE.fullmatch(name):
        raise CIError("token_env must be the name of an environment variable")
    if name not in os.environ:
        raise CIError(f"token_env: environment variable {name} is not set")
    return os.environ[name].strip()
