"""The shapes of answers, and how they are made of the core's values. Times are RFC 3339 in UTC."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from tidegate.analysis.verdict import Finding, Outcome, Reason, Verdict
from tidegate.clock import Window
from tidegate.core.hooks import TaskState
from tidegate.core.model import CheckKind, Direction, Order, RepairPolicy, RolloutKind, Strategy
from tidegate.core.phases import Phase
from tidegate.web.drifting import DriftView
from tidegate.web.held import BuildView, HoldView
from tidegate.web.times import When, when


class ProblemView(BaseModel):
    """An error, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do, for people.")
    instance: str = Field(description="The request; the server's log has the same id.")
    code: str = Field(description="For programs; never changes.")
    errors: list[MistakeView] = Field(default=[], description="Every mistake in the request.")
    rollout: str | None = Field(default=None, description="With rollout-in-progress: the live rollout's id.")


class MistakeView(BaseModel):
    """One mistake in a request."""

    in_: Literal["body", "query", "path", "header"] = Field(alias="in")
    pointer: str = Field(description="A JSON Pointer into that part of the request.")
    path: str = Field(description="The same for people; for a Compose file the place inside its text.")
    detail: str


class WindowView(BaseModel):
    """A span of time."""

    start: When
    end: When

    @staticmethod
    def of(window: Window) -> WindowView:
        """From the value."""
        return WindowView(start=when(window.start), end=when(window.end))


class FindingView(BaseModel):
    """The answer of one check, with its evidence. Ratios in [0, 1], durations in seconds, null where unknown.

    `ratio`: candidate over baseline, between `ratio_low` and `ratio_high` (0.95, at any time). `evidence`: what the check
    adds to the rollout's. `certified`: harm is ruled out. `visible`: the smallest ratio that would have been seen.
    """

    check: str
    outcome: Outcome
    reason: Reason
    message: str
    baseline: float | None
    candidate: float | None
    limit: float | None
    baseline_count: float | None
    candidate_count: float | None
    queries: list[str]
    baseline_window: WindowView | None
    window: WindowView | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    evidence: float | None
    blame: str
    certified: bool | None
    visible: float | None
    shadow: bool

    @staticmethod
    def of(finding: Finding) -> FindingView:
        """From the value."""
        return FindingView(
            check=finding.check,
            outcome=finding.outcome,
            reason=finding.reason,
            message=finding.message,
            baseline=finding.baseline,
            candidate=finding.candidate,
            limit=finding.limit,
            baseline_count=finding.baseline_count,
            candidate_count=finding.candidate_count,
            queries=list(finding.queries),
            baseline_window=finding.baseline_window and WindowView.of(finding.baseline_window),
            window=finding.window and WindowView.of(finding.window),
            ratio=finding.ratio,
            ratio_low=finding.ratio_low,
            ratio_high=finding.ratio_high,
            evidence=finding.evidence,
            blame=finding.blame,
            certified=finding.certified,
            visible=finding.visible,
            shadow=finding.shadow,
        )


class PointView(BaseModel):
    """The evidence at a moment."""

    at: When
    evidence: float


class VerdictView(BaseModel):
    """The answer of all checks. `final`: of the end of the bake; of earlier looks only a FAIL counts.

    `evidence`: the e-value of the whole rollout so far, `course` how it went; the release is turned back when it reaches
    `needed`, which it first did at `crossed`.
    """

    outcome: Outcome
    at: When
    window: WindowView
    findings: list[FindingView]
    message: str
    final: bool
    evidence: float | None
    needed: float | None
    course: list[PointView]
    crossed: When | None

    @staticmethod
    def of(verdict: Verdict) -> VerdictView:
        """From the value."""
        return VerdictView(
            outcome=verdict.outcome,
            at=when(verdict.at),
            window=WindowView.of(verdict.window),
            findings=[FindingView.of(each) for each in verdict.findings],
            message=verdict.message,
            final=verdict.final,
            evidence=verdict.evidence,
            needed=verdict.needed,
            course=[PointView(at=when(at), evidence=evidence) for at, evidence in verdict.course],
            crossed=None if verdict.crossed is None else when(verdict.crossed),
        )


class GateView(BaseModel):
    """What must hold to leave a step."""

    bake_seconds: float
    judged: bool
    hold: str
    cleared: bool
    keeps: bool = Field(default=False, description="The bake only keeps the old release warm; promote ends it.")
    before: list[str] = Field(default=[], description="Tasks that come before anything of the step.")
    tasks: list[str] = Field(default=[], description="Tasks that are done once it stands.")
    together: int = Field(default=0, description="The point at which the rollouts of a group wait for each other.")


class StepView(BaseModel):
    """One desired state: how many of each release exist, how many take traffic, and the gate."""

    fleet: dict[str, int]
    route: dict[str, int]
    gate: GateView
    preview: dict[str, int] = Field(default={}, description="How many of each are reached by the preview.")
    share: float | None = Field(default=None, description="Of the new requests, for the new release; null: by instances.")


class PreviewView(BaseModel):
    """How the new release is reached before it takes traffic."""

    listen: str
    header: str


class TaskView(BaseModel):
    """A hook, or the comparison of what both releases promise."""

    name: str
    state: TaskState
    begun: When
    ended: When | None
    message: str


class MarksView(BaseModel):
    """When the present step was entered, first matched by the proxy, stood, and began to wait for a person."""

    entered: When | None
    shifted: When | None
    settled: When | None
    held: When | None


class RolloutView(BaseModel):
    """One attempt to move a service from one release to another."""

    id: str
    service: str = Field(description="environment/service")
    old: str | None = Field(description="The release before; null when nothing ran.")
    new: str
    kind: RolloutKind = Field(description="Whether it leads to a release, repairs what serves, or changes its number.")
    phase: Phase
    reason: str = Field(description="Why it is in this phase.")
    paused: bool
    cursor: int = Field(description="The present step, from 0.")
    steps: list[StepView]
    batch: int | None = Field(description="The batch that the present step brings, from 1; null on the way back.")
    batches: int | None = Field(description="How many there are in all.")
    waiting_for: Literal["approval", "decision"] | None = Field(
        description="What a person is waited for: `approval` (a hold of the plan) or `decision` (an inconclusive verdict,"
        " or a FAIL with failure_action pause). Both are given with promote, or turned down with rollback."
    )
    hold: HoldView | None = Field(description="While a person is waited for.")
    forced: bool = Field(description="Asked for in spite of a freeze and of a quarantine.")
    image: str = Field(description="Of the new release.")
    digest: str = Field(description="What the image was resolved to; empty until then.")
    build: BuildView | None
    tasks: list[TaskView] = Field(description="Those that were begun, in their order.")
    preview: PreviewView | None
    group: str = Field(description="Of the rollouts that are promoted and turned back as one; empty: it is alone.")
    marks: MarksView
    extensions: int = Field(description="How often the bake was prolonged because the verdict was inconclusive.")
    verdict: VerdictView | None = Field(description="Of the present step.")
    created: When
    finished: When | None
    requested_by: str
    requested_via: str = Field(description="The token that vouched for this person; empty: the token asked for itself.")
    version: int = Field(description="Grows with each change; the ETag.")
    links: dict[str, str]


class RolloutsView(BaseModel):
    """A page of rollouts, the newest first."""

    rollouts: list[RolloutView]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


class EventView(BaseModel):
    """A numbered fact in a rollout's story."""

    number: int
    kind: str
    message: str
    at: When
    data: dict[str, Any]


class EventsView(BaseModel):
    """Events, oldest first."""

    events: list[EventView]
    last: int = Field(description="Send it as `after` to go on from here.")


class CheckView(BaseModel):
    """One question to the metrics."""

    name: str
    kind: CheckKind
    query: str
    direction: Direction
    margin: float | None = Field(description="What may be lost before it matters; null: the default of its kind.")
    maximum: float | None
    minimum: float | None
    least: int


class ServiceView(BaseModel):
    """A service as it is defined. Of its containers' variables only the names are told: values may be secrets."""

    environment: str
    name: str
    image: str
    replicas: int
    strategy: Strategy
    order: Order
    batch: int
    bake_seconds: float
    holds: list[int]
    checks: list[CheckView]
    port: int
    variables: list[str]
    route: str
    listen: str
    version: int = Field(description="Grows with each change; the ETag.")
    live: str | None = Field(description="The release that serves.")
    rollout: str | None = Field(description="The live rollout.")
    repair: RepairPolicy = Field(description="What follows when it is found other than its release wants.")
    drift: DriftView | None = Field(description="What was found; null when all is as it should be.")
    links: dict[str, str]


class ServicesView(BaseModel):
    """A page of services, by name."""

    services: list[ServiceView]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


class ReleaseView(BaseModel):
    """One immutable version of a service."""

    id: str
    number: int
    image: str
    digest: str = Field(description="What the image was resolved to; empty until then.")
    replicas: int
    created: When
    good_at: When | None = Field(description="When a rollout to it succeeded.")
    quarantined_at: When | None = Field(description="When a rollout to it was turned back.")


class ServiceDetailView(ServiceView):
    """A service with its latest releases, the newest first, and what is under way."""

    live_release: ReleaseView | None
    live_rollout: RolloutView | None
    releases: list[ReleaseView]


class InstanceView(BaseModel):
    """One running copy, as platform and proxy show it now."""

    id: str
    release: str
    ordinal: int
    host: str
    address: str
    state: str
    restarts: int
    detail: str
    routed: bool = Field(description="It takes new requests.")
    draining: bool = Field(description="It takes none any more, and the proxy still knows it.")
    in_flight: int | None = Field(description="Requests on it now; null where the proxy cannot tell.")


class TrafficView(BaseModel):
    """The proxy's counters since its start or last reload."""

    requests: int
    lost: int
    errors: int


class InstancesView(BaseModel):
    """What runs and takes traffic now. `instances` is null, and `problem` says why, where a part does not answer."""

    instances: list[InstanceView] | None
    traffic: TrafficView | None
    problem: str | None


class TokenView(BaseModel):
    """A token, without its secret."""

    id: str
    name: str
    scopes: list[str]
    services: list[str]
    created: When
    expires: When | None
    last_used: When | None


class NewTokenView(TokenView):
    """A new token with its secret, which is never shown again."""

    token: str


class TokensView(BaseModel):
    """All tokens."""

    tokens: list[TokenView]


class StateView(BaseModel):
    """Whether it is alive or ready."""

    status: str


class RecordView(BaseModel):
    """What `tidegate judge replay` reads: values as the judge has them, times in seconds since the epoch."""

    rollout: dict[str, Any]
    looks: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
