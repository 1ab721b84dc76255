"""Tables to Parquet: streamed, from one snapshot, complete or not there."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Select, select

import qforge_sdk._version as version
from qforge_sdk import display
from qforge_sdk.db.models import TABLES
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.db.schema import head_revision
from qforge_sdk.db.snapshot import Snapshot, changed_since, exported_snapshot, page_range
from qforge_sdk.errors import InvalidInput, UnknownField
from qforge_sdk.frames import conform
from qforge_sdk.parquet.content import Content, content_of, total
from qforge_sdk.parquet.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    TableEntry,
    file_sha256,
    table_fields,
    table_schema,
)
from qforge_sdk.progress import progress_bar
from qforge_sdk.quantities import did_you_mean

ROW_GROUP_ROWS: Final = 131_072
# Of all writers together. 5M calculations: one writer peaks at 415 MB, two at 465, three at 495.
ROW_GROUP_BYTES: Final = 48 * 1024 * 1024
MOST_WRITERS: Final = 3
_BATCH_BYTES: Final = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote.

    Parameters
    ----------
    folder
        Where.
    rows
        Number of rows by table.
    bytes
        Size of all files.
    seconds
        How long it took.
    """

    folder: Path
    rows: dict[str, int]
    bytes: int
    seconds: float

    def __repr__(self) -> str:
        tables = ", ".join(f"{table}: {n:,}" for table, n in self.rows.items())
        return f"<ExportReport {self.folder}: {tables}; {self.bytes / 1e6:,.1f} MB in {self.seconds:.1f} s>"

    def _repr_html_(self) -> str:
        caption = f"exported to {self.folder}: {self.bytes / 1e6:,.1f} MB in {self.seconds:.1f} s"
        return display.counts_table(self.rows, caption=caption)


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which tables, and which of their rows."""

    tables: tuple[str, ...]
    since: datetime | None

    def statement(self, part: _Part) -> Select[Any]:
        statement = select(*(column.selected() for column in table_fields(part.table)))
        if self.since is not None:
            statement = statement.where(changed_since(part.table, self.since, self.tables))
        return statement if part.pages is None else statement.where(part.pages)


@dataclass(frozen=True, slots=True)
class _Part:
    """One file to write."""

    table: str
    number: int
    pages: Any

    @property
    def path(self) -> str:
        return f"{self.table}/part-{self.number:05d}.parquet"


@dataclass(frozen=True, slots=True)
class _Written:
    part: _Part
    entry: FileEntry
    content: Content


def export_tables(
    reader: ArrowReader,
    folder: str | Path,
    *,
    tables: Sequence[str] | None = None,
    since: datetime | str | None = None,
    partitions: int = 1,
    progress: bool | None = None,
) -> ExportReport:
    """Write tables to Parquet files from one snapshot, with a manifest.

    The files are written into a hidden folder beside ``folder``, which gets its name when all is complete.

    Parameters
    ----------
    reader
        Whose rows: a tenant's reader exports that tenant's and the public ones.
    folder
        New or empty folder.
    tables
        Table names, None for all.
    since
        Only rows with updated_at (created_at where there is no other) at or after this time, UTC unless it says
        otherwise, and the rows of the exported tables that those refer to.
    partitions
        Files a table, written in parallel; a small table has fewer.
    progress
        Show a bar; None shows one after 2 s where standard error is a terminal.

    Returns
    -------
    ExportReport
        Rows by table, bytes and seconds.

    Raises
    ------
    InvalidInput
        The folder is not empty, ``partitions`` is less than 1, or ``since`` is no time.
    UnknownField
        No such table.
    SchemaMissing, SchemaOutdated
        The database is not of this package's revision.
    QForgeError
        What the server reported; nothing that looks complete is left.
    """
    started = time.perf_counter()
    selection = _Selection(_table_names(tables), _time(since))
    if partitions < 1:
        raise InvalidInput(f"partitions must be 1 or more, not {partitions!r}", field="partitions", value=partitions)
    with _appearing(Path(folder).expanduser().absolute()) as hidden:
        with (
            exported_snapshot(reader.engine, reader.scope, selection.tables) as snapshot,
            progress_bar(progress, "export") as bar,
        ):
            job = _Job(reader, snapshot, selection, hidden, bar.update, writers=_writers(partitions))
            written = job.run(_parts(snapshot, partitions))
        manifest = _manifest(snapshot, selection, written)
        (hidden / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    return ExportReport(
        folder=Path(folder),
        rows={table: entry.rows for table, entry in manifest.tables.items()},
        bytes=sum(file.entry.bytes for file in written),
        seconds=time.perf_counter() - started,
    )


def _table_names(tables: Sequence[str] | None) -> tuple[str, ...]:
    wanted = (tables,) if isinstance(tables, str) else tuple(TABLES if tables is None else tables)
    if not wanted:
        raise InvalidInput("tables: name at least one", field="tables", value=tables)
    for name in wanted:
        if name not in TABLES:
            hint = did_you_mean(str(name), list(TABLES))
            raise UnknownField(f"no table {name!r}{hint}", field="tables", value=name)
    return tuple(table for table in TABLES if table in wanted)


def _time(since: datetime | str | None) -> datetime | None:
    if since is None:
        return None
    try:
        stamp = pd.Timestamp(since)
    except (TypeError, ValueError) as exc:
        raise InvalidInput(_NO_TIME.format(since), field="since", value=since) from exc
    if pd.isna(stamp):
        raise InvalidInput(_NO_TIME.format(since), field="since", value=since)
    utc = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")
    known: datetime = utc.to_pydatetime(warn=False)
    return known


_NO_TIME: Final = "since is a date or time such as '2026-05-01', not {!r}"


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A hidden folder for the block, which becomes ``folder`` at its end and is removed when it fails."""
    _require_free(folder)
    hidden = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    hidden.mkdir(parents=True)
    try:
        yield hidden
        _require_free(folder)
        # Takes the place of an empty folder, and of nothing else.
        hidden.rename(folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _require_free(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InvalidInput(
            f"{folder} exists already and is not an empty folder; export into a new one",
            field="folder",
            value=str(folder),
        )


def _parts(snapshot: Snapshot, partitions: int) -> list[_Part]:
    """Files to write, the parts of large tables first: so the last to finish is a short one."""
    parts = []
    for table, pages in sorted(snapshot.pages.items(), key=lambda item: -item[1]):
        n = max(1, min(partitions, pages))
        parts += [_Part(table, number, page_range(pages, number, n)) for number in range(n)]
    return parts


def _writers(partitions: int) -> int:
    return min(partitions, os.cpu_count() or 1, MOST_WRITERS)


@dataclass(frozen=True, slots=True)
class _Job:
    """All files of one export."""

    reader: ArrowReader
    snapshot: Snapshot
    selection: _Selection
    folder: Path
    advance: Callable[[int], object]
    writers: int
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, parts: Sequence[_Part]) -> list[_Written]:
        for table in self.selection.tables:
            (self.folder / table).mkdir()
        with ThreadPoolExecutor(max_workers=self.writers) as pool:
            running = [pool.submit(self.write, part) for part in parts]
            try:
                return [future.result() for future in as_completed(running)]
            except BaseException:
                self.stop.set()
                for future in running:
                    future.cancel()
                raise

    def write(self, part: _Part) -> _Written:
        """Write one file; leaves off between two row groups when the others failed."""
        path, schema = self.folder / part.path, table_schema(part.table)
        statement = self.selection.statement(part)
        content = Content()
        with (
            self.reader.stream(statement, snapshot=self.snapshot.name, batch_bytes=_BATCH_BYTES) as stream,
            pq.ParquetWriter(path, schema, compression="zstd") as writer,
        ):
            for rows in _row_groups(stream, schema, ROW_GROUP_BYTES // self.writers):
                if self.stop.is_set():
                    break
                writer.write_table(rows, row_group_size=rows.num_rows)
                content += content_of(rows)
                self.advance(rows.num_rows)
                # The allocator would keep another 100 MB for later.
                pa.default_memory_pool().release_unused()
        entry = FileEntry(path=part.path, rows=content.rows, bytes=path.stat().st_size, sha256=file_sha256(path))
        return _Written(part, entry, content)


def _row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema, most_bytes: int) -> Iterator[pa.Table]:
    """Batches put together until they make a row group."""
    pending: list[pa.Table] = []
    for batch in batches:
        pending.append(conform(batch, schema))
        if (
            sum(table.num_rows for table in pending) >= ROW_GROUP_ROWS
            or sum(table.nbytes for table in pending) >= most_bytes
        ):
            yield pa.concat_tables(pending)
            pending = []
    if pending:
        yield pa.concat_tables(pending)


def _manifest(snapshot: Snapshot, selection: _Selection, written: Sequence[_Written]) -> Manifest:
    return Manifest(
        schema_revision=head_revision(),
        qforge_version=version.__version__,
        created_at=snapshot.taken_at,
        user_id=snapshot.tenant,
        since=selection.since,
        tables=_entries(selection.tables, written),
    )


def _entries(tables: Sequence[str], written: Sequence[_Written]) -> Mapping[str, TableEntry]:
    entries = {}
    for table in tables:
        files = sorted((file for file in written if file.part.table == table), key=lambda file: file.part.number)
        content = total(file.content for file in files)
        entries[table] = TableEntry(
            rows=content.rows, content_hash=content.digest, files=tuple(file.entry for file in files)
        )
    return entries
