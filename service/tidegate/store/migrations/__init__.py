"""The migrations of the schema, run by Alembic inside the caller's transaction, without an ini file.

To add a revision, change `tables.py`, call `alembic.command.revision(configuration(connection), "what", autogenerate=True)`
on a database at the latest revision, and review the result.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from tidegate.store.database import MIGRATE


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration for the packaged revisions. `env.py` uses the given connection."""
    config = Config()
    config.set_main_option("script_location", "tidegate.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> tuple[str | None, str | None]:
    """Migrate the schema to `head`; a newer compatible schema stays. Raises Alembic's `CommandError` for an incompatible
    one. Returns the revisions before and after."""
    revision = current(connection)
    if revision is None or revision in known() or unfit(revision) is not None:
        command.upgrade(configuration(connection), "head")
    return revision, current(connection)


def unfit(revision: str | None) -> tuple[str, str] | None:
    """Why this version of Tidegate cannot use a schema of this revision, and what to do; None when it can.

    Within a generation, the first digit of the revision, migrations only add columns and tables with defaults. The previous
    release therefore keeps working, and processes can be upgraded one by one. A change that breaks this starts the next
    generation.
    """
    wanted = head()
    if revision == wanted or (revision is not None and revision not in known() and revision[:1] == wanted[:1]):
        return None
    what = f"schema {revision or 'missing'}, but {wanted} is required"
    newer = revision is not None and revision not in known()
    return what, f"run the version of Tidegate that created schema {revision}, or a newer one" if newer else MIGRATE


def known() -> frozenset[str]:
    """All revisions that this version of Tidegate knows."""
    return frozenset(revision.revision for revision in ScriptDirectory.from_config(configuration()).walk_revisions())


def current(connection: Connection) -> str | None:
    """The revision of the database; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The revision that this version of Tidegate requires."""
    return str(ScriptDirectory.from_config(configuration()).get_current_head())
