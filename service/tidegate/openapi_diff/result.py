"""The changes between two documents and the outcome of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Effect(StrEnum):
    """The effect of a change on a client written for the old document."""

    BREAKING = "breaking"  # a valid request is rejected, or a response violates the old document
    UNKNOWN = "unknown"  # cannot be decided
    WARNING = "warning"  # a tolerant client is unaffected: a new value in a response, a parameter that is no longer read
    COMPATIBLE = "compatible"


@dataclass(frozen=True, slots=True)
class ApiChange:
    """One difference. `path` is a JSON Pointer into the new document, or into the old one for something removed."""

    effect: Effect
    path: str
    message: str

    @property
    def breaking(self) -> bool:
        """Whether it breaks a client."""
        return self.effect is Effect.BREAKING


class OnBreaking(StrEnum):
    """The consequence of a breaking change."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """The path at which releases serve their documents, such as `/openapi.json`, and what a breaking change leads to."""

    path: str
    on_breaking: OnBreaking = OnBreaking.FAIL


class DiffOutcome(StrEnum):
    """The outcome of a comparison."""

    PASSED = "passed"
    FAILED = "failed"
    WARNED = "warned"
    UNKNOWN = "unknown"  # a document could not be fetched or parsed, or a change cannot be decided
    SKIPPED = "skipped"  # neither release serves a document


@dataclass(frozen=True, slots=True)
class DiffResult:
    """The outcome, a message, and all changes, worst first."""

    outcome: DiffOutcome
    message: str
    changes: tuple[ApiChange, ...] = ()

    def blocks(self, policy: OnBreaking) -> bool:
        """Whether the result stops traffic to the new release. An unknown outcome counts as a breaking change."""
        return policy is OnBreaking.FAIL and self.outcome in (DiffOutcome.FAILED, DiffOutcome.UNKNOWN)


SEVERITY_ORDER = tuple(Effect)
MAX_LISTED = 3  # changes named in the message; the others are counted


def conclude(changes: Sequence[ApiChange], policy: OnBreaking) -> DiffResult:
    """The outcome of all changes, which is that of the worst one."""
    ranked = tuple(sorted(changes, key=lambda change: SEVERITY_ORDER.index(change.effect)))
    worst = ranked[0].effect if ranked else Effect.COMPATIBLE
    same = [change for change in ranked if change.effect is worst]
    if worst is Effect.BREAKING:
        outcome = DiffOutcome.FAILED if policy is OnBreaking.FAIL else DiffOutcome.WARNED
        return DiffResult(outcome, _format_changes(same, "breaking change", "breaking changes"), ranked)
    if worst is Effect.UNKNOWN:
        return DiffResult(
            DiffOutcome.UNKNOWN,
            _format_changes(same, "change that cannot be evaluated", "changes that cannot be evaluated"),
            ranked,
        )
    if worst is Effect.WARNING:
        return DiffResult(DiffOutcome.WARNED, _format_changes(same, "change to review", "changes to review"), ranked)
    return DiffResult(DiffOutcome.PASSED, "no breaking change in the API", ranked)


def _format_changes(changes: Sequence[ApiChange], one: str, many: str) -> str:
    listed = "; ".join(change.message for change in changes[:MAX_LISTED])
    more = len(changes) - MAX_LISTED
    return f"{len(changes)} {one if len(changes) == 1 else many}: {listed}" + (f"; and {more} more" if more > 0 else "")
