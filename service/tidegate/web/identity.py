"""Who makes a request, on whose behalf, and its entry in the audit log."""

from __future__ import annotations

from dataclasses import dataclass

from flask import g

from tidegate.core.model import Build
from tidegate.core.records import AuditEntry
from tidegate.engine.log_context import build_label
from tidegate.errors import InvalidSpec, Problem
from tidegate.web.api import api, principal
from tidegate.web.client_address import client_address


@dataclass(frozen=True, slots=True)
class Requester:
    """`by` is a person or a token's name; `via` the token that vouched for the person, else empty."""

    by: str
    via: str = ""

    def audit(
        self, action: str, subject: str, reason: str = "", rollout: str | None = None, build: Build | None = None
    ) -> AuditEntry:
        """The line for the audit log."""
        label = build_label(build)
        return AuditEntry(
            api().now(),
            action,
            subject,
            self.by,
            self.via,
            client_address(),
            reason,
            rollout,
            label,
            g.get("request_id", ""),
        )


def identify_requester(on_behalf_of: str, subject: str) -> Requester:
    """The token itself, or the person for whom it asks: a claim, which needs the scope `vouch`. Raises `NotAllowed`."""
    if not on_behalf_of:
        return Requester(principal().name)
    principal().require("vouch", subject)
    return Requester(on_behalf_of, principal().name)


def require_reason(reason: str, what: str) -> None:
    """Raises `InvalidSpec` when there is none."""
    if not reason.strip():
        raise InvalidSpec([Problem("reason", f"is needed to {what}: it stands in the audit log")])
