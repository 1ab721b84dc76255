"""Loads into empty tables make indexes and keys afterwards, and leave the same ones behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import IntegrityError

from qforge_sdk.client import Client
from qforge_sdk.db.bulk import rebuild
from qforge_sdk.errors import Conflict, DuplicateMolecule, RowsRejected
from qforge_sdk.schemas import LoadReport
from tests.fixtures.catalog import EVERYTHING, catalog
from tests.fixtures.clients import TenantClient
from tests.fixtures.tenants import ALICE

COUNT = 120
TABLES = ("molecules", "calculations", "atomic_properties")

WHOLE = EVERYTHING | {
    "internal triggers": """
        SELECT tgrelid::regclass, tgconstrrelid::regclass, tgfoid::regproc, tgenabled
        FROM pg_trigger WHERE tgisinternal
    """,
    "indexes": """
        SELECT i.indexrelid::regclass, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, i.indisclustered,
               i.indisreplident, i.indisprimary, c.reloptions, c.reltablespace
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        WHERE c.relnamespace IN ('public'::regnamespace, 'qforge'::regnamespace)
    """,
    "validated": "SELECT conname, convalidated, condeferrable, condeferred FROM pg_constraint",
    "index comments": "SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE relkind = 'i'",
    "constraint comments": "SELECT conname, obj_description(oid, 'pg_constraint') FROM pg_constraint",
}


@pytest.fixture(autouse=True)
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load of few rows is enough."""
    monkeypatch.setattr(rebuild, "WORTH_ROWS", 50)


def load_molecules(client: Client, count: int = COUNT) -> LoadReport:
    return client.molecules.bulk_load({"smiles": ["C" * n for n in range(1, count + 1)]}, progress=False)


def load_calculations(client: Client, count: int = COUNT) -> LoadReport:
    smiles = ["C" * (n % 7 + 1) for n in range(count)]
    given = {
        "smiles": smiles,
        "energy": -np.arange(count, dtype=float),
        "source_id": [f"run-{n}" for n in range(count)],
    }
    return client.calculations.bulk_load(given, progress=False)


def load_atoms(client: Client, count: int = COUNT) -> LoadReport:
    if not client.calculations.count():
        client.calculations.bulk_load({"smiles": ["C"], "energy": [-1.0]})
    key = client.calculations.query(columns=["id"], limit=1)["id"][0]
    columns = {
        "calculation_id": np.full(count, key),
        "atom_index": np.arange(count),
        "atomic_number": np.full(count, 6),
    }
    return client.atoms.bulk_load(
        pa.table(columns | {f"position_{axis}": np.arange(count, dtype=float) for axis in "xyz"})
    )


LOAD: dict[str, Callable[..., LoadReport]] = {
    "molecules": load_molecules, "calculations": load_calculations, "atomic_properties": load_atoms,
}  # fmt: skip


@pytest.fixture
def files(engine: Engine) -> Callable[[], dict[str, int]]:
    """The file of each table: another one after it was emptied."""

    def read() -> dict[str, int]:
        with engine.begin() as connection:
            query = text("SELECT relname, relfilenode FROM pg_class WHERE relname = ANY (:names)")
            return {row.relname: row.relfilenode for row in connection.execute(query, {"names": list(TABLES)})}

    return read


@pytest.fixture
def rebuilt(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Tables whose indexes were dropped and made again."""
    seen: list[str] = []
    taken = rebuild._taken_empty

    def spy(cursor: Any, table: str) -> bool:
        found = taken(cursor, table)
        if found:
            seen.append(table.removeprefix("public."))
        return found

    monkeypatch.setattr(rebuild, "_taken_empty", spy)
    return seen


@pytest.mark.parametrize("table", TABLES)
def test_everything_is_as_before_but_the_rows(
    client: Client, database_url: str, rebuilt: list[str], files: Callable[[], dict[str, int]], table: str
):
    before, old = catalog(database_url, WHOLE), files()
    report = LOAD[table](client)
    assert (report.n_inserted, report.n_rejected) == (COUNT, 0)
    assert rebuilt == [table]
    assert files()[table] != old[table]
    after = catalog(database_url, WHOLE)
    for name in WHOLE:
        assert after[name] == before[name], name


def test_one_load_may_rebuild_two_tables(client: Client, database_url: str, rebuilt: list[str]):
    before = catalog(database_url, WHOLE)
    smiles = ["C" * n for n in range(1, COUNT + 1)]
    report = client.calculations.bulk_load({"smiles": smiles, "energy": [-1.0] * COUNT}, progress=False)
    assert (report.n_inserted, report.n_molecules_created) == (COUNT, COUNT)
    assert rebuilt == ["molecules", "calculations"]
    assert catalog(database_url, WHOLE) == before
    assert client.calculations.query(columns=["id", "smiles"], order_by="id")["smiles"].tolist() == smiles


def test_keys_and_foreign_keys_work_afterwards(client: Client, engine: Engine):
    for load in LOAD.values():
        load(client)
    with pytest.raises(DuplicateMolecule):
        client.molecules.create("CC")
    with pytest.raises(Conflict):
        client.atoms.create(
            int(client.atoms.query(limit=1)["calculation_id"][0]),
            [{"element": "C", "position_x": 0.0, "position_y": 0.0, "position_z": 0.0}],
        )
    with pytest.raises(IntegrityError, match="foreign key"), engine.begin() as connection:
        connection.execute(text("INSERT INTO public.calculations (molecule_id, energy) VALUES (10000000, -1)"))
    with pytest.raises(IntegrityError, match="calculations_source"), engine.begin() as connection:
        connection.execute(
            text("INSERT INTO public.calculations (molecule_id, energy, source_id) VALUES (1, -1, 'run-1')")
        )


def test_deleting_a_molecule_still_deletes_what_hangs_on_it(client: Client):
    load_calculations(client)
    load_atoms(client)
    key = int(client.atoms.query(limit=1)["calculation_id"][0])
    client.molecules.delete(client.calculations.get(key).molecule_id)
    assert client.atoms.count() == 0


def test_other_tenants_rows_stay_hidden(client: Client, tenant_client: TenantClient):
    load_calculations(client)
    alice = tenant_client(ALICE)
    assert (alice.molecules.count(), alice.calculations.count()) == (0, 0)
    created = alice.calculations.create(smiles="CC", energy=-1.0)
    assert alice.calculations.query()["id"].tolist() == [created.id]


def test_the_load_is_one_event_and_later_rows_have_theirs(client: Client):
    load_molecules(client)
    created = client.molecules.create("CCO")
    events = client.events.query(entity_type="molecules", order_by="id", columns=["id", "entity_id", "context"])
    assert len(events) == 2
    assert events["context"][0]["rows"] == COUNT
    assert events["entity_id"][1] == created.id


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_holds_rows_keeps_its_indexes(client: Client, rebuilt: list[str], table: str):
    LOAD[table](client, 1)
    LOAD[table](client)
    assert rebuilt == []


@pytest.mark.parametrize("table", TABLES)
def test_few_rows_are_not_worth_it(client: Client, rebuilt: list[str], table: str):
    LOAD[table](client, 49)
    assert rebuilt == []


@pytest.mark.parametrize("busy", ["molecules", "calculations", "atomic_properties", "batch_items"])
def test_a_table_that_somebody_reads_is_not_taken(client: Client, engine: Engine, rebuilt: list[str], busy: str):
    with engine.connect() as other, other.begin():
        other.execute(text(f"SELECT count(*) FROM public.{busy}"))
        report = load_calculations(client)
    assert report.n_inserted == COUNT
    assert rebuilt == []


def test_a_tenant_owns_no_table(tenant_client: TenantClient, rebuilt: list[str]):
    report = load_calculations(tenant_client(ALICE))
    assert report.n_inserted == COUNT
    assert rebuilt == []


def test_a_table_of_somebody_else_that_refers_to_it_keeps_its_key(
    client: Client, admin_url: str, engine: Engine, rebuilt: list[str]
):
    with create_engine(admin_url, poolclass=NullPool).begin() as connection:
        connection.execute(text("CREATE TABLE public.notes (molecule_id bigint REFERENCES public.molecules)"))
    assert load_molecules(client).n_inserted == COUNT
    assert rebuilt == []


def test_a_refused_row_undoes_the_rebuilding_as_well(client: Client, database_url: str, rebuilt: list[str]):
    before = catalog(database_url, WHOLE)
    frame = pd.DataFrame({"smiles": ["C"] * COUNT, "energy": [-1.0] * (COUNT - 1) + [np.inf]})
    with pytest.raises(RowsRejected):
        client.calculations.bulk_load(frame, on_error="raise", progress=False)
    assert rebuilt == ["calculations"]
    assert catalog(database_url, WHOLE) == before
    assert (client.calculations.count(), client.molecules.count()) == (0, 0)


def test_plans_know_the_new_rows(client: Client, engine: Engine):
    load_molecules(client)
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT reltuples FROM pg_class WHERE relname = 'molecules'")) == COUNT
