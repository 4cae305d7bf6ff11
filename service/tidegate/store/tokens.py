"""API tokens, without their secrets. Each function runs inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update

from tidegate.clock import Time
from tidegate.core.records import Token
from tidegate.errors import Refused
from tidegate.store import mapping
from tidegate.store.tables import tokens

USE_IS_NOTED_EVERY_SECONDS = 60.0  # otherwise every request would be a write
_BY_DIGEST = select(tokens).where(tokens.c.digest == bindparam("digest"))  # compiled once, since every request runs it


def add(connection: Connection, token: Token) -> None:
    """Add a token. Raises `Refused` when its id or secret exists."""
    twin = or_(tokens.c.id == token.id, tokens.c.digest == token.digest)
    if connection.execute(select(tokens.c.id).where(twin)).first() is not None:
        raise Refused(f"Token {token.id} or its secret already exists.")
    connection.execute(insert(tokens).values(**mapping.token_values(token)))


def list_tokens(connection: Connection) -> tuple[Token, ...]:
    """All tokens, oldest first."""
    return tuple(map(mapping.token_of, connection.execute(select(tokens).order_by(tokens.c.created, tokens.c.id))))


def by_digest(connection: Connection, digest: str) -> Token | None:
    """The token with this digest of its secret, also if expired: the caller checks `expires`."""
    row = connection.execute(_BY_DIGEST, {"digest": digest}).one_or_none()
    return None if row is None else mapping.token_of(row)


def use_is_due(token: Token, now: Time) -> bool:
    """Whether its use should be recorded again."""
    return token.last_used is None or now - token.last_used >= USE_IS_NOTED_EVERY_SECONDS


def note_use(connection: Connection, token: Token, now: Time) -> None:
    """Record that the token was used now."""
    connection.execute(update(tokens).where(tokens.c.id == token.id).values(last_used=now))


def drop(connection: Connection, token_id: str) -> None:
    """Delete a token. Raises `Refused` when there is none."""
    if connection.execute(delete(tokens).where(tokens.c.id == token_id)).rowcount != 1:
        raise Refused(f"No token {token_id}. `tidegate token list` shows all.")
