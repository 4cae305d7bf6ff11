"""Whole rollouts in random worlds: crashes at every boundary, drift, rollback at any moment, effects of a lost engine.

The world checks the safety rules after every effect. `make properties` runs fifty times as many worlds as `make check`.
"""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.simulated_rollout import Case, SimulatedRollout
from tidegate.analysis.verdict import Outcome
from tidegate.core.hooks import TaskState
from tidegate.core.model import (
    Expiry,
    FailureAction,
    Order,
    RolloutKind,
    Strategy,
)
from tidegate.core.phases import Phase

EXAMPLES = int(os.environ.get("EXAMPLES", "400"))

chances = st.sampled_from([0.0, 0.0, 0.02, 0.1, 0.3])
cases = st.builds(
    Case,
    seed=st.integers(0, 2**32),
    strategy=st.sampled_from([Strategy.ROLLING, Strategy.ROLLING, Strategy.BLUE_GREEN]),
    order=st.sampled_from([Order.START_FIRST, Order.START_FIRST, Order.STOP_FIRST]),
    worker=st.sampled_from([False, False, True]),
    old=st.integers(0, 5) | st.just(1),
    new=st.integers(1, 5) | st.just(1),
    batch=st.integers(1, 5),
    approvals=st.booleans(),
    answered=st.sampled_from([True, True, False]),
    on_expiry=st.sampled_from([Expiry.ROLLBACK, Expiry.PROMOTE]),
    judged=st.booleans(),
    verdicts=st.lists(st.sampled_from(list(Outcome)), max_size=12).map(tuple),
    action=st.sampled_from(list(FailureAction)),
    never_ready=st.sampled_from([False, False, True]),
    crashing=st.sampled_from([False, False, True]),
    crash=chances,
    drift=st.sampled_from([0.0, 0.0, 0.0, 0.02, 0.05]),
    sick=st.sampled_from([0.0, 0.0, 0.02, 0.1]),
    sick_release=st.sampled_from([None, "a-1", "b-2"]),
    tolerance=st.sampled_from([0.0, 0.0, 0.4, 1.0]),
    stale=st.sampled_from([0.0, 0.5, 1.0]),
    preview=st.booleans(),
    tasks=st.sampled_from([False, False, True]),
    task_states=st.lists(st.sampled_from(list(TaskState)), max_size=6).map(tuple),
    keep=st.booleans(),
    shares=st.sampled_from([(), (), (0.05,), (0.1, 0.5)]),
    control=st.integers(0, 1),
    rollback_at=st.none() | st.integers(0, 80),
    pause_at=st.none() | st.integers(0, 60),
).map(lambda case: sane(case))


def sane(case: Case) -> Case:
    """Stop-first needs more replicas than one batch takes away, or a single one, and has no meaning for blue-green. It has
    no room for a control. A worker has no proxy: no preview, no shares, no switch; it may have all instances in a batch."""
    if case.worker:
        case = replace(case, strategy=Strategy.ROLLING, preview=False, shares=(), keep=False)
    too_large = not case.worker and case.batch >= min(case.old or 1, case.new) and not (case.old <= 1 and case.new == 1)
    if case.order is Order.STOP_FIRST and (case.strategy is Strategy.BLUE_GREEN or too_large):
        case = replace(case, order=Order.START_FIRST)
    if case.order is Order.STOP_FIRST:
        case = replace(case, control=0)
    # A late Shift that comes before the new engine's first names instances as they were: when one of them restarts at
    # another address in that moment, nobody can tell. So drift and late effects are tried apart.
    # The same holds where what serves already ends by itself.
    # And where instances become sick.
    apart = case.drift or case.sick or (case.crashing and case.kind is not RolloutKind.RELEASE)
    return replace(case, stale=0.0) if apart else case


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cases)
def test_every_rollout_is_safe_and_ends(case: Case) -> None:
    run = SimulatedRollout(case)
    ended = run.play()
    if run.called_off and case.drift:
        return  # before it touched anything: what vanished by itself until then is not this rollout's to repair
    old = {"a-1": case.old} if case.old else {}
    run.world.check_end(ended, old, {"b-2": case.new})
    if case.never_ready or case.crashing:
        return
    if not (
        case.tasks
        or case.judged
        or case.approvals
        or case.drift
        or case.rollback_at is not None
        or not case.answered
        or (case.sick and case.sick_release != "a-1")
        or case.strategy is Strategy.BLUE_GREEN
    ):
        assert ended.phase is Phase.SUCCEEDED, "nothing was wrong with it"


staying = st.builds(
    Case,
    seed=st.integers(0, 2**32),
    kind=st.sampled_from([RolloutKind.REPAIR, RolloutKind.SCALE]),
    order=st.sampled_from(list(Order)),
    worker=st.sampled_from([False, False, True]),
    old=st.integers(1, 5) | st.just(1),
    new=st.integers(1, 5),
    tampered=st.integers(0, 4),
    never_ready=st.sampled_from([False, False, True]),
    crashing=st.sampled_from([False, False, True]),
    crash=chances,
    drift=st.sampled_from([0.0, 0.0, 0.02, 0.05]),
    sick=st.sampled_from([0.0, 0.0, 0.02, 0.1]),
    tolerance=st.sampled_from([0.0, 0.4]),
    stale=st.sampled_from([0.0, 0.5, 1.0]),
    preview=st.booleans(),
    rollback_at=st.none() | st.integers(0, 40),
    pause_at=st.none() | st.integers(0, 30),
).map(lambda case: sane(replace(case, new=case.old) if case.kind is RolloutKind.REPAIR else case))


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(staying)
def test_every_repair_and_scaling_is_safe_and_ends_with_exactly_what_is_wanted(case: Case) -> None:
    run = SimulatedRollout(case)
    ended = run.play()
    if run.called_off and (case.drift or case.tampered):
        return  # what was other than it should be still is
    run.world.check_end(ended, {"a-1": case.old}, {"a-1": case.new})
    if not (case.never_ready or case.crashing or case.drift or case.sick or case.rollback_at is not None):
        assert ended.phase is Phase.SUCCEEDED, "nothing kept it from it"


removals = st.builds(
    Case,
    seed=st.integers(0, 2**32),
    kind=st.just(RolloutKind.REMOVE),
    order=st.sampled_from(list(Order)),
    worker=st.sampled_from([False, False, True]),
    old=st.integers(1, 5) | st.just(1),
    tampered=st.integers(0, 4),
    crashing=st.sampled_from([False, False, True]),
    crash=chances,
    drift=st.sampled_from([0.0, 0.0, 0.02, 0.05]),
    sick=st.sampled_from([0.0, 0.0, 0.02, 0.1]),
    stale=st.sampled_from([0.0, 0.5, 1.0]),
    preview=st.booleans(),
    rollback_at=st.none() | st.integers(0, 40),
    pause_at=st.none() | st.integers(0, 30),
).map(lambda case: sane(replace(case, new=case.old)))


@settings(max_examples=EXAMPLES // 4, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(removals)
def test_every_removal_leaves_nothing_or_is_rolled_back(case: Case) -> None:
    run = SimulatedRollout(case)
    ended = run.play()
    if run.called_off and (case.drift or case.tampered or case.sick):
        return  # what was other than it should be still is
    run.world.check_end(ended, {"a-1": case.old}, {})
    if case.rollback_at is None:
        assert ended.phase is Phase.SUCCEEDED, "whatever is wrong with the instances, they can be stopped"


singletons = st.builds(
    Case,
    seed=st.integers(0, 2**32),
    worker=st.just(True),
    order=st.just(Order.STOP_FIRST),
    old=st.integers(0, 1),
    new=st.just(1),
    batch=st.just(1),
    kind=st.sampled_from([RolloutKind.RELEASE, RolloutKind.RELEASE, RolloutKind.REPAIR, RolloutKind.REMOVE]),
    never_ready=st.sampled_from([False, False, True]),
    crashing=st.sampled_from([False, False, True]),
    crash=st.sampled_from([0.1, 0.3]),
    drift=st.sampled_from([0.0, 0.05]),
    sick=st.sampled_from([0.0, 0.1]),
    stale=st.just(1.0),
    rollback_at=st.none() | st.integers(0, 80),
).map(lambda case: case if case.kind is RolloutKind.RELEASE else replace(case, old=1))


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(singletons)
def test_no_two_of_a_singleton_run_whatever_crashes_and_comes_late(case: Case) -> None:
    run = SimulatedRollout(case)
    run.play()
    assert run.world.alone
    assert run.world.most_running <= 1


def test_crashes_were_injected() -> None:
    """The property above could pass by never meeting a crash."""
    runs = [SimulatedRollout(Case(seed, crash=0.3)) for seed in range(50)]
    assert all(run.play().phase is Phase.SUCCEEDED for run in runs)
    assert sum(run.crashes for run in runs) > 300
