"""Who asked, by which build and on whose word; freezes; the audit log; what the CI was told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TEXT = ("image", "digest", "requested_via")


def upgrade() -> None:
    """Add the columns and the tables. What was recorded before has no build, and nobody vouched for it."""
    for name in TEXT:
        op.add_column("rollouts", sa.Column(name, sa.String(), nullable=False, server_default=sa.text("''")))
    op.add_column("rollouts", sa.Column("build", sa.JSON(none_as_null=True)))
    op.add_column("rollouts", sa.Column("forced", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("signals", sa.Column("via", sa.String(), nullable=False, server_default=sa.text("''")))
    op.create_table(
        "freezes",
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("until", sa.Double()),
        sa.PrimaryKeyConstraint("environment", name="pk_freezes"),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("action", "subject", "by", "via", "source", "reason")),
        sa.Column("rollout", sa.String()),
        sa.Column("build", sa.String(), nullable=False),
        sa.Column("request", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_index("ix_audit_subject", "audit", ["subject"])
    op.create_table(
        "deliveries",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("delivered", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("due", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_deliveries_rollout"),
        sa.PrimaryKeyConstraint("rollout", name="pk_deliveries"),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["due"])


def downgrade() -> None:
    """Drop them, and what they told."""
    op.drop_table("deliveries")
    op.drop_table("audit")
    op.drop_table("freezes")
    op.drop_column("signals", "via")
    for name in ("forced", "build", *TEXT):
        op.drop_column("rollouts", name)
