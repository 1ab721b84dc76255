"""Parquet back into tables: checked before anything is written, verified before it is committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, Engine

from qforge_sdk import display
from qforge_sdk.db.models import TABLES
from qforge_sdk.db.restore import (
    Counts,
    insert_as_exported,
    read_restored,
    read_staged,
    recount,
    require_known_revision,
    reserve_ids,
    restoring,
    stage,
)
from qforge_sdk.db.restore_tenant import RESTORABLE, restore_as_own
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.snapshot import tenant_of
from qforge_sdk.errors import ExportMismatch
from qforge_sdk.parquet.content import Content, content_of
from qforge_sdk.parquet.manifest import Manifest, TableEntry, check_files, read_manifest
from qforge_sdk.progress import progress_bar

_BATCH_ROWS: Final = 32_768

_Read = Callable[[Connection, str, pa.Schema, Callable[[pa.Table], None]], None]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What became of every row of an export: ``rows == inserted + existing`` for each table.

    Parameters
    ----------
    folder
        The export.
    rows
        Number of rows by table; a tenant restores no events and has no entry for them.
    inserted
        How many of them are new.
    existing
        How many were stored already.
    bytes
        Size of all files.
    seconds
        How long it took.
    """

    folder: Path
    rows: dict[str, int]
    inserted: dict[str, int]
    existing: dict[str, int]
    bytes: int
    seconds: float

    def __repr__(self) -> str:
        tables = ", ".join(
            f"{table}: {n:,} ({self.inserted[table]:,} new, {self.existing[table]:,} there already)"
            for table, n in self.rows.items()
        )
        return f"<RestoreReport {self.folder}: {tables}; {self.bytes / 1e6:,.1f} MB in {self.seconds:.1f} s>"

    def _repr_html_(self) -> str:
        caption = f"restored from {self.folder}: {self.bytes / 1e6:,.1f} MB in {self.seconds:.1f} s"
        columns = {"table": list(self.rows)} | {
            name: list(counts.values())
            for name, counts in (("rows", self.rows), ("new", self.inserted), ("there already", self.existing))
        }
        return display.frame_table(pd.DataFrame(columns), caption=caption)


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One restore under way."""

    connection: Connection
    folder: Path
    manifest: Manifest
    advance: Callable[[int], object]

    def schema(self, table: str) -> pa.Schema:
        """Columns of the files, without metadata."""
        schema = pq.read_schema(self.folder / self.manifest.tables[table].files[0].path)
        return pa.schema([pa.field(field.name, field.type) for field in schema])

    def stage(self, table: str) -> None:
        stage(self.connection, table, self.schema(table).names, self._rows(table))

    def verify(self, table: str, read: _Read) -> None:
        contents = [Content()]

        def take(rows: pa.Table) -> None:
            contents[0] += content_of(rows)
            self.advance(rows.num_rows)

        read(self.connection, table, self.schema(table), take)
        _require_same(table, contents[0], self.manifest.tables[table])

    def _rows(self, table: str) -> Iterator[pa.Table]:
        for entry in self.manifest.tables[table].files:
            with pq.ParquetFile(self.folder / entry.path) as file:
                for batch in _batches(file):
                    yield pa.Table.from_batches([batch])
                    self.advance(batch.num_rows)


def restore_tables(
    engine: Engine, scope: Scope, folder: str | Path, *, progress: bool | None = None
) -> RestoreReport:
    """Load an export, in one transaction.

    The service puts rows back as they were, ids, owners and times included; a row that is stored already and equal is
    left alone, so restoring twice is harmless. A tenant's rows get new ids and its own user_id, references move
    along, and what it sees already is not stored again (:mod:`qforge_sdk.db.restore_tenant`); events are left out.

    Parameters
    ----------
    engine
        Engine of the login that writes.
    scope
        As whom it writes.
    folder
        Made by :func:`qforge_sdk.parquet.export_tables`.
    progress
        Show a bar; None shows one after 2 s where standard error is a terminal.

    Returns
    -------
    RestoreReport
        Accounts for every row.

    Raises
    ------
    ExportMismatch
        A file is missing or is not what the manifest says, or the stored rows are not; nothing is loaded.
    SchemaMissing, SchemaOutdated
        The database, or the export, is of a revision that does not fit.
    Conflict
        A stored row differs from the exported one; nothing is loaded.
    InvalidInput
        A row refers to one that is neither stored nor exported; as a tenant, an export of several owners' rows.
    QForgeError
        What else the server reported; nothing is loaded.
    """
    started = time.perf_counter()
    root = Path(folder).expanduser()
    manifest = read_manifest(root)
    require_known_revision(manifest.schema_revision)
    check_files(root, manifest)
    # Every row is staged and read back.
    expected = 2 * sum(entry.rows for entry in manifest.tables.values())
    with restoring(engine, scope) as connection, progress_bar(progress, "restore", expected) as bar:
        transfer = _Transfer(connection, root, manifest, bar.update)
        restore = _as_service if tenant_of(connection) is None else _as_tenant
        counts = restore(transfer)
    return _report(Path(folder), manifest, counts, time.perf_counter() - started)


def _as_service(transfer: _Transfer) -> dict[str, Counts]:
    tables = [table for table in TABLES if table in transfer.manifest.tables]
    for table in tables:
        transfer.stage(table)
    reserve_ids(transfer.connection, tables)
    counts = {table: insert_as_exported(transfer.connection, table) for table in tables}
    # Of older revisions the files hold counts that nothing kept: they are verified as they are and corrected then.
    kept = "batch_jobs" not in tables or "waiting_count" in transfer.schema("batch_jobs").names
    if kept:
        recount(transfer.connection)
    for table in tables:
        transfer.verify(table, read_restored)
    if not kept:
        recount(transfer.connection)
    return counts


def _as_tenant(transfer: _Transfer) -> dict[str, Counts]:
    tables = [table for table in RESTORABLE if table in transfer.manifest.tables]
    for table in tables:
        transfer.stage(table)
        transfer.verify(table, read_staged)
    counts = restore_as_own(transfer.connection)
    return {table: counts[table] for table in tables}


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    for group in range(file.num_row_groups):
        # One row group at a time: over all of them pyarrow 26 holds on to 200 MB of 5M calculations.
        yield from file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group])


def _require_same(table: str, found: Content, entry: TableEntry) -> None:
    if (found.rows, found.digest) != (entry.rows, entry.content_hash):
        raise ExportMismatch(
            f"{table}: the manifest says {entry.rows} rows with content hash {entry.content_hash}, the database "
            f"holds {found.rows} with {found.digest}; nothing was loaded"
        )


def _report(folder: Path, manifest: Manifest, counts: dict[str, Counts], seconds: float) -> RestoreReport:
    files: Any = [file for table in counts for file in manifest.tables[table].files]
    return RestoreReport(
        folder=folder,
        rows={table: manifest.tables[table].rows for table in counts},
        inserted={table: count.inserted for table, count in counts.items()},
        existing={table: count.existing for table, count in counts.items()},
        bytes=sum(file.bytes for file in files),
        seconds=seconds,
    )
