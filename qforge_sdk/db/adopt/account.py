"""The account of an adoption: doubts for the report, events for the audit trail."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extras import execute_values
from psycopg2.sql import SQL, Composable, Identifier, Literal

from qforge_sdk.db.adopt.dependents import Dropped
from qforge_sdk.db.adopt.move import Moved, record_aside
from qforge_sdk.db.adopt.old_tables import OldTable
from qforge_sdk.db.bulk.spill import Spill
from qforge_sdk.db.copy import copy_out
from qforge_sdk.db.models import TABLES
from qforge_sdk.schemas.reports import DOUBT_COLUMNS

_SCHEMA: Final = pa.schema([(name, pa.int64() if name == "id" else pa.string()) for name in DOUBT_COLUMNS])
_ORDER: Final = SQL("array_position(ARRAY[{}], d.entity)").format(SQL(", ").join(map(Literal, TABLES)))

# An atom's key is its calculation's and its place in it.
_DOUBTS: Final = """
    SELECT d.entity, {id}, d."column", d.value, d.code, {reason} FROM pg_temp.adoption_doubts AS d {atoms}
    ORDER BY {order} NULLS LAST, d.id NULLS FIRST, d."column", d.code
"""
_SUMMARY: Final = """
    SELECT d.entity, d.code, count(*) FROM pg_temp.adoption_doubts AS d
    GROUP BY d.entity, d.code ORDER BY {order} NULLS LAST, d.entity, d.code
"""
_ADOPTED: Final = """
    INSERT INTO public.event_logs (user_id, event_type, entity_type, context, service)
    VALUES (NULL, 'database_adopted', 'system', %(context)s || jsonb_build_object('doubts', (
        SELECT coalesce(jsonb_object_agg(code, n), '{}')
        FROM (SELECT code, count(*) AS n FROM pg_temp.adoption_doubts GROUP BY code) AS d)), 'adopt')
"""
_ADOPTED_OF: Final = SQL("""
    INSERT INTO public.event_logs (user_id, event_type, entity_type, context, service)
    SELECT user_id, 'database_adopted', 'system',
           jsonb_build_object('rows', jsonb_object_agg(entity, n)), 'adopt'
    FROM ({}) AS owned (user_id, entity, n) WHERE user_id <> '00000000-0000-0000-0000-000000000000' GROUP BY user_id
""")


_MISCOUNTED: Final = """
    SELECT b.id, b.user_id, c.*
    FROM public.batch_jobs AS b
    CROSS JOIN LATERAL (
        SELECT count(*) AS items, count(*) FILTER (WHERE i.status = 'completed') AS completed,
               count(*) FILTER (WHERE i.status = 'failed') AS failed
        FROM public.batch_items AS i WHERE i.batch_id = b.id
    ) AS n
    CROSS JOIN LATERAL (VALUES
        ('total_molecules', b.total_molecules, greatest(b.total_molecules, n.items)),
        ('successful_count', b.successful_count, n.completed), ('failed_count', b.failed_count, n.failed)
    ) AS c ("column", stored, counted)
    WHERE c.stored <> c.counted
"""
_COUNTS: Final = (
    f"CREATE TEMPORARY TABLE adoption_miscounted ON COMMIT DROP AS {_MISCOUNTED}",
    """
    INSERT INTO pg_temp.adoption_doubts (entity, id, "column", value, code, reason)
    SELECT 'batch_jobs', id, "column", stored, 'count_corrected', concat('its items give ', counted)
    FROM pg_temp.adoption_miscounted
    """,
    """
    INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, status, context, service)
    SELECT user_id, 'batch_counts_corrected', 'batch_jobs', id, 'warning',
           jsonb_build_object('before', jsonb_object_agg("column", stored),
                              'after', jsonb_object_agg("column", counted)), 'adopt'
    FROM pg_temp.adoption_miscounted GROUP BY user_id, id ORDER BY id
    """,
    "SELECT qforge.recount_batches()",
)


def correct_counts(cursor: Cursor) -> None:
    """Let the counts of batches agree with their items; each that did not is a doubt, and an event keeps it."""
    for statement in _COUNTS:
        cursor.execute(statement)


def note_dropped(cursor: Cursor, dropped: Iterable[Dropped]) -> None:
    """Put what hung on the old tables on the list of doubts."""
    lines = [(one.table, one.name, one.definition, f"{one.kind}_dropped", one.reason) for one in dropped]
    execute_values(
        cursor, 'INSERT INTO pg_temp.adoption_doubts (entity, "column", value, code, reason) VALUES %s', lines
    )


def collect_doubts(cursor: Cursor, tables: Mapping[str, OldTable]) -> dict[str, Any]:
    """Doubts as the report takes them: a frame, or a file when they are many.

    Parameters
    ----------
    cursor
        In the transaction.
    tables
        The old ones, still there.

    Returns
    -------
    dict
        Arguments of AdoptionReport.
    """
    atoms = tables.get("atomic_properties")
    parts: dict[str, Composable] = {"id": SQL("d.id"), "reason": SQL("d.reason"), "atoms": SQL("")}
    if atoms is not None:
        parts = {
            "id": atoms.fill("CASE WHEN o.id IS NULL THEN d.id ELSE {calculation_id} END"),
            "reason": atoms.fill("CASE WHEN o.id IS NULL THEN d.reason "
                                 "ELSE concat('atom ', {atom_index}, ': ', d.reason) END"),
            "atoms": atoms.fill("LEFT JOIN {old} AS o ON d.entity = 'atomic_properties' AND o.id = d.id"),
        }  # fmt: skip
    lines = Spill(_SCHEMA, "qforge-doubts-")
    copy_out(cursor, SQL(_DOUBTS).format(order=_ORDER, **parts), _SCHEMA, lines.add)
    held = lines.close()
    cursor.execute(SQL(_SUMMARY).format(order=_ORDER))
    summary = pd.DataFrame(cursor.fetchall(), columns=["table", "code", "doubts"])
    counted = {"summary": summary.astype({"table": "str", "code": "str", "doubts": "int64"})}
    if isinstance(held, Path):
        return {"doubts_path": held, **counted}
    types = {name: "Int64" if name == "id" else "str" for name in DOUBT_COLUMNS}
    return {"_doubts": held.to_pandas().astype(types), **counted}


def record(
    cursor: Cursor,
    tables: Mapping[str, OldTable],
    moved: Mapping[str, Moved],
    *,
    added: int,
    dropped: Iterable[Dropped],
) -> None:
    """Leave an event about the adoption, one for each tenant with its own counts, and one for each row set aside.

    Parameters
    ----------
    cursor
        In the transaction.
    tables
        The old ones, still there.
    moved
        Counts by table.
    added
        Molecules that were made.
    dropped
        What is gone.
    """
    for name, table in tables.items():
        if moved[name].set_aside:
            record_aside(cursor, table)
    context = {
        "tables": {name: {"found": one.found, "adopted": one.adopted, "set_aside": one.set_aside}
                   for name, one in moved.items()},
        "molecules_added": added,
        "dropped": [{"table": one.table, "kind": one.kind, "name": one.name, "definition": one.definition}
                    for one in dropped],
    }  # fmt: skip
    cursor.execute(_ADOPTED, {"context": json.dumps(context)})
    owned = SQL(" UNION ALL ").join(
        SQL("SELECT user_id, {}, count(*) FROM {} GROUP BY user_id").format(Literal(name), Identifier("public", name))
        for name in tables
        if name != "event_logs"
    )
    cursor.execute(
        _ADOPTED_OF.format(SQL("SELECT user_id, entity, n FROM ({}) AS counted (user_id, entity, n)").format(owned))
    )
