"""The migrations of the schema, run by Alembic inside the caller's transaction, without an ini file.

To add a revision, change `tables.py`, call `alembic.command.revision(configuration(connection), "what", autogenerate=True)`
on a database at the latest revision, and review the result.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from tidegate.errors import StoreError
from tidegate.store.database import MIGRATE

if TYPE_CHECKING:
    from alembic.config import Config  # Alembic is slow to import, and a schema that is up to date does not need it


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration for the packaged revisions. `env.py` uses the given connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "tidegate.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> tuple[str | None, str | None]:
    """Migrate the schema to `head`; a newer compatible schema stays. Raises `StoreError` for an incompatible one. Returns
    the revisions before and after."""
    revision = current(connection)
    if unfit(revision) is not None:
        from alembic import command
        from alembic.util import CommandError

        try:
            command.upgrade(configuration(connection), "head")
        except CommandError as error:
            raise StoreError(f"Cannot migrate the schema: {error}", retryable=False) from error
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


@cache
def known() -> frozenset[str]:
    """All revisions that this version of Tidegate knows: their files are named `REVISION_what.py`."""
    files = (Path(__file__).parent / "versions").glob("[0-9]*.py")
    return frozenset(file.name.partition("_")[0] for file in files)


def current(connection: Connection) -> str | None:
    """The revision of the database; None when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def head() -> str:
    """The revision that this version of Tidegate requires: the last one, since revisions are numbered in their order."""
    return max(known())
