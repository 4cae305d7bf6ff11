"""The ready-made check `errors`: the share of failed requests, from the counters of HAProxy's exporter. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tidegate.core.judge.case import BY_CHANCE, Case, count, percent
from tidegate.core.judge.comparing import DOUBT_Z, FAIL_Z, LEAST_FAILED, dispersion, least_excess
from tidegate.core.judge.counting import BLOCKS, Tally, tally
from tidegate.core.judge.questions import Side
from tidegate.core.judge.verdict import Finding, Outcome, Reason

#: With fewer requests than this share of an even flow in its second half, a window tells of traffic that stopped.
LEAST_LATER = 0.1


@dataclass(frozen=True)
class Errors:
    """Both sides counted."""

    case: Case
    candidate: Tally
    baseline: Tally

    @property
    def margin(self) -> float:
        """What the share may be higher by, in [0, 1]."""
        return self.case.check.margin

    def exceeds(self, z: float) -> bool:
        """Whether the candidate fails more by more than the margin, as sure as `z`."""
        return least_excess(_evidence(self.candidate), _evidence(self.baseline), z) > self.margin

    def finding(self, outcome: Outcome, reason: Reason, sentence: str) -> Finding:
        """With both shares and the limit where they are known."""
        known = self.candidate.requests > 0 and self.baseline.requests > 0
        return self.case.finding(
            outcome,
            reason,
            sentence,
            values=(_share(self.baseline), _share(self.candidate)),
            limit=self.baseline.share + self.margin if known else None,
            counts=(self.baseline.requests, self.candidate.requests),
        )

    def compared(self) -> str:
        """Both shares as a person reads them."""
        old, new = self.case.release(Side.BASELINE), self.case.release(Side.CANDIDATE)
        return (
            f"{percent(self.candidate.share)} of {count(self.candidate.requests)} requests to {new} failed, "
            f"{percent(self.baseline.share)} of {count(self.baseline.requests)} to {old}; "
            f"{100 * self.margin:.3g} points more are allowed{self._notes()}"
        )

    def _notes(self) -> str:
        notes = []
        copies = max(self.candidate.copies, self.baseline.copies)
        if copies > 1:
            notes.append(f"{copies} targets report the same servers, so each request is taken for 1/{copies} of one")
        dropped = self.candidate.dropped + self.baseline.dropped
        if dropped:
            notes.append(f"{dropped} samples were not numbers")
        cut = self.candidate.cut + self.baseline.cut
        if cut:
            notes.append(f"the beginning of {cut} series was not seen")
        return f"; {'; '.join(notes)}" if notes else ""


def judge_errors(case: Case) -> Finding:
    """FAIL as soon as the evidence suffices; PASS with enough requests, none of it doubtful."""
    errors = Errors(
        case,
        tally(case.one(Side.CANDIDATE), case.scrapes, case.window),
        tally(case.one(Side.BASELINE), case.scrapes, case.baseline_window),
    )
    found = (rung(errors) for rung in LADDER)
    return next(finding for finding in found if finding is not None)


def _evidence(side: Tally) -> tuple[float, float]:
    """Failed and all requests, as many as the counts are worth: without copies and dispersion."""
    worth = side.copies * dispersion(side.blocks)
    return side.failed / worth, side.requests / worth


def _share(side: Tally) -> float | None:
    return side.share if side.requests > 0 else None


# -- the ladder: the first that applies is the answer; proven harm stands above everything that is unknown -------------


def _no_data(errors: Errors) -> Finding | None:
    """A side without a sample: no series is not the same as no errors."""
    for side, found in ((Side.CANDIDATE, errors.candidate), (Side.BASELINE, errors.baseline)):
        if found.newest is None:
            release = errors.case.release(side)
            return errors.finding(
                Outcome.INCONCLUSIVE, Reason.NO_DATA, f"HAProxy's exporter has no sample of {release} in the window"
            )
    return None


def _worse(errors: Errors) -> Finding | None:
    enough = errors.candidate.failed / errors.candidate.copies >= LEAST_FAILED
    if not enough or not errors.exceeds(FAIL_Z):
        return None
    return errors.finding(Outcome.FAIL, Reason.WORSE, errors.compared())


def _stale(errors: Errors) -> Finding | None:
    allowed = errors.case.scrapes.stale_seconds()
    for side, found in ((Side.CANDIDATE, errors.candidate), (Side.BASELINE, errors.baseline)):
        age = errors.case.window_of(side).end - (found.newest or 0.0)
        if age > allowed:
            release = errors.case.release(side)
            return errors.finding(
                Outcome.INCONCLUSIVE,
                Reason.STALE,
                f"the newest sample of {release} is {age:.0f} s old, more than {allowed:.0f} s",
            )
    return None


def _missing_servers(errors: Errors) -> Finding | None:
    """All instances of the candidate have to be seen before it is called good."""
    case, seen = errors.case, len(errors.candidate.servers)
    wanted = case.rollout.step.route.get(case.rollout.new, 0)
    if not case.final or seen >= wanted:
        return None
    return errors.finding(
        Outcome.INCONCLUSIVE,
        Reason.PARTIAL,
        f"the metrics show {seen} of the {wanted} instances of {case.rollout.new} that take traffic",
    )


def _few(errors: Errors) -> Finding | None:
    least = errors.case.check.least
    for side, found in ((Side.CANDIDATE, errors.candidate), (Side.BASELINE, errors.baseline)):
        requests = found.requests / found.copies
        if requests < max(least, 1):
            return errors.finding(
                Outcome.INCONCLUSIVE,
                Reason.FEW_DATA,
                f"{count(requests)} requests to {errors.case.release(side)}, {max(least, 1)} are needed",
            )
    return None


def _stopped(errors: Errors) -> Finding | None:
    """Traffic that stops half-way does not make a release good."""
    case, found = errors.case, errors.candidate
    interval = case.scrapes.interval_seconds() or 0.0
    if not case.final or case.window.seconds < BLOCKS / 3 * interval:
        return None
    if found.later_requests >= LEAST_LATER * found.requests / 2:
        return None
    return errors.finding(
        Outcome.INCONCLUSIVE,
        Reason.FEW_DATA,
        f"traffic to {case.rollout.new} stopped: {count(found.later_requests)} of its {count(found.requests)} requests "
        "came in the second half of the window",
    )


def _doubtful(errors: Errors) -> Finding | None:
    if not errors.case.final or not errors.exceeds(DOUBT_Z):
        return None
    return errors.finding(
        Outcome.INCONCLUSIVE,
        Reason.FEW_DATA,
        f"it looks worse, and more requests are needed to be sure: {errors.compared()}",
    )


def _good(errors: Errors) -> Finding:
    by_chance = errors.candidate.share > errors.baseline.share + errors.margin
    return errors.finding(Outcome.PASS, Reason.OK, errors.compared() + (BY_CHANCE if by_chance else ""))


LADDER: tuple[Callable[[Errors], Finding | None], ...] = (
    _no_data,
    _worse,
    _stale,
    _missing_servers,
    _few,
    _stopped,
    _doubtful,
    _good,
)
