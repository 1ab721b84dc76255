"""Exported rows into the database as a tenant's own: new ids, references moved along, times by the database.

A tenant may choose neither ids nor times nor owners, and row level security decides what it sees. So each staged row
is matched with one that the tenant sees, or inserted as its own:

- A molecule matches one of the same identity, its own before a public one (the other way round for a public row).
- A calculation or batch matches one of the same content; of several equal ones the first matches the first, and so
  on. The tenant's rows match only its own, public rows match public ones and then its own.
- An atom or batch item matches the row of the same content below the same parents.

Events are left out: they tell what happened to other rows in another database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names its class in lower case)
from psycopg2.sql import SQL, Composable, Identifier, Literal
from sqlalchemy import Connection

from qforge_sdk.db.models import PUBLIC_USER_ID, TABLES
from qforge_sdk.db.restore import Counts, cursor_of, fetch_one, names, staged, stored
from qforge_sdk.errors import ExportMismatch, InvalidInput

#: Tables whose rows a tenant can restore as its own.
RESTORABLE: Final = tuple(table for table in TABLES if table != "event_logs")

_NOT_OURS_TO_SET: Final = frozenset(
    {
        "id",
        "user_id",
        "created_at",
        "updated_at",
        "successful_count",
        "failed_count",
        "skipped_count",
        "waiting_count",
    }
)


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A table whose rows others refer to.

    Parameters
    ----------
    table
        Its name.
    candidates
        SQL condition on its stored rows ``t`` that those which could match fulfil.
    """

    table: str
    candidates: Composable


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A table whose rows are found below their parents.

    Parameters
    ----------
    table
        Its name.
    key
        Columns that name a row, references moved along.
    """

    table: str
    key: tuple[str, ...]


_KEYED: Final = (
    _Keyed(
        "calculations",
        SQL("t.molecule_id IN (SELECT new_id FROM pg_temp.matched_molecules WHERE NOT inserted)"),
    ),
    _Keyed("batch_jobs", SQL("t.batch_name IN (SELECT batch_name FROM pg_temp.restore_batch_jobs)")),
)
_LEAVES: Final = (
    _Leaf("atomic_properties", ("calculation_id", "atom_index")),
    _Leaf("batch_items", ("batch_id", "molecule_id")),
)


def restore_as_own(connection: Connection) -> dict[str, Counts]:
    """Match or insert all staged rows, and compare what is stored then with what was staged.

    Parameters
    ----------
    connection
        From :func:`qforge_sdk.db.restore.restoring`, as a tenant, every table staged.

    Returns
    -------
    dict[str, Counts]
        By table, without events.

    Raises
    ------
    InvalidInput
        The rows belong to several tenants or to nobody, or refer to a row that was not exported with them.
    Conflict
        A row of the same key (source_id, atom, molecule of a batch) is stored and differs.
    ExportMismatch
        What is stored is not what was staged.
    """
    cursor = cursor_of(connection)
    _refuse_other_owners(cursor)
    for table in ("molecules", *(keyed.table for keyed in _KEYED)):
        cursor.execute(
            SQL(
                "CREATE TEMP TABLE {} (old_id bigint PRIMARY KEY, new_id bigint NOT NULL, inserted boolean NOT NULL) "
                "ON COMMIT DROP"
            ).format(Identifier(f"matched_{table}"))
        )
    counts = {"molecules": _match_molecules(cursor)}
    for keyed in _KEYED:
        counts[keyed.table] = _match_keyed(cursor, keyed)
    for leaf in _LEAVES:
        counts[leaf.table] = _match_leaf(cursor, leaf)
    return {table: counts[table] for table in RESTORABLE}


def _refuse_other_owners(cursor: Cursor) -> None:
    owners = SQL(" UNION ").join(SQL("SELECT user_id FROM {}").format(staged(table)) for table in RESTORABLE)
    cursor.execute(
        SQL(
            "SELECT count(*) FILTER (WHERE user_id <> {public}), count(*) FILTER (WHERE user_id IS NULL) "
            "FROM ({}) AS owners"
        ).format(owners, public=_public())
    )
    tenants, unowned = cursor.fetchone() or (0, 0)
    if tenants > 1 or unowned:
        raise InvalidInput(
            "this export holds rows of several owners; a tenant can restore its own rows and public ones, "
            "the service restores the rest",
            field="folder",
        )


def _match_molecules(cursor: Cursor) -> Counts:
    for statement in _MOLECULES:
        cursor.execute(
            SQL(statement).format(
                columns=names(_content("molecules")), chosen=names(_content("molecules"), "c"), public=_public()
            )
        )
    _compare_keyed(cursor, "molecules", SQL("SELECT s.id AS old_id, s.* FROM {} AS s").format(staged("molecules")))
    return _counts(cursor, "molecules")


_MOLECULES: Final = (
    """
    INSERT INTO pg_temp.matched_molecules
    SELECT DISTINCT ON (s.id) s.id, m.id, false
    FROM pg_temp.restore_molecules AS s JOIN public.molecules AS m ON m.identity_hash = s.identity_hash
    ORDER BY s.id, (m.user_id = {public}) <> (s.user_id = {public})
    """,
    """
    INSERT INTO public.molecules (user_id, {columns})
    SELECT (SELECT qforge.current_user_id()), {chosen} FROM (
        SELECT DISTINCT ON (s.identity_hash) s.* FROM pg_temp.restore_molecules AS s
        WHERE NOT EXISTS (SELECT FROM pg_temp.matched_molecules AS a WHERE a.old_id = s.id)
        ORDER BY s.identity_hash, s.user_id = {public}, s.id
    ) AS c
    """,
    """
    INSERT INTO pg_temp.matched_molecules
    SELECT s.id, m.id,
           s.id = first_value(s.id) OVER (PARTITION BY s.identity_hash ORDER BY s.user_id = {public}, s.id)
    FROM pg_temp.restore_molecules AS s JOIN public.molecules AS m ON m.identity_hash = s.identity_hash
    WHERE NOT EXISTS (SELECT FROM pg_temp.matched_molecules AS a WHERE a.old_id = s.id)
    """,
    "ANALYZE pg_temp.matched_molecules",
)


def _match_keyed(cursor: Cursor, keyed: _Keyed) -> Counts:
    table = keyed.table
    _refuse_missing_parents(cursor, table)
    content = _content(table)
    for statement in _KEYED_STATEMENTS:
        cursor.execute(
            SQL(statement).format(
                moved=_moved(table),
                stored=stored(table),
                matched=_matched(table),
                candidates=keyed.candidates,
                columns=names(content),
                ours=names(content, "s"),
                theirs=names(content, "t"),
                public=_public(),
            )
        )
    _compare_keyed(cursor, table, _moved(table))
    cursor.execute("DROP TABLE pg_temp.wanted, pg_temp.found")
    return _counts(cursor, table)


_KEYED_STATEMENTS: Final = (
    "SET LOCAL extra_float_digits = 1",
    """
    CREATE TEMP TABLE wanted AS
    SELECT s.old_id, s.user_id = {public} AS shared, sha256(convert_to(ROW({ours})::text, 'UTF8')) AS content
    FROM ({moved}) AS s
    """,
    """
    CREATE TEMP TABLE found AS
    SELECT t.id, t.user_id = {public} AS shared, sha256(convert_to(ROW({theirs})::text, 'UTF8')) AS content
    FROM {stored} AS t WHERE {candidates}
    """,
    "ANALYZE pg_temp.wanted, pg_temp.found",
    """
    INSERT INTO {matched}
    SELECT w.old_id, f.id, false
    FROM (SELECT *, row_number() OVER (PARTITION BY content, shared ORDER BY old_id) AS n FROM pg_temp.wanted) AS w
    JOIN (SELECT *, row_number() OVER (PARTITION BY content, shared ORDER BY id) AS n FROM pg_temp.found) AS f
        USING (content, shared, n)
    """,
    """
    INSERT INTO {matched}
    SELECT w.old_id, f.id, false
    FROM (SELECT *, row_number() OVER (PARTITION BY content ORDER BY old_id) AS n FROM pg_temp.wanted AS x
          WHERE shared AND NOT EXISTS (SELECT FROM {matched} AS a WHERE a.old_id = x.old_id)) AS w
    JOIN (SELECT *, row_number() OVER (PARTITION BY content ORDER BY id) AS n FROM pg_temp.found AS x
          WHERE NOT shared AND NOT EXISTS (SELECT FROM {matched} AS a WHERE a.new_id = x.id)) AS f
        USING (content, n)
    """,
    # Ids are drawn in the order of the subquery, so the n-th new id belongs to the n-th old one.
    """
    WITH missing AS MATERIALIZED (
        SELECT s.* FROM ({moved}) AS s
        WHERE NOT EXISTS (SELECT FROM {matched} AS a WHERE a.old_id = s.old_id)
    ), added AS (
        INSERT INTO {stored} (user_id, {columns})
        SELECT (SELECT qforge.current_user_id()), {ours} FROM (SELECT * FROM missing ORDER BY old_id) AS s
        RETURNING id
    )
    INSERT INTO {matched}
    SELECT m.old_id, i.id, true
    FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM added) AS i
    JOIN (SELECT old_id, row_number() OVER (ORDER BY old_id) AS n FROM missing) AS m USING (n)
    """,
    "ANALYZE {matched}",
)


def _match_leaf(cursor: Cursor, leaf: _Leaf) -> Counts:
    table = leaf.table
    _refuse_missing_parents(cursor, table)
    content = _content(table)
    parts = {
        "moved": _moved(table),
        "stored": stored(table),
        "columns": names(content),
        "ours": names(content, "s"),
        "theirs": names(content, "t"),
        "same_key": SQL(" AND ").join(SQL("t.{key} = s.{key}").format(key=Identifier(key)) for key in leaf.key),
    }
    cursor.execute(SQL(_INSERT_LEAVES).format(**parts))
    inserted = cursor.rowcount
    cursor.execute(SQL(_COUNT_EQUAL_LEAVES).format(**parts))
    equal, expected = fetch_one(cursor), _count(cursor, staged(table))
    _require_equal(table, equal, expected)
    return Counts(inserted, expected - inserted)


_INSERT_LEAVES: Final = """
    INSERT INTO {stored} (user_id, {columns})
    SELECT (SELECT qforge.current_user_id()), {ours} FROM ({moved}) AS s
    WHERE NOT EXISTS (SELECT FROM {stored} AS t WHERE {same_key} AND record_image_eq(ROW({theirs}), ROW({ours})))
"""
_COUNT_EQUAL_LEAVES: Final = """
    SELECT count(*) FROM ({moved}) AS s
    WHERE EXISTS (SELECT FROM {stored} AS t WHERE {same_key} AND record_image_eq(ROW({theirs}), ROW({ours})))
"""


def _compare_keyed(cursor: Cursor, table: str, moved: Composable) -> None:
    """Every row has its counterpart, and the inserted and equal ones hold the same bits.

    A molecule that was there already is the same structure, though its name or metadata may differ.
    """
    matched = _matched(table)
    condition = SQL("a.inserted" if table == "molecules" else "true")
    cursor.execute(
        SQL(
            "SELECT count(*) FROM ({moved}) AS s JOIN {matched} AS a USING (old_id) "
            "JOIN {stored} AS t ON t.id = a.new_id WHERE {condition} AND record_image_eq(ROW({theirs}), ROW({ours}))"
        ).format(
            moved=moved,
            matched=matched,
            stored=stored(table),
            condition=condition,
            theirs=names(_content(table), "t"),
            ours=names(_content(table), "s"),
        )
    )
    equal = fetch_one(cursor)
    _require_equal(table, equal, _count(cursor, SQL("{} AS a WHERE {}").format(matched, condition)))
    _require_equal(table, _count(cursor, matched), _count(cursor, staged(table)))


def _require_equal(table: str, equal: int, expected: int) -> None:
    if equal != expected:
        raise ExportMismatch(
            f"{table}: {expected - equal} of {expected} rows are stored otherwise than they were exported; "
            "nothing was loaded"
        )


def _refuse_missing_parents(cursor: Cursor, table: str) -> None:
    for column, parent in _references(table).items():
        cursor.execute(
            SQL(
                "SELECT s.{column} FROM {staged} AS s WHERE s.{column} IS NOT NULL "
                "AND NOT EXISTS (SELECT FROM {matched} AS a WHERE a.old_id = s.{column}) LIMIT 1"
            ).format(column=Identifier(column), staged=staged(table), matched=_matched(parent))
        )
        missing = cursor.fetchone()
        if missing is not None:
            raise InvalidInput(
                f"{table}: {column} {missing[0]} is not part of this export; as a tenant, whose rows get new ids, "
                f"restore from an export of {parent} and {table} together",
                field=column,
                value=missing[0],
            )


def _moved(table: str) -> Composable:
    """Staged rows of ``table`` with their references moved to the new ids."""
    references = _references(table)
    columns: list[Composable] = [
        SQL("a_{}.new_id AS {}").format(SQL(column), Identifier(column))
        if column in references
        else Identifier("s", column)
        for column in ("user_id", *_content(table))
    ]
    if "id" in TABLES[table].__table__.columns:
        columns.append(SQL("s.id AS old_id"))
    joins = [
        SQL("LEFT JOIN {matched} AS a_{column} ON a_{column}.old_id = s.{column}").format(
            matched=_matched(parent), column=SQL(column)
        )
        for column, parent in references.items()
    ]
    return SQL("SELECT {} FROM {} AS s {}").format(SQL(", ").join(columns), staged(table), SQL(" ").join(joins))


def _references(table: str) -> dict[str, str]:
    """Column that refers to another table, to that table's name."""
    return {key.parent.name: key.column.table.name for key in TABLES[table].__table__.foreign_keys}


def _content(table: str) -> list[str]:
    """Columns that a tenant may set, apart from the owner."""
    columns: Any = TABLES[table].__table__.columns
    return [column.name for column in columns if column.computed is None and column.name not in _NOT_OURS_TO_SET]


def _counts(cursor: Cursor, table: str) -> Counts:
    cursor.execute(SQL("SELECT count(*) FILTER (WHERE inserted), count(*) FROM {}").format(_matched(table)))
    inserted, rows = cursor.fetchone() or (0, 0)
    return Counts(inserted, rows - inserted)


def _count(cursor: Cursor, source: Composable) -> int:
    cursor.execute(SQL("SELECT count(*) FROM {}").format(source))
    return int(fetch_one(cursor))


def _matched(table: str) -> Composable:
    return Identifier("pg_temp", f"matched_{table}")


def _public() -> Composable:
    return SQL("{}::uuid").format(Literal(str(PUBLIC_USER_ID)))
