"""The schema and its history, run by Alembic inside the caller's transaction; no ini file is needed.

A new revision: change `tables.py`, call `alembic.command.revision(configuration(connection), "what", autogenerate=True)`
on a database that is up to date, and read what it wrote.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from tidegate.store.database import MIGRATE


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's, on the packaged revisions. `env.py` works on the given connection."""
    config = Config()
    config.set_main_option("script_location", "tidegate.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Bring the schema to `head`; a newer one that fits is left alone. Raises Alembic's `CommandError` for one that does
    not fit."""
    revision = current(connection)
    if revision is None or revision in known() or unfit(revision) is not None:
        command.upgrade(configuration(connection), "head")


def unfit(revision: str | None) -> tuple[str, str] | None:
    """Why this program cannot work on a schema of this revision, and what to do; None when it can.

    Within a generation, the first digit of a revision, a change only adds, and what is added has a default: so the
    program of the release before works on, and releases can be changed one process at a time. A change that breaks that
    begins the next generation.
    """
    wanted = head()
    if revision == wanted or (revision is not None and revision not in known() and revision[:1] == wanted[:1]):
        return None
    what = f"its schema is {revision or 'missing'}, {wanted} is needed"
    newer = revision is not None and revision not in known()
    return what, f"run the release of Tidegate that made schema {revision}, or a newer one" if newer else MIGRATE


def known() -> frozenset[str]:
    """All revisions that this program has."""
    return frozenset(revision.revision for revision in ScriptDirectory.from_config(configuration()).walk_revisions())


def current(connection: Connection) -> str | None:
    """The revision of the database; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The revision that this program needs."""
    return str(ScriptDirectory.from_config(configuration()).get_current_head())
