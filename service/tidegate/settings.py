"""The server's settings: a TOML file, overridden by environment variables. All mistakes are told at once.

`TIDEGATE_DATABASE=…`, `TIDEGATE_ENGINE__LEASE_SECONDS=…`: the name in capitals, `__` between levels.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from tidegate.compose import units
from tidegate.compose.host_access import HostAccess
from tidegate.errors import InvalidSettings, Problem

ENVIRONMENT_PREFIX = "TIDEGATE_"
MIN_RETENTION_SECONDS = 86_400.0
PASSWORD_PATTERN = re.compile(r"(://[^\s/:@]*:)[^\s/]+@")


class SettingsSection(BaseModel):
    """Settings whose unknown names are mistakes."""

    model_config = ConfigDict(extra="forbid")


class EngineSettings(SettingsSection):
    """How rollouts are driven."""

    lease_seconds: float = Field(default=15.0, ge=1.0, le=300.0, description="How long a vanished engine's rollouts wait.")
    threads: int = Field(default=4, ge=1, le=64, description="Rollouts that are driven at the same time.")
    poll_seconds: float = Field(default=0.5, gt=0.0, le=5.0, description="Between two looks for due rollouts.")
    metrics_listen: str = Field(
        default="",
        pattern=r"^([^:\s]+:\d{1,5})?$",
        description="Address and port of the metrics of `tidegate engine`; empty: none.",
    )
    drift_interval_seconds: float = Field(
        default=5.0, ge=0.1, le=3600.0, description="Between two looks at a service that has no live rollout."
    )


class WebSettings(SettingsSection):
    """How the API is served."""

    threads: int = Field(default=32, ge=4, le=256, description="Requests that are answered at the same time.")
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="The longest request.")
    certificate: Path | None = Field(default=None, description="Serve TLS with this chain, a PEM file; needs `key`.")
    key: Path | None = Field(default=None, description="The certificate's key, a PEM file.")
    metrics_need_token: bool = Field(default=False, description="Whether `/metrics` is behind a token, too.")
    engine_within_seconds: float = Field(
        default=0.0, ge=0.0, le=86_400.0, description="Ready only while an engine was heard in this time; 0: no matter."
    )
    trusted_proxies: list[IPvAnyNetwork] = Field(
        default=[], description="Networks of proxies whose `X-Forwarded-For` is believed."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key are needed together, to serve TLS; or neither")
        return self


class LogSettings(SettingsSection):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least that is told.")
    format: Literal["json", "console"] = Field(default="json", description="For programs, or for people.")


class RetentionSettings(SettingsSection):
    """How long what is finished is kept; for ever, if nothing is said. What serves and what is live is never pruned."""

    samples: str = Field(default="", description="What was measured: 30d.")
    rollouts: str = Field(default="", description="Rollouts with their stories, and releases that none tells of: 90d.")

    @field_validator("samples", "rollouts")
    @classmethod
    def _age(cls, found: str) -> str:
        if found and units.parse_duration(found) < MIN_RETENTION_SECONDS:
            raise ValueError("at least 1d, or nothing to keep it for ever")
        return found

    def ages(self) -> tuple[float | None, float | None]:
        """Of samples and of rollouts, in seconds. A rollout takes its samples with it."""
        samples, rollouts = (units.parse_duration(each) if each else None for each in (self.samples, self.rollouts))
        return samples, rollouts


class DriverSettings(BaseModel):
    """A driver by its name, with options that the driver itself checks."""

    model_config = ConfigDict(extra="allow")
    driver: str = Field(description="Its name in the registry.")

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class RouterSettings(DriverSettings):
    """A router may be left unnamed; then it is one that is installed."""

    driver: str = Field(default="", description="Its name in the registry; without one, `directory` is the only option.")


class HostAccessSettings(SettingsSection):
    """What Compose files may ask for that reaches beyond their containers; what is not said is refused."""

    host_mounts: list[str] = Field(default=[], description="Folders of the hosts that may be mounted, globs; all in them.")
    capabilities: list[str] = Field(default=[], description="Capabilities that `cap_add` may add.")
    security_options: list[str] = Field(default=[], description="What `security_opt` may say; globs.")
    devices: bool = Field(default=False, description="Whether `devices` may be given.")
    host_network: bool = Field(default=False, description="Whether hooks may use the host's network.")

    @field_validator("host_mounts")
    @classmethod
    def _absolute(cls, found: list[str]) -> list[str]:
        wrong = [each for each in found if not each.startswith("/") or ".." in each.split("/")]
        if wrong:
            raise ValueError(f"absolute paths without .. are needed; found: {', '.join(wrong)}")
        return found

    @property
    def host_access(self) -> HostAccess:
        """For the core."""
        return HostAccess(
            tuple(self.host_mounts),
            tuple(self.capabilities),
            tuple(self.security_options),
            self.devices,
            self.host_network,
        )


class EnvironmentSettings(SettingsSection):
    """A named place to run services."""

    platform: DriverSettings = Field(description="Runs instances: docker.")
    router: RouterSettings = Field(
        default=RouterSettings(),
        description="Sends traffic to them: haproxy, nginx or envoy; without a driver what is installed.",
    )
    metrics: DriverSettings | None = Field(default=None, description="Answers the checks: prometheus.")
    ci: DriverSettings | None = Field(default=None, description="Told of what its builds asked for: jenkins.")
    allow: HostAccessSettings | None = Field(
        default=None, description="What Compose files may ask of hosts; else everything."
    )
    roles: dict[str, list[str]] = Field(
        default={}, description="Who may approve: names of persons and of tokens, by role; a service says which it takes."
    )


class Settings(BaseSettings):
    """All of it."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__")

    database: str = Field(default="sqlite:////var/lib/tidegate/tidegate.db", description="Where rollouts are recorded.")
    database_password_file: Path | None = Field(
        default=None, description="A file with PostgreSQL's password; read anew for each connection."
    )
    listen: str = Field(default="127.0.0.1:7070", pattern=r"^[^:\s]+:\d{1,5}$", description="Address and port of the API.")
    address: str = Field(
        default="", pattern=r"^(https?://[!-~]+)?$", description="Where people reach this server, for links; else `listen`."
    )
    engine: EngineSettings = EngineSettings()
    web: WebSettings = WebSettings()
    log: LogSettings = LogSettings()
    retention: RetentionSettings = RetentionSettings()
    environments: dict[str, EnvironmentSettings] = Field(default={}, description="By name.")

    @field_validator("environments")
    @classmethod
    def _named(cls, found: dict[str, EnvironmentSettings]) -> dict[str, EnvironmentSettings]:
        wrong = [name for name in found if not name.replace("-", "").isalnum() or name != name.lower()]
        if wrong:
            raise ValueError(f"names are a-z, 0-9 and -; found: {', '.join(wrong)}")
        return found

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What `load` gives alone: it has read the environment that it was handed, and no other."""
        return (init_settings,)


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of the file, or the defaults without one, with what the environment overrides.

    Raises `InvalidSettings` with every mistake.
    """
    result = _read_file(path) if path is not None else {}
    try:
        return Settings(**_merge(result, _environment_overrides(environ)))
    except ValidationError as error:
        raise InvalidSettings(to_problems(error)) from error


def to_problems(error: ValidationError, path: str = "") -> list[Problem]:
    """Pydantic's mistakes as ours."""
    result = []
    for each in error.errors():
        place = ".".join([path] * bool(path) + [str(part) for part in each["loc"]])
        value = "" if each["type"] in ("missing", "extra_forbidden") else f"; found {_format_value(each['input'])}"
        message = "unknown setting" if each["type"] == "extra_forbidden" else each["msg"]
        result.append(Problem(place, f"{message}{value}"))
    return result


def _format_value(found: object) -> str:
    """A value; of a table only its names, and an address without its password."""
    if isinstance(found, dict):
        return f"a table of {', '.join(map(str, found)) or 'nothing'}"
    return PASSWORD_PATTERN.sub(r"\1…@", repr(found))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidSettings([Problem(str(path), f"cannot be read: {error.strerror}")]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings([Problem(str(path), f"is not TOML: {error}")]) from error


def _environment_overrides(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the environment says, read by pydantic-settings' own rules."""
    names = {
        name.lower(): value
        for name, value in environ.items()
        if name.upper().startswith(ENVIRONMENT_PREFIX)
        and name.lower()[len(ENVIRONMENT_PREFIX) :].split("__")[0] in Settings.model_fields
    }
    source = EnvSettingsSource(Settings)
    source.env_vars = names
    return source()


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, level by level."""
    both = dict(base)
    for key, value in over.items():
        mine = both.get(key)
        both[key] = _merge(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both
