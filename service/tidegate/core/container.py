"""How one instance is run, in the words of the Compose specification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Health:
    """How readiness is found out: an HTTP path probed from outside, or the container's own HEALTHCHECK (`path` empty)."""

    path: str = ""
    port: int = 0  # 0: the container's port
    timeout_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class HealthCommand:
    """A Compose `healthcheck`: the container's own HEALTHCHECK. `test` is as Docker wants it (["CMD", …])."""

    test: tuple[str, ...]
    interval_seconds: float = 30.0
    timeout_seconds: float = 30.0
    retries: int = 3
    start_period_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Container:
    """How one instance is run. Names and meaning as in the Compose specification."""

    port: int  # the one that takes traffic, from `expose`
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = ""
    health: Health = Health()
    healthcheck: HealthCommand | None = None
    stop_signal: str = ""
    stop_grace_seconds: float = 10.0
    memory_bytes: int = 0  # 0: no limit
    cpus: float = 0.0  # 0: no limit
    volumes: tuple[str, ...] = ()  # Compose's short form: source:target[:ro], an absolute path or a volume's name
    init: bool = False
    read_only: bool = False
