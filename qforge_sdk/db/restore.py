"""Exported rows back into the database as they were: by the service, with their ids, owners and times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from alembic.script import ScriptDirectory
from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names its class in lower case)
from psycopg2.sql import SQL, Composable, Identifier, Literal
from sqlalchemy import Connection, Engine

from qforge_sdk.db import migrations, schema
from qforge_sdk.db.bulk.rebuild import without_indexes
from qforge_sdk.db.copy import copy_in, copy_out, readable
from qforge_sdk.db.models import TABLES
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.snapshot import enter
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import Conflict, SchemaOutdated

# The owner is part of an atom's key and may be null.
_KEYS: Final = {"atomic_properties": ("calculation_id", "atom_index", "user_id")}
# They follow the items, which may be on their way.
_COUNTED: Final = {
    "batch_jobs": {"total_molecules", "successful_count", "failed_count", "skipped_count", "waiting_count"}
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows of one table.

    Parameters
    ----------
    inserted
        Rows that are new.
    existing
        Rows that were stored already.
    """

    inserted: int
    existing: int


@contextmanager
def restoring(engine: Engine, scope: Scope) -> Iterator[Connection]:
    """One transaction with an empty staging table for each table; it commits at the end of the block.

    Parameters
    ----------
    engine
        Engine of the login that writes.
    scope
        As whom it writes.

    Yields
    ------
    sqlalchemy.Connection
        For the other functions here and in :mod:`qforge_sdk.db.restore_tenant`.

    Raises
    ------
    SchemaMissing, SchemaOutdated
        The database is not of this package's revision.
    QForgeError
        What the server reported; everything is rolled back then.
    """
    with translated(), engine.connect() as connection, connection.begin():
        enter(connection, scope)
        schema.require_current(connection)
        cursor = cursor_of(connection)
        # Batches come with their status, to the service with their counts too.
        cursor.execute("SELECT set_config('qforge.restoring', 'on', true)")
        for table in TABLES:
            cursor.execute(
                SQL("CREATE TEMP TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED) ON COMMIT DROP").format(
                    Identifier(f"restore_{table}"), stored(table)
                )
            )
        yield connection


def require_known_revision(found: str) -> None:
    """Return if rows of that schema revision fit into this package's.

    Parameters
    ----------
    found
        Revision that the rows were exported from.

    Raises
    ------
    SchemaOutdated
        This package does not know it.
    """
    folder = str(Path(migrations.__file__).parent)
    known = {script.revision for script in ScriptDirectory(folder).walk_revisions()}
    if found not in known:
        expected = schema.head_revision()
        raise SchemaOutdated(
            f"the export is of schema revision {found}, this package knows {expected} and older ones; "
            "upgrade qforge_sdk",
            found=found,
            expected=expected,
        )


def stage(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[pa.Table]) -> int:
    """Load exported rows into the staging table; columns that they lack get their defaults.

    Parameters
    ----------
    connection
        From :func:`restoring`.
    table
        Whose rows.
    columns
        What the rows hold.
    rows
        All of one schema.

    Returns
    -------
    int
        How many.

    Raises
    ------
    QForgeError
        What the server reported.
    """
    cursor = cursor_of(connection)
    every: Any = TABLES[table].__table__.columns
    n_rows = copy_in(cursor, staged(table), [every[name] for name in columns], rows)
    cursor.execute(SQL("ANALYZE {}").format(staged(table)))
    return n_rows


def reserve_ids(connection: Connection, tables: Sequence[str]) -> None:
    """Move the sequences beyond the staged ids; a rollback leaves them there, which costs nothing.

    Events need it before anything is inserted: the audit of the restore itself takes new ids of theirs.

    Parameters
    ----------
    connection
        From :func:`restoring`.
    tables
        Those that were staged.
    """
    for table in tables:
        if "id" in TABLES[table].__table__.columns:
            cursor_of(connection).execute(
                SQL(
                    "SELECT setval(q.name, s.id) FROM (SELECT max(id) AS id FROM {staged}) AS s, "
                    "(SELECT pg_get_serial_sequence({name}, 'id') AS name) AS q "
                    "WHERE s.id > coalesce(pg_sequence_last_value(q.name::regclass), 0)"
                ).format(staged=staged(table), name=Literal(f"public.{table}"))
            )


def insert_as_exported(connection: Connection, table: str) -> Counts:
    """Insert the staged rows that are not stored yet.

    Parameters
    ----------
    connection
        From :func:`restoring`, as the service.
    table
        Whose staged rows.

    Returns
    -------
    Counts
        Of all staged rows.

    Raises
    ------
    Conflict
        A row of the same key is stored and differs, or a unique constraint speaks.
    InvalidInput
        A parent is neither stored nor part of the export.
    """
    cursor = cursor_of(connection)
    cursor.execute(SQL("SELECT count(*) FROM {}").format(staged(table)))
    rows = fetch_one(cursor)
    _refuse_other_content(cursor, table)
    # 1M calculations into an empty table: 8 s, against 19 s with its indexes in place.
    with without_indexes(cursor, f"public.{table}", rows=rows):
        cursor.execute(
            SQL(
                "INSERT INTO {stored} ({names}) SELECT {names} FROM {staged} AS s "
                "WHERE NOT EXISTS (SELECT FROM {stored} AS t WHERE {same_key})"
            ).format(
                stored=stored(table), names=names(_columns(table)), staged=staged(table), same_key=_same_key(table)
            )
        )
        inserted = cursor.rowcount
    return Counts(inserted, rows - inserted)


def recount(connection: Connection) -> None:
    """Correct the counts of batches, whose items may have come without them.

    Parameters
    ----------
    connection
        From :func:`restoring`, as the service, everything inserted.
    """
    cursor_of(connection).execute("SELECT qforge.recount_batches()")


def read_restored(connection: Connection, table: str, schema_: pa.Schema, take: Callable[[pa.Table], None]) -> None:
    """Read the stored rows that have the keys of the staged ones.

    Parameters
    ----------
    connection
        From :func:`restoring`; what it has inserted is seen.
    table
        Whose rows.
    schema_
        Arrow schema of the exported columns.
    take
        Called with tables of that schema.
    """
    query = SQL("SELECT {columns} FROM {stored} AS t JOIN {staged} AS s ON {same_key}").format(
        columns=_readable(table, schema_, "t"),
        stored=stored(table),
        staged=staged(table),
        same_key=_same_key(table),
    )
    copy_out(cursor_of(connection), query, schema_, take)


def read_staged(connection: Connection, table: str, schema_: pa.Schema, take: Callable[[pa.Table], None]) -> None:
    """Read the staged rows; parameters as for :func:`read_restored`."""
    query = SQL("SELECT {} FROM {} AS s").format(_readable(table, schema_, "s"), staged(table))
    copy_out(cursor_of(connection), query, schema_, take)


def cursor_of(connection: Connection) -> Cursor:
    """The driver's cursor in the transaction of ``connection``."""
    driver: Any = connection.connection
    cursor: Cursor = driver.cursor()
    return cursor


def stored(table: str) -> Composable:
    """Quoted name of a table."""
    return Identifier("public", table)


def staged(table: str) -> Composable:
    """Quoted name of its staging table."""
    return Identifier("pg_temp", f"restore_{table}")


def names(columns: Iterable[str], alias: str | None = None) -> Composable:
    """List of quoted column names."""
    return SQL(", ").join(Identifier(alias, name) if alias else Identifier(name) for name in columns)


def fetch_one(cursor: Cursor) -> Any:
    """The only value of the only row."""
    (value,) = cursor.fetchone() or (None,)
    return value


def _columns(table: str) -> list[str]:
    return [column.name for column in TABLES[table].__table__.columns if column.computed is None]


def _readable(table: str, schema_: pa.Schema, alias: str) -> Composable:
    every: Any = TABLES[table].__table__.columns
    return SQL(", ").join(readable(every[name], alias) for name in schema_.names)


def _same_key(table: str) -> Composable:
    return SQL(" AND ").join(
        SQL("t.{key} IS NOT DISTINCT FROM s.{key}" if key == "user_id" else "t.{key} = s.{key}").format(
            key=Identifier(key)
        )
        for key in _KEYS.get(table, ("id",))
    )


def _refuse_other_content(cursor: Cursor, table: str) -> None:
    compared = [column for column in _columns(table) if column not in _COUNTED.get(table, ())]
    # record_image_ne compares what is stored, bit by bit: 0.0 and -0.0 differ, and so do 1.0 and 1.00 inside jsonb.
    cursor.execute(
        SQL(
            "SELECT {key} FROM {staged} AS s JOIN {stored} AS t ON {same_key} "
            "WHERE record_image_ne(ROW({theirs}), ROW({ours})) LIMIT 1"
        ).format(
            key=Identifier("s", _KEYS.get(table, ("id",))[0]),
            staged=staged(table),
            stored=stored(table),
            same_key=_same_key(table),
            theirs=names(compared, "t"),
            ours=names(compared, "s"),
        )
    )
    differing = cursor.fetchone()
    if differing is not None:
        raise Conflict(
            f"{table}: row {differing[0]} is stored already with other content than the export's; nothing was "
            "loaded. Restore into another database, or delete what stands in the way",
            existing_id=differing[0],
        )
