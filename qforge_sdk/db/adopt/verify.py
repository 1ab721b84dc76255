"""The new rows against the old ones, before the old ones go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.sql import SQL, Composable, Identifier, Literal

from qforge_sdk.db.adopt.move import Moved, extra_columns
from qforge_sdk.db.adopt.old_tables import OldTable
from qforge_sdk.db.adopt.rules import JSON, RULES
from qforge_sdk.db.adopt.steps import STEPS
from qforge_sdk.errors import DatabaseError

_KEYS: Final = {"atomic_properties": ("calculation_id", "atom_index")}
# What a structure becomes is RDKit's word, not the old row's.
_COMPUTED: Final = {"molecules": frozenset({"smiles", "formula"})}

_DIFFERING: Final = """
    SELECT count(*), min(o.id) FROM {old} AS o LEFT JOIN public.{table} AS n ON {same_key}
    WHERE NOT EXISTS (SELECT FROM pg_temp.adoption_aside AS a WHERE a.entity = {entity} AND a.id = o.id)
          AND (n.{key} IS NULL OR {differs})
"""
_TOLD: Final = (
    "NOT EXISTS (SELECT FROM pg_temp.adoption_doubts AS d "
    'WHERE d.entity = {entity} AND d.id = o.id AND d."column" = {column})'
)


def verify(cursor: Cursor, table: OldTable, moved: Moved) -> None:
    """Return if every old row is there, and every value that no doubt names is the same.

    Parameters
    ----------
    cursor
        In the transaction.
    table
        The old one.
    moved
        What was counted.

    Raises
    ------
    DatabaseError
        Something is not as it was.
    """
    if moved.found != moved.adopted + moved.set_aside:
        raise DatabaseError(
            f"{table.name}: of {moved.found:,} rows {moved.adopted:,} were adopted and {moved.set_aside:,} set "
            "aside; nothing was changed"
        )
    keys = _KEYS.get(table.name, ("id",))
    cursor.execute(
        table.fill(
            _DIFFERING,
            table=Identifier(table.name),
            entity=Literal(table.name),
            key=Identifier(keys[0]),
            same_key=SQL(" AND ").join(SQL("n.{} = {}").format(Identifier(key), table.cast(key)) for key in keys),
            differs=SQL(" OR ").join(_differences(table)),
        )
    )
    differing, first = cursor.fetchone() or (0, None)
    if differing:
        raise DatabaseError(
            f"{table.name}: {differing:,} rows are not as they were, the first is {first}; nothing was changed"
        )


def _differences(table: OldTable) -> Iterator[Composable]:
    step = STEPS[table.name]
    left_out: Any = _COMPUTED.get(table.name, frozenset()) | {*step.leave_out}
    if "user_id" in step.instead:
        left_out |= {"user_id"}
    for rule in RULES[table.name]:
        if rule.name in left_out or table.source(rule) is None:
            continue
        now, before = SQL("n.{}").format(Identifier(rule.name)), table.given(rule.name)
        if rule.kind is JSON:
            now, before = SQL("{} - 'adopted'").format(now), SQL("({})::jsonb - 'adopted'").format(before)
        told = SQL(_TOLD).format(entity=Literal(table.name), column=Literal(rule.name))
        yield SQL("({} IS DISTINCT FROM {} AND {})").format(now, before, told)
    if table.extra:
        kept = SQL("n.{} -> 'adopted' -> 'columns'").format(Identifier(step.account_in))
        yield SQL("{} IS DISTINCT FROM {}").format(kept, extra_columns(table))
    if table.name == "molecules":
        yield SQL("n.input_smiles IS DISTINCT FROM {}").format(table.cast("smiles"))
    elif "user_id" in step.instead:
        yield _OWNER[table.name]


_OWNER: Final = {
    "atomic_properties": SQL(
        "n.user_id IS DISTINCT FROM (SELECT c.user_id FROM public.calculations AS c WHERE c.id = n.calculation_id)"
    ),
    "batch_items": SQL(
        "n.user_id IS DISTINCT FROM (SELECT b.user_id FROM public.batch_jobs AS b WHERE b.id = n.batch_id)"
    ),
}
