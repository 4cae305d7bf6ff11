"""What a comparison of two documents finds, and what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Effect(StrEnum):
    """What a change does to a client that was written for the old document."""

    BREAKING = "breaking"  # a request that was right is refused, or an answer is not what it was promised to be
    UNKNOWN = "unknown"  # cannot tell
    WARNING = "warning"  # a careful client does not notice: a new value in an answer, a parameter that is not read any more
    COMPATIBLE = "compatible"


@dataclass(frozen=True, slots=True)
class ApiChange:
    """One difference. `path` is a JSON Pointer into the new document, or into the old one for what is gone."""

    effect: Effect
    path: str
    message: str

    @property
    def breaking(self) -> bool:
        """Whether it breaks a client."""
        return self.effect is Effect.BREAKING


class OnBreaking(StrEnum):
    """What a breaking change leads to."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """Where each release serves its document (`/openapi.json`), and what a breaking change leads to."""

    path: str
    on_breaking: OnBreaking = OnBreaking.FAIL


class DiffOutcome(StrEnum):
    """What came of a comparison."""

    PASSED = "passed"
    FAILED = "failed"
    WARNED = "warned"
    UNKNOWN = "unknown"  # a document could not be had or read, or holds what cannot be decided
    SKIPPED = "skipped"  # neither release serves a document: there is nothing to compare


@dataclass(frozen=True, slots=True)
class DiffResult:
    """The outcome, one sentence, and all changes, the worst first."""

    outcome: DiffOutcome
    message: str
    changes: tuple[ApiChange, ...] = ()

    def blocks(self, policy: OnBreaking) -> bool:
        """Whether no traffic may move on to the new release. What is not known stops it where a breaking change would."""
        return policy is OnBreaking.FAIL and self.outcome in (DiffOutcome.FAILED, DiffOutcome.UNKNOWN)


SEVERITY_ORDER = tuple(Effect)
MAX_LISTED = 3  # changes in the sentence; the others are counted


def conclude(changes: Sequence[ApiChange], policy: OnBreaking) -> DiffResult:
    """One outcome of all changes: the worst of them says it."""
    ranked = tuple(sorted(changes, key=lambda change: SEVERITY_ORDER.index(change.effect)))
    worst = ranked[0].effect if ranked else Effect.COMPATIBLE
    same = [change for change in ranked if change.effect is worst]
    if worst is Effect.BREAKING:
        outcome = DiffOutcome.FAILED if policy is OnBreaking.FAIL else DiffOutcome.WARNED
        return DiffResult(outcome, _format_changes(same, "breaking change", "breaking changes"), ranked)
    if worst is Effect.UNKNOWN:
        return DiffResult(
            DiffOutcome.UNKNOWN,
            _format_changes(same, "change that cannot be judged", "changes that cannot be judged"),
            ranked,
        )
    if worst is Effect.WARNING:
        return DiffResult(DiffOutcome.WARNED, _format_changes(same, "change to look at", "changes to look at"), ranked)
    return DiffResult(DiffOutcome.PASSED, "no breaking change in the API", ranked)


def _format_changes(changes: Sequence[ApiChange], one: str, many: str) -> str:
    told = "; ".join(change.message for change in changes[:MAX_LISTED])
    more = len(changes) - MAX_LISTED
    return f"{len(changes)} {one if len(changes) == 1 else many}: {told}" + (f"; and {more} more" if more > 0 else "")
