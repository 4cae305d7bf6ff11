"""A token as the API shows it."""

from __future__ import annotations

from pydantic import BaseModel

from tidegate.core.records import Token
from tidegate.web.views.timestamps import Timestamp, optional_timestamp, timestamp


class TokenView(BaseModel):
    """A token, without its secret."""

    id: str
    name: str
    scopes: list[str]
    services: list[str]
    created: Timestamp
    expires: Timestamp | None
    last_used: Timestamp | None


class NewTokenView(TokenView):
    """A new token with its secret, which is never shown again."""

    token: str


class TokensView(BaseModel):
    """All tokens."""

    tokens: list[TokenView]


def token_view(token: Token) -> TokenView:
    """A token without its secret."""
    return TokenView(
        id=token.id,
        name=token.name,
        scopes=list(token.scopes),
        services=list(token.services),
        created=timestamp(token.created),
        expires=optional_timestamp(token.expires),
        last_used=optional_timestamp(token.last_used),
    )
