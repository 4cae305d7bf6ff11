"""The base URL of a server in a driver's settings."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def require_base_url(url: str) -> str:
    """The URL without a trailing slash. Raises `ValueError` unless it is `http(s)://host[:port][/path]`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http://host:port or https://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain a user name or password; use the settings for them")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment: give scheme, host, port and path only")
    return url.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(require_base_url)]
