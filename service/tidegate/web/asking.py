"""For whom something is asked, and the line that it leaves in the audit log."""

from __future__ import annotations

from dataclasses import dataclass

from flask import g

from tidegate.core.approvals import given_approvals
from tidegate.core.model import Build, Rollout, Signal
from tidegate.core.records import AuditEntry
from tidegate.engine.log_context import build_label
from tidegate.errors import ApprovalNotAllowed, Frozen, IllegalMove, InvalidSpec, Problem, Quarantined
from tidegate.web.api import api, principal
from tidegate.web.client_address import client_address


@dataclass(frozen=True, slots=True)
class Asker:
    """`by` is a person or a token's name; `via` the token that vouched for the person, else empty."""

    by: str
    via: str = ""

    def audit(
        self, action: str, subject: str, reason: str = "", rollout: str | None = None, build: Build | None = None
    ) -> AuditEntry:
        """The line for the audit log."""
        told = build_label(build)
        return AuditEntry(
            api().now(),
            action,
            subject,
            self.by,
            self.via,
            client_address(),
            reason,
            rollout,
            told,
            g.get("request_id", ""),
        )


def asker(on_behalf_of: str, subject: str) -> Asker:
    """The token itself, or the person for whom it asks: a claim, which needs the scope `vouch`. Raises `NotAllowed`."""
    if not on_behalf_of:
        return Asker(principal().name)
    principal().require("vouch", subject)
    return Asker(on_behalf_of, principal().name)


def require_reason(reason: str, what: str) -> None:
    """Raises `InvalidSpec` when there is none."""
    if not reason.strip():
        raise InvalidSpec([Problem("reason", f"is needed to {what}: it stands in the audit log")])


def require_unfrozen(environment: str, image: str, service: str) -> None:
    """Raises `Frozen`, or `Quarantined` for an image named by its digest: a tag is resolved later, and refused then."""
    freeze = api().store.frozen(environment)
    if freeze is not None:
        raise Frozen(f"{freeze.message}; wait until it is lifted, or deploy by force")
    row = api().store.quarantined(service, image)
    if row is not None:
        text = f"{image} is in quarantine: it was turned back as {row.release.id}; deploy another one, or this one by force"
        raise Quarantined(text)


def may_approve(rollout: Rollout, signals: tuple[Signal, ...], by: str) -> None:
    """Raises `ApprovalNotAllowed` for who may not approve this rollout, `IllegalMove` for who has done so already."""
    wanted = rollout.policy.approval
    if not wanted.requester and by == rollout.requested_by:
        raise ApprovalNotAllowed(f"{by} asked for rollout {rollout.id} and so may not approve it: somebody else has to")
    environment = rollout.service.partition("/")[0]
    settings = api().wiring.settings.environments.get(environment)
    members = {role: settings.roles.get(role, []) if settings else [] for role in wanted.roles}
    if wanted.roles and not any(by in each for each in members.values()):
        roles = " or ".join(wanted.roles)
        raise ApprovalNotAllowed(f"{by} may not approve rollout {rollout.id}: it takes one of the role {roles}")
    before = next((each for each in given_approvals(rollout, signals) if each.by == by), None)
    if before is not None:
        step = f"step {rollout.cursor + 1} of {len(rollout.plan)}"
        raise IllegalMove(f"{step} of rollout {rollout.id} was approved already, by {before.by}")
