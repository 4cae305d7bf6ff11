"""Which engines there are, and when each was last heard."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the table; an engine makes its own row."""
    op.create_table(
        "engines",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("seen", sa.Double(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_engines"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("engines")
