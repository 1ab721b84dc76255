"""The adoption, step by step."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from sqlalchemy import Connection, Engine

from qforge_sdk.db import schema
from qforge_sdk.db.adopt import dependents, old_tables
from qforge_sdk.db.adopt.account import collect_doubts, correct_counts, note_dropped, record
from qforge_sdk.db.adopt.move import Moved, count, move, set_up, tear_down
from qforge_sdk.db.adopt.old_tables import OldTable
from qforge_sdk.db.adopt.parents import provide_molecules
from qforge_sdk.db.adopt.structures import validate_structures
from qforge_sdk.db.adopt.verify import verify
from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import Conflict, InvalidInput
from qforge_sdk.schemas.reports import AdoptionReport

_OWNERS: Final[Mapping[str, uuid.UUID | None]] = {"service": None, "public": PUBLIC_USER_ID}
# Nothing of a caller's settings shows in what is stored or told.
_SETTINGS: Final = {
    "search_path": "pg_catalog", "TimeZone": "UTC", "DateStyle": "ISO", "extra_float_digits": "1",
    "row_security": "off", "work_mem": "128MB", "maintenance_work_mem": "512MB", "jit": "off",
    # RDKit works while the session waits.
    "idle_in_transaction_session_timeout": "0", "transaction_timeout": "0",
}  # fmt: skip
# The adoption has an event of its own, instead of one a row; everything else that a trigger keeps is kept.
_QUIETED: Final = """
    SELECT format('ALTER TABLE %s {} TRIGGER %I', t.tgrelid::regclass, t.tgname)
    FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE p.pronamespace = 'qforge'::regnamespace AND p.proname IN ('audit_insert', 'audit_update', 'guard_events')
"""


def adopt(
    engine: Engine,
    *,
    dry_run: bool = True,
    unowned: str = "service",
    workers: int | None = None,
    progress: bool | None = None,
) -> AdoptionReport:
    """Turn a database that the old module made into one of this package's revision, in one transaction.

    It waits for nobody and lets nobody in: stop the backend first, also for a dry run.

    Parameters
    ----------
    engine
        Logs in as the owner of the old tables, from :func:`qforge_sdk.db.database.make_engine`.
    dry_run
        Do everything, report, and roll it back.
    unowned
        Whose rows without an owner become: ``"service"`` (no tenant sees them) or ``"public"`` (every tenant reads
        them, as the old policies let it).
    workers
        Processes that validate SMILES, None for as many as there are processors where that pays.
    progress
        Show a bar; None shows one after 2 s where somebody looks.

    Returns
    -------
    AdoptionReport
        Accounts for every row.

    Raises
    ------
    SchemaMissing
        There are no old tables.
    Conflict
        The database has a revision already, tables of these names are not the old module's, another session uses
        them, or something depends on them that cannot be carried over.
    AccessDenied
        This login does not own the old tables, or may not create the schema.
    InvalidInput
        ``unowned`` is another word.
    DatabaseError
        The server reported another error, or what is stored is not what was there; nothing was changed.
    """
    if unowned not in _OWNERS:
        raise InvalidInput(f"unowned is 'service' or 'public', not {unowned!r}", field="unowned", value=unowned)
    started = time.perf_counter()
    with translated(), engine.connect() as connection, connection.begin() as transaction:
        _refuse_revision(schema.begin_change(connection))
        driver: Any = connection.connection
        with driver.cursor() as cursor:
            tables, hanging = _make_room(connection, cursor, _OWNERS[unowned])
            moved, added = _move(driver, cursor, tables, workers=workers, progress=progress)
            for name, table in tables.items():
                verify(cursor, table, moved[name])
            correct_counts(cursor)
            hanging.remake_foreign_keys(cursor)
            note_dropped(cursor, hanging.dropped)
            doubts = collect_doubts(cursor, tables)
            record(cursor, tables, moved, added=added, dropped=hanging.dropped)
            dependents.drop(cursor, tables.values())
            tear_down(cursor)
        if dry_run:
            transaction.rollback()
    return AdoptionReport(
        tables=_counts(moved, added),
        revision=schema.head_revision(),
        seconds=time.perf_counter() - started,
        dry_run=dry_run,
        **doubts,
    )


def _refuse_revision(found: schema.SchemaStatus) -> None:
    if found.found is not None:
        raise Conflict(
            f"this database has schema revision {found.found} already: there is nothing to adopt"
            + ("" if found.is_current else "; run: qforge db upgrade")
        )


def _make_room(
    connection: Connection, cursor: Cursor, unowned: uuid.UUID | None
) -> tuple[dict[str, OldTable], dependents.Dependents]:
    """The old tables aside, the new ones in their place, empty."""
    for name, value in _SETTINGS.items():
        # Not every version has every setting.
        cursor.execute("SELECT set_config(name, %s, true) FROM pg_settings WHERE name = %s", (value, name))
    old_tables.lock(cursor)
    tables = old_tables.inspect(cursor, unowned)
    hanging = dependents.detach(cursor, tables.values())
    dependents.move_aside(cursor, tables.values())
    schema.to_head(connection)
    hanging.remake_policies(cursor)
    return tables, hanging


def _move(
    driver: Any, cursor: Cursor, tables: dict[str, OldTable], *, workers: int | None, progress: bool | None
) -> tuple[dict[str, Moved], int]:
    """Rows of every table, and the number of molecules made for them."""
    _quiet(cursor, "DISABLE")
    # Counts come with their batches and are compared with the items afterwards.
    cursor.execute("SELECT set_config('qforge.restoring', 'on', true)")
    set_up(cursor)
    found = {name: count(cursor, table) for name, table in tables.items()}
    validate_structures(driver, tables["molecules"], n_rows=found["molecules"], workers=workers, progress=progress)
    moved = {"molecules": move(cursor, tables["molecules"], found=found["molecules"])}
    added = provide_molecules(cursor, tables)
    for name, table in tables.items():
        if name not in moved:
            moved[name] = move(cursor, table, found=found[name])
    cursor.execute("SELECT set_config('qforge.restoring', '', true)")
    _quiet(cursor, "ENABLE")
    return moved, added


def _quiet(cursor: Cursor, verb: str) -> None:
    """Disable or enable the audit of this transaction."""
    cursor.execute(_QUIETED.format(verb))
    for (statement,) in cursor.fetchall():
        cursor.execute(statement)


def _counts(moved: Mapping[str, Moved], added: int) -> pd.DataFrame:
    lines = [
        (name, one.found, one.adopted, one.set_aside, added if name == "molecules" else 0)
        for name, one in moved.items()
    ]
    return pd.DataFrame(lines, columns=["table", "found", "adopted", "set_aside", "added"]).astype({"table": "str"})
