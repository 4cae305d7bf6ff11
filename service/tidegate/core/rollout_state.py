"""The desired state of a rollout compared with the observed state. Pure; all rules of `decide` use it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tidegate.clock import Time
from tidegate.core.approvals import deciding_approval
from tidegate.core.decisions import Wait
from tidegate.core.hooks import TaskRun
from tidegate.core.model import (
    Instance,
    InstanceState,
    ObservedState,
    Rollout,
    RolloutKind,
    Signal,
    SignalKind,
)
from tidegate.core.phases import Phase
from tidegate.core.plan import Fleet, Step
from tidegate.core.planner import member_weights
from tidegate.core.records import Peer
from tidegate.core.routing import Member, RouterState
from tidegate.core.waits import WaitingFor, WaitKind

ALIVE = frozenset({InstanceState.STARTING, InstanceState.READY})


def member_of(instance: Instance, weight: int = 1) -> Member:
    """The instance as a member of the proxy."""
    return Member(instance.id, instance.release, instance.ordinal, instance.address, weight)


def _is_same_member(one: Member | None, other: Member) -> bool:
    """Whether it is the same instance at the same address, whatever it weighs."""
    return one is not None and replace(one, weight=1) == replace(other, weight=1)


@dataclass(frozen=True)
class RolloutState:
    """One rollout and the observed state at one moment. Deadlines do not count before `since`. `frozen` is the message of
    the freeze of the environment, empty without one; `peers` are the other rollouts of the group."""

    rollout: Rollout
    observed: ObservedState
    signals: Sequence[Signal]
    now: Time
    since: Time
    frozen: str = ""
    peers: Sequence[Peer] = ()

    @property
    def step(self) -> Step:
        """The current step."""
        return self.rollout.step

    # -- signals --------------------------------------------------------------------------------------------------

    def latest_signal(self, kind: SignalKind) -> Signal | None:
        """The latest signal of this kind."""
        return next((signal for signal in reversed(self.signals) if signal.kind is kind), None)

    @cached_property
    def deciding_approval(self) -> Signal | None:
        """The approval that completes those required for the current step, if given."""
        return deciding_approval(self.rollout, self.signals)

    @property
    def is_forced(self) -> bool:
        """Whether a person with the right to do so skips the remaining bakes, checks and approvals."""
        return self.latest_signal(SignalKind.FORCE) is not None

    # -- waiting --------------------------------------------------------------------------------------------------

    @property
    def position(self) -> str:
        """`2 of 5`: the current step."""
        return f"{self.rollout.cursor + 1} of {len(self.rollout.plan)}"

    def waiting_for(
        self, kind: WaitKind, reason: str, then: str, *, since: Time | None = None, until: Time | None = None
    ) -> WaitingFor:
        """A wait of the current step. Without `since` it started when the engine first recorded it, else now."""
        before = self.rollout.waiting_for
        if since is None:
            is_same = before is not None and (before.kind, before.reason) == (kind, reason)
            since = before.since if before is not None and is_same else self.now
        return WaitingFor(kind, reason, since, until, then)

    def wait_while_paused(self) -> Wait:
        """A wait until the rollout is resumed."""
        signal = self.latest_signal(SignalKind.PAUSE)
        reason = f"Paused by {signal.by}" + (f": {signal.reason}" if signal.reason else "") if signal else "Paused"
        waiting = self.waiting_for(
            WaitKind.PAUSE, reason, "`tidegate resume` continues the rollout", since=signal.at if signal else None
        )
        return Wait(self.now + self.rollout.policy.interval_seconds, waiting)

    def wait_while_frozen(self) -> Wait:
        """A wait until the environment is no longer frozen."""
        waiting = self.waiting_for(WaitKind.FREEZE, self.frozen, "the rollout continues when the freeze ends")
        return Wait(self.now + self.rollout.policy.interval_seconds, waiting)

    @property
    def runs_alone(self) -> bool:
        """Whether no two instances may run at once: an update in place of a service with one replica."""
        return self.rollout.in_place and all(sum(step.fleet.values()) <= 1 for step in self.rollout.plan)

    # -- time -----------------------------------------------------------------------------------------------------

    @cached_property
    def deadline_start(self) -> Time:
        """The latest of the starts of the step and of its first instance, `since`, and the last resume."""
        resumed = self.latest_signal(SignalKind.RESUME)
        started_at = max(self.rollout.step_started_at or self.now, self.rollout.starting_at or 0.0)
        return max(started_at, self.since, resumed.at if resumed else 0.0)

    @property
    def waited_seconds(self) -> float:
        """Seconds that count against the deadline; none while paused."""
        return 0.0 if self.rollout.paused else max(0.0, self.now - self.deadline_start)

    @property
    def is_overdue(self) -> bool:
        """Whether the instances of this step had all the time they were given."""
        return self.waited_seconds > self.rollout.policy.healthy_deadline_seconds

    def _drained_for(self, instance: str, seconds: float) -> bool:
        """Whether the instance had so much time since it left the route. Unknown beginnings count as now."""
        start = self.rollout.unrouted_at.get(instance)
        return start is not None and self.now - start >= seconds

    @cached_property
    def _long_lived_seconds(self) -> float:
        policy = self.rollout.policy
        return policy.drain_timeout_seconds if policy.long_lived_seconds is None else policy.long_lived_seconds

    @property
    def max_drain_seconds(self) -> float:
        """The longest that anything on an instance outside the route may take."""
        return max(self.rollout.policy.drain_timeout_seconds, self._long_lived_seconds)

    def is_drained(self, instance: Instance) -> bool:
        """Whether nothing on the instance has to be waited for any more.

        Upgraded connections have a limit of their own. Other requests have the drain time; those open longer count as
        long-lived. If the proxy cannot report what is open, the full drain time applies.
        """
        longest = self.max_drain_seconds
        return all(self._is_drained(instance, router, longest) for router in (self.observed.router, self.observed.preview))

    def _is_drained(self, instance: Instance, router: RouterState, longest: float) -> bool:
        count, tunnels = router.draining.get(instance.id, 0), router.tunnels.get(instance.id, 0)
        if count is None or count > tunnels:
            return self._drained_for(instance.id, longest)
        return not tunnels or self._drained_for(instance.id, self._long_lived_seconds)

    @property
    def leftover_requests(self) -> tuple[str, ...]:
        """The instances, existing or not, that the proxy may still have requests in flight on, within their drain time."""
        known = {**self.observed.router.draining, **self.observed.preview.draining}
        return tuple(instance for instance in known if not self._drained_for(instance, self.max_drain_seconds))

    # -- instances ------------------------------------------------------------------------------------------------

    @cached_property
    def members(self) -> dict[str, Member]:
        """The proxy's members by instance."""
        return {member.instance: member for member in self.observed.router.members}

    @cached_property
    def preview_members(self) -> dict[str, Member]:
        """The preview's members by instance."""
        return {member.instance: member for member in self.observed.preview.members}

    def is_routed(self, instance: Instance) -> bool:
        """Whether the proxy sends it new requests."""
        return instance.id in self.members

    def is_reachable(self, instance: Instance) -> bool:
        """Whether new requests come to it at all, from the preview as well."""
        return instance.id in self.members or instance.id in self.preview_members

    def is_address_current(self, instance: Instance) -> bool:
        """Whether requests reach it: after a restart its address may differ from the one in the proxy."""
        return _is_same_member(self.members.get(instance.id), member_of(instance))

    def is_serving(self, instance: Instance) -> bool:
        """Whether it does the work of the service: requests reach it; without a proxy, it has been ready."""
        return instance.id in self.rollout.health if self.step.route is None else self.is_address_current(instance)

    def has_requests_in_flight(self, instance: Instance) -> bool:
        """Whether the proxy still knows it, without new requests, with requests in flight or possibly so."""
        draining, preview = self.observed.router.draining, self.observed.preview.draining
        return draining.get(instance.id, 0) != 0 or preview.get(instance.id, 0) != 0

    @cached_property
    def alive_instances(self) -> tuple[Instance, ...]:
        """Instances that run or start, the most useful first: ready, then routed, then by ordinal."""
        living = (instance for instance in self.observed.instances if instance.state in ALIVE)
        return tuple(sorted(living, key=self._preference))

    def _preference(self, instance: Instance) -> tuple[bool, bool, int, str]:
        return (
            instance.state is not InstanceState.READY,
            not self.is_address_current(instance),
            instance.ordinal,
            instance.id,
        )

    @cached_property
    def fleet(self) -> Fleet:
        """How many of each release must exist now."""
        return self._reachable_counts(self.step.fleet)

    @cached_property
    def route(self) -> Fleet:
        """How many of each release must take traffic now."""
        return self._reachable_counts(self.step.route or {})

    @cached_property
    def serving(self) -> Fleet:
        """How many of each release must do the work of the service now."""
        return self._reachable_counts(self.step.serving)

    def _reachable_counts(self, wanted: Fleet) -> Fleet:
        """During a rollback nothing new is started or waited for: only ready instances of the new release count. Does not
        apply to a scaling, which has one release."""
        rollout = self.rollout
        back = rollout.phase is Phase.ROLLING_BACK and rollout.kind is RolloutKind.RELEASE
        if not back or rollout.new not in wanted:
            return wanted
        ready = sum(self.is_ready(each) and each.release == rollout.new for each in self.alive_instances)
        return {**wanted, self.rollout.new: min(ready, wanted[self.rollout.new])}

    @staticmethod
    def is_ready(instance: Instance) -> bool:
        """Whether it can take traffic."""
        return instance.state is InstanceState.READY

    @cached_property
    def desired(self) -> tuple[Instance, ...]:
        """The instances that form the fleet."""
        return self._select(self.fleet)

    @cached_property
    def desired_routed(self) -> tuple[Instance, ...]:
        """The instances that should take traffic; part of `desired`."""
        return self._select(self.route)

    @cached_property
    def desired_serving(self) -> tuple[Instance, ...]:
        """The instances that should do the work of the service; part of `desired`."""
        return self._select(self.serving)

    def _select(self, wanted: Fleet) -> tuple[Instance, ...]:
        chosen: list[Instance] = []
        replaced = set(self.rollout.replaced)
        for release, count in wanted.items():
            chosen += [
                instance for instance in self.alive_instances if instance.release == release and instance.id not in replaced
            ][:count]
        return tuple(chosen)

    @cached_property
    def surplus_instances(self) -> tuple[Instance, ...]:
        """Instances that are not wanted, in any state."""
        wanted = {each.id for each in self.desired}
        return tuple(instance for instance in self.observed.instances if instance.id not in wanted)

    @cached_property
    def missing_ordinals(self) -> dict[str, tuple[int, ...]]:
        """The ordinals to be started, by release: the lowest that no instance of the release holds."""
        gaps: dict[str, tuple[int, ...]] = {}
        for release, count in self.fleet.items():
            lacking = count - sum(1 for each in self.desired if each.release == release)
            if lacking > 0:
                gaps[release] = self._free_ordinals(release, lacking)
        return gaps

    def _free_ordinals(self, release: str, count: int) -> tuple[int, ...]:
        taken = {instance.ordinal for instance in self.observed.instances if instance.release == release}
        free = (ordinal for ordinal in range(len(taken) + count) if ordinal not in taken)
        return tuple(next(free) for _ in range(count))

    # -- readiness ------------------------------------------------------------------------------------------------

    @property
    def is_forward_release(self) -> bool:
        """Whether it brings a new release, and is not being rolled back."""
        return self.rollout.kind is RolloutKind.RELEASE and self.rollout.phase is Phase.RUNNING

    @cached_property
    def unready_instances(self) -> tuple[Instance, ...]:
        """Desired instances that are not ready."""
        return tuple(instance for instance in self.desired if not self.is_ready(instance))

    @cached_property
    def awaited_instances(self) -> tuple[Instance, ...]:
        """Instances that must become ready before the step can continue: all of the new release, and others that are about
        to take traffic.

        An instance of another release that was ready before is no fault of the new release, and one that is sick must not
        delay a rollback: they are waited for only if there is no other one that could take the traffic.
        """
        return tuple(instance for instance in self.unready_instances if self._is_awaited(instance))

    def _is_awaited(self, instance: Instance) -> bool:
        if self.is_forward_release and instance.release == self.rollout.new:
            return True
        wanted = any(instance.id == other.id for other in self.desired_serving)
        if self.is_serving(instance) or not (wanted or instance.release == self.rollout.new):
            return False
        if self.rollout.phase is Phase.ROLLING_BACK:  # one that was restarted is soon back, or a repair replaces it
            sick = self.is_unhealthy(instance) or (instance.id in self.rollout.health and self.is_overdue)
            return not sick or not any(map(self.is_ready, self.desired_serving))
        can_serve = any(self.is_ready(other) or self.is_serving(other) for other in self.desired_serving)
        return instance.id not in self.rollout.health or not can_serve

    @cached_property
    def recovering_instances(self) -> tuple[Instance, ...]:
        """Instances that a repair or a scaling waits for at its end, and replaces when they do not become ready."""
        if self.rollout.kind is RolloutKind.RELEASE or self.rollout.phase is not Phase.RUNNING:
            return ()
        return tuple(instance for instance in self.unready_instances if instance.id in self.rollout.health)

    def is_candidate(self, instance: Instance) -> bool:
        """Whether this rollout started it, so that its failures count against the rollout."""
        return instance.release == self.rollout.new and instance.id not in self.rollout.preexisting

    def is_unhealthy(self, instance: Instance) -> bool:
        """Whether it was ready and no longer is, without having restarted."""
        health = self.rollout.health.get(instance.id)
        return (
            health is not None
            and health.unhealthy_since is not None
            and (health.restarts, health.start) == (instance.restarts, instance.start)
            and instance.state is InstanceState.STARTING
        )

    @property
    def is_complete(self) -> bool:
        """Whether no instance is missing or awaited."""
        return not self.missing_ordinals and not self.awaited_instances and not self.recovering_instances

    # -- proxy ----------------------------------------------------------------------------------------------------

    @cached_property
    def desired_members(self) -> tuple[Member, ...]:
        """The desired members of the proxy with their weights: those that are ready, or as they are if none is."""
        weight = member_weights(self.route, self.rollout.new, self.step.share)
        wanted = [instance for instance in self.desired_routed if self.is_ready(instance)]
        wanted = wanted or [instance for instance in self.desired_routed if self.is_address_current(instance)]
        return tuple(member_of(instance, weight[instance.release]) for instance in wanted or self.desired_routed)

    @cached_property
    def router_matches(self) -> bool:
        """Whether the proxy has exactly the desired members, with current addresses and weights, and none is missing."""
        whole = len(self.desired_routed) == sum(self.route.values())
        return whole and set(self.members.values()) == set(self.desired_members)

    @cached_property
    def desired_preview(self) -> tuple[Member, ...]:
        """The desired members of the preview; none without a preview."""
        if self.rollout.backend is None or self.rollout.backend.preview is None:
            return ()
        return tuple(member_of(each) for each in self._select(self.step.preview) if self.is_ready(each))

    @cached_property
    def preview_matches(self) -> bool:
        """Whether the preview leads to exactly these."""
        return set(self.preview_members.values()) == set(self.desired_preview)

    @cached_property
    def alive_members(self) -> tuple[Member, ...]:
        """The proxy's members behind which an instance still runs at the same address."""
        return self._alive_members(self.observed.router.members)

    @cached_property
    def alive_preview(self) -> tuple[Member, ...]:
        """The same of the preview's members."""
        return self._alive_members(self.observed.preview.members)

    def _alive_members(self, members: Sequence[Member]) -> tuple[Member, ...]:
        there = {member_of(instance) for instance in self.alive_instances}
        return tuple(member for member in members if replace(member, weight=1) in there)

    # -- tasks ----------------------------------------------------------------------------------------------------

    def task(self, name: str) -> TaskRun | None:
        """The record of a task; None if it has not started."""
        return next((task for task in self.rollout.tasks if task.name == name), None)


def format_names(instances: Iterable[Instance]) -> str:
    """`v1-1/0, v1-1/1`: instances in a message."""
    return ", ".join(f"{instance.release}/{instance.ordinal}" for instance in instances)
