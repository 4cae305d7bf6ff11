"""Times in answers: RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from tidegate.clock import Time

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


def timestamp(time: Time) -> str:
    """`2026-11-23T16:12:03.123Z`."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def optional_timestamp(time: Time | None) -> str | None:
    """The same, where it may not have happened."""
    return None if time is None else timestamp(time)
