"""The tables of the old database module: which are there, of what shape, and what each new column reads from them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg2.errors
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.sql import SQL, Composable, Identifier, Literal

from qforge_sdk.db.adopt.rules import RULES, Fault, Rule
from qforge_sdk.db.models import PUBLIC_USER_ID, TABLES
from qforge_sdk.errors import AccessDenied, Conflict, SchemaMissing

#: Schema in which the old tables wait until they are adopted.
ASIDE: Final = "qforge_adopting"
_NEEDED: Final = ("molecules", "calculations")
_LOCK_SECONDS: Final = 20

_RELATIONS: Final = """
    SELECT c.relname, c.relkind::text, pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'),
           c.relispartition OR EXISTS (SELECT FROM pg_inherits AS i WHERE c.oid IN (i.inhrelid, i.inhparent)),
           EXISTS (SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                   WHERE i.indrelid = c.oid AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL
                         AND a.attname = 'id' AND a.attnotnull)
    FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (%(tables)s)
"""
_COLUMNS: Final = """
    SELECT c.relname, a.attname, coalesce(b.typname, t.typname), t.typcategory::text,
           format_type(a.atttypid, a.atttypmod)
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_type AS b ON b.oid = nullif(t.typbasetype, 0)
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (%(tables)s)
    ORDER BY a.attnum
"""


@dataclass(frozen=True, slots=True)
class OldColumn:
    """A column as the catalog has it.

    Parameters
    ----------
    name
        Its name.
    type
        Name of its type, of the base type for a domain.
    category
        One letter of pg_type.typcategory.
    shown
        Its type as SQL writes it.
    """

    name: str
    type: str
    category: str
    shown: str


@dataclass(frozen=True, slots=True)
class OldTable:
    """An old table, and what the new one of the same name reads from it.

    Parameters
    ----------
    name
        Its name.
    columns
        In their order.
    unowned
        Whom rows without an owner belong to.
    """

    name: str
    columns: Mapping[str, OldColumn]
    unowned: uuid.UUID | None = None

    @property
    def aside(self) -> Composable:
        """Its quoted name once it was moved aside."""
        return Identifier(ASIDE, self.name)

    @property
    def rules(self) -> dict[str, Rule]:
        """Rules by new column."""
        return {rule.name: rule for rule in RULES[self.name]}

    @property
    def extra(self) -> tuple[OldColumn, ...]:
        """Columns that the new table does not have."""
        read = {column.name for rule in RULES[self.name] if (column := self.source(rule)) is not None}
        return tuple(column for column in self.columns.values() if column.name not in read)

    def source(self, rule: Rule) -> OldColumn | None:
        """The old column that a rule reads."""
        return next((self.columns[name] for name in (rule.name, *rule.also) if name in self.columns), None)

    def cast(self, name: str) -> Composable:
        """The old value in the new column's type, null where the table lacks the column."""
        rule = self.rules[name]
        column = self.source(rule)
        if column is None:
            return SQL("NULL::{}").format(SQL(rule.kind.sql_type))
        template = _cast_of(rule, column)
        assert template is not None
        return SQL(template).format(o=Identifier("o", column.name))

    def given(self, name: str) -> Composable:
        """The old value, or what a missing one becomes."""
        rule = self.rules[name]
        return self.cast(name) if rule.missing is None else self._fill("coalesce({v}, " + rule.missing + ")", rule)

    def value(self, name: str) -> Composable:
        """What is stored."""
        rule = self.rules[name]
        cases = [self._fill(f"WHEN {fault.when} THEN {fault.becomes}", rule) for fault in self.faults_of(rule)]
        if not cases:
            return self.given(name)
        return SQL("CASE {} ELSE {} END").format(SQL(" ").join(cases), self.given(name))

    def faults_of(self, rule: Rule) -> tuple[Fault, ...]:
        """Faults that can occur: none in a column that is not there."""
        return () if self.source(rule) is None else rule.faults

    def faults(self) -> Iterator[tuple[str, Composable, Fault, Composable]]:
        """New column, old value as text, fault, and its condition."""
        for rule in RULES[self.name]:
            column = self.source(rule)
            for fault in self.faults_of(rule):
                assert column is not None
                yield (
                    rule.name,
                    SQL("{}::text").format(Identifier("o", column.name)),
                    fault,
                    self._fill(fault.when, rule),
                )

    def fill(self, template: str, **more: Composable) -> Composable:
        """SQL in which ``{name}`` is the value of a rule, ``{zeros}`` the public owner and ``{old}`` the table."""
        casts = {rule.name: self.cast(rule.name) for rule in RULES[self.name] if rule.name not in more}
        return SQL(template).format(
            old=self.aside, zeros=_uuid(PUBLIC_USER_ID), unowned=_uuid(self.unowned), **casts, **more
        )

    def _fill(self, template: str, rule: Rule) -> Composable:
        column = self.source(rule)
        return self.fill(
            template, v=self.cast(rule.name), o=SQL("NULL") if column is None else Identifier("o", column.name)
        )


def lock(cursor: Cursor) -> None:
    """Keep everybody from the old tables until the end of the transaction.

    Raises
    ------
    SchemaMissing
        There are none.
    Conflict
        Another session has used one of them in a transaction that is still open.
    """
    cursor.execute(_RELATIONS, {"tables": list(TABLES)})
    names = [row[0] for row in cursor.fetchall() if row[1] == "r"]
    if not names:
        raise SchemaMissing(
            "this database holds no tables of the old database module; create the schema with: qforge db upgrade"
        )
    cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{_LOCK_SECONDS}s",))
    listed = SQL(", ").join(Identifier("public", name) for name in names)
    try:
        cursor.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(listed))
    except psycopg2.errors.LockNotAvailable as exc:
        raise Conflict(
            f"another session has used the old tables in a transaction that is open since more than {_LOCK_SECONDS} "
            "s; stop the backend, close open psql sessions and run it again"
        ) from exc
    cursor.execute("SELECT set_config('lock_timeout', '0', true)")


def inspect(cursor: Cursor, unowned: uuid.UUID | None) -> dict[str, OldTable]:
    """The old tables that are there, in the order in which they depend on each other.

    Parameters
    ----------
    cursor
        In the transaction that locked them.
    unowned
        Whom rows without an owner belong to.

    Returns
    -------
    dict
        By name.

    Raises
    ------
    Conflict
        A table of such a name is not the old module's.
    AccessDenied
        One belongs to a role that this login is no member of.
    """
    cursor.execute(_RELATIONS, {"tables": list(TABLES)})
    relations = {row[0]: row[1:] for row in cursor.fetchall()}
    cursor.execute(_COLUMNS, {"tables": list(TABLES)})
    columns: dict[str, dict[str, OldColumn]] = {name: {} for name in TABLES}
    for table, *facts in cursor.fetchall():
        columns[table][facts[0]] = OldColumn(*facts)
    tables = {
        # Nobody reads public events.
        name: OldTable(name, columns[name], None if name == "event_logs" else unowned)
        for name in TABLES
        if name in relations
    }
    problems = [f"there is no table {name}" for name in _NEEDED if name not in tables]
    for table in tables.values():
        problems += _problems(table, relations[table.name])
    if problems:
        raise Conflict(
            f"these are not the tables of the old database module: {'; '.join(problems)}. Nothing was changed; "
            "move them to another schema, or use another database"
        )
    foreign = {name: owner for name, (_, owner, owned, *_) in relations.items() if not owned}
    if foreign:
        listed = ", ".join(f"{name} belongs to {owner}" for name, owner in foreign.items())
        raise AccessDenied(f"only the owner of the old tables can adopt them: {listed}; log in as that role")
    return tables


def _problems(table: OldTable, facts: tuple[Any, ...]) -> Iterator[str]:
    kind, _, _, inherits, keyed = facts
    if kind != "r" or inherits:
        yield f"{table.name} is no ordinary table"
        return
    for rule in RULES[table.name]:
        column = table.source(rule)
        if column is None and rule.required:
            yield f"{table.name} lacks the column {rule.name}"
        elif column is not None and _cast_of(rule, column) is None:
            yield f"{table.name}.{column.name} is {column.shown}, not {rule.kind.name}"
    if not keyed:
        yield f"{table.name} has no primary key on id"


def _cast_of(rule: Rule, column: OldColumn) -> str | None:
    return rule.kind.casts.get(column.type) or rule.kind.casts.get(column.category)


def _uuid(value: uuid.UUID | None) -> Composable:
    return SQL("{}::uuid").format(Literal(None if value is None else str(value)))
