"""The user's own PromQL: one value a side, against a fixed limit or the other release. Pure.

A value that was never measured, is not a number, or comes as several series decides nothing. One beyond its limit fails
only when it is so `LOOKS` times in a row: an expression at the last looks' moments, a plain selector in its samples.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegate.core.judge.case import Case
from tidegate.core.judge.counting import STALE_SCRAPES, STALE_SECONDS, Scrapes
from tidegate.core.judge.questions import LOOKS, SAMPLES, Side, comparable, spacing_seconds
from tidegate.core.judge.verdict import Finding, Outcome, Reason, Time
from tidegate.core.model import Direction

Reading = tuple[Time, float]


@dataclass(frozen=True)
class Readings:
    """What one side measured: values oldest first; NaN where there was none. `many` is the largest number of series."""

    values: tuple[Reading, ...]
    many: int
    raw: bool  # the samples of a plain selector, and not an expression at several moments

    @property
    def numbers(self) -> tuple[float, ...]:
        """Those that are numbers."""
        return tuple(value for _, value in self.values if math.isfinite(value))

    @property
    def complete(self) -> bool:
        """Whether enough was measured to decide; of raw samples only the newest has to be a number."""
        if self.raw:
            return bool(self.values) and math.isfinite(self.values[-1][1])
        return len(self.numbers) == len(self.values) > 0


def readings(case: Case, side: Side) -> Readings:
    """Read the answers about one side."""
    found, many, raw = [], 0, False
    for question, answer in case.series(side):
        many = max(many, len(answer))
        raw = question.part == SAMPLES
        if raw:
            found += [sample for series in answer[:1] for sample in series.samples]
        else:
            sample = answer[0].samples[-1] if answer and answer[0].samples else (question.window.end, math.nan)
            found.append((question.window.end, sample[1]))
    return Readings(tuple(sorted(found)), many, raw)


@dataclass(frozen=True)
class Values:
    """Both sides; a fixed limit has no baseline."""

    case: Case
    candidate: Readings
    baseline: Readings | None

    @property
    def latest(self) -> float | None:
        """The candidate's newest number."""
        return self.candidate.numbers[-1] if self.candidate.numbers else None

    @property
    def before(self) -> float | None:
        """The baseline's value: the mean of what it measured."""
        return statistics.fmean(self.baseline.numbers) if self.baseline and self.baseline.numbers else None

    @property
    def limit(self) -> float | None:
        """What the candidate's value has to stay on the good side of; the one that it is nearest to when there are two."""
        check = self.case.check
        if check.is_limit:
            if check.maximum is None or (
                check.minimum is not None and self.latest is not None and self.latest < check.minimum
            ):
                return check.minimum
            return check.maximum
        if self.before is None:
            return None
        slack = check.margin * abs(self.before)
        return self.before + (slack if check.direction is Direction.LOWER else -slack)

    def beyond(self, value: float) -> bool:
        """Whether a value is on the bad side; not a number is on no side."""
        check = self.case.check
        if check.is_limit:
            return (check.maximum is not None and value > check.maximum) or (
                check.minimum is not None and value < check.minimum
            )
        limit = self.limit
        if limit is None:
            return False
        return value > limit if check.direction is Direction.LOWER else value < limit

    def finding(self, outcome: Outcome, reason: Reason, sentence: str) -> Finding:
        """With what was measured."""
        counts = len(self.baseline.numbers) if self.baseline else None, len(self.candidate.numbers)
        return self.case.finding(
            outcome, reason, sentence, values=(self.before, self.latest), limit=self.limit, counts=counts
        )

    def compared(self) -> str:
        """The value and its limit as a person reads them."""
        check, new = self.case.check, self.case.release(Side.CANDIDATE)
        if check.is_limit:
            limits = [
                f"{word} {limit:.6g}"
                for word, limit in (("at most", check.maximum), ("at least", check.minimum))
                if limit is not None
            ]
            return f"{self.latest:.6g} for {new}, {' and '.join(limits)} is allowed"
        word = "at most" if check.direction is Direction.LOWER else "at least"
        return (
            f"{self.latest:.6g} for {new}, {self.before:.6g} for {self.case.release(Side.BASELINE)}; "
            f"{word} {self.limit:.6g} is allowed"
        )


def judge_values(case: Case) -> Finding:
    """One check of the user's own."""
    if not comparable(case.rollout, case.check):
        return case.unknown(Reason.BAD_QUERY, "the query does not mention $release, so it cannot tell the releases apart")
    baseline = None if case.check.is_limit else readings(case, Side.BASELINE)
    values = Values(case, readings(case, Side.CANDIDATE), baseline)
    found = (rung(values) for rung in LADDER)
    return next(finding for finding in found if finding is not None)


def in_a_row(bad: Sequence[bool]) -> int:
    """The longest run."""
    longest = run = 0
    for each in bad:
        run = run + 1 if each else 0
        longest = max(longest, run)
    return longest


# -- the ladder: the first that applies is the answer ------------------------------------------------------------------


def _sides(values: Values) -> list[tuple[str, Readings]]:
    sides = [(values.case.release(Side.CANDIDATE), values.candidate)]
    if values.baseline is not None:
        sides.append((values.case.release(Side.BASELINE), values.baseline))
    return sides


def _many_series(values: Values) -> Finding | None:
    """Taking the first or the last of several would judge something else at each look."""
    for release, found in _sides(values):
        if found.many > 1:
            return values.case.unknown(
                Reason.MANY_SERIES, f"{found.many} series came for {release} where one was expected; aggregate, as by sum()"
            )
    return None


def _no_data(values: Values) -> Finding | None:
    for release, found in _sides(values):
        if not found.numbers:
            what = "the query found no series" if found.many == 0 else "the query gives no number (NaN or Inf)"
            return values.finding(Outcome.INCONCLUSIVE, Reason.NO_DATA, f"{what} for {release}")
    return None


def _from_nothing(values: Values) -> Finding | None:
    """A relative margin says nothing about a baseline of 0."""
    if values.case.check.is_limit or values.before != 0 or not values.beyond(values.latest or 0.0):
        return None
    return values.finding(
        Outcome.INCONCLUSIVE,
        Reason.FEW_DATA,
        f"{values.compared()}: a relative margin says nothing about a baseline of 0; give the check a `max` or `min`",
    )


def _beyond(values: Values) -> Finding | None:
    if _too_early(values) or in_a_row([values.beyond(value) for _, value in values.candidate.values]) < LOOKS:
        return None
    reason = Reason.LIMIT if values.case.check.is_limit else Reason.WORSE
    return values.finding(Outcome.FAIL, reason, f"{LOOKS} times in a row: {values.compared()}")


def _too_early(values: Values) -> bool:
    """While the window is too short for a look's time between the moments, an expression shows the same thing thrice."""
    case = values.case
    looks = spacing_seconds(case.rollout, case.window)
    return not values.candidate.raw and not case.final and looks < case.rollout.policy.look_seconds


def _stale(values: Values) -> Finding | None:
    """Of raw samples the newest has to be recent; an expression is evaluated at the window's end by the source."""
    if not values.candidate.raw:
        return None
    interval = Scrapes.of(answer for _, answer in values.case.series(Side.CANDIDATE)).interval_seconds() or 0.0
    allowed = max(STALE_SECONDS, STALE_SCRAPES * interval)
    age = values.case.window.end - values.candidate.values[-1][0]
    if age <= allowed:
        return None
    return values.finding(
        Outcome.INCONCLUSIVE, Reason.STALE, f"the newest sample is {age:.0f} s old, more than {allowed:.0f} s"
    )


def _incomplete(values: Values) -> Finding | None:
    for release, found in _sides(values):
        if not found.complete:
            return values.finding(
                Outcome.INCONCLUSIVE,
                Reason.NO_DATA,
                f"{len(found.numbers)} of {len(found.values)} values for {release} are numbers",
            )
    return None


def _few(values: Values) -> Finding | None:
    measured = len(values.candidate.numbers)
    if not _too_early(values) and measured >= LOOKS:
        return None
    return values.finding(Outcome.INCONCLUSIVE, Reason.FEW_DATA, f"{measured} values so far, {LOOKS} looks are needed")


def _doubtful(values: Values) -> Finding | None:
    if values.latest is None or not values.beyond(values.latest):
        return None
    return values.finding(
        Outcome.INCONCLUSIVE, Reason.FEW_DATA, f"beyond the limit, but not {LOOKS} times in a row: {values.compared()}"
    )


def _good(values: Values) -> Finding:
    return values.finding(Outcome.PASS, Reason.OK, values.compared())


LADDER: tuple[Callable[[Values], Finding | None], ...] = (
    _many_series,
    _no_data,
    _from_nothing,
    _beyond,
    _stale,
    _incomplete,
    _few,
    _doubtful,
    _good,
)
