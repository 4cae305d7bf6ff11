"""From the answers of the metrics to a verdict. Pure.

    judge(rollout, window, final, answers, now) -> Verdict

This is the first, plain judge: fixed bounds, chosen so that looking every few seconds is allowed, and not the sequential
tests that may replace it. What stays is the shape: `questions` says what to ask, `judge` what the answers mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tidegate.core.judge.case import Case
from tidegate.core.judge.errors import judge_errors
from tidegate.core.judge.latency import judge_latency
from tidegate.core.judge.questions import Answer, Failure, Question, asked_checks
from tidegate.core.judge.values import judge_values
from tidegate.core.judge.verdict import Finding, Outcome, Time, Verdict, Window
from tidegate.core.model import CheckKind, Rollout

__all__ = ["Answer", "Failure", "Question", "judge"]

KINDS: dict[CheckKind, Callable[[Case], Finding]] = {
    CheckKind.ERRORS: judge_errors,
    CheckKind.LATENCY: judge_latency,
    CheckKind.QUERY: judge_values,
}


def judge(rollout: Rollout, window: Window, final: bool, answers: Mapping[Question, Answer], now: Time) -> Verdict:
    """The verdict on the present step over this window.

    `final`: the bake is over. Before, only a FAIL has an effect. A question without an answer counts as one that was
    never asked: INCONCLUSIVE.
    """
    cases = [Case(rollout, check, window, final, answers) for check in asked_checks(rollout)]
    findings = tuple(_finding(case) for case in cases)
    outcome = combined([finding.outcome for finding in findings])
    left_out = tuple(check.name for check in rollout.checks if check not in asked_checks(rollout))
    return Verdict(outcome, now, window, findings, _sentence(outcome, findings, left_out), final)


def combined(outcomes: Sequence[Outcome]) -> Outcome:
    """Any FAIL is a FAIL, whatever else is unknown; then anything unknown; nothing asked is unknown too."""
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL
    if Outcome.INCONCLUSIVE in outcomes or not outcomes:
        return Outcome.INCONCLUSIVE
    return Outcome.PASS


def _finding(case: Case) -> Finding:
    """The answer of one check; a question that failed makes the whole check unknown."""
    if case.failure is not None:
        return case.unknown(case.failure.reason, case.failure.sentence)
    return KINDS[case.check.kind](case)


def _sentence(outcome: Outcome, findings: Sequence[Finding], left_out: Sequence[str]) -> str:
    """The finding that decided, then how many others say the same."""
    if not findings:
        reason = "no check was asked" + (", because there is no release to compare with" if left_out else "")
        return f"{outcome}: {reason}"
    deciding = [finding for finding in findings if finding.outcome is outcome]
    others = len(deciding) - 1
    more = f" (and {others} more)" if others else ""
    skipped = f"; not asked without a release to compare with: {', '.join(left_out)}" if left_out else ""
    return f"{outcome}: {deciding[0].sentence}{more}{skipped}"
