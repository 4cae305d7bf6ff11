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


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's, on the packaged revisions. `env.py` works on the given connection."""
    config = Config()
    config.set_main_option("script_location", "tidegate.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Bring the schema to `head`. Raises Alembic's `CommandError` when it is newer than this program."""
    command.upgrade(configuration(connection), "head")


def current(connection: Connection) -> str | None:
    """The revision of the database; None when it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    """The revision that this program needs."""
    return ScriptDirectory.from_config(configuration()).get_current_head()
