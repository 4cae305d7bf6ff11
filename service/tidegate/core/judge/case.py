"""One check of one step, with all that its answer is made from. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tidegate.core.judge.counting import Scrapes
from tidegate.core.judge.questions import (
    Answer,
    Failure,
    Question,
    Side,
    baseline_window,
    concurrent,
    questions_of,
)
from tidegate.core.judge.series import Series
from tidegate.core.judge.verdict import Finding, Outcome, Reason, Window
from tidegate.core.model import Check, Rollout

#: Said of a pass whose value is beyond the limit all the same.
BY_CHANCE = " (it is more, but no more than chance explains)"


@dataclass(frozen=True)
class Case:
    """A check, its window, whether the bake is over, and what the source answered."""

    rollout: Rollout
    check: Check
    window: Window
    final: bool
    answers: Mapping[Question, Answer]

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """What was asked for it."""
        return questions_of(self.rollout, self.check, self.window)

    @cached_property
    def concurrent(self) -> bool:
        """Whether both releases take traffic at the same time."""
        return concurrent(self.rollout)

    @cached_property
    def baseline_window(self) -> Window:
        """The span that the baseline is taken from."""
        return baseline_window(self.rollout, self.window)

    def window_of(self, side: Side) -> Window:
        """The span that is judged on this side."""
        return self.window if side is Side.CANDIDATE else self.baseline_window

    def release(self, side: Side) -> str:
        """The release on this side, for a sentence."""
        return self.rollout.new if side is Side.CANDIDATE else (self.rollout.old or "nothing")

    def series(self, side: Side) -> tuple[tuple[Question, tuple[Series, ...]], ...]:
        """The answers about one side, in the order they were asked; a failed one is empty (`failure` comes first)."""
        found = []
        for question in self.questions:
            answer = self.answers.get(question, ())
            if question.side is side and not isinstance(answer, Failure):
                found.append((question, answer))
        return tuple(found)

    def one(self, side: Side) -> tuple[Series, ...]:
        """The answer about one side where there is only one question about it."""
        return self.series(side)[0][1]

    @cached_property
    def failure(self) -> Failure | None:
        """The first question that was not answered, if there is one."""
        for question in self.questions:
            answer = self.answers.get(question)
            if isinstance(answer, Failure):
                return answer
            if answer is None:
                return Failure(Reason.NO_DATA, "the metrics were not asked")
        return None

    @cached_property
    def scrapes(self) -> Scrapes:
        """When the targets were scraped, from both sides' answers together."""
        return Scrapes.of(answer for side in Side for _, answer in self.series(side))

    @property
    def remark(self) -> str:
        """What has to be said when there is no baseline beside the candidate."""
        if self.concurrent or self.rollout.old is None or self.check.is_limit:
            return ""
        seconds = self.baseline_window.seconds
        return (
            f" (nothing of {self.rollout.old} serves beside it, so this is against the {seconds:.0f} s before the switch)"
        )

    def finding(
        self,
        outcome: Outcome,
        reason: Reason,
        sentence: str,
        *,
        values: tuple[float | None, float | None] = (None, None),
        limit: float | None = None,
        counts: tuple[float | None, float | None] = (None, None),
    ) -> Finding:
        """The answer with its evidence; `values` and `counts` are of baseline and candidate."""
        compared = self.rollout.old is not None and not self.check.is_limit
        return Finding(
            check=self.check.name,
            outcome=outcome,
            reason=reason,
            sentence=f"{self.check.name}: {sentence}{self.remark}",
            baseline=values[0],
            candidate=values[1],
            limit=limit,
            baseline_count=counts[0],
            candidate_count=counts[1],
            queries=_distinct([question.query for question in self.questions] or [self.check.query]),
            baseline_window=self.baseline_window if compared else None,
            window=self.window,
        )

    def unknown(self, reason: Reason, sentence: str) -> Finding:
        """Nothing can be said, with the reason."""
        return self.finding(Outcome.INCONCLUSIVE, reason, sentence)


def _distinct(queries: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(query for query in queries if query))


def percent(share: float) -> str:
    """`0.21 %`."""
    return f"{100 * share:.3g} %"


def count(number: float) -> str:
    """`12,345`."""
    return f"{number:,.0f}"
