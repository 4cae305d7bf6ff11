"""The values that everything else speaks of. Frozen, without behaviour that reaches outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.clock import Time
from tidegate.core.approvals import Approval
from tidegate.core.container import Container
from tidegate.core.hooks import Hook, TaskRun
from tidegate.core.phases import Phase
from tidegate.core.probes import Probe
from tidegate.core.routing import Backend, RouterState
from tidegate.openapi_diff.result import CompareOptions

Fleet = Mapping[str, int]  # {release id: how many instances}; no zero counts, never changed once made

DEFAULT_MAX_RESTARTS = 2


class Strategy(StrEnum):
    """The rule that turns a service and two releases into a plan."""

    ROLLING = "rolling"
    BLUE_GREEN = "blue_green"


class Order(StrEnum):
    """Which comes first within a batch. Compose's own words."""

    START_FIRST = "start-first"
    STOP_FIRST = "stop-first"  # no room for a surge


class FailureAction(StrEnum):
    """What a FAIL leads to. Compose's own words."""

    ROLLBACK = "rollback"
    PAUSE = "pause"  # wait for a person
    CONTINUE = "continue"


class InconclusiveAction(StrEnum):
    """What follows when the bake is over and the judge cannot say."""

    EXTEND = "extend"  # bake again, `max_extensions` times at most, then hold
    PAUSE = "pause"  # wait for a person, `approval.expires_seconds` at most, then roll back
    ROLLBACK = "rollback"
    CONTINUE = "continue"  # go on, but never past the last step that is judged: there a person is asked


class RepairPolicy(StrEnum):
    """What follows when a service is found other than its release wants, between rollouts."""

    AUTO = "auto"  # it is brought back by a rollout of its own
    SHOW = "show"  # it is shown, and a person decides


class RolloutKind(StrEnum):
    """What a rollout is for."""

    RELEASE = "release"  # from what serves to another release
    REPAIR = "repair"  # what serves is brought back to what it should be; turning back has no meaning
    SCALE = "scale"  # what serves gets more or fewer instances; turning back leads to the number before


class Direction(StrEnum):
    """Which way of a metric is good."""

    LOWER = "lower"
    HIGHER = "higher"


class CheckKind(StrEnum):
    """Where a check's numbers come from."""

    ERRORS = "errors"  # ready-made: failed requests, from the proxy's counters
    LATENCY = "latency"  # ready-made: response time, from a histogram of the proxy's log or the application's own
    MEMORY = "memory"  # ready-made: a gauge of each instance that climbs towards its limit
    QUERY = "query"  # the user's own PromQL


@dataclass(frozen=True, slots=True)
class Check:
    """One question to the metrics.

    `margin` is what may be lost before it matters, None the default: absolute (a ratio in [0, 1], 0.005 for "0.5%") for
    errors, relative (0.2 for "20%") for latency and queries. `maximum`/`minimum` turn a query into a fixed limit; for
    memory `maximum` is the limit of an instance. `query` is the user's PromQL, or the histogram or gauge to read.
    `min_samples`: the number of requests (errors, latency) or values (query) below which nothing is said, and of looks in a
    row beyond a limit. A check that is not `critical` does not hold a rollout up when it cannot say anything. A `shadow`
    check decides nothing. `weight`: its share of the evidence among the user's own compared queries.
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
        """Whether it compares with a fixed limit and so needs no baseline."""
        return self.kind is CheckKind.QUERY and (self.maximum is not None or self.minimum is not None)


@dataclass(frozen=True, slots=True)
class Policy:
    """What is tolerated and how long is waited. All durations in seconds."""

    drain_timeout_seconds: float = 30.0  # the longest that requests in flight are waited for
    long_lived_seconds: float | None = None  # the same for what is open longer than `drain`, and for upgraded connections
    healthy_deadline_seconds: float = 120.0  # for instances to be started and ready
    max_restarts: int = DEFAULT_MAX_RESTARTS  # a candidate instance that restarted more often has failed
    max_failure_ratio: float = 0.0  # share of candidate instances that may fail and be replaced, in [0, 1]
    interval_seconds: float = 5.0  # between two looks at the metrics; also the shortest interval that counts as one
    warmup_seconds: float = 60.0  # an instance younger than this is not compared yet
    false_abort: float = 0.01  # the chance that a good release is turned back, over the whole rollout, in (0, 1)
    failure_action: FailureAction = FailureAction.ROLLBACK
    on_inconclusive: InconclusiveAction = InconclusiveAction.EXTEND
    max_extensions: int = 2  # how many more bakes an INCONCLUSIVE verdict is given
    approval: Approval = field(default_factory=Approval)
    max_takeovers: int = 50  # how often engines may have died while driving one rollout


@dataclass(frozen=True, slots=True)
class Service:
    """A named thing we run in an environment, as defined by its Compose file."""

    environment: str
    name: str
    image: str
    replicas: int
    container: Container
    backend: Backend
    strategy: Strategy = Strategy.ROLLING
    order: Order = Order.START_FIRST
    batch: int = 1
    bake_seconds: float = 0.0
    checks: tuple[Check, ...] = ()
    policy: Policy = Policy()
    keep_old_seconds: float = 0.0  # blue-green: how long the old colour is kept after it was left
    #: Of the new requests, for the new release, after each of the first batches; in (0, 1).
    traffic_shares: tuple[float, ...] = ()
    hooks: Mapping[str, Hook] = field(default_factory=dict)  # by `tasks.HOOKS`
    compare: CompareOptions | None = None
    probe: Probe | None = None
    preview_bake_seconds: float = 0.0  # how long the new release is watched before it takes traffic
    in_group: bool = False  # rolled out as one with the other services of its file that say so
    depends_on: tuple[str, ...] = ()  # services of the same environment that must serve before
    repair: RepairPolicy = RepairPolicy.AUTO

    @property
    def key(self) -> str:
        """`environment/name`: what the platform and the store know it by."""
        return f"{self.environment}/{self.name}"


@dataclass(frozen=True, slots=True)
class Release:
    """One immutable version of a service.

    `id` (`v2-4`: image tag and a number that grows per service) is safe as a label, a file name and a proxy server name:
    [a-z0-9-], no dots. `digest` is what `image` was resolved to before the first batch: a registry digest
    (`shop@sha256:…`) or, without a registry, an image id (`sha256:…`); empty until then.
    """

    id: str
    service: str  # Service.key
    image: str
    replicas: int
    container: Container
    digest: str = ""


class InstanceState(StrEnum):
    """What an instance is doing."""

    STARTING = "starting"  # exists, not ready yet
    READY = "ready"  # its probe answers
    FAILED = "failed"  # ended by itself, or restarting again and again
    STOPPED = "stopped"  # ended from outside, by its engine or by a person: no fault of its release
    STOPPING = "stopping"  # asked to stop, not gone yet


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of a release.

    `id` ([a-z0-9]) is the platform's own and never reused; `address` is `ip:port` as the proxy reaches it, empty while
    unknown.
    """

    id: str
    release: str
    ordinal: int
    address: str
    state: InstanceState
    restarts: int = 0
    host: str = ""
    detail: str = ""  # one sentence: why it is not ready or has failed


@dataclass(frozen=True, slots=True)
class ObservedState:
    """The world at one moment. `preview` is what the proxy does at the preview's address."""

    instances: tuple[Instance, ...]
    router: RouterState
    preview: RouterState = field(default_factory=RouterState)


@dataclass(frozen=True, slots=True)
class Gate:
    """What must hold to leave a step.

    `surplus_gone` asks that no surplus instance is left, not even one that is stopping: for the last step, and where there
    is no room for a surge. `keeps_old`: the bake only keeps the old release warm, so an approval may end it, and only a
    FAIL counts. `tasks_before` are tasks that come before anything of the step, `tasks` those once it stands.
    `group_point`: which of the points, from 1, at which the rollouts of a group wait for each other; 0: none.
    """

    bake_seconds: float = 0.0
    analyzed: bool = False
    approval: str = ""  # name of the approval that is waited for; empty: none
    surplus_gone: bool = False
    keeps_old: bool = False
    tasks_before: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    group_point: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One desired state: which instances exist, which take traffic, what must hold before going on.

    `preview`: which are reached at the preview's address. `share` of the new requests is the new release's, in (0, 1);
    None: each instance has as many as any other.
    """

    fleet: Fleet
    route: Fleet
    gate: Gate = Gate()
    preview: Fleet = field(default_factory=dict)
    share: float | None = None


Plan = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Build:
    """A build of a CI, its page, and its `job` as the CI names it: `team/repo/feature%2Ffoo`."""

    job: str
    number: int
    url: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt to move a service from one release to another.

    `step_started_at`, `traffic_confirmed_at`, `step_ready_at` and `approval_since` are the marks of the present step: when
    it became the present one, when the proxy first matched it, when all of it stood, when it began to wait for a person.
    They and `extensions` start anew with each step. `drain_started_at` is when the last instances were taken out of the
    route; it outlives its step. A repair and a scaling stay with the release that serves: `old` and `new` are the same, and
    `old_replicas` is its number before.
    """

    id: str
    service: str
    old: str | None
    new: str
    plan: Plan
    backend: Backend
    created: Time
    old_replicas: int = 0
    batch: int = 1
    in_place: bool = False  # order stop-first: there is no room for a surge, on the way back neither
    phase: Phase = Phase.PENDING
    cursor: int = 0
    reason: str = ""  # why it is in this phase, one sentence
    paused: bool = False
    step_started_at: Time | None = None
    traffic_confirmed_at: Time | None = None
    step_ready_at: Time | None = None
    approval_since: Time | None = None
    drain_started_at: Time | None = None
    extensions: int = 0
    verdict: Verdict | None = None  # of the present step
    takeovers: int = 0
    finished: Time | None = None
    checks: tuple[Check, ...] = ()
    policy: Policy = Policy()
    image: str = ""  # of the new release, and the digest that it was resolved to, empty until then
    digest: str = ""
    requested_by: str = ""  # a person, or a token's name
    requested_via: str = ""  # the token that vouched for this person; empty: the token asked for itself
    build: Build | None = None  # that asked for it
    forced: bool = False  # asked for in spite of a freeze and of a quarantine
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    compare: CompareOptions | None = None
    probe: Probe | None = None
    tasks: tuple[TaskRun, ...] = ()  # those that were begun, the way back's too
    group: str = ""  # of the rollouts that are promoted and turned back as one; empty: it is alone
    group_point: int = 0  # the last of its group's points (`Gate.group_point`) that it came to
    kind: RolloutKind = RolloutKind.RELEASE
    preexisting: tuple[str, ...] = ()  # there when a repair or a scaling began: that these fail is not of its doing
    version: int = 0  # grows with each save; the ETag

    @property
    def step(self) -> Step:
        """The present step."""
        return self.plan[self.cursor]

    @property
    def failed_verdict(self) -> bool:
        """Whether the present step was judged FAIL."""
        return self.verdict is not None and self.verdict.outcome is Outcome.FAIL


class SignalKind(StrEnum):
    """What a person or Jenkins may wish."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"
    VERIFY = "verify"  # judge now, do not wait for the next look
    FORCE = "force"  # on to the end without bakes, checks and holds


@dataclass(frozen=True, slots=True)
class Signal:
    """A recorded wish. `step` binds a promote to the step it was given for; None gives every hold that follows too."""

    kind: SignalKind
    at: Time
    by: str
    reason: str = ""
    step: int | None = None
    via: str = ""  # the token that vouched for `by`; empty: `by` is the token itself


@dataclass(frozen=True, slots=True)
class Event:
    """A numbered fact in a rollout's story. `number` counts from 1 in each rollout; 0 until stored."""

    kind: str
    message: str
    at: Time
    number: int = 0
    data: Mapping[str, object] = field(default_factory=dict)
