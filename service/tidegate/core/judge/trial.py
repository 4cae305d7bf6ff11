"""The judge of one rollout: fed with looks, each answered with a verdict. Pure: the same looks give the same verdicts.

trial = Trial(rollout, origin)
trial.questions(now)          what to ask the metrics
trial.take(look) -> Verdict   what the answers mean, with all that came before
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tidegate.core.evidence.grid import Array
from tidegate.core.evidence.options import WEIGHTS, Options
from tidegate.core.evidence.process import Process
from tidegate.core.evidence.rollout import Evidence, Part
from tidegate.core.judge import findings, wording
from tidegate.core.judge.arm import Arm
from tidegate.core.judge.counted import Counted
from tidegate.core.judge.findings import Standing
from tidegate.core.judge.ground import Ground
from tidegate.core.judge.instances import Live, Memory
from tidegate.core.judge.latency import Latency
from tidegate.core.judge.look import Look
from tidegate.core.judge.questions import Question
from tidegate.core.judge.requests import WARMUP, Requests
from tidegate.core.judge.values import Compared, Limit, Values
from tidegate.core.judge.verdict import Finding, Outcome, Time, Verdict, Window
from tidegate.core.model import Check, CheckKind, Policy, Rollout

QUERY_WEIGHT = 0.30  # shared by the user's own compared queries
READINESS = "readiness"
MOST_POINTS = 120  # of the evidence's course

Source = Counted | Values | Memory


def options_of(policy: Policy) -> Options:
    """The options with what the service's own policy says."""
    return replace(Options(), budget=policy.false_abort, warmup_seconds=policy.warmup_seconds)


class _Unknown:
    """The evidence of a check that is not ready to be compared: none."""

    def evalue(self) -> Array:
        return np.ones(1)


class Trial:
    """`origin`: when the new release was first routed; the history before it is the baseline's.

    `unseen`: while it takes no traffic yet, which is a trial of its own: only fixed limits are asked about.
    """

    def __init__(self, rollout: Rollout, origin: Time, *, unseen: bool = False) -> None:
        self.unseen = unseen
        self.ground = Ground(rollout, options_of(rollout.policy), origin)
        alone = unseen or rollout.old is None
        asked = [check for check in rollout.checks if not alone or check.is_limit]
        self._left_out = [check.name for check in rollout.checks if check not in asked]
        self._sources = [_source(check, self.ground) for check in asked]
        self._live = Live(self.ground)
        self._course: list[tuple[Time, float]] = []
        self._looked: set[int] = set()
        self.crossed: Time | None = None

    @classmethod
    def recalled(cls, rollout: Rollout, looks: Sequence[Look], origin: Time, *, unseen: bool) -> Trial:
        """As it is after those of these looks that are its own; `origin` where there are none."""
        own = [look for look in looks if look.unseen is unseen]
        trial = cls(rollout, own[0].shifted if own else origin, unseen=unseen)
        trial.catch_up(looks)
        return trial

    def catch_up(self, looks: Sequence[Look]) -> None:
        """Take those of these looks that are its own: somebody else has judged them already."""
        for look in looks:
            if look.unseen is self.unseen:
                self.take(look)

    def questions(self, now: Time) -> tuple[Question, ...]:
        """All that has to be asked at this moment."""
        return tuple(question for source in self._sources for question in source.questions(now))

    def take(self, look: Look) -> Verdict:
        """The verdict at a look, from it and all before it. Before the bake is over only a FAIL has an effect."""
        self._note(look)
        for source in self._sources:
            source.take(look, [(asked, said) for asked, said in look.answers if asked.check == source.check.name])
        self._live.take(look)
        first = look.final and look.concurrent and look.step not in self._looked
        self._looked |= {look.step} if first else set()
        standing, shadow = self._standing(look, first, shadow=False), self._standing(look, first, shadow=True)
        told = [
            findings.of(source, look, self.ground, shadow if source.check.shadow else standing) for source in self._sources
        ]
        told += self._readiness(look, standing)
        self._remember(look.at, standing)
        outcome = combined(told, self._critical())
        sentence = wording.verdict(outcome, told, self._left_out)
        window = Window(look.settled, look.at)
        return Verdict(
            outcome, look.at, window, tuple(told), sentence, look.final, standing.evidence, standing.needed,
            tuple(self._course), self.crossed,
        )  # fmt: skip

    def _note(self, look: Look) -> None:
        ground = self.ground
        if self.unseen:
            return
        if look.concurrent:
            ground.begun.setdefault(look.step, look.shifted)
        elif ground.switched is None:
            ground.switched = look.shifted

    def _critical(self) -> dict[str, Check]:
        return {source.check.name: source.check for source in self._sources}

    # -- the evidence -----------------------------------------------------------------------------------------------------

    def _standing(self, look: Look, first: bool, *, shadow: bool) -> Standing:
        """How far the evidence is, and whose it is; that of shadow checks apart. `first`: the first look at a batch's end,
        when the one fixed look is taken."""
        counted = [source for source in self._sources if source.check.shadow is shadow]
        beside = self._evidence(counted)
        after, ours = self._after(counted), 1.0 - self.ground.before_after_share
        whole = (1.0 - ours) * after + ours * float(beside.evalue()[0])
        needed = self.ground.options.threshold if self.ground.batches else 1.0 / self.ground.options.budget
        blamed = self._strongest(counted, beside, after, ours, needed) if whole >= needed else frozenset[str]()
        fixed = frozenset(name for name, bad in beside.look().items() if bad[0]) if first else frozenset[str]()
        return Standing(whole, needed, ours, beside, blamed, fixed)

    def _evidence(self, sources: Sequence[Source]) -> Evidence:
        queries = sum(source.check.weight for source in sources if isinstance(source, Compared)) or 1.0
        found = [part for source in sources for part in _parts(source, queries)]
        live = Part(READINESS, WEIGHTS["live"], self._live)  # counts beside what is asked for
        return Evidence([*found, live], max(1, self.ground.batches), self.ground.options)

    @staticmethod
    def _after(sources: Sequence[Source]) -> float:
        """The e-value against the time before the switch."""
        arms = [arm for source in sources if isinstance(source, Counted) for arm in source.arms if arm.after is not None]
        total = sum(arm.weight for arm in arms)
        return sum(arm.weight / total * arm.after_evalue() for arm in arms) if arms else 1.0

    @staticmethod
    def _strongest(sources: Sequence[Source], beside: Evidence, after: float, ours: float, needed: float) -> frozenset[str]:
        """The parts that add the most, and those that would be enough alone; those against the time before when they are
        the reason."""
        each = ours * beside.each()[:, 0]
        if (1.0 - ours) * after > each.max(initial=0.0):
            arms = {
                f"{source.check.name}/{arm.name}": arm.after_evalue()
                for source in sources
                if isinstance(source, Counted)
                for arm in source.arms
                if arm.after is not None
            }
            return frozenset(name for name, value in arms.items() if value >= max(arms.values()) / 2)
        least = min(each.max() / 2, needed)
        return frozenset(part.name for part, value in zip(beside.parts, each, strict=True) if value >= least)

    def _readiness(self, look: Look, standing: Standing) -> list[Finding]:
        """Told only when it is the reason: nobody asked for it by name."""
        if READINESS not in standing.blamed:
            return []
        return [findings.readiness(self._live, look, self.ground, standing)]

    def _remember(self, at: Time, standing: Standing) -> None:
        if (standing.blamed or standing.fixed) and self.crossed is None:
            self.crossed = at
        self._course.append((at, standing.evidence))
        if len(self._course) > MOST_POINTS:
            del self._course[1:-1:2]


def _source(check: Check, ground: Ground) -> Source:
    match check.kind:
        case CheckKind.ERRORS:
            return Requests(check, ground)
        case CheckKind.LATENCY:
            return Latency(check, ground)
        case CheckKind.MEMORY:
            return Memory(check, ground)
        case CheckKind.QUERY:
            return Limit(check, ground) if check.is_limit else Compared(check, ground)


def _parts(source: Source, queries: float) -> list[Part]:
    """A check's shares of the evidence, whether it can be compared already or not."""
    name = source.check.name
    if isinstance(source, Counted):
        kind = source.check.kind.value
        whole = WEIGHTS[kind] + (WEIGHTS["warmup"] if source.check.kind is CheckKind.ERRORS else 0.0)
        found = [Part(f"{name}/{arm.name}", arm.weight, arm, _looked(arm)) for arm in source.arms]
        return found or [Part(name, whole, _Unknown())]
    if isinstance(source, Memory):
        return [Part(name, WEIGHTS["memory"], source)]
    if isinstance(source, Compared):
        return [Part(name, QUERY_WEIGHT * source.check.weight / queries, source)]
    return []


def _looked(arm: Arm) -> Process | None:
    return None if arm.name == WARMUP else arm.process


def combined(told: Sequence[Finding], checks: dict[str, Check]) -> Outcome:
    """Any FAIL is a FAIL, whatever else is unknown; then any critical unknown; where nothing is known at all, unknown."""
    counted = [finding for finding in told if not finding.shadow]
    if any(finding.outcome is Outcome.FAIL for finding in counted):
        return Outcome.FAIL
    unknown = [finding for finding in counted if finding.outcome is Outcome.INCONCLUSIVE]
    if any(checks[finding.check].critical for finding in unknown) or len(unknown) == len(counted):
        return Outcome.INCONCLUSIVE
    return Outcome.PASS
