"""How one instance is run, in the words of the Compose specification, and what is known of its readiness."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tidegate.clock import Time

#: Sources of mounts that hold no data of the application.
SYSTEM_SOURCE = re.compile(r".*\.sock|/(dev|proc|sys)(/.*)?|/etc/(localtime|timezone|hosts|resolv\.conf)")


@dataclass(frozen=True, slots=True)
class Health:
    """How an instance is checked at the address that the proxy connects to, as long as it runs.

    With `path` by a GET request, otherwise by a TCP connection and its HEALTHCHECK, if it has one. `expect` are the ranges
    of statuses, both ends included, that mean ready. `host` and `headers` (names and values) are sent with the request; an
    empty `host` means the address. An instance is ready after `healthy_threshold` successes in a row, and no longer after
    `unhealthy_threshold` failures in a row. One with `run_seconds` takes no requests, so nothing is checked at an address:
    its HEALTHCHECK decides, or without one that it has run for so long.
    """

    path: str = ""
    port: int = 0  # 0: the container's port
    scheme: str = "http"  # or https, without verification of the certificate
    host: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # values may be secrets
    expect: tuple[tuple[int, int], ...] = ((200, 399),)
    interval_seconds: float = 0.5
    timeout_seconds: float = 1.0
    healthy_threshold: int = 1
    unhealthy_threshold: int = 2
    run_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class InstanceHealth:
    """What a rollout knows of an instance that was ready.

    `restarts` and `start` (see `Instance`): of its container when it was last ready. `unhealthy_since`: since when it is
    not ready; None while it is. `failures`: how often it stopped being ready. `recovered_at`: when it last became ready
    again; None if it never failed. `own_failures`: how often it recovered from a failure that no instance from before the
    rollout had at the same time, each soon after the one before.
    """

    restarts: int
    unhealthy_since: Time | None = None
    failures: int = 0
    start: str = ""
    recovered_at: Time | None = None
    own_failures: int = 0


@dataclass(frozen=True, slots=True)
class HealthCommand:
    """A Compose `healthcheck`, which replaces the HEALTHCHECK of the image.

    `test` is as Docker wants it (["CMD", …]); ["NONE"]: there is none. `start_interval_seconds`: between two checks in the
    start period, where Docker has it; 0: as `interval_seconds`.
    """

    test: tuple[str, ...]
    interval_seconds: float = 30.0
    timeout_seconds: float = 30.0
    retries: int = 3
    start_period_seconds: float = 0.0
    start_interval_seconds: float = 0.0

    @property
    def is_disabled(self) -> bool:
        """Whether the container has no HEALTHCHECK."""
        return self.test[:1] in ((), ("NONE",))

    @property
    def ready_within_seconds(self) -> float:
        """How long a good instance may take to become healthy. Docker runs the first check after one interval."""
        checks = self.interval_seconds * (self.retries + 1)
        return 0.0 if self.is_disabled else self.start_period_seconds + checks + self.timeout_seconds


@dataclass(frozen=True, slots=True)
class File:
    """A secret or a config: put into the container before it starts. Its content is in no label, variable or command."""

    target: str  # absolute
    content: str = field(repr=False)  # base64, since it may be no text
    mode: int = 0o444
    uid: int = 0
    gid: int = 0

    @property
    def data(self) -> bytes:
        """Its content."""
        return base64.b64decode(self.content)

    @property
    def directory(self) -> str:
        """Its directory."""
        return self.target.rpartition("/")[0] or "/"


class PullPolicy(StrEnum):
    """When a registry is asked for the image; the values of the Compose specification, and `resolve`."""

    RESOLVE = "resolve"  # the default: a tag is resolved at the registry; without an answer a present image is used
    ALWAYS = "always"  # the registry must answer
    MISSING = "missing"  # only if a host lacks the image
    NEVER = "never"


class MountKind(StrEnum):
    """Compose's own words."""

    BIND = "bind"  # here of what must exist on the host
    VOLUME = "volume"  # here without a name: gone with its container
    TMPFS = "tmpfs"


@dataclass(frozen=True, slots=True)
class Mount:
    """What Compose's short form of `volumes` has no words for."""

    kind: MountKind
    target: str
    source: str = ""
    read_only: bool = False
    propagation: str = ""
    size_bytes: int = 0  # of a tmpfs; 0: no limit
    mode: int = 0  # of a tmpfs; 0: the engine's own


class NetworkOrigin(StrEnum):
    """Where a network comes from."""

    EXISTING = "existing"  # it must exist on every host
    PROJECT = "project"  # of the Compose project; created on a host that lacks it
    OPTIONAL = "optional"  # the project's default network; joined on hosts that have it


@dataclass(frozen=True, slots=True)
class Network:
    """A network besides the one that the proxy uses."""

    name: str
    aliases: tuple[str, ...] = ()
    origin: NetworkOrigin = NetworkOrigin.EXISTING


@dataclass(frozen=True, slots=True)
class Ulimit:
    """One of `ulimits`; -1 is no limit."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What it may use besides memory and processors; 0 is the engine's own."""

    memory_reservation_bytes: int = 0
    memory_swap_bytes: int = 0  # memory and swap together; -1: no limit
    pids: int = 0  # -1: no limit
    shm_bytes: int = 0
    cpu_shares: int = 0
    cpuset: str = ""
    oom_score_adj: int = 0
    ulimits: tuple[Ulimit, ...] = ()


@dataclass(frozen=True, slots=True)
class Rights:
    """What it may do."""

    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()  # source:target:permissions
    sysctls: Mapping[str, str] = field(default_factory=dict)
    ipc: str = ""


@dataclass(frozen=True, slots=True)
class Naming:
    """What it is called, and whom it knows."""

    hostname: str = ""
    domainname: str = ""
    extra_hosts: tuple[str, ...] = ()  # name:address
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_opt: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Log:
    """A log driver of its own, instead of the one of the settings."""

    driver: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Container:
    """How one instance is run. Names and meaning as in the Compose specification."""

    port: int  # the one that takes traffic, 0: the only one that its image exposes; of a worker, that of its metrics, or 0
    h2c: bool = False  # whether it speaks HTTP/2 in clear text at this port
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None  # None: the image's; empty: none
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # values may be secrets
    labels: Mapping[str, str] = field(default_factory=dict)
    project: str = ""  # of Docker Compose; empty: none
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
    mounts: tuple[Mount, ...] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)  # where, and with which options
    external_volumes: tuple[str, ...] = ()  # must exist on every host
    files: tuple[File, ...] = ()
    limits: Limits = Limits()
    rights: Rights = Rights()
    naming: Naming = Naming()
    log: Log | None = None
    tty: bool = False
    stdin_open: bool = False
    alone: bool = False  # no two instances of the service may run at once, on any host
    #: Left out of comparisons: it changes nothing about how an instance runs.
    pull_policy: PullPolicy = field(default=PullPolicy.RESOLVE, compare=False)

    @property
    def is_worker(self) -> bool:
        """Whether it takes no requests."""
        return self.health.run_seconds is not None

    @property
    def writable_sources(self) -> tuple[str, ...]:
        """The named volumes and paths of the host that it may write to: data that outlives an instance.

        Sockets and what the kernel or the system provides are none.
        """
        short = [(parts[0], parts[2:]) for parts in (volume.split(":") for volume in self.volumes)]
        sources = [source for source, options in short if "ro" not in ",".join(options).split(",")]
        sources += [mount.source for mount in self.mounts if mount.kind is MountKind.BIND and not mount.read_only]
        return tuple(dict.fromkeys(source for source in sources if not SYSTEM_SOURCE.fullmatch(source)))
