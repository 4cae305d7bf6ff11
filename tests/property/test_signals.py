"""In no order of signals does a FAIL or an unknown result pass without an approval that was given for it, after it; and a
rollback that is requested takes effect, whatever came before."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.simulated_rollout import Case, SimulatedRollout
from tidegate.analysis.verdict import Outcome
from tidegate.core.approvals import approval_binding
from tidegate.core.decisions import Decision, Mark, Move, Track, Wait, signals_of
from tidegate.core.hooks import TaskState
from tidegate.core.model import Expiry, FailureAction, Rollout, Signal, SignalKind, Strategy
from tidegate.core.phases import Phase
from tidegate.core.waits import WaitKind

EXAMPLES = max(50, int(os.environ.get("EXAMPLES", "400")) // 4)
QUIET_TICKS = 300  # then nobody pauses any more, so that the rollout ends
REQUESTS = ("now", "now", "before", "full", "pause", "resume", "verify", "rollback")
FORWARD = (Phase.RUNNING, Phase.SUCCEEDED)


@dataclass
class BusyRollout(SimulatedRollout):
    """A rollout that several people answer, pause, resume and roll back at any moment, by what they saw at any time.

    Whatever they send is recorded, also what the API would refuse.
    """

    haste: float = 0.3
    seen: list[str] = field(default_factory=list)  # bindings
    results: int = 0  # how many there were, each different from the one before
    answered: set[int] = field(default_factory=set)  # those that an approval was given for
    held: int = 0  # how often a result without an answer was reached

    def _wishes(self, tick: int) -> None:
        self.seen.append(approval_binding(self.rollout))
        if self.chance.random() < (self.haste if tick < QUIET_TICKS else 0.05):
            self._send(self.chance.choice(REQUESTS))
        if tick >= QUIET_TICKS and self.rollout.paused:
            self._send("resume")

    def _send(self, what: str) -> None:
        now, by, step = self.world.now, self.chance.choice("abc"), self.rollout.cursor
        if what in ("now", "before"):
            binding = self.seen[-1] if what == "now" else self.chance.choice(self.seen)
            self.answered |= {self.results} if binding == self.seen[-1] else set()
            self.signals.append(Signal(SignalKind.PROMOTE, now, by, step=step, binding=binding))
        elif what == "full":
            self.signals.append(Signal(SignalKind.PROMOTE, now, by, binding=self.seen[-1]))
        elif what != "rollback" or self.chance.random() < 0.1:
            for signal in signals_of(Signal(SignalKind(what), now, by), paused=self.rollout.paused):
                self.signals.append(signal)
                paused = {SignalKind.PAUSE: True, SignalKind.RESUME: False}.get(signal.kind, self.rollout.paused)
                self.rollout = replace(self.rollout, paused=paused)

    def _tick(self) -> None:
        before = _result(self.rollout)
        super()._tick()
        self.results += before != _result(self.rollout)

    def _decide(self) -> Decision:
        decision = super()._decide()
        requests = [signal.kind for signal in self.signals if signal.kind in (SignalKind.ROLLBACK, SignalKind.PAUSE)]
        if isinstance(decision, Move) and decision.phase in FORWARD and self.rollout.phase is Phase.RUNNING:
            assert SignalKind.ROLLBACK not in requests, f"continues although a rollback was requested: {decision}"
            assert not self._needs_answer() or self.results in self.answered, f"{_result(self.rollout)} passes: {decision}"
        self.held += self._needs_answer() and self.results not in self.answered
        if requests[-1:] == [SignalKind.ROLLBACK]:
            assert not isinstance(decision, Wait) or decision.waiting_for.kind is not WaitKind.PAUSE, decision
            if self.rollout.phase is Phase.RUNNING:
                assert isinstance(decision, Mark | Track | Move), f"it takes effect at once: {decision}"
        return decision

    def _needs_answer(self) -> bool:
        verdict, gate = self.rollout.verdict, self.rollout.step.gate
        if self.rollout.phase is not Phase.RUNNING:
            return False
        if any(task.name in gate.tasks and task.state is TaskState.UNKNOWN for task in self.rollout.tasks):
            return True
        if verdict is None:
            return False
        if verdict.outcome is Outcome.FAIL:
            return self.case.action is FailureAction.PAUSE
        return verdict.outcome is Outcome.INCONCLUSIVE and verdict.final and not gate.keeps_old


def _result(rollout: Rollout) -> object:
    """What the step came to so far."""
    verdict, unknown = rollout.verdict, [task.name for task in rollout.tasks if task.state is TaskState.UNKNOWN]
    judged = None if verdict is None else (verdict.outcome, verdict.final)
    return rollout.cursor, rollout.phase, judged, rollout.extensions, unknown


cases = st.builds(
    Case,
    seed=st.integers(0, 2**32),
    strategy=st.sampled_from(list(Strategy)),
    old=st.integers(1, 2),
    new=st.integers(1, 2),
    approvals=st.booleans(),
    answered=st.just(False),
    on_expiry=st.sampled_from([Expiry.ROLLBACK, Expiry.PROMOTE]),
    judged=st.just(True),
    verdicts=st.lists(st.sampled_from([*Outcome, Outcome.FAIL, Outcome.INCONCLUSIVE]), max_size=12).map(tuple),
    action=st.sampled_from([FailureAction.PAUSE, FailureAction.PAUSE, FailureAction.ROLLBACK]),
    crash=st.sampled_from([0.0, 0.0, 0.1]),
    tasks=st.booleans(),
    task_states=st.lists(st.sampled_from(list(TaskState)), max_size=6).map(tuple),
    keep=st.booleans(),
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cases, st.sampled_from([0.05, 0.3, 0.8]))
def test_nothing_bad_or_unknown_passes_and_every_rollback_takes_effect(case: Case, haste: float) -> None:
    run = BusyRollout(case, haste=haste)
    ended = run.play()
    if any(signal.kind is SignalKind.ROLLBACK for signal in run.signals):
        assert ended.phase in (Phase.ROLLED_BACK, Phase.FAILED), "what was requested last is not always done last"


def test_results_were_held_and_answered() -> None:
    """The property above could pass by never meeting a result that needs an answer."""
    verdicts = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE, Outcome.FAIL)
    case = Case(0, judged=True, verdicts=verdicts, action=FailureAction.PAUSE, answered=False)
    runs = [BusyRollout(replace(case, seed=seed), haste=0.1) for seed in range(12)]
    ends = {run.play().phase for run in runs}
    assert ends == {Phase.SUCCEEDED, Phase.ROLLED_BACK}
    assert sum(bool(run.held) for run in runs) > 6
    assert sum(bool(run.answered) for run in runs) > 6
