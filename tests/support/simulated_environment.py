"""A simulated world: containers that come up, crash and vanish, a proxy with requests in flight, and the safety rules.

Every effect goes through `start`, `shift` or `stop`, and each checks the rules of `docs/architecture.md` at that moment;
a broken rule is a `SafetyViolation`. Time is a number that `pass_time` moves. All chance comes from the one generator that
is handed in, so a seed repeats a run.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from tidegate.clock import Time
from tidegate.core.model import Instance, InstanceState, ObservedState, Rollout
from tidegate.core.phases import Phase
from tidegate.core.routing import Member, RouterState
from tidegate.errors import RouterError


class SafetyViolation(AssertionError):
    """A safety rule was broken."""


@dataclass
class SimulatedContainer:
    """A container: when it becomes ready, until when it is sick, when it ends, by itself or `halted` from outside, when a
    stop that was asked is complete."""

    instance: Instance
    ready_at: Time
    ends_at: Time
    removed_at: Time | None = None
    halted: bool = False
    sick_until: Time = 0.0


@dataclass
class SimulatedEnvironment:
    """One service's containers and proxy. `floor`: the capacity that a switch must keep; `ceiling`: the most containers."""

    chance: random.Random
    floor: int
    ceiling: int
    drain_seconds: float
    alone: bool = False  # whether two containers may never run at once
    has_proxy: bool = True  # False: every container works as soon as it is ready
    now: Time = 1_000.0
    never_ready: set[str] = field(default_factory=set)  # releases
    crashing: set[str] = field(default_factory=set)  # releases that end soon after they were started
    max_request_seconds: float = 3.0
    boxes: dict[str, SimulatedContainer] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    preview: dict[str, Member] = field(default_factory=dict)
    visits: dict[str, Time] = field(default_factory=dict)  # those who left the preview: until when they are busy there
    flights: dict[str, tuple[Time, Time]] = field(default_factory=dict)  # unrouted: since when, until when busy
    fence: int = 0
    replaced: set[str] = field(default_factory=set)  # sick ones, next to which others are started
    most_running: int = 0  # containers at once, after a start
    strangers: int = 0  # containers that a lost engine started late: they do not count against the ceiling
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _addresses: list[str] = field(default_factory=list)

    # -- looking --------------------------------------------------------------------------------------------------------

    def observe(self) -> ObservedState:
        """The world as the drivers would show it."""
        draining: dict[str, int | None] = {each: int(until > self.now) for each, (_, until) in self.flights.items()}
        busy: dict[str, int | None] = dict.fromkeys(self.members, 1)
        return ObservedState(
            tuple(self._instance(box) for box in self.boxes.values()),
            RouterState(tuple(self.members.values()), draining, busy, self.fence),
            RouterState(tuple(self.preview.values()), {each: int(until > self.now) for each, until in self.visits.items()}),
        )

    def _instance(self, box: SimulatedContainer) -> Instance:
        if box.removed_at is not None:
            state = InstanceState.STOPPING
        elif self.now >= box.ends_at:
            state = InstanceState.STOPPED if box.halted else InstanceState.FAILED
        else:
            ready = self.now >= max(box.ready_at, box.sick_until)
            state = InstanceState.READY if ready else InstanceState.STARTING
        return replace(box.instance, state=state)

    def sick_instances(self, release: str | None = None) -> list[Instance]:
        """Those that were ready, run, and no longer are ready."""
        return [
            box.instance
            for box in self.boxes.values()
            if box.removed_at is None
            and box.ready_at <= self.now < min(box.sick_until, box.ends_at)
            and release in (None, box.instance.release)
        ]

    def serving_instances(self) -> list[Instance]:
        """The members behind which a ready instance stands; without a proxy, all that are ready."""
        ready = {instance.id: instance for instance in self.observe().instances if instance.state is InstanceState.READY}
        if not self.has_proxy:
            return list(ready.values())
        return [ready[member.instance] for member in self.members.values() if self._reaches(member, ready)]

    @staticmethod
    def _reaches(member: Member, ready: dict[str, Instance]) -> bool:
        return member.instance in ready and ready[member.instance].address == member.address

    # -- effects ----------------------------------------------------------------------------------------------------------

    def start(self, release: str, ordinals: Collection[int], *, stale: bool = False) -> None:
        """Create those that do not exist. `stale`: by an engine that lost the rollout. Where no two may run at once, one
        that exists in any state prevents such a start, as the driver does; others must not need that."""
        if stale and self.alone and self.boxes:
            return
        there = {b.instance.ordinal for b in self.boxes.values() if b.instance.release == release and b.removed_at is None}
        for ordinal in sorted(set(ordinals) - there):
            self.strangers += stale and not self.alone
            self._create(release, ordinal)
        living = [
            name
            for name, box in self.boxes.items()
            if box.removed_at is None and self.now < box.ends_at and name not in self.replaced
        ]
        if len(living) > self.ceiling + self.strangers:
            raise SafetyViolation(f"{len(living)} containers, {self.ceiling} are allowed")
        running = [box for box in self.boxes.values() if self.now < box.ends_at]
        self.most_running = max(self.most_running, len(running))
        if self.alone and not self.strangers and len(running) > 1:
            raise SafetyViolation(f"{len(running)} containers run at once")

    def _create(self, release: str, ordinal: int) -> None:
        name = f"c{next(self._ids):06}"
        address = self._addresses.pop() if self._addresses else f"10.0.0.{len(self.boxes) + 1}:80"
        taken = {box.instance.address for box in self.boxes.values()}
        while address in taken:
            address = f"10.0.{self.chance.randrange(255)}.{self.chance.randrange(255)}:80"
        ready = float("inf") if release in self.never_ready else self.now + self.chance.uniform(0.1, 2.0)
        ends = self.now + self.chance.uniform(0.1, 3.0) if release in self.crashing else float("inf")
        self.boxes[name] = SimulatedContainer(
            Instance(name, release, ordinal, address, InstanceState.STARTING), ready, ends
        )

    def shift(self, members: Collection[Member], fence: int) -> None:
        """Make these the route. Refuses an older fence."""
        if fence < self.fence:
            raise RouterError("the fence is too old", retryable=False)
        self.fence = fence
        before, wanted = self.serving_instances(), {member.instance: member for member in members}
        ready = {instance.id: instance for instance in self.observe().instances if instance.state is InstanceState.READY}
        unready = [
            each for name, each in wanted.items() if self.members.get(name) != each and not self._reaches(each, ready)
        ]
        if unready:
            raise SafetyViolation(f"routed before it was ready: {unready}")
        for name in sorted(set(self.members) - set(wanted)):
            if not self._reaches(self.members[name], ready):
                continue  # its requests ended with it
            self.flights[name] = (self.now, self.now + self.chance.uniform(0.0, self.max_request_seconds))
        for name in [name for name, (_, until) in self.flights.items() if until <= self.now or name in wanted]:
            del self.flights[name]
        self.members = wanted
        capacity = len(self.serving_instances())
        floor = max(1, self.floor - len(self.sick_instances())) if wanted else self.floor
        if capacity < min(floor, len(before)):
            raise SafetyViolation(f"capacity fell from {len(before)} to {capacity}, the floor is {floor}")

    def lead_preview(self, members: Collection[Member]) -> None:
        """Make these the preview's. Who leaves it may have requests of it in flight for a moment."""
        wanted = {member.instance: member for member in members}
        for name in sorted(set(self.preview) - set(wanted)):
            self.visits[name] = self.now + self.chance.uniform(0.0, 0.5)
        for name in [name for name, until in self.visits.items() if until <= self.now or name in wanted]:
            del self.visits[name]
        self.preview = wanted

    def stop(self, instances: Collection[Instance]) -> None:
        """Stop these; they are gone a little later."""
        before = self.serving_instances()
        floor = min(len(before), max(0, self.floor - len(self.sick_instances())))
        for instance in instances:
            box = self.boxes.get(instance.id)
            if box is None or box.removed_at is not None:
                continue
            if instance.id in self.members:
                raise SafetyViolation(f"stopped while routed: {instance}")
            if instance.id in self.preview:
                raise SafetyViolation(f"stopped while the preview leads to it: {instance}")
            since, until = self.flights.get(instance.id, (self.now, self.now))
            if until > self.now and self.now - since < self.drain_seconds:
                raise SafetyViolation(f"stopped with requests in flight: {instance}")
            self.flights.pop(instance.id, None)
            self.visits.pop(instance.id, None)
            box.removed_at = self.now + self.chance.uniform(0.0, 1.0)
        if self.has_proxy and before and not self.serving_instances():
            raise SafetyViolation("the last healthy copy was stopped")
        if not self.has_proxy and len(self.serving_instances()) < floor:
            raise SafetyViolation(f"{len(self.serving_instances())} of {len(before)} work, the floor is {floor}")

    # -- what happens by itself ---------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Let time pass; what was stopped goes, and its address becomes free."""
        self.now += max(0.0, seconds)
        for name, box in list(self.boxes.items()):
            if box.removed_at is not None and box.removed_at <= self.now:
                self._addresses.append(box.instance.address)
                del self.boxes[name]

    def vanish(self) -> None:
        """A container disappears, unless it is the only one that serves."""
        candidates = [name for name in self.boxes if [member.id for member in self.serving_instances()] != [name]]
        if candidates:
            name = self.chance.choice(sorted(candidates))
            self._addresses.append(self.boxes.pop(name).instance.address)

    def end(self) -> None:
        """A container ends by itself and stays where it is; never the only one that serves."""
        if (box := self._but_the_last()) is not None:
            box.ends_at = self.now

    def halt(self) -> None:
        """The same, from outside: by its engine, or by hand."""
        if (box := self._but_the_last()) is not None:
            box.ends_at, box.halted = self.now, True

    def _but_the_last(self) -> SimulatedContainer | None:
        candidates = [name for name in self.boxes if [member.id for member in self.serving_instances()] != [name]]
        return self.boxes[self.chance.choice(sorted(candidates))] if candidates else None

    def sicken(self, release: str | None = None) -> None:
        """A container that is ready stops being so for some time, or for good; also the only one that serves."""
        ready = [each for each in self.observe().instances if each.state is InstanceState.READY]
        candidates = sorted(each.id for each in ready if release in (None, each.release))
        if candidates:
            seconds = self.chance.choice([0.5, 3.0, 15.0, 100.0, float("inf")])
            self.boxes[self.chance.choice(candidates)].sick_until = self.now + seconds

    def add(self) -> None:
        """Somebody starts a container under one of the service's releases that nobody wants."""
        self.strangers += 1
        release = self.chance.choice(sorted({box.instance.release for box in self.boxes.values()}) or ["a-1"])
        self._create(release, 50 + self.strangers)

    def forget(self) -> None:
        """The proxy loses its members, as after a restart without its file. Its fence stands beside it, and stays."""
        self.members, self.flights, self.preview, self.visits = {}, {}, {}, {}

    def restart(self) -> None:
        """A container is restarted by its engine, and comes back at another address."""
        if self.boxes:
            box = self.boxes[self.chance.choice(sorted(self.boxes))]
            self._addresses.append(box.instance.address)
            address = f"10.1.{self.chance.randrange(255)}.{self.chance.randrange(255)}:80"
            self.flights.pop(box.instance.id, None)
            if box.halted:
                box.ends_at, box.halted = float("inf"), False
            restarts = box.instance.restarts + 1
            box.instance, box.ready_at = replace(box.instance, address=address, restarts=restarts), self.now + 0.5
            box.sick_until = 0.0

    def check_end(self, rollout: Rollout, old: dict[str, int], new: dict[str, int]) -> None:
        """The end matches the phase: exactly the wanted instances exist, all that are ready are routed, and nothing is left
        over."""
        if rollout.phase is Phase.FAILED:
            return
        if rollout.phase is Phase.SUCCEEDED and self.sick_instances():
            raise SafetyViolation(f"succeeded while {self.sick_instances()} are sick")
        if self.preview:
            raise SafetyViolation(f"{rollout.phase}, and the preview still leads to {sorted(self.preview)}")
        wanted = new if rollout.phase is Phase.SUCCEEDED else old
        fleet = [box.instance.release for box in self.boxes.values() if box.removed_at is None]
        there = self.observe().instances
        left_out = [each.release for each in there if each.state is InstanceState.STARTING and each.id not in self.members]
        route = [member.release for member in self.members.values()] + left_out
        expected = sorted(release for release, count in wanted.items() for _ in range(count))
        if sorted(fleet) != expected or (self.has_proxy and sorted(route) != expected):
            raise SafetyViolation(
                f"{rollout.phase} with {sorted(fleet)} of which {sorted(route)} are routed, wanted {expected}"
            )
