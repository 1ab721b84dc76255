"""What the readers of an export share: one snapshot, pages to divide a table by, rows that changed since a time."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, literal_column, select, text, union

from qforge_sdk.db import schema
from qforge_sdk.db.models import TABLES
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.sqlstate import translated


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An exported snapshot; readers can join it while the block that made it is open.

    Parameters
    ----------
    name
        For SET TRANSACTION SNAPSHOT.
    taken_at
        When, by the server's clock.
    tenant
        Whose rows it shows beside the public ones, None for everybody's.
    pages
        Size of each table.
    """

    name: str
    taken_at: datetime
    tenant: uuid.UUID | None
    pages: dict[str, int]


@contextmanager
def exported_snapshot(engine: Engine, scope: Scope, tables: Sequence[str]) -> Iterator[Snapshot]:
    """Export a snapshot and hold it, and the tables' shape, for the block.

    Parameters
    ----------
    engine
        Engine of the login that reads.
    scope
        As whom it reads.
    tables
        What will be read.

    Yields
    ------
    Snapshot
        For the readers.

    Raises
    ------
    SchemaMissing, SchemaOutdated
        The database is not of this package's revision.
    QForgeError
        What the server reported.
    """
    with translated(), engine.connect() as plain:
        connection = plain.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            enter(connection, scope)
            schema.require_current(connection)
            for table in tables:
                # Visibility does not protect from TRUNCATE or VACUUM FULL, which move or remove every row.
                connection.execute(text(f"LOCK TABLE public.{table} IN ACCESS SHARE MODE"))
            name, taken_at = connection.execute(text("SELECT pg_export_snapshot(), now()")).one()
            yield Snapshot(name, taken_at, tenant_of(connection), _pages(connection, tables))


def enter(connection: Connection, scope: Scope) -> None:
    """Act as ``scope`` in this transaction, which may take as long as it needs.

    Parameters
    ----------
    connection
        At the beginning of a transaction.
    scope
        As whom to act.
    """
    for statement in scope.statements():
        scope.require(connection.exec_driver_sql(statement).one())
    connection.execute(
        text(
            # transaction_timeout exists from PostgreSQL 17 on.
            "SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings WHERE name IN "
            "('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
        )
    )


def tenant_of(connection: Connection) -> uuid.UUID | None:
    """Tenant whose policies hold in this transaction, None when row level security does not apply to it."""
    tenant: uuid.UUID | None = connection.execute(
        text("SELECT CASE WHEN row_security_active('public.molecules') THEN qforge.current_user_id() END")
    ).scalar()
    return tenant


def page_range(pages: int, number: int, parts: int) -> ColumnElement[bool] | None:
    """Condition for one of ``parts`` equal ranges of a table's pages, None when there is one part.

    Ranges of pages are balanced whatever the keys are, and a scan of one reads nothing of the others; within one
    snapshot a row does not move.

    Parameters
    ----------
    pages
        Size of the table.
    number
        Which range, from 0.
    parts
        How many ranges there are; the last one has no end.
    """
    if parts == 1:
        return None
    first, last = (pages * n // parts for n in (number, number + 1))
    condition: ColumnElement[bool] = literal_column(f"ctid >= '({first},0)'::tid")
    return condition if number == parts - 1 else condition & literal_column(f"ctid < '({last},0)'::tid")


def changed_since(table: str, since: datetime, tables: Sequence[str]) -> ColumnElement[bool]:
    """Condition for the rows changed at or after ``since`` and the parents that such rows of other tables need.

    Parameters
    ----------
    table
        Whose rows.
    since
        Compared with updated_at, or created_at where there is no other.
    tables
        Those that are exported: only their rows need parents.
    """
    model: Any = TABLES[table]
    needed = [
        select(key.parent).where(changed_since(name, since, tables))
        for name in tables
        for key in TABLES[name].__table__.foreign_keys
        if key.column.table is model.__table__
    ]
    changed: ColumnElement[bool] = getattr(model, "updated_at", model.created_at) >= since
    if not needed:
        return changed
    # A union joins by hash and may spill; OR with IN would probe a subplan for each row once it outgrows work_mem.
    own: Select[Any] = select(model.id).where(changed)
    wanted: ColumnElement[bool] = model.id.in_(union(own, *needed))
    return wanted


def _pages(connection: Connection, tables: Sequence[str]) -> dict[str, int]:
    size = text("SELECT pg_relation_size(to_regclass(:name)) / current_setting('block_size')::bigint")
    return {table: connection.execute(size, {"name": f"public.{table}"}).scalar_one() for table in tables}
