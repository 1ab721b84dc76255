"""Load an empty table without its indexes and keys, and make them afterwards: sorting beats inserting one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg2.errors
from psycopg2.extensions import cursor as Cursor  # noqa: N812

# Below this the four rounds of DDL cost more than they save.
WORTH_ROWS: Final = 50_000

_PARTS = """
WITH this AS (SELECT %(table)s::regclass AS oid)
SELECT c.contype = 'f' AS is_foreign,
       format('ALTER TABLE %%s DROP CONSTRAINT %%I', c.conrelid::regclass, c.conname) AS drop,
       format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
FROM pg_constraint AS c, this
WHERE (c.conrelid = this.oid AND c.contype IN ('p', 'u', 'f')) OR (c.confrelid = this.oid AND c.contype = 'f')
UNION ALL
SELECT false, format('DROP INDEX %%s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid)
FROM pg_index AS i, this
WHERE i.indrelid = this.oid AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)
"""

# Dropping a foreign key takes both of its tables away from their readers until the transaction ends.
_CONNECTED = """
WITH this AS (SELECT %(table)s::regclass AS oid)
SELECT format('%%I.%%I', n.nspname, r.relname), pg_has_role(r.relowner, 'USAGE')
FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace, this
WHERE r.oid = this.oid OR EXISTS (
    SELECT FROM pg_constraint AS c
    WHERE c.contype = 'f' AND ((c.conrelid = this.oid AND c.confrelid = r.oid)
        OR (c.confrelid = this.oid AND c.conrelid = r.oid))
)
"""


@dataclass(frozen=True, slots=True)
class _Part:
    is_foreign: bool
    drop: str
    make: str


@contextmanager
def without_indexes(cursor: Cursor, table: str, *, rows: int) -> Iterator[bool]:
    """Drop indexes, keys and foreign keys of an empty table for the block and make the same ones after it.

    It is done only where it pays and nobody has to be waited for: many rows, an empty table that this role owns, and
    locks that are free right now on it and on the tables that foreign keys connect it to.

    Parameters
    ----------
    cursor
        In the transaction of the load.
    table
        Qualified name.
    rows
        How many are about to be loaded.

    Yields
    ------
    bool
        Whether it was done; the table was truncated then.
    """
    if rows < WORTH_ROWS or not _taken_empty(cursor, table):
        yield False
        return
    # With an empty path every name in the definitions is qualified.
    cursor.execute("SELECT current_setting('search_path'), set_config('search_path', 'pg_catalog', true)")
    search_path = (cursor.fetchone() or ("",))[0]
    cursor.execute(_PARTS, {"table": table})
    parts = [_Part(*row) for row in cursor.fetchall()]
    for part in sorted(parts, key=lambda part: not part.is_foreign):
        cursor.execute(part.drop)
    # Its new file need not be logged where wal_level is minimal: it is synced at commit.
    cursor.execute(f"TRUNCATE {table}")
    yield True
    for part in sorted(parts, key=lambda part: part.is_foreign):
        cursor.execute(part.make)
    cursor.execute(f"ANALYZE {table}")
    cursor.execute("SELECT set_config('search_path', %s, true)", (search_path,))


def _taken_empty(cursor: Cursor, table: str) -> bool:
    """Whether the table is empty, and this transaction's alone with those that its foreign keys connect it to."""
    cursor.execute(_CONNECTED, {"table": table})
    connected, owned = zip(*cursor.fetchall(), strict=True)
    if not all(owned) or not _is_empty(cursor, table):
        return False
    cursor.execute("SAVEPOINT before_lock")
    try:
        cursor.execute(f"LOCK TABLE {', '.join(connected)} IN ACCESS EXCLUSIVE MODE NOWAIT")
    except psycopg2.errors.LockNotAvailable:
        cursor.execute("ROLLBACK TO SAVEPOINT before_lock")
        return False
    if not _is_empty(cursor, table):
        cursor.execute("ROLLBACK TO SAVEPOINT before_lock")
        return False
    cursor.execute("RELEASE SAVEPOINT before_lock")
    return True


def _is_empty(cursor: Cursor, table: str) -> bool:
    cursor.execute(f"SELECT NOT EXISTS (SELECT FROM {table})")
    return cursor.fetchone() == (True,)
