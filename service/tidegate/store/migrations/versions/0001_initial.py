"""The schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "release_numbers",
    "services",
    "releases",
    "rollouts",
    "verdicts",
    "measurements",
    "signals",
    "events",
    "freezes",
    "audit",
    "build_watches",
    "waiting_builds",
    "deliveries",
    "plans",
    "engines",
    "tokens",
    "idempotency",
)
LIVE = sa.text("phase IN ('pending', 'running', 'rolling_back')")


def upgrade() -> None:
    """Make every table, those that others refer to first."""
    _services()
    _rollouts()
    _history()
    _operations()
    _builds()
    _clients()


def downgrade() -> None:
    """Drop them all."""
    for table in reversed(TABLES):
        op.drop_table(table)


def _services() -> None:
    op.create_table(
        "release_numbers",
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("service", name="pk_release_numbers"),
    )
    op.create_table(
        "services",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("backend", sa.String(), nullable=True),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("removed_at", sa.Double(), nullable=True),
        sa.Column("live", sa.String(), nullable=True),
        sa.Column("drift_check_due", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.Column("drift", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("key", name="pk_services"),
        sa.UniqueConstraint("environment", "backend", name="uq_services_environment"),
    )
    op.create_table(
        "releases",
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("image", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.Column("container", sa.JSON(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("good_at", sa.Double(), nullable=True),
        sa.Column("quarantined_at", sa.Double(), nullable=True),
        sa.Column("quarantined_by", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column("finding", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.ForeignKeyConstraint(["service"], ["services.key"], name="fk_releases_service"),
        sa.PrimaryKeyConstraint("service", "id", name="pk_releases"),
    )


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        *_request_columns(),
        *_state_columns(),
        sa.ForeignKeyConstraint(["service", "new"], ["releases.service", "releases.id"], name="fk_rollouts_new"),
        sa.ForeignKeyConstraint(["service", "old"], ["releases.service", "releases.id"], name="fk_rollouts_old"),
        sa.ForeignKeyConstraint(["service"], ["services.key"], name="fk_rollouts_service"),
        sa.PrimaryKeyConstraint("sequence", name="pk_rollouts"),
        sa.UniqueConstraint("id", name="uq_rollouts_id"),
    )
    op.create_index("due_rollouts", "rollouts", ["due"], sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index("ix_rollouts_group", "rollouts", ["group"])
    op.create_index("one_live_rollout", "rollouts", ["service"], unique=True, sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index("rollouts_of_service", "rollouts", ["service", "sequence"])


def _request_columns() -> list[sa.Column[Any]]:
    """What was requested."""
    return [
        sa.Column("sequence", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("old", sa.String(), nullable=True),
        sa.Column("new", sa.String(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("backend", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("old_replicas", sa.Integer(), nullable=False),
        sa.Column("batch", sa.Integer(), nullable=False),
        sa.Column("in_place", sa.Boolean(), nullable=False),
        sa.Column("checks", sa.JSON(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("image", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("requested_via", sa.String(), nullable=False),
        sa.Column("build", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("forced", sa.Boolean(), nullable=False),
        sa.Column("undoes", sa.Boolean(), nullable=False),
        sa.Column("hooks", sa.JSON(), nullable=False),
        sa.Column("compare", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("probe", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("adopted", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("next_listen", sa.String(), nullable=False),
        sa.Column("definition", sa.JSON(none_as_null=True), nullable=True),
    ]


def _state_columns() -> list[sa.Column[Any]]:
    """Where it is, and which engine drives it."""
    return [
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("cursor", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("step_started_at", sa.Double(), nullable=True),
        sa.Column("starting_at", sa.Double(), nullable=True),
        sa.Column("traffic_confirmed_at", sa.Double(), nullable=True),
        sa.Column("step_ready_at", sa.Double(), nullable=True),
        sa.Column("approval_since", sa.Double(), nullable=True),
        sa.Column("waiting_for", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("unrouted_at", sa.JSON(), nullable=False),
        sa.Column("health", sa.JSON(), nullable=False),
        sa.Column("replaced", sa.JSON(), nullable=False),
        sa.Column("extensions", sa.Integer(), nullable=False),
        sa.Column("question", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("tasks", sa.JSON(), nullable=False),
        sa.Column("group_point", sa.Integer(), nullable=False),
        sa.Column("finished", sa.Double(), nullable=True),
        sa.Column("preexisting", sa.JSON(), nullable=False),
        sa.Column("previous_definition", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("rollback_cause", sa.String(), nullable=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("signalled", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("due", sa.Double(), nullable=False),
        sa.Column("takeovers", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("last_event", sa.Integer(), nullable=False),
    ]


def _history() -> None:
    op.create_table(
        "verdicts",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("verdict", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_verdicts_rollout"),
        sa.PrimaryKeyConstraint("number", name="pk_verdicts"),
    )
    op.create_index("ix_verdicts_rollout", "verdicts", ["rollout"])
    op.create_table(
        "measurements",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("measurement", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_measurements_rollout"),
        sa.PrimaryKeyConstraint("number", name="pk_measurements"),
    )
    op.create_index("ix_measurements_rollout", "measurements", ["rollout"])
    op.create_table(
        "signals",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("via", sa.String(), nullable=False),
        sa.Column("binding", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_signals_rollout"),
        sa.PrimaryKeyConstraint("number", name="pk_signals"),
    )
    op.create_index("ix_signals_rollout", "signals", ["rollout"])
    op.create_table(
        "events",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_events_rollout"),
        sa.PrimaryKeyConstraint("rollout", "number", name="pk_events"),
    )


def _operations() -> None:
    op.create_table(
        "freezes",
        sa.Column("environment", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("until", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("environment", name="pk_freezes"),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("via", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("rollout", sa.String(), nullable=True),
        sa.Column("build", sa.String(), nullable=False),
        sa.Column("request", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_index("ix_audit_subject", "audit", ["subject"])
    op.create_table(
        "engines",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("heartbeat_at", sa.Double(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_engines"),
    )


def _builds() -> None:
    op.create_table(
        "build_watches",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("due", sa.Double(), nullable=False),
        sa.Column("polled_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("unknown", sa.Integer(), nullable=False),
        sa.Column("reported", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_build_watches_rollout"),
        sa.PrimaryKeyConstraint("rollout", name="pk_build_watches"),
    )
    op.create_index("ix_build_watches_due", "build_watches", ["due"])
    op.create_table(
        "waiting_builds",
        sa.Column("sequence", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_waiting_builds"),
        sa.UniqueConstraint("service", "job", "number", name="uq_waiting_builds_service"),
    )
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


def _clients() -> None:
    op.create_table(
        "plans",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("members", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_plans"),
    )
    op.create_index("ix_plans_created", "plans", ["created"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("services", sa.JSON(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=True),
        sa.Column("last_used", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
    op.create_table(
        "idempotency",
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("response", sa.String(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name="pk_idempotency"),
    )
