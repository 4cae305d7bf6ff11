"""Hooks, the comparison of two releases, the prober, and groups of rollouts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns. What was recorded before had no hooks, compared nothing and was alone."""
    op.add_column("rollouts", sa.Column("hooks", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
    op.add_column("rollouts", sa.Column("compare", sa.JSON(none_as_null=True)))
    op.add_column("rollouts", sa.Column("probe", sa.JSON(none_as_null=True)))
    op.add_column("rollouts", sa.Column("group", sa.String(), nullable=False, server_default=sa.text("''")))
    op.add_column("rollouts", sa.Column("tasks", sa.JSON(), nullable=False, server_default=sa.text("'[]'")))
    op.add_column("rollouts", sa.Column("arrived", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.create_index("ix_rollouts_group", "rollouts", ["group"])


def downgrade() -> None:
    """Drop them, and what they told."""
    op.drop_index("ix_rollouts_group", "rollouts")
    for name in ("arrived", "tasks", "group", "probe", "compare", "hooks"):
        op.drop_column("rollouts", name)
