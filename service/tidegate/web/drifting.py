"""How a service was found between rollouts, as the API shows it."""

from __future__ import annotations

from pydantic import BaseModel, Field

from tidegate.core.records import Drift, DriftState
from tidegate.web.times import When, when


class DriftView(BaseModel):
    """How a service was found between rollouts, when it was other than its release wants."""

    since: When
    message: str
    state: DriftState = Field(description="What is done about it; `unhealthy`: nothing any more, until somebody acts.")
    why: str = Field(description="Why nothing is done now; empty while something is.")


def drift_view(drift: Drift) -> DriftView:
    """From the value."""
    return DriftView(since=when(drift.since), message=drift.message, state=drift.state, why=drift.why)
