"""Exports: one snapshot in Parquet files that every tool opens, complete or not there."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.dataframe
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from qforge_sdk.db import schema
from qforge_sdk.db.models import PUBLIC_USER_ID, TABLES
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.db.scope import Scope
from qforge_sdk.errors import InvalidInput, QForgeError, SchemaMissing, SchemaOutdated, UnknownField
from qforge_sdk.parquet import ExportReport, export_tables
from qforge_sdk.parquet.manifest import Manifest, read_manifest
from tests.fixtures.awkward import DOUBLES, store_awkward
from tests.fixtures.tenants import ALICE, BOB

Export = Callable[..., ExportReport]


@pytest.fixture
def reader(engine: Engine) -> Iterator[ArrowReader]:
    with contextlib.closing(ArrowReader(engine, Scope())) as reader:
        yield reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "export"


@pytest.fixture
def some_pages(engine: Engine) -> None:
    """Enough rows that a table is worth dividing, and clusters of ids with gaps between them."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO public.molecules (user_id, smiles, formula) VALUES (:owner, 'C', 'CH4');
                INSERT INTO public.calculations (id, user_id, molecule_id, energy, gap)
                SELECT n * n, :owner, 1, -random(), random() FROM generate_series(1, 3000) AS n
            """),
            {"owner": PUBLIC_USER_ID},
        )


# dask calls pandas in a way that pandas deprecates.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_every_tool_reads_the_same_numbers(some_pages: None, reader: ArrowReader, folder: Path) -> None:
    export_tables(reader, folder, partitions=3)
    path = folder / "calculations"
    by_pandas = pd.read_parquet(path)
    by_polars = (
        pl.scan_parquet(path / "*.parquet").select(pl.len(), pl.col("id").sum(), pl.col("gap").max()).collect()
    )
    by_duckdb = duckdb.sql(f"SELECT count(*), sum(id)::bigint, max(gap) FROM '{path}/*.parquet'").fetchall()
    by_dask = dask.dataframe.read_parquet(path)
    expected = (len(by_pandas), int(by_pandas["id"].sum()), by_pandas["gap"].max())
    assert expected[0] == 3000
    assert by_polars.row(0) == expected
    assert by_duckdb == [expected]
    assert by_dask.npartitions == 3
    assert (len(by_dask), int(by_dask["id"].sum().compute()), by_dask["gap"].max().compute()) == expected


def test_every_tool_reads_tables_without_rows(reader: ArrowReader, folder: Path) -> None:
    report = export_tables(reader, folder)
    assert report.rows == dict.fromkeys(TABLES, 0)
    for table in TABLES:
        path = folder / table
        n_columns = len(pq.read_schema(path / "part-00000.parquet"))
        assert pd.read_parquet(path).shape == (0, n_columns)
        assert pl.read_parquet(path).shape == (0, n_columns)
        assert len(duckdb.sql(f"SELECT * FROM '{path}/*.parquet'").columns) == n_columns
        assert len(dask.dataframe.read_parquet(path)) == 0


def test_doubles_and_fingerprints_arrive_bit_by_bit(engine: Engine, reader: ArrowReader, folder: Path) -> None:
    store_awkward(engine, (ALICE,))
    export_tables(reader, folder)
    gaps = pd.read_parquet(folder / "calculations").sort_values("id")["gap"].tolist()
    assert [gap.hex() for gap in gaps[: len(DOUBLES)]] == [value.hex() for value in DOUBLES]
    prints = pq.read_table(folder / "molecules", columns=["fingerprint"]).column(0).to_pylist()
    assert {len(p) for p in prints if p is not None} == {256}
    with engine.begin() as connection:
        stored = connection.execute(
            text("SELECT substring(bit_send(fingerprint), 5) FROM molecules WHERE fingerprint IS NOT NULL")
        )
        assert {bytes(p) for p in stored.scalars()} == {p for p in prints if p is not None}


def test_files_name_units_table_and_revision(reader: ArrowReader, folder: Path) -> None:
    export_tables(reader, folder, tables=["calculations"])
    found = pq.read_schema(folder / "calculations" / "part-00000.parquet")
    assert found.metadata[b"qforge.table"] == b"calculations"
    assert found.metadata[b"qforge.schema_revision"].decode() == schema.head_revision()
    assert found.field("energy").metadata[b"unit"] == b"hartree"
    assert found.field("metadata").metadata[b"format"] == b"json"
    assert found.field("created_at").type == pa.timestamp("us", tz="UTC")


def test_columns_are_those_of_the_table_without_generated_ones(reader: ArrowReader, folder: Path) -> None:
    export_tables(reader, folder)
    for table, model in TABLES.items():
        stored = {column.name for column in model.__table__.columns if column.computed is None}
        assert set(pq.read_schema(folder / table / "part-00000.parquet").names) == stored


def test_manifest_accounts_for_every_file(some_pages: None, reader: ArrowReader, folder: Path) -> None:
    report = export_tables(reader, folder, partitions=2)
    manifest = read_manifest(folder)
    assert manifest.schema_revision == schema.head_revision()
    assert (manifest.user_id, manifest.since) == (None, None)
    for table, entry in manifest.tables.items():
        assert entry.rows == report.rows[table] == sum(file.rows for file in entry.files)
        assert {folder / file.path for file in entry.files} == set((folder / table).iterdir())
    assert report.bytes == sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    assert len(manifest.tables["calculations"].files) == 2


def test_report_is_one_readable_line(some_pages: None, reader: ArrowReader, folder: Path) -> None:
    assert f"{folder}: molecules: 1, calculations: 3,000," in repr(export_tables(reader, folder))


def test_partitions_hold_the_same_content(some_pages: None, reader: ArrowReader, tmp_path: Path) -> None:
    for n in (1, 3):
        export_tables(reader, tmp_path / str(n), partitions=n, tables=["calculations"])
    one, three = (read_manifest(tmp_path / str(n)).tables["calculations"] for n in (1, 3))
    assert three.content_hash == one.content_hash
    assert [file.rows > 500 for file in three.files] == [True, True, True]


def test_since_takes_changed_rows_and_the_parents_that_they_need(
    engine: Engine, reader: ArrowReader, folder: Path
) -> None:
    old, new = "2020-01-01", "2026-01-01"
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO molecules (id, smiles, formula, updated_at)
                VALUES (1, 'C', 'x', :old), (2, 'N', 'x', :old), (3, 'O', 'x', :old), (4, 'F', 'x', :new),
                       (5, 'P', 'x', :old);
                INSERT INTO calculations (id, molecule_id, energy, updated_at)
                VALUES (11, 1, 0, :old), (12, 2, 0, :new), (13, 3, 0, :old);
                INSERT INTO atomic_properties (calculation_id, atom_index, element, atomic_number, position_x,
                                               position_y, position_z, created_at)
                VALUES (11, 0, 'C', 6, 0, 0, 0, :new), (11, 1, 'C', 6, 0, 0, 0, :old), (13, 0, 'O', 8, 0, 0, 0, :old);
                INSERT INTO batch_jobs (id, batch_name, updated_at) VALUES (21, 'x', :old), (22, 'y', :old);
                INSERT INTO batch_items (id, batch_id, molecule_id, updated_at)
                VALUES (31, 21, 5, :new), (32, 22, 3, :old)
            """),
            {"old": old, "new": new},
        )
    export_tables(reader, folder, since="2025-06-01", partitions=2)
    keyed = ("molecules", "calculations", "batch_jobs", "batch_items")
    keys = {table: sorted(pd.read_parquet(folder / table)["id"]) for table in keyed}
    assert keys == {"molecules": [1, 2, 4, 5], "calculations": [11, 12], "batch_jobs": [21], "batch_items": [31]}
    atoms = pd.read_parquet(folder / "atomic_properties")[["calculation_id", "atom_index"]]
    assert atoms.to_numpy().tolist() == [[11, 0]]
    assert str(read_manifest(folder).since) == "2025-06-01 00:00:00+00:00"


def test_since_needs_no_parents_of_tables_left_out(engine: Engine, reader: ArrowReader, folder: Path) -> None:
    store_awkward(engine, (ALICE,))
    report = export_tables(reader, folder, tables=["molecules"], since="9000-01-01")
    assert report.rows == {"molecules": 2}


def test_tenant_exports_own_and_public_rows_only(engine: Engine, folder: Path) -> None:
    store_awkward(engine)
    with contextlib.closing(ArrowReader(engine, Scope(ALICE))) as reader:
        export_tables(reader, folder, partitions=2)
    owners = {table: set(pd.read_parquet(folder / table)["user_id"].dropna()) for table in TABLES}
    visible = {str(ALICE), str(PUBLIC_USER_ID)}
    assert owners == {table: {str(ALICE)} if table == "event_logs" else visible for table in TABLES}
    assert str(BOB).encode() not in b"".join(path.read_bytes() for path in folder.rglob("*.*"))
    assert read_manifest(folder).user_id == ALICE


def test_tenant_login_exports_as_itself(
    engine: Engine, database_url: str, tenant_login: Callable[[str, uuid.UUID], str], folder: Path
) -> None:
    store_awkward(engine)
    login = create_engine(tenant_login(database_url, ALICE), poolclass=NullPool)
    with contextlib.closing(ArrowReader(login, Scope())) as reader:
        report = export_tables(reader, folder)
    assert read_manifest(folder).user_id == ALICE
    assert report.rows["molecules"] == 16


class Meddler(ArrowReader):
    """Runs SQL as another session once the snapshot is taken and before anything is read."""

    meddling = ""

    @contextlib.contextmanager
    def stream(self, *args: Any, **options: Any) -> Iterator[pa.RecordBatchReader]:
        with self._lock:
            sql, self.meddling = self.meddling, ""
        if sql:
            with self.engine.begin() as connection:
                connection.execute(text(sql))
        with super().stream(*args, **options) as stream:
            yield stream


def test_all_readers_see_the_snapshot_while_a_writer_deletes(some_pages: None, engine: Engine, folder: Path) -> None:
    with contextlib.closing(Meddler(engine, Scope())) as reader:
        reader.meddling = "DELETE FROM molecules"
        report = export_tables(reader, folder, partitions=3)
    assert (report.rows["molecules"], report.rows["calculations"]) == (1, 3000)
    assert report.rows["event_logs"] == 2
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM calculations")).scalar() == 0


def test_truncate_waits_for_the_export(some_pages: None, engine: Engine, folder: Path) -> None:
    with contextlib.closing(Meddler(engine, Scope())) as reader:
        reader.meddling = "SET LOCAL lock_timeout = '50ms'; TRUNCATE molecules CASCADE"
        with pytest.raises(QForgeError, match="lock timeout"):
            export_tables(reader, folder)
    assert not folder.exists()


class Breaking(ArrowReader):
    """Breaks off inside the second table that is read."""

    calls = 0

    @contextlib.contextmanager
    def stream(self, *args: Any, **options: Any) -> Iterator[Any]:
        with super().stream(*args, **options) as stream:
            self.calls += 1
            yield stream if self.calls < 2 else self._broken(stream)

    def _broken(self, stream: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        yield from stream
        raise KeyboardInterrupt


@pytest.mark.parametrize("partitions", [1, 3])
def test_interrupted_export_leaves_nothing(some_pages: None, engine: Engine, folder: Path, partitions: int) -> None:
    with contextlib.closing(Breaking(engine, Scope())) as reader, pytest.raises(KeyboardInterrupt):
        export_tables(reader, folder, partitions=partitions)
    assert list(folder.parent.iterdir()) == []


def test_lost_server_connection_leaves_nothing(some_pages: None, engine: Engine, folder: Path) -> None:
    with contextlib.closing(Meddler(engine, Scope())) as reader:
        reader.meddling = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with pytest.raises(QForgeError, match=r"closed the connection|snapshot|terminating"):
            export_tables(reader, folder)
    assert list(folder.parent.iterdir()) == []


# Prints the most memory, in MB, that an export and a restore of its rows took.
MEASURED = """
import pathlib, re, resource, sys
from sqlalchemy import create_engine
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.db.scope import Scope
from qforge_sdk.parquet import export_tables, restore_tables
engine = create_engine(sys.argv[1])
reader = ArrowReader(engine, Scope())
export_tables(reader, sys.argv[2])
reader.close()
restore_tables(engine, Scope(), sys.argv[2])
engine.dispose()
status = pathlib.Path("/proc/self/status")
if status.exists():
    # ru_maxrss would begin at what the parent had when it forked.
    print(int(re.search("VmHWM:[^0-9]*([0-9]+) kB", status.read_text())[1]) / 1e3)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def test_memory_stays_flat(engine: Engine, database_url: str, folder: Path, long: bool) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO molecules (smiles, formula) VALUES ('C', 'CH4');
                INSERT INTO calculations (molecule_id, energy, gap, xyz_file_hash, metadata)
                SELECT 1, -random(), random(), repeat(md5(n::text), 2), jsonb_build_object('n', n)
                FROM generate_series(1, :rows) AS n
            """),
            {"rows": 5_000_000 if long else 150_000},
        )
    measured = subprocess.run(
        [sys.executable, "-c", MEASURED, database_url, folder], capture_output=True, text=True, check=True
    )
    assert float(measured.stdout) < 500


def test_folder_with_something_in_it_is_refused(reader: ArrowReader, folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="not an empty folder") as caught:
        export_tables(reader, folder)
    assert caught.value.field == "folder"
    assert [path.name for path in folder.parent.rglob("*")] == ["export", "notes.txt"]


def test_second_export_does_not_overwrite_the_first(reader: ArrowReader, folder: Path) -> None:
    export_tables(reader, folder)
    with pytest.raises(InvalidInput, match="export into a new one"):
        export_tables(reader, folder)


def test_empty_folder_and_missing_parents_are_fine(reader: ArrowReader, folder: Path) -> None:
    folder.mkdir()
    export_tables(reader, folder, tables="molecules")
    export_tables(reader, folder.parent / "a" / "b", tables=["molecules"])
    assert json.loads((folder.parent / "a" / "b" / "manifest.json").read_text())["tables"].keys() == {"molecules"}


def test_file_in_the_way_is_refused(reader: ArrowReader, folder: Path) -> None:
    folder.write_text("mine")
    with pytest.raises(InvalidInput):
        export_tables(reader, folder)
    assert folder.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tables": ["molecule"]}, UnknownField, "did you mean 'molecules'"),
        ({"tables": []}, InvalidInput, "at least one"),
        ({"since": "yesterday-ish"}, InvalidInput, "such as '2026-05-01'"),
        ({"since": ""}, InvalidInput, "such as '2026-05-01'"),
        ({"since": ["x"]}, InvalidInput, "such as '2026-05-01'"),
        ({"partitions": 0}, InvalidInput, "1 or more"),
    ],
)
def test_wrong_option_is_named(
    reader: ArrowReader, folder: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_tables(reader, folder, **options)
    assert not folder.exists()


def test_outdated_schema_is_refused(engine: Engine, reader: ArrowReader, folder: Path) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE qforge.alembic_version SET version_num = 'other'"))
    with pytest.raises(SchemaOutdated):
        export_tables(reader, folder)


def test_missing_schema_is_refused(empty_database_url: str, folder: Path) -> None:
    engine = create_engine(empty_database_url, poolclass=NullPool)
    with contextlib.closing(ArrowReader(engine, Scope())) as reader, pytest.raises(SchemaMissing):
        export_tables(reader, folder)


def test_statement_timeout_does_not_end_an_export(engine: Engine, admin_url: str, folder: Path) -> None:
    admin = create_engine(admin_url, poolclass=NullPool)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f'ALTER DATABASE "{admin.url.database}" SET statement_timeout = 150'))
    blocker = admin.connect()
    blocker.begin()
    blocker.execute(text("LOCK TABLE molecules IN ACCESS EXCLUSIVE MODE"))
    release = threading.Timer(0.4, blocker.close)
    release.start()
    started = time.perf_counter()
    with contextlib.closing(ArrowReader(engine, Scope())) as reader:
        export_tables(reader, folder)
    assert time.perf_counter() - started > 0.3
    release.join()


def test_nothing_is_printed_where_nobody_looks(
    reader: ArrowReader, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_tables(reader, folder)
    assert capsys.readouterr() == ("", "")


def test_manifest_survives_its_own_text(some_pages: None, reader: ArrowReader, folder: Path) -> None:
    export_tables(reader, folder, since="2020-01-01 12:00+02:00")
    manifest = read_manifest(folder)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert str(manifest.since) == "2020-01-01 10:00:00+00:00"
