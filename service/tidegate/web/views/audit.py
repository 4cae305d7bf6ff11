"""Views of freezes and the audit log."""

from __future__ import annotations

from pydantic import Field

from tidegate.web.views.timestamps import Timestamp, View


class FreezeView(View):
    """A freeze of an environment: deployments are blocked until it is lifted or ends."""

    environment: str
    by: str
    reason: str
    at: Timestamp
    until: Timestamp | None


class FreezesView(View):
    """The current freezes."""

    freezes: list[FreezeView]


class AuditEntryView(View):
    """A change: who requested what, when, why and from where."""

    number: int
    at: Timestamp
    action: str
    subject: str
    by: str
    via: str = Field(description="The token that vouched for the person in `by`. Empty: `by` is the token itself.")
    source: str
    reason: str
    rollout: str | None
    build: str
    request: str = Field(description="The request ID, which is also in the server's log.")


class AuditView(View):
    """A page of the audit log, newest first."""

    entries: list[AuditEntryView]
    next: str | None = Field(description="The cursor of the next page; null on the last.")
