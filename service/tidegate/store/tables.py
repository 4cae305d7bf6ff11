"""The tables. A change here needs a revision in `migrations/versions`; a test compares the two.

All times are seconds since the epoch (UTC) as doubles. Values that are only read as a whole are stored as JSON.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    literal_column,
    text,
)

from tidegate.core.phases import LIVE, Phase

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

#: Release numbers assigned so far. Separate from `services`, because the first release gets its number before its service
#: is stored.
release_numbers = Table(
    "release_numbers",
    metadata,
    Column("service", String, primary_key=True),
    Column("last", Integer, nullable=False),
)

services = Table(
    "services",
    metadata,
    Column("key", String, primary_key=True),
    Column("environment", String, nullable=False),
    Column("backend", String),  # the proxy backend: one owner per environment; null: no proxy
    Column("definition", JSON, nullable=False),
    Column("version", Integer, nullable=False),
    Column("removed_at", Double),  # its rollouts are kept, its name and its route are free; null: not removed
    Column("live", String),  # the live release; no foreign key, because releases refer to services
    Column("drift_check_due", Double, nullable=False, server_default=text("0")),  # the next drift check
    Column("drift", JSON(none_as_null=True)),  # the drift found, if any
    UniqueConstraint("environment", "backend"),
)

releases = Table(
    "releases",
    metadata,
    Column("service", String, ForeignKey("services.key"), primary_key=True),
    Column("id", String, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("image", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("container", JSON, nullable=False),
    Column("created", Double, nullable=False),
    Column("good_at", Double),
    Column("quarantined_at", Double),
    Column("quarantined_by", String, nullable=False, server_default=text("''")),  # the rollout; it may be deleted since
    Column("finding", String, nullable=False, server_default=text("''")),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),  # the order of creation
    Column("id", String, nullable=False, unique=True),
    Column("service", String, ForeignKey("services.key"), nullable=False),
    Column("old", String),
    Column("new", String, nullable=False),
    # the request; never changes, except the plan in a rollback
    Column("plan", JSON, nullable=False),
    Column("backend", JSON(none_as_null=True)),
    Column("created", Double, nullable=False),
    Column("old_replicas", Integer, nullable=False),
    Column("batch", Integer, nullable=False),
    Column("in_place", Boolean, nullable=False),
    Column("checks", JSON, nullable=False),
    Column("policy", JSON, nullable=False),
    Column("image", String, nullable=False),
    Column("requested_by", String, nullable=False),
    Column("requested_via", String, nullable=False),
    Column("build", JSON(none_as_null=True)),
    Column("forced", Boolean, nullable=False),
    Column("undoes", Boolean, nullable=False),
    Column("hooks", JSON, nullable=False),
    Column("compare", JSON(none_as_null=True)),
    Column("probe", JSON(none_as_null=True)),
    Column("group", String, nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("warnings", JSON, nullable=False),
    Column("notes", JSON, nullable=False),
    Column("adopted", JSON(none_as_null=True)),
    Column("next_listen", String, nullable=False),
    Column("definition", JSON(none_as_null=True)),  # what was requested, without the container, which the release has
    # the state; written by the engine that holds the lease
    Column("digest", String, nullable=False),
    Column("phase", String, nullable=False),
    Column("cursor", Integer, nullable=False),
    Column("reason", String, nullable=False),
    Column("step_started_at", Double),
    Column("starting_at", Double),
    Column("traffic_confirmed_at", Double),
    Column("step_ready_at", Double),
    Column("approval_since", Double),
    Column("waiting_for", JSON(none_as_null=True)),
    Column("unrouted_at", JSON, nullable=False),
    Column("health", JSON, nullable=False),
    Column("replaced", JSON, nullable=False),
    Column("extensions", Integer, nullable=False),
    Column("question", Integer, nullable=False),
    Column("verdict", JSON(none_as_null=True)),
    Column("tasks", JSON, nullable=False),
    Column("group_point", Integer, nullable=False),
    Column("finished", Double),
    Column("preexisting", JSON, nullable=False),
    Column("previous_definition", JSON(none_as_null=True)),  # the definition before, for a rollout that is refused
    Column("rollback_cause", String),
    # written by signals
    Column("paused", Boolean, nullable=False),
    Column("signalled", Boolean, nullable=False),  # a signal arrived since the last claim
    # the lease
    Column("owner", String, nullable=False),  # the last one; kept after a release, so that `since` is kept too
    Column("since", Double, nullable=False),  # when this owner took over from another
    Column("lease_until", Double),  # None: released
    Column("fence", Integer, nullable=False),  # the fencing token; grows with each claim
    Column("due", Double, nullable=False),
    Column("takeovers", Integer, nullable=False),
    # counters
    Column("version", Integer, nullable=False),
    Column("last_event", Integer, nullable=False),  # the number of the last event
    ForeignKeyConstraint(["service", "old"], ["releases.service", "releases.id"], name="fk_rollouts_old"),
    ForeignKeyConstraint(["service", "new"], ["releases.service", "releases.id"], name="fk_rollouts_new"),
)

#: The phase is a live one. Literals instead of parameters, so that the partial indexes below apply.
is_live = rollouts.c.phase.in_([literal_column(f"'{phase.value}'") for phase in Phase if phase in LIVE])

Index("one_live_rollout", rollouts.c.service, unique=True, sqlite_where=is_live, postgresql_where=is_live)
Index("due_rollouts", rollouts.c.due, sqlite_where=is_live, postgresql_where=is_live)
Index("rollouts_of_service", rollouts.c.service, rollouts.c.sequence)

verdicts = Table(
    "verdicts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("rollout", String, ForeignKey("rollouts.id"), nullable=False, index=True),
    Column("step", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("verdict", JSON, nullable=False),
)

measurements = Table(
    "measurements",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("rollout", String, ForeignKey("rollouts.id"), nullable=False, index=True),
    Column("measurement", LargeBinary, nullable=False),  # compressed JSON
)

signals = Table(
    "signals",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("rollout", String, ForeignKey("rollouts.id"), nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("at", Double, nullable=False),
    Column("by", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("step", Integer),
    Column("via", String, nullable=False),
    Column("binding", String, nullable=False),
    Column("cause", String, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("rollout", String, ForeignKey("rollouts.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("kind", String, nullable=False),
    Column("message", String, nullable=False),
    Column("at", Double, nullable=False),
    Column("data", JSON, nullable=False),
)

freezes = Table(
    "freezes",
    metadata,
    Column("environment", String, primary_key=True),
    Column("by", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("at", Double, nullable=False),
    Column("until", Double),
)

#: Requested changes: who, what, when, from where and the reason. Append-only.
audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False, index=True),  # environment/service, environment, or a token's name
    Column("by", String, nullable=False),
    Column("via", String, nullable=False),
    Column("source", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("rollout", String),
    Column("build", String, nullable=False),
    Column("request", String, nullable=False),
)

#: The number of the last event delivered to the CI, for each rollout that a build requested.
deliveries = Table(
    "deliveries",
    metadata,
    Column("rollout", String, ForeignKey("rollouts.id"), primary_key=True),
    Column("delivered", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("due", Double, nullable=False, index=True),
)

#: The builds of rollouts, until both are over.
build_watches = Table(
    "build_watches",
    metadata,
    Column("rollout", String, ForeignKey("rollouts.id"), primary_key=True),
    Column("due", Double, nullable=False, index=True),  # when the CI is asked next
    Column("polled_at", Double, nullable=False),  # when the build last polled for its rollout
    Column("ended_at", Double),  # since when the build is known to be over
    Column("unknown", Integer, nullable=False),  # answers in a row that did not say whether it runs
    Column("reported", String, nullable=False),  # the problem that was reported last
)

#: Builds that wait for their turn to deploy a service, in the order in which they came.
waiting_builds = Table(
    "waiting_builds",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("service", String, nullable=False),
    Column("job", String, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("policy", String, nullable=False),  # wait or supersede
    Column("asked_at", Double, nullable=False),  # when the build last asked for its turn
    UniqueConstraint("service", "job", "number"),
)

#: Plans of deployments, with the definitions that they are for.
plans = Table(
    "plans",
    metadata,
    Column("id", String, primary_key=True),
    Column("service", String, nullable=False),  # not a foreign key: a plan may be for a service that is not stored yet
    Column("created", Double, nullable=False, index=True),
    Column("members", JSON, nullable=False),
)

#: Running engines, and those that did not shut down cleanly.
engines = Table(
    "engines",
    metadata,
    Column("owner", String, primary_key=True),
    Column("heartbeat_at", Double, nullable=False),
    Column("version", String, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("services", JSON, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("last_used", Double),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("scope", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("status", Integer, nullable=False),
    Column("response", String, nullable=False),
    Column("created", Double, nullable=False),
)
