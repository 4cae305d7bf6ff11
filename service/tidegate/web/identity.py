"""The requester of a change, on whose behalf it was sent, and its audit entry."""

from __future__ import annotations

from dataclasses import dataclass

from flask import g

from tidegate.core.approvals import counts_for_peer
from tidegate.core.build import Build
from tidegate.core.model import Rollout, SignalKind
from tidegate.core.records import AuditEntry
from tidegate.engine.log_context import build_label
from tidegate.errors import InvalidSpec, Problem
from tidegate.web.api import api, principal
from tidegate.web.client_address import client_address


@dataclass(frozen=True, slots=True)
class Requester:
    """`by` is a person or a token's name; `via` is the token that vouched for the person, or empty."""

    by: str
    via: str = ""

    def audit(
        self, action: str, subject: str, reason: str = "", rollout: str | None = None, build: Build | None = None
    ) -> AuditEntry:
        """The audit entry of this change."""
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
    """The token itself, or the person it names, which requires the scope `vouch`. Raises `NotAllowed`."""
    if not on_behalf_of:
        return Requester(principal().name)
    principal().require("vouch", subject)
    return Requester(" ".join(on_behalf_of.split()), principal().name)


def require_for_group(rollout: Rollout, kind: SignalKind, scope: str, on_behalf_of: str) -> Requester:
    """The requester of a signal. It needs `scope` for the service, and for every service of its group that the signal
    applies to. Raises `NotAllowed`."""
    principal().require(scope, rollout.service)
    by = identify_requester(on_behalf_of, rollout.service)
    for peer in api().store.peers(rollout.id, rollout.group) if rollout.group else ():
        if peer.phase.live and (kind is not SignalKind.PROMOTE or counts_for_peer(rollout, peer)):
            principal().require(scope, peer.service)
            identify_requester(on_behalf_of, peer.service)
    return by


def require_reason(reason: str, action: str) -> None:
    """Raises `InvalidSpec` when `reason` is blank."""
    if not reason.strip():
        raise InvalidSpec([Problem("reason", f"is required to {action}; it is recorded in the audit log")])
