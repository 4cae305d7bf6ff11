"""A whole rollout in a simulated world, driven by the pure decisions, with an engine that may die at every boundary."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from support.simulated_environment import SimulatedEnvironment
from tidegate.analysis.verdict import Outcome, Verdict
from tidegate.clock import Window
from tidegate.core import drift, planner
from tidegate.core.container import Container
from tidegate.core.decide import decide
from tidegate.core.decisions import (  # fmt: skip
    Analyze,
    Decision,
    Mark,
    Move,
    Pin,
    Run,
    Shift,
    Start,
    Stop,
    Track,
    Wait,
    apply_mark,
    apply_move,
    apply_track,
    record_task,
    record_verdict,
)
from tidegate.core.hooks import BLOCKING, HOOKS, Hook, TaskRun, TaskState
from tidegate.core.model import (
    Approval,
    Check,
    CheckKind,
    Expiry,
    FailureAction,
    InstanceState,
    Order,
    Policy,
    Release,
    Rollout,
    RolloutKind,
    Service,
    Signal,
    SignalKind,
    Strategy,
)
from tidegate.core.phases import Phase
from tidegate.core.rollout_state import member_of
from tidegate.core.routing import Backend, Preview
from tidegate.core.waits import WaitingFor, WaitKind
from tidegate.errors import RouterError

MOST_TICKS = 4_000
LONGEST_SECONDS = 20_000.0  # engines that keep dying never reach a deadline, but a bound on their number
DRAIN = 4.0
UNLIMITED = {WaitKind.PAUSE, WaitKind.FREEZE, WaitKind.GROUP, WaitKind.STOP, WaitKind.PART}


@dataclass(frozen=True)
class Case:
    """What is rolled out, and what goes wrong: chances are per tick."""

    seed: int
    strategy: Strategy = Strategy.ROLLING
    order: Order = Order.START_FIRST
    worker: bool = False  # no proxy
    old: int = 3  # 0: the first deploy
    new: int = 3
    batch: int = 1
    approvals: bool = False
    answered: bool = True  # by a person, sooner or later
    on_expiry: Expiry = Expiry.ROLLBACK
    judged: bool = False
    verdicts: tuple[Outcome, ...] = (Outcome.PASS,)
    action: FailureAction = FailureAction.ROLLBACK
    never_ready: bool = False
    crashing: bool = False
    crash: float = 0.0
    drift: float = 0.0
    sick: float = 0.0
    sick_release: str | None = None  # None: of both
    tolerance: float = 0.0  # max_failure_ratio
    stale: float = 0.0
    preview: bool = False
    tasks: bool = False
    task_states: tuple[TaskState, ...] = ()
    keep: bool = False
    shares: tuple[float, ...] = ()
    control: int = 0
    kind: RolloutKind = RolloutKind.RELEASE  # a repair and a scaling are of the old release
    tampered: int = 0  # mishaps before it begins
    rollback_at: int | None = None
    pause_at: int | None = None


def assert_named(waiting: WaitingFor, now: float) -> None:
    """It is said what is waited for and what follows. Without a limit that is a person, or a part that is named."""
    assert waiting.reason, waiting
    assert waiting.then, waiting
    assert waiting.since <= now, waiting
    if waiting.until is None:
        paused = waiting.kind is WaitKind.READINESS and "resume" in waiting.then
        assert paused or waiting.kind in UNLIMITED, waiting
    else:
        assert waiting.until >= now, f"{waiting} is past its limit at {now}"


@dataclass
class SimulatedRollout:
    """A rollout in a simulated world, driven by an engine that may die."""

    case: Case
    chance: random.Random = field(init=False)
    crashes: int = 0
    called_off: bool = False  # before it touched anything

    def __post_init__(self) -> None:
        case = self.case
        self.chance = random.Random(case.seed)
        self.verdicts = list(case.verdicts)
        self.task_states = list(case.task_states)
        self.begun: list[str] = []
        self.signals: list[Signal] = []
        self.fence = 1
        self.lost: tuple[Decision, int] | None = None
        self.rollout = self._rollout()
        self.world = self._world()
        self.since = self.world.now

    def _rollout(self) -> Rollout:
        case = self.case
        checks = (Check("c", CheckKind.QUERY, "up", maximum=1.0),) if case.judged else ()
        policy = Policy(
            drain_timeout_seconds=DRAIN,
            healthy_deadline_seconds=20.0,
            interval_seconds=2.0,
            failure_action=case.action,
            max_extensions=1,
            approval=Approval(after=(1,) if case.approvals else (), expires_seconds=60.0, on_expiry=case.on_expiry),
            max_takeovers=300,
            max_failure_ratio=case.tolerance,
        )
        backend = None if case.worker else Backend("shop", preview=Preview("8002") if case.preview else None)
        service = Service(
            "demo", "shop", "shop:2", case.new, Container(80), backend, case.strategy, case.order, case.batch,
            bake_seconds=5.0 if case.judged else 0.0, checks=checks, policy=policy,
            control=case.control, keep_old_seconds=30.0 if case.keep else 0.0, traffic_shares=case.shares,
            hooks={name: Hook(("true",)) for name in HOOKS} if case.tasks else {},
        )  # fmt: skip
        new = Release("b-2", service.key, "shop:2", case.new, service.container)
        old = replace(new, id="a-1", replicas=case.old) if case.old else None
        if case.kind is RolloutKind.REPAIR and old:
            return drift.make_repair(service, old, "r", 1_000.0)
        if case.kind is RolloutKind.SCALE and old:
            return drift.make_scaling(service, old, case.new, "r", 1_000.0, "ada")
        if case.kind is RolloutKind.REMOVE and old:
            return drift.make_removal(service, old, "r", 1_000.0, "ada", live=True)
        return Rollout(
            "r", service.key, old.id if old else None, new.id, planner.make_plan(service, old, new), service.backend,
            1_000.0,
            old_replicas=case.old, batch=case.batch, in_place=case.order is Order.STOP_FIRST,
            checks=checks, policy=policy, hooks=service.hooks,
        )  # fmt: skip

    def _world(self) -> SimulatedEnvironment:
        case = self.case
        most = case.old + case.new if case.kind is RolloutKind.RELEASE else max(case.old, case.new)
        floor = (
            0
            if case.kind is RolloutKind.REMOVE
            else min(case.old, case.new) - (case.batch if case.order is Order.STOP_FIRST else 0)
        )
        alone = case.order is Order.STOP_FIRST and case.old <= 1 and case.new == 1
        if case.worker and case.order is Order.STOP_FIRST:
            most = max(case.old, case.new)
        world = SimulatedEnvironment(
            self.chance, floor=max(0, floor), ceiling=most, drain_seconds=DRAIN, alone=alone, has_proxy=not case.worker
        )
        world.start("a-1", range(case.old))
        world.pass_time(5.0)
        seen = world.observe()
        world.members = {} if case.worker else {instance.id: member_of(instance) for instance in seen.instances}
        world.never_ready = {self.rollout.new} if case.never_ready else set()
        world.crashing = {self.rollout.new} if case.crashing else set()
        for _ in range(case.tampered):
            self.chance.choice([world.vanish, world.forget, world.restart, world.end, world.halt, world.add])()
        return world

    # -- the loop -------------------------------------------------------------------------------------------------------

    def play(self) -> Rollout:
        """To the end."""
        for tick in range(MOST_TICKS):
            if not self.rollout.phase.live:
                return self.rollout
            self._wishes(tick)
            self._mishaps()
            self._tick()
            assert self.world.now < 1_000.0 + LONGEST_SECONDS, f"no end: {self.rollout}"
        raise AssertionError(f"it spins: {self.rollout} {self.world.observe()}")

    def _wishes(self, tick: int) -> None:
        now, case = self.world.now, self.case
        if tick == case.rollback_at:
            self.signals.append(Signal(SignalKind.ROLLBACK, now, "somebody"))
        if tick == case.pause_at:
            self.rollout = replace(self.rollout, paused=True)
        if case.pause_at is not None and tick == case.pause_at + 10:
            self.signals.append(Signal(SignalKind.RESUME, now, "somebody"))
            self.rollout = replace(self.rollout, paused=False)
        if case.answered and self.rollout.approval_since is not None and self.chance.random() < 0.2:
            self.signals.append(Signal(SignalKind.PROMOTE, now, "somebody", step=self.rollout.cursor))

    def _mishaps(self) -> None:
        if self.chance.random() < self.case.drift:
            self.chance.choice([self.world.vanish, self.world.forget, self.world.restart, self.world.halt])()
        if self.chance.random() < self.case.sick:
            self.world.sicken(self.case.sick_release)
        if self.lost is not None and self.chance.random() < 0.3:
            self._late(*self.lost)
            self.lost = None

    def _tick(self) -> None:
        """Decide, then one write or one effect; the engine may die before and after it."""
        world, decision = self.world, self._decide()
        if self._dies(decision):
            return
        match decision:
            case Wait():
                assert_named(decision.waiting_for, world.now)
                world.pass_time(max(0.01, decision.until - world.now))
            case Pin():
                there = tuple(instance.id for instance in world.observe().instances)
                self.rollout = apply_move(
                    replace(self.rollout, preexisting=there), Move(Phase.RUNNING, "pinned"), world.now
                )
            case Track():
                self.rollout = apply_track(self.rollout, decision, world.now)
                world.replaced |= {*decision.replaced}
            case Mark():
                self.rollout = apply_mark(self.rollout, decision.mark, world.now)
            case Move():
                self.called_off = self.rollout.phase is Phase.PENDING and not decision.phase.live
                self.rollout = apply_move(self.rollout, decision, world.now)
            case Analyze():
                self.rollout = record_verdict(self.rollout, self._verdict(decision))
            case Run():
                self.rollout = record_task(self.rollout, self._task(decision.task))
                world.pass_time(0.1)
            case Start() | Shift() | Stop():
                self._effect(decision)
                world.pass_time(0.05)
                self._dies(None)

    def _decide(self) -> Decision:
        return decide(self.rollout, self.world.observe(), self.signals, self.world.now, self.since)

    def _effect(self, effect: Start | Shift | Stop) -> None:
        match effect:
            case Start():
                self.world.start(effect.release, effect.ordinals)
            case Shift(preview=True):
                self.world.lead_preview(effect.members)
            case Shift():
                self.world.shift(effect.members, self.fence)
            case Stop():
                self._assert_replaced(effect)
                self.world.stop(effect.instances)

    def _assert_replaced(self, effect: Stop) -> None:
        """A healthy instance of the old release is not stopped while a new one that replaces it is sick."""
        if self.rollout.phase is not Phase.RUNNING or self.case.kind is not RolloutKind.RELEASE:
            return
        healthy = [each for each in effect.instances if each.release == "a-1" and each.state is InstanceState.READY]
        sick = self.world.sick_instances("b-2")
        assert not healthy or not sick, f"stopped {healthy} while {sick} are sick"

    def _task(self, name: str) -> TaskRun:
        """A task runs once; how it ends is up to the case. One that was begun by an engine that died goes on."""
        now = self.world.now
        run = next((task for task in self.rollout.tasks if task.name == name), None)
        if run is None:
            assert name not in self.begun, f"{name} was begun twice"
            self.begun.append(name)
            return TaskRun(name, TaskState.RUNNING, now)
        assert not run.state.ended, f"{name} was run again"
        state = self.task_states.pop(0) if self.task_states else TaskState.PASSED
        if state is TaskState.FAILED and name not in BLOCKING:
            state = TaskState.WARNED
        return replace(run, state=state, ended_at=now if state.ended else None, message=f"{name}: {state}")

    def _verdict(self, decision: Analyze) -> Verdict:
        outcome = self.verdicts.pop(0) if self.verdicts else Outcome.PASS
        return Verdict(
            outcome, self.world.now, Window(self.world.now - 5.0, self.world.now), (), f"judged {outcome}", decision.final
        )

    def _dies(self, doing: Decision | None) -> bool:
        """The engine forgets all but what was saved; another takes over some time later, under a higher fence."""
        if self.chance.random() >= self.case.crash:
            return False
        self.crashes += 1
        if isinstance(doing, Start | Shift | Stop) and self.chance.random() < self.case.stale:
            self.lost = (doing, self.fence)
        self.world.pass_time(self.chance.uniform(0.0, 30.0))
        self.fence, self.since = self.fence + 1, self.world.now
        self.rollout = replace(self.rollout, takeovers=self.rollout.takeovers + 1)
        return True

    def _late(self, effect: Decision, fence: int) -> None:
        """One stale effect of a lost engine, as the real one would do it: the fence, named instances, a second look."""
        world = self.world
        match effect:
            case Start():
                world.start(effect.release, effect.ordinals, stale=True)
            case Shift(preview=False):
                try:
                    world.shift(effect.members, fence)
                except RouterError:
                    return
            case Stop():
                seen = world.observe().router
                routed = {member.instance for member in seen.members}
                busy = {each for each, count in seen.draining.items() if count != 0}
                left = routed | busy | set(world.preview)
                world.stop([instance for instance in effect.instances if instance.id not in left])
