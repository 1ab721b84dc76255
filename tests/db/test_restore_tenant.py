"""Restores by a tenant: its own rows under new ids, what it sees already is used, nothing of another's is touched."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine, NullPool, create_engine, text

from qforge_sdk.db.models import PUBLIC_USER_ID, TABLES
from qforge_sdk.db.reader import ArrowReader
from qforge_sdk.db.scope import Scope
from qforge_sdk.errors import AccessDenied, Conflict, ExportMismatch, InvalidInput
from qforge_sdk.parquet import ExportReport, RestoreReport, export_tables, restore_tables
from tests.fixtures.awkward import all_rows, store_awkward
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.tenants import ALICE, BOB

RESTORED = [table for table in TABLES if table != "event_logs"]

# Every row as text with its parents spelled out, so that ids, owners and times do not matter.
MOLECULE = "row(m.smiles, m.graph_hash, m.name, m.formula, m.input_smiles, m.metadata, m.fingerprint, m.charge)"
CALCULATION = "row(c.energy, c.homo, c.gap, c.dipole, c.total_charge, c.output_json_path, c.source_id, c.metadata)"
BATCH = "row(b.batch_name, b.description, b.parameters, b.started_at)"
CONTENT = {
    "molecules": f"SELECT {MOLECULE} FROM molecules AS m WHERE {{owned}}",
    "calculations": f"SELECT row({CALCULATION}, {MOLECULE}) FROM calculations AS c JOIN molecules AS m "
    "ON m.id = c.molecule_id WHERE {owned}",
    "atomic_properties": f"SELECT row({CALCULATION}, a.atom_index, a.element, a.position_x, a.force_x, a.metadata) "
    "FROM atomic_properties AS a JOIN calculations AS c ON c.id = a.calculation_id WHERE {owned}",
    "batch_jobs": f"SELECT {BATCH} FROM batch_jobs AS b WHERE {{owned}}",
    "batch_items": f"SELECT row({BATCH}, {MOLECULE}, {CALCULATION}, i.retry_count, i.error_message, i.completed_at) "
    "FROM batch_items AS i JOIN batch_jobs AS b ON b.id = i.batch_id JOIN molecules AS m ON m.id = i.molecule_id "
    "LEFT JOIN calculations AS c ON c.id = i.calculation_id WHERE {owned}",
}
OWNER = {"molecules": "m", "calculations": "c", "atomic_properties": "a", "batch_jobs": "b", "batch_items": "i"}


@pytest.fixture(scope="module")
def source(databases_of: DatabasesOf) -> Iterator[Engine]:
    """Engine of the service on a database of Alice's and Bob's rows, which no test changes."""
    databases = databases_of()
    with databases.clone() as name:
        engine = create_engine(databases.url(name), poolclass=NullPool)
        store_awkward(engine, (ALICE, BOB))
        yield engine


@pytest.fixture(scope="module")
def alices(source: Engine, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """Alice's export of that database."""
    return export(source, tmp_path_factory.mktemp("module") / "export", ALICE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the test's own export goes."""
    return tmp_path / "export"


@pytest.fixture
def target(databases_of: DatabasesOf) -> Iterator[Engine]:
    """Engine of the service on an empty database."""
    databases = databases_of()
    with databases.clone() as name:
        yield create_engine(databases.url(name), poolclass=NullPool)


def export(engine: Engine, folder: Path, tenant: uuid.UUID | None, **options: Any) -> ExportReport:
    with contextlib.closing(ArrowReader(engine, Scope(tenant))) as reader:
        return export_tables(reader, folder, **options)


def restore(engine: Engine, folder: Path, tenant: uuid.UUID = ALICE) -> RestoreReport:
    return restore_tables(engine, Scope(tenant), folder)


def execute(engine: Engine, sql: str, **values: Any) -> Any:
    with engine.begin() as connection:
        result = connection.execute(text(sql), values)
        return result.scalar() if result.returns_rows else result.rowcount


def content(engine: Engine, table: str, *owners: uuid.UUID) -> list[str]:
    """Rows of some owners without ids, owners and times, sorted."""
    owned = f"{OWNER[table]}.user_id IN ({', '.join(repr(str(owner)) for owner in owners)})"
    with engine.begin() as connection:
        rows = connection.exec_driver_sql(CONTENT[table].format(owned=owned).replace("SELECT row", "SELECT ROW"))
        return sorted(str(row[0]) for row in rows)


def counts(engine: Engine, owner: uuid.UUID) -> dict[str, int]:
    query = "SELECT count(*) FROM {} WHERE user_id = :owner"
    return {table: execute(engine, query.format(table), owner=owner) for table in RESTORED}


def test_rows_come_back_under_new_ids_with_their_references(
    alices: ExportReport, source: Engine, target: Engine
) -> None:
    # Ids of the target are taken already, in another order.
    store_awkward(target, (BOB,))
    report = restore(target, alices.folder)
    assert report.inserted == report.rows == {table: alices.rows[table] for table in RESTORED}
    assert list(report.rows.values()) == [8, 9, 10, 2, 6]
    for table in RESTORED:
        assert content(target, table, ALICE) == content(source, table, ALICE)
    assert execute(target, "SELECT min(id) FROM molecules WHERE user_id = :alice", alice=ALICE) > 8


def test_times_are_given_by_the_database(alices: ExportReport, target: Engine) -> None:
    restore(target, alices.folder)
    assert execute(target, "SELECT count(DISTINCT created_at) FROM molecules") == 1


def test_another_tenants_rows_stay_as_they_were(alices: ExportReport, target: Engine) -> None:
    store_awkward(target, (BOB, PUBLIC_USER_ID, None))
    before = all_rows(target)
    restore(target, alices.folder)
    after = all_rows(target)
    assert all(set(before[table]) <= set(after[table]) for table in TABLES)
    assert execute(target, "SELECT count(*) FROM calculations c JOIN molecules m ON m.id = c.molecule_id "
                           "WHERE c.user_id = :alice AND m.user_id NOT IN (:alice, :public)",
                   alice=ALICE, public=PUBLIC_USER_ID) == 0  # fmt: skip


def test_second_restore_finds_every_row_there(alices: ExportReport, target: Engine) -> None:
    restore(target, alices.folder)
    before = all_rows(target)
    again = restore(target, alices.folder)
    assert again.existing == again.rows
    assert all_rows(target) == before


def test_restore_where_it_was_exported_changes_nothing(alices: ExportReport, source: Engine) -> None:
    before = all_rows(source)
    report = restore(source, alices.folder)
    assert report.existing == report.rows
    assert all_rows(source) == before


def test_public_rows_of_the_same_database_are_used_again(engine: Engine, folder: Path) -> None:
    store_awkward(engine)
    export(engine, folder, ALICE)
    before = all_rows(engine)
    report = restore(engine, folder)
    assert report.existing == report.rows
    assert all_rows(engine) == before


def test_public_rows_become_own_where_nobody_has_them(engine: Engine, target: Engine, folder: Path) -> None:
    store_awkward(engine, (PUBLIC_USER_ID,))
    exported = export(engine, folder, ALICE)
    report = restore(target, folder)
    assert report.inserted == {table: exported.rows[table] for table in RESTORED}
    for table in RESTORED:
        assert content(target, table, ALICE) == content(engine, table, PUBLIC_USER_ID)
    again = restore(target, folder)
    assert again.existing == again.rows


def test_own_and_public_molecules_of_one_structure_become_one(engine: Engine, target: Engine, folder: Path) -> None:
    for owner, name in ((PUBLIC_USER_ID, "shared"), (ALICE, "mine")):
        key = execute(
            engine,
            "INSERT INTO molecules (user_id, smiles, formula, name) VALUES (:owner, 'CCO', 'x', :name) RETURNING id",
            owner=owner, name=name,
        )  # fmt: skip
        execute(engine, "INSERT INTO calculations (user_id, molecule_id, energy) VALUES (:owner, :key, :key)",
                owner=owner, key=key)  # fmt: skip
    export(engine, folder, ALICE)
    report = restore(target, folder)
    assert (report.inserted["molecules"], report.existing["molecules"]) == (1, 1)
    assert execute(target, "SELECT name FROM molecules") == "mine"
    assert (
        execute(target, "SELECT count(DISTINCT energy) FROM calculations JOIN molecules m ON m.id = molecule_id") == 2
    )


def test_molecules_that_are_there_are_used_whatever_their_name(
    alices: ExportReport, source: Engine, target: Engine
) -> None:
    for owner, smiles in ((ALICE, "CCO"), (PUBLIC_USER_ID, "[Fe+2]"), (BOB, r"C/C=C\C")):
        insert = "INSERT INTO molecules (user_id, smiles, formula, name) VALUES (:owner, :smiles, 'x', 'there')"
        execute(target, insert, owner=owner, smiles=smiles)
    report = restore(target, alices.folder)
    assert report.existing["molecules"] == 2
    used = "SELECT count(*) FROM calculations c JOIN molecules m ON m.id = molecule_id WHERE m.name = 'there'"
    assert execute(target, used) == execute(
        source,
        "SELECT count(*) FROM calculations c JOIN molecules m ON m.id = molecule_id "
        "WHERE c.user_id = :alice AND smiles IN ('CCO', '[Fe+2]')",
        alice=ALICE,
    )


def test_equal_calculations_keep_their_number(engine: Engine, target: Engine, folder: Path) -> None:
    execute(engine, "INSERT INTO molecules (user_id, smiles, formula) VALUES (:alice, 'C', 'x')", alice=ALICE)
    insert = (
        "INSERT INTO calculations (user_id, molecule_id, energy) SELECT :alice, {}, 1 FROM generate_series(1, {})"
    )
    execute(engine, insert.format(1, 5), alice=ALICE)
    export(engine, folder, ALICE)
    execute(target, "INSERT INTO molecules (user_id, smiles, formula) VALUES (:alice, 'C', 'y')", alice=ALICE)
    execute(target, insert.format(1, 2), alice=ALICE)
    report = restore(target, folder)
    assert (report.inserted["calculations"], report.existing["calculations"]) == (3, 2)
    assert execute(target, "SELECT count(*) FROM calculations") == 5


def test_thousands_of_references_move_along(engine: Engine, target: Engine, folder: Path) -> None:
    execute(
        engine,
        """
        INSERT INTO molecules (id, user_id, smiles, formula)
        SELECT 1 + n * 7919 % 3000, :alice, 'C' || n * 7919 % 3000, 'x' FROM generate_series(0, 2999) AS n;
        INSERT INTO calculations (id, user_id, molecule_id, energy)
        SELECT 1 + n * 7919 % 3000, :alice, 1 + n * 31 % 3000, n * 31 % 3000 FROM generate_series(0, 2999) AS n;
        INSERT INTO atomic_properties (user_id, calculation_id, atom_index, element, atomic_number, position_x,
                                       position_y, position_z)
        SELECT user_id, id, 0, 'C', 6, energy, 0, 0 FROM calculations
        """,
        alice=ALICE,
    )
    export(engine, folder, ALICE, partitions=2)
    restore(target, folder)
    agree = """
        SELECT count(*) FROM atomic_properties AS a JOIN calculations AS c ON c.id = a.calculation_id
        JOIN molecules AS m ON m.id = c.molecule_id WHERE a.position_x = c.energy AND m.smiles = 'C' || c.energy
    """
    assert execute(target, agree) == 3000


def test_events_are_left_out(alices: ExportReport, target: Engine) -> None:
    report = restore(target, alices.folder)
    assert alices.rows["event_logs"] > 0
    assert "event_logs" not in report.rows
    assert execute(target, "SELECT count(*) FROM event_logs WHERE recorded_by = 'program'") == 0


def test_a_tenants_export_can_become_another_tenants(alices: ExportReport, source: Engine, target: Engine) -> None:
    restore(target, alices.folder, BOB)
    assert content(target, "batch_items", BOB) == content(source, "batch_items", ALICE)
    assert sum(counts(target, ALICE).values()) == 0


def test_tenant_login_restores_as_itself(
    alices: ExportReport, target: Engine, tenant_login: Callable[[str, uuid.UUID], str]
) -> None:
    login = create_engine(tenant_login(target.url.render_as_string(hide_password=False), ALICE), poolclass=NullPool)
    report = restore_tables(login, Scope(), alices.folder)
    assert report.inserted == counts(target, ALICE)


@pytest.mark.parametrize("owners", [(ALICE, BOB), (ALICE, None)])
def test_export_of_several_owners_is_for_the_service(
    engine: Engine, target: Engine, folder: Path, owners: tuple[uuid.UUID | None, ...]
) -> None:
    store_awkward(engine, owners)
    export(engine, folder, None)
    with pytest.raises(InvalidInput, match="several owners"):
        restore(target, folder)
    assert execute(target, "SELECT count(*) FROM molecules") == 0


def test_service_puts_a_tenants_export_back_as_it_was(alices: ExportReport, source: Engine, target: Engine) -> None:
    report = restore_tables(target, Scope(), alices.folder)
    assert report.inserted == alices.rows
    assert set(all_rows(target)["calculations"]) <= set(all_rows(source)["calculations"])


def test_calculations_without_their_molecules_are_refused(
    alices: ExportReport, source: Engine, target: Engine, tmp_path: Path
) -> None:
    export(source, tmp_path / "part", ALICE, tables=["calculations"])
    with pytest.raises(InvalidInput, match="an export of molecules and calculations together") as caught:
        restore(target, tmp_path / "part")
    assert caught.value.field == "molecule_id"


def test_other_calculation_of_the_same_source_is_a_conflict(alices: ExportReport, target: Engine) -> None:
    restore(target, alices.folder)
    execute(target, "UPDATE calculations SET gap = 7 WHERE user_id = :alice AND source_id = 'source 1'", alice=ALICE)
    before = all_rows(target)
    with pytest.raises(Conflict) as caught:
        restore(target, alices.folder)
    assert caught.value.constraint == "calculations_source"
    assert all_rows(target) == before


def test_other_atom_of_the_same_calculation_is_a_conflict(alices: ExportReport, target: Engine) -> None:
    restore(target, alices.folder)
    execute(
        target, "UPDATE atomic_properties SET position_x = 7 WHERE user_id = :alice AND atom_index = 1", alice=ALICE
    )
    with pytest.raises(Conflict) as caught:
        restore(target, alices.folder)
    assert caught.value.constraint == "atomic_properties_key"


def test_atoms_cannot_be_added_to_a_public_calculation(engine: Engine, folder: Path) -> None:
    store_awkward(engine, (PUBLIC_USER_ID,))
    export(engine, folder, ALICE)
    execute(engine, "DELETE FROM atomic_properties")
    with pytest.raises(AccessDenied):
        restore(engine, folder)


def test_trigger_that_changes_rows_is_noticed(alices: ExportReport, target: Engine) -> None:
    execute(
        target,
        """
        CREATE FUNCTION public.meddle() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.retry_count := 9; RETURN NEW; END $$;
        CREATE TRIGGER meddle BEFORE INSERT ON batch_items FOR EACH ROW EXECUTE FUNCTION public.meddle()
        """,
    )
    with pytest.raises(ExportMismatch, match="batch_items: 6 of 6 rows"):
        restore(target, alices.folder)
    assert execute(target, "SELECT count(*) FROM molecules") == 0


def test_damaged_file_loads_nothing(alices: ExportReport, target: Engine, tmp_path: Path) -> None:
    folder = shutil.copytree(alices.folder, tmp_path / "export")
    path = folder / "batch_items" / "part-00000.parquet"
    pd.read_parquet(path).to_parquet(path)
    with pytest.raises(ExportMismatch, match="batch_items"):
        restore(target, folder)
    assert sum(counts(target, ALICE).values()) == 0
