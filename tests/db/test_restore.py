"""Restores by the service: the same rows again, verified, or nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, NullPool, create_engine, text

from qforge_sdk.db.models import TABLES
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.db.scope import Scope
from qforge_sdk.errors import (
    AccessDenied,
    Conflict,
    ExportMismatch,
    InvalidInput,
    SchemaMissing,
    SchemaOutdated,
)
from qforge_sdk.parquet import ExportReport, RestoreReport, export_tables, restore_tables
from qforge_sdk.parquet.content import content_of
from qforge_sdk.parquet.manifest import file_sha256, read_manifest
from tests.fixtures.awkward import all_rows, rows_of, store_awkward
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.servers import PostgresServer
from tests.fixtures.tenants import ALICE


@pytest.fixture(scope="module")
def source(databases_of: DatabasesOf) -> Iterator[Engine]:
    """Engine of the service on a database of awkward rows, which no test changes."""
    databases = databases_of()
    with databases.clone() as name:
        engine = create_engine(databases.url(name), poolclass=NullPool)
        store_awkward(engine)
        yield engine


@pytest.fixture(scope="module")
def exported(source: Engine, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """An export of all of them."""
    return export(source, tmp_path_factory.mktemp("module") / "export")


@pytest.fixture
def folder(exported: ExportReport, tmp_path: Path) -> Path:
    """A copy of that export, which a test may damage."""
    return shutil.copytree(exported.folder, tmp_path / "export")


@pytest.fixture
def target(engine: Engine) -> Engine:
    """Engine of the service on an empty database."""
    return engine


@pytest.fixture
def second(databases_of: DatabasesOf) -> Iterator[Engine]:
    """The same on another one."""
    databases = databases_of()
    with databases.clone() as name:
        yield create_engine(databases.url(name), poolclass=NullPool)


def export(engine: Engine, folder: Path, **options: Any) -> ExportReport:
    with contextlib.closing(ArrowReader(engine, Scope())) as reader:
        return export_tables(reader, folder, **options)


def restore(engine: Engine, folder: Path) -> RestoreReport:
    return restore_tables(engine, Scope(), folder)


def execute(engine: Engine, sql: str, **values: Any) -> Any:
    with engine.begin() as connection:
        result = connection.execute(text(sql), values)
        return result.scalar() if result.returns_rows else result.rowcount


def unguarded(statement: str) -> str:
    """SQL that changes events, which only the owner can do and only without the guard."""
    switch = "ALTER TABLE public.event_logs {} TRIGGER guard"
    return f"{switch.format('DISABLE')}; {statement}; {switch.format('ENABLE')}"


def assert_same_rows(source: Engine, target: Engine) -> None:
    """Equal in every table; the target may know more events, those of the restore itself."""
    found, expected = all_rows(target), all_rows(source)
    events = set(found.pop("event_logs")) - set(expected.pop("event_logs"))
    assert found == expected
    last = execute(source, "SELECT max(id) FROM event_logs")
    assert len(events) == execute(target, f"SELECT count(*) FROM event_logs WHERE id > {last}")


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_every_row_comes_back_as_it_was(exported: ExportReport, source: Engine, target: Engine, folder: Path) -> None:
    report = restore(target, folder)
    assert_same_rows(source, target)
    assert report.rows == report.inserted == exported.rows
    assert report.existing == dict.fromkeys(TABLES, 0)


@pytest.mark.parametrize("version", [15, 16])
def test_export_of_18_restores_on_older_servers(
    source: Engine, folder: Path, databases_of: DatabasesOf, version: int
) -> None:
    databases = databases_of(version)
    with databases.clone() as name:
        target = create_engine(databases.url(name), poolclass=NullPool)
        restore(target, folder)
        assert_same_rows(source, target)
        export(target, folder.with_name("back"), tables=["molecules"])
    there, back = (read_manifest(path).tables["molecules"] for path in (folder, folder.with_name("back")))
    assert back.content_hash == there.content_hash


def test_restore_as_postgres_of_supabase(source: Engine, folder: Path, databases_of: DatabasesOf) -> None:
    databases = databases_of(18, supabase=True)
    with databases.clone() as name:
        target = create_engine(databases.url(name), poolclass=NullPool)
        restore(target, folder)
        assert_same_rows(source, target)


def test_second_restore_finds_every_row_there(exported: ExportReport, target: Engine, folder: Path) -> None:
    restore(target, folder)
    before = all_rows(target)
    again = restore(target, folder)
    assert again.existing == exported.rows
    assert again.inserted == dict.fromkeys(TABLES, 0)
    assert all_rows(target) == before


def test_restore_where_it_was_exported_changes_nothing(exported: ExportReport, source: Engine, folder: Path) -> None:
    before = all_rows(source)
    assert restore(source, folder).existing == exported.rows
    assert all_rows(source) == before


def test_lost_rows_come_back_and_others_stay(target: Engine, folder: Path) -> None:
    restore(target, folder)
    before = all_rows(target)
    execute(target, "DELETE FROM molecules WHERE user_id = :alice", alice=ALICE)
    execute(target, "INSERT INTO molecules (smiles, formula) VALUES ('new', 'x')")
    assert execute(target, "SELECT sum(total_molecules) FROM batch_jobs") < 24
    assert restore(target, folder).inserted["molecules"] == 8
    after = all_rows(target)
    assert after["batch_jobs"] == before["batch_jobs"]
    assert [row for row in after["molecules"] if ",new,x," not in row] == before["molecules"]
    assert after["calculations"] == before["calculations"]


def rewrite(folder: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the only file of a table, and the manifest with it."""
    path = next((folder / table).glob("*.parquet"))
    rows = change(pq.read_table(path))
    pq.write_table(rows, path)
    content = content_of(rows)

    def update(manifest: dict[str, Any]) -> None:
        entry = manifest["tables"][table]
        entry["content_hash"] = content.digest
        entry["files"][0] |= {"bytes": path.stat().st_size, "sha256": file_sha256(path)}

    change_manifest(folder, update)


def test_batches_of_an_older_revision_are_counted_anew(target: Engine, folder: Path) -> None:
    older = {"skipped_count", "waiting_count"}

    def before_the_database_counted(rows: pa.Table) -> pa.Table:
        rows = rows.drop_columns(list(older))
        place = rows.schema.get_field_index("successful_count")
        return rows.set_column(place, "successful_count", pa.array([7] * rows.num_rows, pa.int64()))

    rewrite(folder, "batch_jobs", before_the_database_counted)
    change_manifest(folder, lambda m: m.update(schema_revision="0003"))

    restore(target, folder)

    counted = "successful_count, skipped_count, waiting_count, total_molecules"
    with target.connect() as connection:
        rows = connection.execute(text(f"SELECT {counted} FROM batch_jobs")).all()
    assert {tuple(row) for row in rows} == {(0, 0, 3, 3)}


def test_new_rows_get_ids_beyond_the_restored_ones(target: Engine, folder: Path) -> None:
    restore(target, folder)
    last = execute(target, "SELECT max(id) FROM molecules")
    assert execute(target, "INSERT INTO molecules (smiles, formula) VALUES ('new', 'x') RETURNING id") == last + 1


def test_first_id_is_not_given_twice(engine: Engine, second: Engine, tmp_path: Path) -> None:
    execute(engine, "INSERT INTO molecules (smiles, formula) VALUES ('C', 'x')")
    export(engine, tmp_path / "e")
    restore(second, tmp_path / "e")
    assert execute(second, "INSERT INTO molecules (smiles, formula) VALUES ('N', 'x') RETURNING id") == 2


def test_report_is_one_readable_line(target: Engine, folder: Path) -> None:
    assert f"{folder}: molecules: 32 (32 new, 0 there already), calculations: 36" in repr(restore(target, folder))


def test_many_rows_keep_their_indexes_and_keys(engine: Engine, second: Engine, tmp_path: Path) -> None:
    execute(
        engine, "INSERT INTO molecules (smiles, formula) SELECT 'C' || n, 'x' FROM generate_series(1, 60000) AS n"
    )
    export(engine, tmp_path / "e", tables=["molecules"], partitions=2)
    shape = "SELECT string_agg(indexdef, ' ' ORDER BY indexdef) FROM pg_indexes WHERE schemaname = 'public'"
    before = execute(second, shape)
    assert restore(second, tmp_path / "e").inserted == {"molecules": 60000}
    assert execute(second, shape) == before
    assert rows_of(second, "molecules") == rows_of(engine, "molecules")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE molecules SET name = 'other' WHERE id = 1",
        # Equal for PostgreSQL, but neither the same bits nor the same text.
        """ALTER TABLE calculations DISABLE TRIGGER touch;
        UPDATE calculations SET total_charge = 0 WHERE total_charge = 0""",
        """ALTER TABLE molecules DISABLE TRIGGER touch;
        UPDATE molecules SET metadata = replace(metadata::text, '2.50', '2.5')::jsonb""",
        "UPDATE atomic_properties SET element = 'X'",
        "UPDATE batch_items SET created_at = now()",
        unguarded("UPDATE event_logs SET status = 'warning'"),
    ],
)
def test_row_that_differs_is_a_conflict(target: Engine, folder: Path, change: str) -> None:
    restore(target, folder)
    execute(target, change)
    before = all_rows(target)
    with pytest.raises(Conflict, match="stored already with other content") as caught:
        restore(target, folder)
    assert caught.value.existing_id is not None
    assert all_rows(target) == before


def test_same_molecule_under_another_id_is_a_conflict(target: Engine, folder: Path) -> None:
    execute(
        target, "INSERT INTO molecules (id, user_id, smiles, formula) VALUES (999, :alice, 'CCO', 'x')", alice=ALICE
    )
    with pytest.raises(Conflict) as caught:
        restore(target, folder)
    assert caught.value.constraint == "molecules_identity"
    assert execute(target, "SELECT count(*) FROM molecules") == 1


def test_changes_since_a_time_go_on_top(engine: Engine, second: Engine, folder: Path) -> None:
    restore(engine, folder)
    restore(second, folder)
    since = str(execute(engine, "SELECT clock_timestamp()"))
    key = execute(engine, "INSERT INTO calculations (molecule_id, energy) VALUES (1, 0.5) RETURNING id")
    export(engine, folder.with_name("later"), since=since, tables=["molecules", "calculations"])
    report = restore(second, folder.with_name("later"))
    assert (report.inserted["calculations"], report.existing["molecules"]) == (1, report.rows["molecules"])
    assert rows_of(second, "calculations", f"id = {key}") == rows_of(engine, "calculations", f"id = {key}")


def test_rows_without_their_parents_are_refused(source: Engine, target: Engine, tmp_path: Path) -> None:
    export(source, tmp_path / "part", tables=["calculations"])
    with pytest.raises(InvalidInput, match="foreign key"):
        restore(target, tmp_path / "part")
    assert execute(target, "SELECT count(*) FROM calculations") == 0


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "SHA-256 differs"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "bytes, the manifest says"),
        (lambda path: path.write_bytes(b""), "has 0 bytes"),
        (Path.unlink, "is missing"),
    ],
    ids=["flipped", "truncated", "emptied", "deleted"],
)
def test_damaged_file_is_named_before_anything_is_written(
    target: Engine, folder: Path, damage: Callable[[Path], Any], message: str
) -> None:
    path = folder / "atomic_properties" / "part-00000.parquet"
    damage(path)
    with pytest.raises(ExportMismatch, match=message) as caught:
        restore(target, folder)
    assert str(path) in str(caught.value)
    assert execute(target, "SELECT count(*) FROM event_logs") == 0


def test_file_that_no_manifest_names_is_refused(target: Engine, folder: Path) -> None:
    first = folder / "molecules" / "part-00000.parquet"
    first.with_name("part-00001.parquet").write_bytes(first.read_bytes())
    with pytest.raises(ExportMismatch, match=r"part-00001\.parquet is not in the manifest"):
        restore(target, folder)


def test_folder_without_manifest_is_no_export(target: Engine, tmp_path: Path) -> None:
    with pytest.raises(ExportMismatch, match=r"manifest\.json is missing"):
        restore(target, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["tables"]["molecules"]["files"][0].update(path="../../etc/part-00000.parquet"), "path"),
        (lambda m: m.update(format_version=2), "format_version"),
        (lambda m: m.pop("schema_revision"), "schema_revision"),
        (lambda m: m["tables"].update(other=m["tables"]["molecules"]), "does not know: other"),
        (lambda m: m["tables"]["molecules"].update(files=[]), "files"),
    ],
)
def test_manifest_that_cannot_be_trusted_is_refused(
    target: Engine, folder: Path, change: Callable[[Any], Any], message: str
) -> None:
    change_manifest(folder, change)
    with pytest.raises(ExportMismatch, match=message):
        restore(target, folder)


def test_text_that_is_no_manifest_is_refused(target: Engine, folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": "qforge-export", ')
    with pytest.raises(ExportMismatch, match="cannot be read as a manifest"):
        restore(target, folder)


@pytest.mark.parametrize("entry", [{"content_hash": "0" * 32}, {"rows": 33}])
def test_stored_rows_must_fit_the_manifest(target: Engine, folder: Path, entry: dict[str, Any]) -> None:
    change_manifest(folder, lambda m: m["tables"]["molecules"].update(entry))
    with pytest.raises(ExportMismatch, match="molecules: the manifest says"):
        restore(target, folder)
    assert {table: rows_of(target, table) for table in TABLES} == {table: [] for table in TABLES}


def test_trigger_that_changes_rows_is_noticed(target: Engine, folder: Path) -> None:
    execute(
        target,
        """
        CREATE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.gap := NEW.gap + 1; RETURN NEW; END $$;
        CREATE TRIGGER meddle BEFORE INSERT ON calculations FOR EACH ROW EXECUTE FUNCTION public.meddle()
        """,
    )
    with pytest.raises(ExportMismatch, match="calculations: the manifest says"):
        restore(target, folder)
    assert execute(target, "SELECT count(*) FROM molecules") == 0


def test_file_of_another_table_is_refused(target: Engine, folder: Path) -> None:
    def swap(manifest: dict[str, Any]) -> None:
        manifest["tables"]["molecules"] = manifest["tables"]["calculations"]

    change_manifest(folder, swap)
    with pytest.raises(ExportMismatch, match="has a column molecule_id"):
        restore(target, folder)


def test_unknown_revision_of_the_export_is_refused(target: Engine, folder: Path) -> None:
    change_manifest(folder, lambda m: m.update(schema_revision="9999"))
    with pytest.raises(SchemaOutdated, match="upgrade qforge_sdk") as caught:
        restore(target, folder)
    assert caught.value.found == "9999"


def test_database_without_schema_is_refused(empty_database_url: str, folder: Path) -> None:
    with pytest.raises(SchemaMissing):
        restore(create_engine(empty_database_url, poolclass=NullPool), folder)


def test_statement_timeout_does_not_end_a_restore(
    exported: ExportReport, target: Engine, folder: Path, server: PostgresServer
) -> None:
    execute(
        target,
        """
        CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
        CREATE TRIGGER wait AFTER INSERT ON molecules FOR EACH STATEMENT EXECUTE FUNCTION public.wait()
        """,
    )
    server.execute(f"ALTER DATABASE {target.url.database} SET statement_timeout = 200")
    assert restore(target, folder).inserted == exported.rows


def test_login_that_is_nobody_restores_nothing(
    target: Engine, folder: Path, tenant_login: Callable[[str, None], str]
) -> None:
    url = target.url.render_as_string(hide_password=False)
    nobody = create_engine(tenant_login(url, None), poolclass=NullPool)
    with pytest.raises(AccessDenied):
        restore(nobody, folder)


def test_pooled_connection_is_clean_afterwards(exported: ExportReport, target: Engine, folder: Path) -> None:
    pooled = create_engine(target.url, pool_size=1, max_overflow=0)
    manifest = (folder / "manifest.json").read_text()
    change_manifest(folder, lambda m: m["tables"]["molecules"].update(content_hash="0" * 32))
    with pytest.raises(ExportMismatch):
        restore(pooled, folder)
    (folder / "manifest.json").write_text(manifest)
    assert restore(pooled, folder).inserted == exported.rows
    assert execute(pooled, "SELECT count(*) FROM pg_class WHERE relname LIKE 'restore_%'") == 0
    pooled.dispose()


FINITE = st.floats(allow_nan=False, allow_infinity=False)
# PostgreSQL stores no NUL, and lone surrogates are no text.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
JSON = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers() | FINITE | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
CALCULATION = st.fixed_dictionaries(
    {
        "energy": FINITE,
        "gap": st.none() | FINITE,
        "dipole": st.none() | st.floats(min_value=0, allow_infinity=False),
        "execution_time_seconds": st.none() | st.floats(min_value=0, allow_infinity=False),
        "unpaired_electrons": st.integers(0, 2**31 - 1),
        "optimized": st.booleans(),
        "solvent": st.none() | TEXT,
        "output_json_path": st.none() | TEXT,
        "metadata": JSON.map(json.dumps),
        "created_at": st.datetimes().map(lambda moment: f"{moment.isoformat()}+00"),
    }
)
INSERT = text("""
    INSERT INTO calculations (molecule_id, energy, gap, dipole, execution_time_seconds, unpaired_electrons, optimized,
                              solvent, output_json_path, metadata, created_at)
    VALUES (1, CAST(:energy AS float8), CAST(:gap AS float8), CAST(:dipole AS float8),
            CAST(:execution_time_seconds AS float8), :unpaired_electrons, :optimized, :solvent, :output_json_path,
            CAST(:metadata AS jsonb), CAST(:created_at AS timestamptz))
""")


def as_text(record: dict[str, Any]) -> dict[str, Any]:
    return {name: repr(value) if isinstance(value, float) else value for name, value in record.items()}


def test_any_record_comes_back_from_parquet(engine: Engine, second: Engine, long: bool) -> None:
    @settings(
        max_examples=300 if long else 15, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(st.lists(CALCULATION, min_size=1, max_size=20))
    def round_trip(records: list[dict[str, Any]]) -> None:
        for side in (engine, second):
            execute(side, f"TRUNCATE molecules CASCADE; {unguarded('TRUNCATE event_logs')}")
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO molecules (id, smiles, formula) VALUES (1, 'C', 'CH4')"))
            connection.execute(INSERT, [as_text(record) for record in records])
        with tempfile.TemporaryDirectory() as folder:
            export(engine, Path(folder), tables=["molecules", "calculations"])
            restore(second, Path(folder))
        assert rows_of(second, "calculations") == rows_of(engine, "calculations")

    round_trip()
