"""What a rollout is for, and what is found of a service between rollouts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns. All that was recorded before led to a release."""
    op.add_column("rollouts", sa.Column("kind", sa.String(), nullable=False, server_default=sa.text("'release'")))
    op.add_column("rollouts", sa.Column("spared", sa.JSON(), nullable=False, server_default=sa.text("'[]'")))
    op.add_column("services", sa.Column("drift_check_due", sa.Double(), nullable=False, server_default=sa.text("0")))
    op.add_column("services", sa.Column("drift", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    """Drop them, and what they told."""
    for table, name in (
        ("services", "drift"),
        ("services", "drift_check_due"),
        ("rollouts", "spared"),
        ("rollouts", "kind"),
    ):
        op.drop_column(table, name)
