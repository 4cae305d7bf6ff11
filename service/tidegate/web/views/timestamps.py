"""Base of the views, and times in responses: RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tidegate.clock import Time


class View(BaseModel):
    """A part of a response. `View.model_validate(value)` reads the attributes of a core value with the same names."""

    model_config = ConfigDict(from_attributes=True, populate_by_name=True)


def timestamp(time: Time) -> str:
    """`2026-11-23T16:12:03.123Z`, from seconds since the epoch."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _from_seconds(value: Any) -> Any:
    return timestamp(value) if isinstance(value, (int, float)) else value


Timestamp = Annotated[str, BeforeValidator(_from_seconds), Field(json_schema_extra={"format": "date-time"})]
