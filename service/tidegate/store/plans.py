"""Plans of deployments. Each function runs inside the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from tidegate.clock import Time
from tidegate.core.records import DeploymentPlan
from tidegate.store import mapping
from tidegate.store.tables import plans

MAX_AGE_SECONDS = 7 * 86_400.0  # a plan is deleted after that: its definition has secrets


def add(connection: Connection, plan: DeploymentPlan) -> None:
    """Store a plan, and delete old ones."""
    connection.execute(delete(plans).where(plans.c.created < plan.created - MAX_AGE_SECONDS))
    connection.execute(insert(plans).values(**mapping.PLAN.encode(plan)))


def find(connection: Connection, plan: str, now: Time) -> DeploymentPlan | None:
    """The plan; None if there is none, or it is too old."""
    row = connection.execute(
        select(plans).where(plans.c.id == plan, plans.c.created >= now - MAX_AGE_SECONDS)
    ).one_or_none()
    return None if row is None else mapping.PLAN.decode(dict(row._mapping))
