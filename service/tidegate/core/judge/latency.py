"""The ready-made check `latency`: the mean response time, from the averages of HAProxy's exporter. Pure.

What the exporter gives is, for each server, a running average in whole milliseconds. Measured on HAProxy 2.6: while a
server has answered fewer than 512 requests the average is their sum divided by 512, so a new server seems fast and slows
down as it goes; from then on each new request counts one 512th, so it speaks for about the last 1024. Both are set right
here: young averages are scaled up, and how many requests an average speaks for goes into the evidence.

A mean is compared, not a quantile: the exporter has no histogram.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tidegate.core.judge.case import BY_CHANCE, Case, count
from tidegate.core.judge.comparing import DOUBT_Z, LATENCY_Z, Mean, slower
from tidegate.core.judge.counting import Scrapes, Target, copies, finite, increases, newest, target
from tidegate.core.judge.questions import LOOKS, RESPONSE_TIME, Side
from tidegate.core.judge.series import Series
from tidegate.core.judge.verdict import Finding, Outcome, Reason, Time, Window

AVERAGED = 512  # requests after which HAProxy's running average is full
SPOKEN_FOR = 2 * AVERAGED  # how many independent requests a full one is worth
RESOLUTION_SECONDS = 0.001
STREAK_SECONDS = 10.0  # how long the candidate has to be slower, in at least `LOOKS` samples
FALLING = 0.97  # an average that fell below this share of itself meanwhile is on its way down: warming up


@dataclass(frozen=True, slots=True)
class Point:
    """One server at one scrape: its mean in seconds, its answers since it began, and those inside the window."""

    at: Time
    seconds: float
    answers: float
    inside: float


Points = tuple[Point, ...]  # of one server of one target, oldest first


def servers(answer: Sequence[Series], scrapes: Scrapes, window: Window) -> tuple[Points, ...]:
    """Each server of each target over time."""
    grouped: dict[tuple[Target, str], list[Series]] = {}
    for series in answer:
        grouped.setdefault((target(series.labels), series.labels.get("server", "")), []).append(series)
    return tuple(_points(group, scrapes, window) for group in grouped.values())


def _points(group: Sequence[Series], scrapes: Scrapes, window: Window) -> Points:
    averages: dict[Time, float] = {}
    answers: dict[Time, float] = defaultdict(float)
    grown: dict[Time, float] = defaultdict(float)
    for series in group:
        if series.labels.get("__name__") == RESPONSE_TIME:
            averages.update(finite(series))
            continue
        for at, value in finite(series):
            answers[at] += value
        for at, value in increases(series, scrapes, window)[0]:
            grown[at] += value
    points, inside = [], 0.0
    for at in sorted(answers):
        inside += grown[at]
        if answers[at] > 0 and at in averages:
            points.append(Point(at, averages[at] * AVERAGED / min(answers[at], AVERAGED), answers[at], inside))
    return tuple(points)


def point_at(points: Points, moment: Time) -> Point | None:
    """The newest up to a moment, if the server answered anything inside the window by then."""
    place = bisect.bisect_right(points, moment, key=lambda point: point.at)
    return points[place - 1] if place and points[place - 1].inside > 0 else None


def mean_at(found: Sequence[Points], copied: int, moment: Time) -> Mean:
    """The mean of a side at a moment, each server weighted by its answers inside the window."""
    points = [point for point in (point_at(server, moment) for server in found) if point is not None]
    inside = sum(point.inside for point in points)
    if not points:
        return Mean(math.nan, 0.0, ())
    coarse = sum(point.inside * AVERAGED / min(point.answers, AVERAGED) for point in points) / inside
    return Mean(
        seconds=sum(point.seconds * point.inside for point in points) / inside,
        requests=sum(min(point.answers, SPOKEN_FOR) for point in points) / copied,
        servers=tuple(math.log(max(point.seconds, RESOLUTION_SECONDS)) for point in points),
        resolution_seconds=RESOLUTION_SECONDS * coarse,
    )


@dataclass(frozen=True)
class Latency:
    """Both sides over time."""

    case: Case

    @cached_property
    def _sides(self) -> dict[Side, tuple[Points, ...]]:
        case = self.case
        return {side: servers(case.one(side), case.scrapes, case.window_of(side)) for side in Side}

    @cached_property
    def _copies(self) -> int:
        return max(copies(self.case.one(side)) for side in Side)

    def mean(self, side: Side, moment: Time) -> Mean:
        """The side's mean at a moment of the candidate's window; a baseline of before stands still."""
        there = moment if side is Side.CANDIDATE or self.case.concurrent else self.case.baseline_window.end
        return mean_at(self._sides[side], self._copies, there)

    def now(self, side: Side) -> Mean:
        """The side's mean at the window's end."""
        return self.mean(side, self.case.window.end)

    def answers(self, side: Side) -> float:
        """Requests answered inside the window."""
        return sum(server[-1].inside for server in self._sides[side] if server) / self._copies

    def newest(self, side: Side) -> Time | None:
        """The side's newest sample inside its window."""
        return newest(self.case.one(side), self.case.window_of(side))

    def slower(self, moment: Time, z: float) -> bool:
        """Whether the candidate is slower by more than the margin at a moment."""
        candidate, baseline = self.mean(Side.CANDIDATE, moment), self.mean(Side.BASELINE, moment)
        return slower(candidate, baseline, self.case.check.margin, z)

    @cached_property
    def streak(self) -> tuple[Time, ...]:
        """The last samples: `STREAK_SECONDS` of them and at least `LOOKS`; empty when there are not that many yet."""
        window = self.case.window
        seen = {point.at for server in self._sides[Side.CANDIDATE] for point in server}
        times = sorted(at for at in seen if window.start < at <= window.end)
        late = [at for at in times if at >= times[-1] - STREAK_SECONDS]
        chosen = times[-max(LOOKS, len(late)) :]
        long_enough = len(chosen) >= LOOKS and chosen[-1] - chosen[0] >= STREAK_SECONDS * 0.8
        return tuple(chosen) if long_enough else ()

    @property
    def falling(self) -> bool:
        """Whether the candidate's mean is on its way down."""
        first, last = (self.mean(Side.CANDIDATE, at).seconds for at in (self.streak[0], self.streak[-1]))
        return last < FALLING * first

    def finding(self, outcome: Outcome, reason: Reason, sentence: str) -> Finding:
        """With both means and the limit where they are known."""
        baseline, candidate = _known(self.now(Side.BASELINE)), _known(self.now(Side.CANDIDATE))
        return self.case.finding(
            outcome,
            reason,
            sentence,
            values=(baseline, candidate),
            limit=None if baseline is None else baseline * (1 + self.case.check.margin),
            counts=(self.answers(Side.BASELINE), self.answers(Side.CANDIDATE)),
        )

    def compared(self) -> str:
        """Both means as a person reads them."""
        old, new = self.case.release(Side.BASELINE), self.case.release(Side.CANDIDATE)
        return (
            f"{new} answers in {_milliseconds(self.now(Side.CANDIDATE))} on average "
            f"({count(self.answers(Side.CANDIDATE))} requests), "
            f"{old} in {_milliseconds(self.now(Side.BASELINE))} ({count(self.answers(Side.BASELINE))}); "
            f"{100 * self.case.check.margin:.3g} % more is allowed"
        )


def judge_latency(case: Case) -> Finding:
    """FAIL when the candidate is slower in every one of the last samples and not on its way down."""
    latency = Latency(case)
    found = (rung(latency) for rung in LADDER)
    return next(finding for finding in found if finding is not None)


def _known(mean: Mean) -> float | None:
    return mean.seconds if mean.requests > 0 else None


def _milliseconds(mean: Mean) -> str:
    return f"{1000 * mean.seconds:.3g} ms" if mean.requests > 0 else "an unknown time"


# -- the ladder: the first that applies is the answer ------------------------------------------------------------------


def _no_data(latency: Latency) -> Finding | None:
    for side in (Side.CANDIDATE, Side.BASELINE):
        if latency.newest(side) is None:
            release = latency.case.release(side)
            return latency.finding(
                Outcome.INCONCLUSIVE, Reason.NO_DATA, f"HAProxy's exporter has no sample of {release} in the window"
            )
    return None


def _slower(latency: Latency) -> Finding | None:
    enough = all(latency.answers(side) >= latency.case.check.least for side in Side)
    if not enough or not latency.streak or latency.falling:
        return None
    if not all(latency.slower(at, LATENCY_Z) for at in latency.streak):
        return None
    return latency.finding(Outcome.FAIL, Reason.WORSE, latency.compared())


def _stale(latency: Latency) -> Finding | None:
    allowed = latency.case.scrapes.stale_seconds()
    for side in (Side.CANDIDATE, Side.BASELINE):
        age = latency.case.window_of(side).end - (latency.newest(side) or 0.0)
        if age > allowed:
            release = latency.case.release(side)
            return latency.finding(
                Outcome.INCONCLUSIVE,
                Reason.STALE,
                f"the newest sample of {release} is {age:.0f} s old, more than {allowed:.0f} s",
            )
    return None


def _few(latency: Latency) -> Finding | None:
    least = max(latency.case.check.least, 1)
    for side in (Side.CANDIDATE, Side.BASELINE):
        answers = latency.answers(side)
        if answers < least or latency.now(side).requests <= 0:
            return latency.finding(
                Outcome.INCONCLUSIVE,
                Reason.FEW_DATA,
                f"{count(answers)} requests to {latency.case.release(side)} were answered, {least} are needed",
            )
    return None


def _doubtful(latency: Latency) -> Finding | None:
    if not latency.case.final or not latency.slower(latency.case.window.end, DOUBT_Z):
        return None
    return latency.finding(
        Outcome.INCONCLUSIVE, Reason.FEW_DATA, f"it looks slower, and not for long enough to be sure: {latency.compared()}"
    )


def _good(latency: Latency) -> Finding:
    limit = latency.now(Side.BASELINE).seconds * (1 + latency.case.check.margin)
    by_chance = latency.now(Side.CANDIDATE).seconds > limit
    return latency.finding(Outcome.PASS, Reason.OK, latency.compared() + (BY_CHANCE if by_chance else ""))


LADDER: tuple[Callable[[Latency], Finding | None], ...] = (_no_data, _slower, _stale, _few, _doubtful, _good)
