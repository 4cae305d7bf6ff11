"""The values of the domain: services, releases, plans, rollouts. Frozen, without side effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.clock import Time
from tidegate.core.build import Build
from tidegate.core.compose import Adoption, ComposeSource, Note
from tidegate.core.container import Container, InstanceHealth
from tidegate.core.hooks import Hook, TaskRun
from tidegate.core.phases import Phase
from tidegate.core.plan import Plan, Step
from tidegate.core.probes import Probe
from tidegate.core.rollback_cause import RollbackCause
from tidegate.core.routing import Backend, RouterState
from tidegate.core.waits import WaitingFor
from tidegate.openapi_diff.result import CompareOptions

DEFAULT_MAX_RESTARTS = 2


class Strategy(StrEnum):
    """The rule that turns a service and two releases into a plan."""

    ROLLING = "rolling"
    BLUE_GREEN = "blue_green"


class Order(StrEnum):
    """Which comes first within a batch; the values of the Compose specification."""

    START_FIRST = "start-first"
    STOP_FIRST = "stop-first"  # no room for a surge


class FailureAction(StrEnum):
    """What follows a FAIL; the values of the Compose specification."""

    ROLLBACK = "rollback"
    PAUSE = "pause"  # wait for a person
    CONTINUE = "continue"


class InconclusiveAction(StrEnum):
    """What follows a verdict of INCONCLUSIVE at the end of the bake."""

    EXTEND = "extend"  # bake again, `max_extensions` times at most, then ask for a decision
    PAUSE = "pause"  # wait for a person, `approval.expires_seconds` at most, then roll back
    ROLLBACK = "rollback"
    CONTINUE = "continue"  # continue while a later step is analysed; at the last one ask for a decision


class RepairPolicy(StrEnum):
    """What follows when drift is detected between rollouts."""

    AUTO = "auto"  # start a repair
    SHOW = "show"  # report it and let a person decide


class RolloutKind(StrEnum):
    """What a rollout is for."""

    RELEASE = "release"  # from the live release to another one
    REPAIR = "repair"  # restores the live release; cannot be rolled back
    SCALE = "scale"  # changes the number of instances; a rollback restores the number before
    REMOVE = "remove"  # ends the service: nothing is left of it; a rollback starts the live release again


class Direction(StrEnum):
    """Which values of a metric are better."""

    LOWER = "lower"
    HIGHER = "higher"


class CheckKind(StrEnum):
    """Where the numbers of a check come from."""

    ERRORS = "errors"  # built in: failed requests, from the counters of the proxy
    LATENCY = "latency"  # built in: response time, from a histogram of the proxy log or of the application
    MEMORY = "memory"  # built in: a gauge per instance that grows towards its limit
    QUERY = "query"  # PromQL of the user


@dataclass(frozen=True, slots=True)
class Check:
    """One question to the metrics.

    `margin`: how much worse the new release may be, None for the default. Absolute (a ratio in [0, 1], 0.005 for "0.5%")
    for errors, relative (0.2 for "20%") otherwise. `maximum` and `minimum` turn a query into a fixed limit; for memory,
    `maximum` is the limit of an instance. `query`: PromQL of the user, or the histogram or gauge to read.
    `min_samples`: requests or values required for a result, and measurements in a row that must violate a limit. Without
    `critical`, an inconclusive result does not block. A `shadow` check has no influence. `weight`: share among the queries.
    """

    name: str
    kind: CheckKind
    query: str = ""
    direction: Direction = Direction.LOWER
    margin: float | None = None
    maximum: float | None = None
    minimum: float | None = None
    min_samples: int = 50
    critical: bool = True
    shadow: bool = False
    weight: float = 1.0

    @property
    def is_limit(self) -> bool:
        """Whether it compares with a fixed limit and needs no baseline."""
        return self.kind is CheckKind.QUERY and (self.maximum is not None or self.minimum is not None)


class Expiry(StrEnum):
    """What follows when nobody answers in time."""

    ROLLBACK = "rollback"
    PROMOTE = "promote"  # only for an approval of the plan: a FAIL or an unclear result never continues by itself
    WAIT = "wait"  # without limit


@dataclass(frozen=True, slots=True)
class Approval:
    """When a rollout waits for approval, and by whom.

    `after`: the batches, from 1, after which it waits. `roles`: an approver must have one of them; none: whoever may
    promote. `needed`: number of different people. `requester`: whether the person who requested the rollout may approve.
    """

    after: tuple[int, ...] = ()
    roles: tuple[str, ...] = ()
    needed: int = 1
    requester: bool = True
    expires_seconds: float = 86_400.0
    on_expiry: Expiry = Expiry.ROLLBACK


@dataclass(frozen=True, slots=True)
class Policy:
    """Tolerances and time limits. All durations in seconds."""

    drain_timeout_seconds: float = 30.0  # the longest wait for requests in flight
    long_lived_seconds: float | None = None  # for upgraded connections and longer requests; None: as above
    healthy_deadline_seconds: float = 120.0  # for instances to start and become ready
    max_restarts: int = DEFAULT_MAX_RESTARTS  # a new instance that restarted more often has failed
    max_failure_ratio: float = 0.0  # share of new instances that may fail and be replaced, in [0, 1]
    interval_seconds: float = 5.0  # between two measurements; also the resolution of the analysis
    warmup_seconds: float = 60.0  # younger instances are not compared
    false_abort: float = 0.01  # chance to roll back a good release, over the whole rollout, in (0, 1)
    failure_action: FailureAction = FailureAction.ROLLBACK
    on_inconclusive: InconclusiveAction = InconclusiveAction.EXTEND
    max_extensions: int = 2  # additional bakes after an INCONCLUSIVE verdict
    approval: Approval = field(default_factory=Approval)
    max_takeovers: int = 50  # how often engines may die while they drive one rollout


@dataclass(frozen=True, slots=True)
class Service:
    """An application in an environment, as defined by its Compose file."""

    environment: str
    name: str
    image: str
    replicas: int
    container: Container
    backend: Backend | None  # None: no proxy; its instances take their work by themselves, as those of a queue do
    strategy: Strategy = Strategy.ROLLING
    order: Order = Order.START_FIRST
    batch: int = 1
    bake_seconds: float = 0.0
    checks: tuple[Check, ...] = ()
    policy: Policy = Policy()
    control: int = 0  # rolling: old instances that stay in the route until the last bake is over, as its baseline; 0 or 1
    keep_old_seconds: float = 0.0  # blue-green: how long the old release runs after the switch
    traffic_shares: tuple[float, ...] = ()  # the new release's share of new requests after each of the first batches
    hooks: Mapping[str, Hook] = field(default_factory=dict)  # by name, see `hooks.HOOKS`
    compare: CompareOptions | None = None
    probe: Probe | None = None
    preview_bake_seconds: float = 0.0  # how long the new release is analysed before it takes traffic
    in_group: bool = False  # rolled out as one with the others of its file in the group
    depends_on: tuple[str, ...] = ()  # services of the same environment that must be live first
    repair: RepairPolicy = RepairPolicy.AUTO
    keep_images: int = 0  # images of the newest releases that stay on the hosts; 0: all
    warnings: tuple[str, ...] = ()  # what is allowed, but needs attention
    adopted: Adoption | None = None  # containers of `docker compose` that `import` made instances
    source: ComposeSource = field(default_factory=ComposeSource)

    @property
    def key(self) -> str:
        """`environment/name`, the identity of the service."""
        return f"{self.environment}/{self.name}"


@dataclass(frozen=True, slots=True)
class Release:
    """One immutable version of a service.

    `id` (`v2-4`: image tag and a number that grows per service) is safe as a label, a file name and a proxy server name:
    [a-z0-9-], no dots. `digest` is what `image` was resolved to before the first batch: a registry digest (`shop@sha256:…`)
    or, without a registry, an image ID (`sha256:…`); empty until then.
    """

    id: str
    service: str  # Service.key
    image: str
    replicas: int
    container: Container
    digest: str = ""


class InstanceState(StrEnum):
    """State of an instance."""

    STARTING = "starting"  # exists, not ready yet
    READY = "ready"  # its probe answers
    FAILED = "failed"  # exited by itself, or keeps restarting
    STOPPED = "stopped"  # stopped from outside, by Docker or by a person: not an error of its release
    STOPPING = "stopping"  # asked to stop, not gone yet


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of a release.

    `id` ([a-z0-9]) is assigned by the platform and never reused. `address` is the proxy's `ip:port`, empty while unknown.
    """

    id: str
    release: str
    ordinal: int
    address: str
    state: InstanceState
    restarts: int = 0
    start: str = ""  # changes with each start, also with those that the platform does not count as restarts
    host: str = ""
    detail: str = ""  # why it is not ready or has failed
    out_of_memory: bool = False  # its last run that ended was killed for exceeding a memory limit


@dataclass(frozen=True, slots=True)
class ObservedState:
    """What the platform and the proxy report at one moment; `preview` is the state of the preview backend."""

    instances: tuple[Instance, ...]
    router: RouterState
    preview: RouterState = field(default_factory=RouterState)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt to move a service from one release to another.

    `step_started_at`, `starting_at`, `traffic_confirmed_at`, `step_ready_at` and `approval_since` are the marks of the
    current step: when it started, when its first instance could be started, when the proxy first matched it, when all of it
    was in place, when it began to wait for a person. They, `waiting_for` and `extensions` are reset with each step.
    `unrouted_at` has when each instance that the proxy still knows left the route. A repair and a scaling keep the live
    release: `old` and `new` are the same, `old_replicas` is the number of instances before.
    """

    id: str
    service: str
    old: str | None
    new: str
    plan: Plan
    backend: Backend | None  # None: the steps of its plan have no route
    created: Time
    old_replicas: int = 0
    batch: int = 1
    in_place: bool = False  # order stop-first: no room for a surge, not during a rollback either
    phase: Phase = Phase.PENDING
    cursor: int = 0
    reason: str = ""  # why it is in this phase
    paused: bool = False
    step_started_at: Time | None = None
    starting_at: Time | None = None
    traffic_confirmed_at: Time | None = None
    step_ready_at: Time | None = None
    approval_since: Time | None = None
    unrouted_at: Mapping[str, Time] = field(default_factory=dict)  # by instance
    health: Mapping[str, InstanceHealth] = field(default_factory=dict)  # of those that were ready, by instance
    replaced: tuple[str, ...] = ()  # instances that a repair or a scaling replaces, since they stayed unhealthy
    extensions: int = 0
    question: int = 0  # grows when what a person has to decide changes, so that no earlier answer counts
    verdict: Verdict | None = None  # of the current step
    waiting_for: WaitingFor | None = None  # as recorded by the engine; None: it does not wait
    takeovers: int = 0
    finished: Time | None = None
    checks: tuple[Check, ...] = ()
    policy: Policy = Policy()
    image: str = ""  # of the new release; `digest` is empty until the image is resolved
    digest: str = ""
    requested_by: str = ""  # a person, or a token's name
    requested_via: str = ""  # the token that vouched for this person; empty: the token itself
    build: Build | None = None  # that requested it
    forced: bool = False  # requested despite a freeze and a quarantine
    undoes: bool = False  # requested as a rollback of the service to an earlier release
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    compare: CompareOptions | None = None
    probe: Probe | None = None
    tasks: tuple[TaskRun, ...] = ()  # those that were started, also during a rollback
    group: str = ""  # of the rollouts that are promoted and rolled back as one; empty: none
    group_point: int = 0  # the last point of its group (`Gate.group_point`) that it reached
    kind: RolloutKind = RolloutKind.RELEASE
    warnings: tuple[str, ...] = ()  # of the service, when it was requested
    notes: tuple[Note, ...] = ()  # of its Compose file
    preexisting: tuple[str, ...] = ()  # instances from before the rollout: their failures do not count
    rollback_cause: RollbackCause | None = None  # what started the rollback; None: there is none
    adopted: Adoption | None = None  # containers of `docker compose` that are instances
    next_listen: str = ""  # where the proxy listens as soon as none of them has the port
    version: int = 0  # grows with each save; the ETag

    @property
    def step(self) -> Step:
        """The current step."""
        return self.plan[self.cursor]

    @property
    def serving_since(self) -> Time | None:
        """Since when the instances of the current step do the work; None: not yet."""
        return self.step_ready_at if self.step.route is None else self.traffic_confirmed_at

    @property
    def failed_verdict(self) -> bool:
        """Whether the verdict of the current step is FAIL."""
        return self.verdict is not None and self.verdict.outcome is Outcome.FAIL


class SignalKind(StrEnum):
    """What a person or Jenkins may request."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"
    VERIFY = "verify"  # analyse now instead of at the next interval
    FORCE = "force"  # continue to the end without bakes, checks and approvals
    DETACH = "detach"  # the build that requested it is about to end; it continues without the build


@dataclass(frozen=True, slots=True)
class Signal:
    """A recorded request. `step` and `binding` say what a promote is for: see `approvals.given_approvals`. `cause` is for a
    rollback."""

    kind: SignalKind
    at: Time
    by: str
    reason: str = ""
    step: int | None = None
    via: str = ""  # the token that vouched for `by`; empty: `by` is the token itself
    binding: str = ""
    cause: RollbackCause = RollbackCause.REQUEST


@dataclass(frozen=True, slots=True)
class Event:
    """A numbered entry in the event log of a rollout. `number` counts from 1 in each rollout; 0 until stored."""

    kind: str
    message: str
    at: Time
    number: int = 0
    data: Mapping[str, object] = field(default_factory=dict)
