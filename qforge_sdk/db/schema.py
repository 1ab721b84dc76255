"""The schema's revision: what the database has, what this package needs, how to get there."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import SchemaMissing, SchemaOutdated

# One number for all: two programs that upgrade at once take turns.
_UPGRADE_LOCK = 0x71666F726765

_OLD_MODULE = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
                   WHERE c.oid = pg_catalog.to_regclass('public.molecules') AND c.relkind = 'r'
                         AND a.attname = 'smiles' AND NOT a.attisdropped)
"""


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Revision of a database beside the one of this package.

    Parameters
    ----------
    found
        Revision in the database, None when it has no qforge schema.
    expected
        Revision of this package.
    old_module
        Whether it holds the tables of the old database module instead.
    """

    found: str | None
    expected: str
    old_module: bool = False

    @property
    def is_current(self) -> bool:
        """Whether the two agree."""
        return self.found == self.expected

    @property
    def cure(self) -> str:
        """What makes it current."""
        if self.old_module:
            return "run: qforge db adopt"
        is_ours = self.found is None or _is_known(self.found)
        return "run: qforge db upgrade" if is_ours else "the database is newer than this package: upgrade qforge_sdk"


def _config(output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def head_revision() -> str:
    """Revision that this package needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def status(connection: Connection) -> SchemaStatus:
    """Compare the database with this package.

    Parameters
    ----------
    connection
        Any connection; a tenant's can read the revision too.

    Returns
    -------
    SchemaStatus
        Both revisions.

    Raises
    ------
    DatabaseError
        The server reported an error.
    """
    with translated():
        exists = connection.execute(text("SELECT to_regclass('qforge.alembic_version') IS NOT NULL")).scalar()
        found = (
            connection.execute(text("SELECT version_num FROM qforge.alembic_version")).scalar() if exists else None
        )
        old_module = found is None and bool(connection.scalar(text(_OLD_MODULE)))
    return SchemaStatus(found=found, expected=head_revision(), old_module=old_module)


def require_current(connection: Connection) -> None:
    """Return if the schema is the one that this package needs.

    Parameters
    ----------
    connection
        Any connection.

    Raises
    ------
    SchemaMissing
        The database has no qforge schema.
    SchemaOutdated
        It has another revision.
    """
    found = status(connection)
    if found.found is None:
        raise _missing(found)
    if not found.is_current:
        raise _outdated(found)


def _missing(found: SchemaStatus) -> SchemaMissing:
    if found.old_module:
        return SchemaMissing(f"this database holds the tables of the old database module; {found.cure}")
    return SchemaMissing("this database has no qforge tables yet; create them with: qforge db upgrade")


def _outdated(found: SchemaStatus) -> SchemaOutdated:
    return SchemaOutdated(
        f"this database has schema revision {found.found}, this package needs {found.expected}; {found.cure}",
        found=found.found,
        expected=found.expected,
    )


def _is_known(revision: str | None) -> bool:
    return revision in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def upgrade(engine: Engine) -> SchemaStatus:
    """Create or upgrade the schema, in one transaction.

    Parameters
    ----------
    engine
        Logs in as the role that owns, or shall own, the tables.

    Returns
    -------
    SchemaStatus
        What was found before.

    Raises
    ------
    AccessDenied
        The role may not create tables or the role ``qforge_tenant``.
    SchemaOutdated
        The database has a revision of a newer package.
    SchemaMissing
        It holds the tables of the old database module, which ``qforge db adopt`` brings over.
    DatabaseError
        The server reported another error; nothing was changed.
    """
    with translated(), engine.connect() as connection, connection.begin():
        before = begin_change(connection)
        if before.old_module:
            raise _missing(before)
        if not before.is_current:
            to_head(connection)
    return before


def begin_change(connection: Connection) -> SchemaStatus:
    """Take turns with other programs that change the schema, until the end of the transaction.

    Parameters
    ----------
    connection
        In a transaction.

    Returns
    -------
    SchemaStatus
        What is there now.

    Raises
    ------
    SchemaOutdated
        The database has a revision of a newer package.
    """
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    found = status(connection)
    if found.found is not None and not _is_known(found.found):
        raise _outdated(found)
    return found


def to_head(connection: Connection) -> None:
    """Run the migrations that are missing, in the transaction of a connection.

    Parameters
    ----------
    connection
        In a transaction that :func:`begin_change` began.
    """
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def upgrade_sql() -> str:
    """The whole schema as SQL, for an editor such as Supabase's.

    Returns
    -------
    str
        One transaction, from an empty database to this package's revision.
    """
    output = io.StringIO()
    command.upgrade(_config(output), "head", sql=True)
    return output.getvalue()
