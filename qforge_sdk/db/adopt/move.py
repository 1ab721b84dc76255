"""Rows from the old tables to the new ones: a few statements a table, no row leaves the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.sql import SQL, Composable, Identifier, Literal

from qforge_sdk.db.adopt.old_tables import ASIDE, OldColumn, OldTable
from qforge_sdk.db.adopt.rules import RULES
from qforge_sdk.db.adopt.steps import STEPS, Step
from qforge_sdk.db.bulk.rebuild import without_indexes
from qforge_sdk.db.restore import fetch_one, names

_SETUP: Final = (
    """
    CREATE TEMPORARY TABLE adoption_doubts (
        entity text NOT NULL, id bigint, "column" text, value text, code text NOT NULL, reason text NOT NULL
    ) ON COMMIT DROP
    """,
    """
    CREATE TEMPORARY TABLE adoption_aside (
        entity text, id bigint, code text NOT NULL, reason text NOT NULL, PRIMARY KEY (entity, id)
    ) ON COMMIT DROP
    """,
    # A json may hold what jsonb refuses, a NUL for one.
    """
    CREATE FUNCTION pg_temp.adoption_jsonb(value json) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        RETURN value::jsonb;
    EXCEPTION
        WHEN data_exception THEN RETURN NULL;
    END $$
    """,
)


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of the rows of one table.

    Parameters
    ----------
    found
        Rows of the old table.
    adopted
        Those that the new one holds.
    set_aside
        Those that it cannot hold, kept as events.
    """

    found: int
    adopted: int
    set_aside: int


def set_up(cursor: Cursor) -> None:
    """Make the temporary tables in which the account is kept."""
    for statement in _SETUP:
        cursor.execute(statement)


def tear_down(cursor: Cursor) -> None:
    """Leave nothing in the session: the temporary tables go at the end of the transaction by themselves."""
    cursor.execute("DROP FUNCTION pg_temp.adoption_jsonb(json)")


def count(cursor: Cursor, table: OldTable) -> int:
    """Rows of an old table."""
    cursor.execute(SQL("SELECT count(*) FROM {}").format(table.aside))
    return int(fetch_one(cursor))


def move(cursor: Cursor, table: OldTable, *, found: int) -> Moved:
    """Copy the rows of one table with their keys, times and counts.

    Parameters
    ----------
    cursor
        In the transaction; what the rows refer to was moved before.
    table
        The old one.
    found
        Its rows.

    Returns
    -------
    Moved
        Their number.
    """
    step = _Moving(table, STEPS[table.name])
    for statement in step.set_aside():
        cursor.execute(statement)
    cursor.execute("ANALYZE pg_temp.adoption_aside")
    for statement in (*step.notes(), *step.doubts()):
        cursor.execute(statement)
    cursor.execute("ANALYZE pg_temp.adoption_doubts")
    with without_indexes(cursor, f"public.{table.name}", rows=found):
        cursor.execute(step.insert())
        adopted = cursor.rowcount
    cursor.execute("SELECT count(*) FROM pg_temp.adoption_aside WHERE entity = %s", (table.name,))
    moved = Moved(found, adopted, int(fetch_one(cursor)))
    if "id" not in step.step.leave_out:
        continue_sequence(cursor, table)
    return moved


def continue_sequence(cursor: Cursor, table: OldTable) -> None:
    """Let the next key be the one that the old table would have given, or beyond every key that is there."""
    cursor.execute(
        SQL(_CONTINUE).format(
            new=Literal(f"public.{table.name}"),
            stored=Identifier("public", table.name),
            old=Literal(f"{ASIDE}.{table.name}"),
            loose=Literal(f"{table.name}_id_seq"),
        )
    )


def record_aside(cursor: Cursor, table: OldTable) -> None:
    """Keep the rows that the new table cannot hold as events of their owners, or of their parents' ones."""
    cursor.execute(_Moving(table, STEPS[table.name]).aside_events())


def extra_columns(table: OldTable) -> Composable:
    """Values of the columns that the new table lacks, by name; null where there are none."""
    if not table.extra:
        return SQL("NULL::jsonb")
    pairs = SQL(", ").join(
        SQL("({}, {}, {} IS NOT NULL)").format(Literal(column.name), _as_json(column), Identifier("o", column.name))
        for column in table.extra
    )
    return SQL("(SELECT jsonb_object_agg(k, v) FROM (VALUES {}) AS e (k, v, there) WHERE there)").format(pairs)


def _as_json(column: OldColumn) -> Composable:
    """A value of any type as jsonb, text where it is json that jsonb refuses."""
    value = Identifier("o", column.name)
    if column.type == "json":
        return SQL("coalesce(pg_temp.adoption_jsonb({v}), to_jsonb({v}::text))").format(v=value)
    return SQL("to_jsonb({})").format(value)


class _Moving:
    """The statements of one table."""

    def __init__(self, table: OldTable, step: Step) -> None:
        self.table = table
        self.step = step
        self._entity = Literal(table.name)

    def set_aside(self) -> Iterator[Composable]:
        """Mark what cannot be stored, then what would be stored twice."""
        if self.step.aside:
            yield self._fill(
                "INSERT INTO pg_temp.adoption_aside SELECT {entity}, o.id, "
                "(ARRAY[{codes}])[why.n], (ARRAY[{reasons}])[why.n] "
                "FROM {source} CROSS JOIN LATERAL (SELECT CASE {cases} END AS n) AS why WHERE why.n IS NOT NULL",
                codes=self._listed([code for _, code, _ in self.step.aside]),
                reasons=self._listed([reason for _, _, reason in self.step.aside]),
                cases=SQL(" ").join(
                    self._fill(f"WHEN {when} THEN {n}") for n, (when, _, _) in enumerate(self.step.aside, 1)
                ),
            )
        if self.step.twice:
            yield self._fill(
                "INSERT INTO pg_temp.adoption_aside SELECT {entity}, id, 'duplicate', "
                "concat('row ', first, {says}) FROM (SELECT o.id, min(o.id) OVER (PARTITION BY {keys}) AS first "
                "FROM {source} WHERE {stays}) AS every WHERE id <> first",
                says=Literal(f" has the same {' and '.join(self.step.twice)}"),
                keys=SQL(", ").join(map(self._value, self.step.twice)),
            )

    def notes(self) -> Iterator[Composable]:
        """Lines about whole columns."""
        name = self.table.name
        for rule in RULES[name]:
            column = self.table.source(rule)
            if column is not None and column.type == "timestamp":
                yield self._note(column.name, "true", "utc_assumed", "times without a zone are taken as UTC")
        for column in self.table.extra:
            kept = f'{self.step.account_in}["adopted"]["columns"] keeps it'
            yield self._note(column.name, Identifier("o", column.name) + SQL(" IS NOT NULL"), "extra_column", kept)
        if "user_id" in self.table.columns and "user_id" not in self.step.instead:
            whose = "the service's" if self.table.unowned is None else "public"
            yield self._note("user_id", "{user_id} IS NULL", "no_owner", f"rows without an owner are {whose}")
        if self.step.note is not None and "user_id" in self.table.columns:
            yield self._note(*self.step.note)

    def doubts(self) -> Iterator[Composable]:
        """One line for each value that is not stored as it was, or should be looked at."""
        lines = [*self._lines_of_rules(), *self._lines_of_step()]
        if lines:
            yield self._fill(
                "INSERT INTO pg_temp.adoption_doubts SELECT {entity}, o.id, line.* FROM {source} "
                "CROSS JOIN LATERAL (SELECT c, v, code, reason FROM (VALUES {lines}) "
                "AS every (c, v, code, reason, hit) WHERE hit) AS line WHERE ({any}) AND {stays}",
                lines=SQL(", ").join(
                    SQL("({}, {}, {}, {}, ({}))").format(Literal(column), *rest) for column, *rest in lines
                ),
                any=SQL(" OR ").join(SQL("({})").format(line[-1]) for line in lines),
            )
        yield self._fill(
            "INSERT INTO pg_temp.adoption_doubts SELECT {entity}, id, NULL, NULL, code, "
            "concat(reason, '; an event row_set_aside keeps the row') "
            "FROM pg_temp.adoption_aside WHERE entity = {entity}"
        )

    def insert(self) -> Composable:
        """Copy what stays."""
        columns = self.columns()
        return self._fill(
            "INSERT INTO public.{name} ({columns}) SELECT {values} FROM {source} "
            "CROSS JOIN LATERAL (SELECT {extra} AS columns) AS x "
            "LEFT JOIN ({kept}) AS d ON d.id = o.id WHERE {stays} ORDER BY o.id",
            name=Identifier(self.table.name),
            columns=names(columns),
            values=SQL(", ").join(columns.values()),
            extra=extra_columns(self.table),
            kept=self._fill(_KEPT),
        )

    def aside_events(self) -> Composable:
        """Events with the rows that do not stay."""
        is_child = "user_id" in self.step.instead
        return self._fill(
            _ASIDE,
            whose=self._fill(
                "nullif(coalesce(p.user_id, {owner}), {zeros})" if is_child else "nullif({owner}, {zeros})"
            ),
            key=self._fill("{calculation_id}" if self.table.name == "atomic_properties" else "o.id"),
            columns=SQL(", ").join(
                SQL("({}, {})").format(Literal(column.name), _as_json(column))
                for column in self.table.columns.values()
            ),
        )

    def columns(self) -> dict[str, Composable]:
        """Value of each new column."""
        values = {rule.name: self._value(rule.name) for rule in RULES[self.table.name]}
        values |= {name: self._fill(template) for name, template in self.step.besides.items()}
        values[self.step.account_in] = self._fill(
            _ACCOUNT, metadata=values[self.step.account_in], account=self._fill(self.step.account)
        )
        return {name: value for name, value in values.items() if name not in self.step.leave_out}

    def _value(self, name: str) -> Composable:
        if name in self.step.instead:
            return self._fill(self.step.instead[name])
        return self.table.value(name)

    def _lines_of_rules(self) -> Iterator[tuple[Any, ...]]:
        for name, value, fault, when in self.table.faults():
            yield name, value, Literal(fault.code), Literal(fault.reason), when

    def _lines_of_step(self) -> Iterator[tuple[Any, ...]]:
        for line in self.step.lines:
            value = SQL("({})::text").format(self.table.cast(line.column))
            yield line.column, value, *map(self._fill, (line.code, line.reason, line.when))

    def _note(self, column: str, when: str | Composable, code: str, reason: str) -> Composable:
        return self._fill(
            "INSERT INTO pg_temp.adoption_doubts SELECT {entity}, NULL, {column}, count(*)::text, {code}, {reason} "
            "FROM {source} WHERE ({when}) AND {stays} HAVING count(*) > 0",
            column=Literal(column),
            code=Literal(code),
            reason=Literal(reason),
            when=self._fill(when) if isinstance(when, str) else when,
        )

    def _listed(self, templates: list[str]) -> Composable:
        return SQL(", ").join(map(self._fill, templates))

    def _fill(self, template: str, **more: Composable) -> Composable:
        table = self.table
        final = {"final_element": "element", "final_number": "atomic_number"}
        finals = {key: table.value(name) for key, name in final.items() if name in table.rules}
        owner = table.value("user_id")
        return table.fill(
            template,
            entity=self._entity,
            owner=owner,
            source=SQL("{} AS o {}").format(table.aside, table.fill(self.step.joins, owner=owner)),
            stays=SQL(
                "NOT EXISTS (SELECT FROM pg_temp.adoption_aside AS a WHERE a.entity = {} AND a.id = o.id)"
            ).format(self._entity),
            **finals,
            **more,
        )


# Serial, identity, or both after a conversion; a sequence that nothing owns has the usual name.
_CONTINUE: Final = """
    SELECT setval(pg_get_serial_sequence({new}, 'id'), last) FROM (SELECT greatest(
        (SELECT max(id) FROM {stored}),
        (SELECT max(pg_sequence_last_value(s.oid)) FROM pg_class AS s
         JOIN pg_class AS t ON t.oid = {old}::regclass AND t.relnamespace = s.relnamespace
         WHERE s.relkind = 'S' AND (s.relname = {loose} OR EXISTS (
             SELECT FROM pg_depend AS d WHERE d.objid = s.oid AND d.refobjid = t.oid AND d.deptype IN ('a', 'i'))))
    ) AS last) AS keys WHERE last > 0
"""
_ASIDE: Final = """
    INSERT INTO public.event_logs (user_id, event_type, entity_type, entity_id, status, error_code, error_message,
                                   context, service)
    SELECT {whose}, 'row_set_aside', {entity}, {key}, 'warning', a.code, a.reason,
           jsonb_build_object('row', (SELECT jsonb_object_agg(k, v) FROM (VALUES {columns}) AS e (k, v))), 'adopt'
    FROM {source} JOIN pg_temp.adoption_aside AS a ON a.entity = {entity} AND a.id = o.id ORDER BY o.id
"""
_KEPT: Final = """
    SELECT id, jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
        'column', "column", 'value', value, 'code', code, 'reason', reason)) ORDER BY "column", code) AS doubts
    FROM pg_temp.adoption_doubts WHERE entity = {entity} AND id IS NOT NULL GROUP BY id
"""
_ACCOUNT: Final = """
    CASE WHEN x.columns IS NULL AND d.doubts IS NULL THEN {metadata}
    ELSE {metadata} || jsonb_build_object('adopted',
        CASE WHEN x.columns IS NULL THEN '{{}}'::jsonb ELSE jsonb_build_object('columns', x.columns) END
        || CASE WHEN d.doubts IS NULL THEN '{{}}'::jsonb ELSE jsonb_build_object('doubts', d.doubts) END
        || {account})
    END
"""
