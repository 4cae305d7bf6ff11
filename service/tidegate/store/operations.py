"""Freezes, the audit log and tokens in the store. `store_port.Store` documents the methods."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection

from tidegate.core.records import AuditEntry, Freeze, Token
from tidegate.store import freezes, signals, tokens
from tidegate.store.transactions import Transactions


class Operations(Transactions):
    """Each call is one transaction and raises `StoreError` when the database fails."""

    # -- freezes and the audit log --------------------------------------------------------------------------------------

    def get_freeze(self, environment: str) -> Freeze | None:
        with self._read(f"read the freeze of {environment}") as connection:
            return freezes.find_active(connection, environment, self._clock())

    def freezes(self) -> tuple[Freeze, ...]:
        with self._read("list freezes") as connection:
            return freezes.list_active(connection, self._clock())

    def freeze(self, freeze: Freeze, *, audit: AuditEntry | None = None) -> None:
        def put(connection: Connection) -> None:
            freezes.put(connection, freeze)
            signals.record_audit(connection, audit)

        self._write_checked(f"freeze {freeze.environment}", put)

    def unfreeze(self, environment: str, *, audit: AuditEntry | None = None) -> None:
        with self._write(f"lift the freeze of {environment}") as connection:
            freezes.lift(connection, environment)
            signals.record_audit(connection, audit)

    def audit(
        self, before: int | None = None, limit: int = 50, subjects: Collection[str] | None = None
    ) -> tuple[AuditEntry, ...]:
        with self._read("read the audit log") as connection:
            return signals.list_audit(connection, before, limit, subjects)

    # -- tokens -------------------------------------------------------------------------------------------------------

    def add_token(self, token: Token, *, audit: AuditEntry | None = None) -> None:
        def add(connection: Connection) -> None:
            tokens.add(connection, token)
            signals.record_audit(connection, audit)

        self._write_checked("add a token", add)

    def tokens(self) -> tuple[Token, ...]:
        with self._read("list tokens") as connection:
            return tokens.list_tokens(connection)

    def token(self, digest: str) -> Token | None:
        with self._read("look up a token") as connection:
            stored = tokens.by_digest(connection, digest)
        now = self._clock()
        if stored is not None and tokens.use_is_due(stored, now):
            with self._write("record the use of a token") as connection:
                tokens.note_use(connection, stored, now)
        return stored

    def delete_token(self, token_id: str, *, audit: AuditEntry | None = None) -> None:
        with self._write("delete a token") as connection:
            tokens.drop(connection, token_id)
            signals.record_audit(connection, audit)
