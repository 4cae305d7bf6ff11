"""Routes of the audit log."""

from __future__ import annotations

import re

from flask import Response

from tidegate.web.api import api, principal, respond
from tidegate.web.openapi import blueprint, problems
from tidegate.web.pagination import bad_cursor, decode_cursor, encode_cursor, with_next_link
from tidegate.web.parameters import AuditQuery
from tidegate.web.views.audit import AuditView

NUMBER = re.compile("[0-9]{1,9}")  # of an entry: what a database can compare
bp = blueprint("audit", "Who requested what, when, why and from where.")


@bp.get("/audit", responses={"200": AuditView, **problems()})
def read_audit(query: AuditQuery) -> Response:
    """The audit log, newest first, limited to what the token may read."""
    last = decode_cursor(query.cursor)
    if last is not None and not NUMBER.fullmatch(last):
        raise bad_cursor()
    page = api().store.audit(None if last is None else int(last), query.limit + 1, _subjects(query.subject))
    entries = page[: query.limit]
    cursor = encode_cursor(str(entries[-1].number)) if len(page) > len(entries) else None
    return with_next_link(respond(AuditView.model_validate({"entries": entries, "next": cursor})), cursor)


def _subjects(subject: str | None) -> list[str] | None:
    """The subjects to show; None for all. A token limited to some services sees only these, no environments or tokens."""
    reader = principal()
    if subject is not None and "/" in subject:
        reader.require("read", subject)
        return [subject]
    if reader.may("read", "*"):
        return None if subject is None else [subject]
    readable = [row.service.key for row in api().store.services() if reader.may("read", row.service.key)]
    return readable if subject is None else []
