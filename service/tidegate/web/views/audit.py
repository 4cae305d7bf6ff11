"""Freezes and the audit log as the API shows them."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import BaseModel, Field

from tidegate.core.records import AuditEntry, Freeze
from tidegate.web.views.timestamps import Timestamp, optional_timestamp, timestamp


class FreezeView(BaseModel):
    """An environment in which nothing is moved forward."""

    environment: str
    by: str
    reason: str
    at: Timestamp
    until: Timestamp | None


class FreezesView(BaseModel):
    """Those that hold now."""

    freezes: list[FreezeView]


def freeze_view(freeze: Freeze) -> FreezeView:
    """From the value."""
    return FreezeView(
        environment=freeze.environment,
        by=freeze.by,
        reason=freeze.reason,
        at=timestamp(freeze.at),
        until=optional_timestamp(freeze.until),
    )


class AuditEntryView(BaseModel):
    """Who asked for what, when, why and from where."""

    number: int
    at: Timestamp
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
    return AuditEntryView(**{**asdict(entry), "at": timestamp(entry.at)})
