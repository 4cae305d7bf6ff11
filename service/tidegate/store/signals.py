"""Signals, and the audit log of who requested what. Each function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import Connection, Select, and_, insert, or_, select, update

from tidegate.clock import Time
from tidegate.core.approvals import approval_binding, counts_for_peer
from tidegate.core.decisions import signals_of
from tidegate.core.model import Event, Rollout, Signal, SignalKind
from tidegate.core.phases import Phase
from tidegate.core.records import AuditEntry, Idempotency
from tidegate.errors import IllegalMove, VersionConflict
from tidegate.store import mapping, rollouts
from tidegate.store.mapping import AnyRow
from tidegate.store.tables import audit as audit_table
from tidegate.store.tables import is_live, signals
from tidegate.store.tables import rollouts as table

#: The kind and the message of a signal's event.
SIGNAL_EVENTS = {
    SignalKind.PROMOTE: ("promoted", "Promoted"),
    SignalKind.ROLLBACK: ("rollback_requested", "Rollback requested"),
    SignalKind.PAUSE: ("paused", "Paused"),
    SignalKind.RESUME: ("resumed", "Resumed"),
    SignalKind.FORCE: ("forced", "Remaining analysis skipped"),
    SignalKind.VERIFY: ("verify_requested", "Verdict requested"),
    SignalKind.DETACH: ("detached", "Detached from its build"),
}
PAUSED_BY = {SignalKind.PAUSE: True, SignalKind.RESUME: False}


def record(
    connection: Connection,
    rollout: str,
    new_signal: Signal,
    version: int | None,
    key: Idempotency | None,
    now: Time,
    audit: AuditEntry | None,
) -> Rollout:
    """Record a signal and make the rollout due. Raises `UnknownRollout`, `IllegalMove`, `VersionConflict`, `KeyReused`.

    The binding is compared under the lock of the rollout, so that no approval answers a verdict that comes between.
    """
    present, *fellows = _lock_group(connection, rollout)
    if key is not None:
        if rollouts.find_answer(connection, key) is not None:
            return mapping.rollout_of(present)
        rollouts.store_answer(connection, key, now)
    if not Phase(present.phase).live:
        raise IllegalMove(f"Cannot {new_signal.kind} rollout {rollout}: it has ended ({present.phase}).")
    if version is not None and version != present.version:
        raise VersionConflict(f"Rollout {rollout} is at version {present.version}, not {version}. Read it again and retry.")
    current = mapping.rollout_of(present)
    if new_signal.binding and new_signal.binding != approval_binding(current):
        text = "the approval is for another step, plan, digest or verdict"
        raise VersionConflict(f"Rollout {rollout} has changed: {text}. Read it again and retry.")
    changed = _apply_signal(connection, present, new_signal, now)
    for row in fellows:
        peer = mapping.rollout_of(row)
        if new_signal.kind is not SignalKind.PROMOTE:
            _apply_signal(connection, row, new_signal, now)
        elif counts_for_peer(current, peer):
            step = None if new_signal.step is None else peer.cursor
            _apply_signal(connection, row, replace(new_signal, step=step, binding=approval_binding(peer)), now)
    record_audit(connection, audit)
    return mapping.rollout_of(changed)


def of_kind(rollout: str, kind: SignalKind) -> Select[tuple[int]]:
    """The numbers of the signals of this kind."""
    return select(signals.c.number).where(signals.c.rollout == rollout, signals.c.kind == kind.value)


def _lock_group(connection: Connection, rollout: str) -> list[AnyRow]:
    """Lock the rollout and the live rollouts of its group, in a fixed order to avoid deadlocks; returns it first."""
    group = rollouts.find_row(connection, rollout).group
    wanted = table.c.id == rollout
    if group:
        wanted = or_(wanted, and_(table.c.group == group, is_live))
    query = select(table).where(wanted).order_by(table.c.sequence).with_for_update()
    return sorted(connection.execute(query), key=lambda row: row.id != rollout)


def _apply_signal(connection: Connection, row: AnyRow, request: Signal, now: Time) -> AnyRow:
    """Record the request for one rollout; returns its changed row."""
    for new_signal in signals_of(request, paused=row.paused):
        row = _add_signal(connection, row, new_signal, now)
    return row


def _add_signal(connection: Connection, row: AnyRow, new_signal: Signal, now: Time) -> AnyRow:
    changed = connection.execute(
        update(table)
        .where(table.c.id == row.id)
        .values(
            paused=PAUSED_BY.get(new_signal.kind, row.paused),
            signalled=True,
            due=now,
            version=table.c.version + 1,
            last_event=table.c.last_event + 1,
        )
        .returning(table)
    ).one()
    connection.execute(insert(signals).values(mapping.signal_values(row.id, new_signal)))
    rollouts.append(connection, row.id, (_signal_event(new_signal),), last=changed.last_event)
    return changed


def _signal_event(new_signal: Signal) -> Event:
    kind, words = SIGNAL_EVENTS[new_signal.kind]
    via = f" via {new_signal.via}" if new_signal.via else ""
    because = f": {new_signal.reason}" if new_signal.reason else ""
    data = {"by": new_signal.by, "via": new_signal.via, "reason": new_signal.reason} | (
        {} if new_signal.step is None else {"step": new_signal.step}
    )
    data |= {"binding": new_signal.binding} if new_signal.binding else {}
    return Event(kind, f"{words} by {new_signal.by}{via}{because}", new_signal.at, data=data)


# -- audit log --------------------------------------------------------------------------------------------------------


def record_audit(connection: Connection, entry: AuditEntry | None) -> None:
    """Add the entry, if there is one."""
    if entry is not None:
        connection.execute(insert(audit_table).values(mapping.audit_values(entry)))


def list_audit(
    connection: Connection, before: int | None, limit: int, subjects: Collection[str] | None
) -> tuple[AuditEntry, ...]:
    """Entries, newest first: those with a number below `before`, and of these subjects, if given."""
    query = select(audit_table).order_by(audit_table.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_table.c.number < before)
    if subjects is not None:
        query = query.where(audit_table.c.subject.in_(subjects))
    return tuple(map(mapping.audit_of, connection.execute(query)))
