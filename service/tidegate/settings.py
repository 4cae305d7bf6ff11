"""The server's settings: a TOML file, overridden by environment variables. All mistakes are reported together.

The environment variables are the names in capitals, with `__` between levels: `TIDEGATE_DATABASE=…`,
`TIDEGATE_ENGINE__LEASE_SECONDS=…`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from tidegate.compose import units
from tidegate.compose.host_access import READ_ONLY, HostAccess, parse_listen_range
from tidegate.core.build import BuildEndPolicy
from tidegate.errors import InvalidSettings, Problem

ENVIRONMENT_PREFIX = "TIDEGATE_"
MIN_RETENTION_SECONDS = 86_400.0
MAX_STOP_GRACE_SECONDS = 86_400.0
PASSWORD_PATTERN = re.compile(r"(://[^\s/:@]*:)[^\s/]+@")


def _validate_listen(address: str) -> str:
    host, _, port = address.rpartition(":")
    named = re.fullmatch(r"[^:\s\[\]]+|\[[0-9A-Fa-f:.]+\]", host)
    if address and not (named and port.isdecimal() and int(port) < 65536):
        raise ValueError("expected HOST:PORT, with an IPv6 address in brackets: 127.0.0.1:7070, [::1]:7070")
    return address


ListenAddress = Annotated[str, AfterValidator(_validate_listen)]


class SettingsSection(BaseModel):
    """A section of the settings that rejects unknown names."""

    model_config = ConfigDict(extra="forbid")


class EngineSettings(SettingsSection):
    """How rollouts are driven."""

    lease_seconds: float = Field(
        default=15.0,
        ge=1.0,
        le=300.0,
        description="Lease duration: how long before another engine takes over from one that has died.",
    )
    threads: int = Field(default=4, ge=1, le=64, description="Rollouts driven concurrently in each environment.")
    poll_seconds: float = Field(default=0.5, gt=0.0, le=5.0, description="Interval between queries for due rollouts.")
    metrics_listen: ListenAddress = Field(
        default="",
        description="Address and port for the metrics of `tidegate engine`; empty disables them.",
    )
    drift_interval_seconds: float = Field(
        default=5.0, ge=0.1, le=3600.0, description="Interval between drift checks of a service without a live rollout."
    )
    build_silent_after_seconds: float = Field(
        default=900.0,
        ge=0.0,
        le=86_400.0,
        description="Report a build that has not polled for its live rollout for so long; 0 disables the report.",
    )


class WebSettings(SettingsSection):
    """How the API is served."""

    threads: int = Field(default=32, ge=4, le=256, description="Requests served concurrently.")
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="Maximum size of a request body.")
    certificate: Path | None = Field(
        default=None, description="Serve TLS with this certificate chain, a PEM file; requires `key`."
    )
    key: Path | None = Field(default=None, description="The private key of the certificate, a PEM file.")
    metrics_need_token: bool = Field(default=False, description="Whether `/metrics` requires a token.")
    engine_within_seconds: float = Field(
        default=0.0,
        ge=0.0,
        le=86_400.0,
        description="Report not ready unless an engine sent a heartbeat within this time; 0 disables the check.",
    )
    trusted_proxies: list[IPvAnyNetwork] = Field(
        default=[], description="Networks of proxies whose `X-Forwarded-For` is trusted."
    )
    allowed_hosts: list[Annotated[str, Field(pattern=r"^(\*|\.?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)$")]] = Field(
        default=[],
        description="Further names of this server in `Host`: tidegate.example, .example with all names below it, * for any."
        " Always allowed: IP addresses, names without a dot, and the hosts of `listen` and `address`.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("set certificate and key together to serve TLS, or neither")
        return self


class LogSettings(SettingsSection):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest level that is logged."
    )
    format: Literal["json", "console"] = Field(
        default="json", description="JSON lines for programs, or text for a terminal."
    )


class RetentionSettings(SettingsSection):
    """How long finished data is kept; for ever by default. Live releases and live rollouts are never deleted."""

    samples: str = Field(default="", description="Retention of the measurements of finished rollouts, e.g. 30d.")
    rollouts: str = Field(
        default="", description="Retention of finished rollouts, their events, and unreferenced releases, e.g. 90d."
    )

    @field_validator("samples", "rollouts")
    @classmethod
    def _age(cls, age: str) -> str:
        if age and units.parse_duration(age) < MIN_RETENTION_SECONDS:
            raise ValueError("at least 1d, or empty to keep the data for ever")
        return age

    def ages(self) -> tuple[float | None, float | None]:
        """The retention of samples and of rollouts in seconds; None: for ever. Deleting a rollout deletes its samples."""
        samples, rollouts = (units.parse_duration(age) if age else None for age in (self.samples, self.rollouts))
        return samples, rollouts


class DriverSettings(BaseModel):
    """A driver's name and its options, which the driver validates."""

    model_config = ConfigDict(extra="allow")
    driver: str = Field(description="Name of the driver.")

    @property
    def options(self) -> dict[str, Any]:
        """The options of the driver: everything except its name."""
        return dict(self.model_extra or {})


class RouterSettings(DriverSettings):
    """A router driver; without a name, an installed proxy is detected."""

    driver: str = Field(
        default="", description="Name of the driver; empty: an installed proxy, and `directory` is the only option."
    )


class MetricsSettings(DriverSettings):
    """A metrics driver, and what the queries of services may read."""

    enforce: dict[str, str] = Field(
        default={}, description="Labels and values that each selector of a service's queries must match with =."
    )

    @field_validator("enforce")
    @classmethod
    def _matchers(cls, matchers: dict[str, str]) -> dict[str, str]:
        for label, value in matchers.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", label) or not re.fullmatch(r"[^\\\"'`\s]+", value):
                raise ValueError(f'expected a label and a value, such as {{service = "$service"}}; found: {label}, {value}')
        return matchers


class CISettings(DriverSettings):
    """A CI driver, and what happens to rollouts whose build is over."""

    on_build_end: BuildEndPolicy = Field(
        default=BuildEndPolicy.ROLLBACK,
        description="What happens to a live rollout whose build is over: rollback, pause or detach.",
    )
    on_build_end_after_seconds: float = Field(
        default=60.0, ge=0.0, le=86_400.0, description="How long a build must be over before `on_build_end` applies."
    )


class HostAccessSettings(SettingsSection):
    """What Compose files may request of the hosts, of other services and of the proxy's addresses; everything else is
    refused. Each field is one of `HostAccess`."""

    host_mounts: list[str] = Field(
        default=[], description="Host folders that may be mounted, with everything below them; globs. `:ro`: read-only."
    )
    volumes: list[str] = Field(default=[], description="Named volumes that may be mounted; globs.")
    networks: list[str] = Field(default=[], description="Networks that may be joined in addition; globs.")
    listen: list[str] = Field(default=[], description="Addresses that services and previews may listen on.")
    capabilities: list[str] = Field(default=[], description="Capabilities that `cap_add` may add.")
    security_options: list[str] = Field(default=[], description="Values allowed in `security_opt`; globs.")
    log_drivers: list[str] = Field(default=[], description="Log drivers, in addition to json-file, local and none.")
    log_options: list[str] = Field(default=[], description="Options of log drivers, NAME=VALUE; globs.")
    priority_ulimits: bool = Field(default=False, description="Whether `ulimits` may set nice and rtprio.")
    min_oom_score_adj: int = Field(default=0, ge=-1000, le=1000, description="Lowest `oom_score_adj`.")
    devices: bool = Field(default=False, description="Whether `devices` is allowed.")
    host_network: bool = Field(default=False, description="Whether hooks may use the host's network.")
    hook_images: list[str] = Field(default=[], description="Images of hooks, besides the release's own; globs.")
    probe_urls: list[str] = Field(default=[], description="URLs of `probe.url`, besides the service's own; globs.")
    max_stop_grace: str = Field(default="15m", description="Longest `stop_grace_period`, at most 1d.")

    @field_validator("host_mounts")
    @classmethod
    def _absolute(cls, folders: list[str]) -> list[str]:
        plain = [folder.removesuffix(READ_ONLY) for folder in folders]
        wrong = [folder for folder in plain if not folder.startswith("/") or ".." in folder.split("/") or ":" in folder]
        if wrong:
            raise ValueError(f"absolute paths without .. and : are required, :ro may follow; found: {', '.join(wrong)}")
        return folders

    @field_validator("listen")
    @classmethod
    def _ranges(cls, addresses: list[str]) -> list[str]:
        for address in addresses:
            try:
                parse_listen_range(address)
            except ValueError as error:
                expected = "expected a port or a range, with or without an address: 8001, 127.0.0.1:8000-8999, [::]:443"
                raise ValueError(f"{expected}; found: {address}") from error
        return addresses

    @field_validator("max_stop_grace")
    @classmethod
    def _duration(cls, grace: str) -> str:
        if not 0 < units.parse_duration(grace) <= MAX_STOP_GRACE_SECONDS:
            raise ValueError("a duration of at most 1d is required, such as 15m")
        return grace

    @property
    def host_access(self) -> HostAccess:
        """The same as the value that the rules use."""
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in self}
        return HostAccess(**values | {"max_stop_grace": units.parse_duration(self.max_stop_grace)})


class EnvironmentSettings(SettingsSection):
    """An environment in which services run."""

    platform: DriverSettings = Field(description="The platform that runs instances: docker.")
    router: RouterSettings = Field(
        default=RouterSettings(),
        description="The proxy: haproxy, nginx or envoy; without a driver, an installed one.",
    )
    metrics: MetricsSettings | None = Field(default=None, description="The metrics source of the checks: prometheus.")
    ci: CISettings | None = Field(
        default=None, description="The CI that gets the events of the rollouts of its builds: jenkins."
    )
    allow: HostAccessSettings | None = Field(
        default=None, description="Host access allowed to Compose files; without it, everything is allowed."
    )
    roles: dict[str, list[str]] = Field(
        default={},
        description="Approvers by role: names of people and of tokens. A service's `approval.roles` selects roles.",
    )


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__")

    database: str = Field(
        default="sqlite:////var/lib/tidegate/tidegate.db",
        description="The database URL: sqlite:///PATH or postgresql://USER@HOST/NAME.",
    )
    database_password_file: Path | None = Field(
        default=None, description="File with the PostgreSQL password; read again for each connection."
    )
    listen: ListenAddress = Field(default="127.0.0.1:7070", min_length=1, description="Address and port of the API.")
    address: str = Field(
        default="",
        pattern=r"^(https?://[!-~]+)?$",
        description="Public URL of this server, used in links; default: `listen`.",
    )
    engine: EngineSettings = EngineSettings()
    web: WebSettings = WebSettings()
    log: LogSettings = LogSettings()
    retention: RetentionSettings = RetentionSettings()
    environments: dict[str, EnvironmentSettings] = Field(default={}, description="The environments, by name.")

    @field_validator("environments")
    @classmethod
    def _named(cls, environments: dict[str, EnvironmentSettings]) -> dict[str, EnvironmentSettings]:
        wrong = [name for name in environments if not name.replace("-", "").isalnum() or name != name.lower()]
        if wrong:
            raise ValueError(f"names may contain a-z, 0-9 and -; found: {', '.join(wrong)}")
        return environments

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments: `load` has already merged the environment variables that it was given."""
        return (init_settings,)


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of the file, or the defaults without one, overridden by environment variables.

    Raises `InvalidSettings` with all mistakes.
    """
    result = _read_file(path) if path is not None else {}
    try:
        return Settings(**_merge(result, _environment_overrides(environ)))
    except ValidationError as error:
        raise InvalidSettings(to_problems(error)) from error


def to_problems(error: ValidationError, path: str = "") -> list[Problem]:
    """Pydantic's errors as problems, with `path` before each location."""
    result = []
    for detail in error.errors():
        place = ".".join([path] * bool(path) + [str(part) for part in detail["loc"]])
        value = "" if detail["type"] in ("missing", "extra_forbidden") else f"; found {_format_value(detail['input'])}"
        message = "unknown setting" if detail["type"] == "extra_forbidden" else detail["msg"]
        result.append(Problem(place, f"{message}{value}"))
    return result


def _format_value(value: object) -> str:
    """A value for a message: only the keys of a table, and a URL without its password."""
    if isinstance(value, dict):
        return f"a table of {', '.join(map(str, value)) or 'nothing'}"
    return PASSWORD_PATTERN.sub(r"\1…@", repr(value))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidSettings([Problem(str(path), f"cannot be read: {error.strerror}")]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings([Problem(str(path), f"is not valid TOML: {error}")]) from error


def _environment_overrides(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings in environment variables, parsed by the rules of pydantic-settings."""
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
    """`base` with the values of `over`, merged level by level."""
    both = dict(base)
    for key, value in over.items():
        mine = both.get(key)
        both[key] = _merge(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both
