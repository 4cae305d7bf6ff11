"""The shapes of freezes and of the audit log."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import BaseModel, Field

from tidegate.core.records import AuditEntry, Freeze
from tidegate.web.times import When, when, when_known


class FreezeView(BaseModel):
    """An environment in which nothing is moved forward."""

    environment: str
    by: str
    reason: str
    at: When
    until: When | None


class FreezesView(BaseModel):
    """Those that hold now."""

    freezes: list[FreezeView]


def freeze_view(freeze: Freeze) -> FreezeView:
    """From the value."""
    return FreezeView(
        environment=freeze.environment,
        by=freeze.by,
        reason=freeze.reason,
        at=when(freeze.at),
        until=when_known(freeze.until),
    )


class AuditEntryView(BaseModel):
    """Who asked for what, when, why and from where."""

    number: int
    at: When
    action: str
    subject: str
    by: str
    via: str = Field(description="The token that vouched for this person: the name is its claim. Empty: the token itself.")
    source: str
    reason: str
    rollout: str | None
    build: str
    request: str = Field(description="The server's log has the same id.")


class AuditView(BaseModel):
    """A page of the audit log, the newest first."""

    entries: list[AuditEntryView]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


def audit_view(entry: AuditEntry) -> AuditEntryView:
    """From the value."""
    return AuditEntryView(**{**asdict(entry), "at": when(entry.at)})
