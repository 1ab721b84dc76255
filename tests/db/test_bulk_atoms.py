"""bulk_load of atoms: each belongs to a calculation of its owner and has an index there."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qforge_sdk.client import Client
from qforge_sdk.db.bulk import source as sources
from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.errors import AccessDenied, InvalidInput, RowsRejected, UnknownField
from tests.fixtures.bulk import collect, counts, faults
from tests.fixtures.clients import TenantClient
from tests.fixtures.tenants import ALICE, BOB

PLACE = {"position_x": 0.1, "position_y": -0.0, "position_z": 1e-300}


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


def calculations(client: Client, count: int = 1, **options: Any) -> list[int]:
    given = {"smiles": ["O"] * count, "energy": [-5.0] * count, "source_id": [f"run-{n}" for n in range(count)]}
    return [int(key) for key in client.calculations.bulk_load(given, **options).ids]


def atom(calculation: int | None, index: Any = 0, **values: Any) -> dict[str, Any]:
    return {"calculation_id": calculation, "atom_index": index, "element": "O", **PLACE, **values}


def stored(client: Client, *columns: str) -> list[tuple[Any, ...]]:
    frame = client.atoms.query(order_by=["calculation_id", "atom_index"])
    values = frame[list(columns)].astype(object)
    return list(values.where(values.notna(), None).itertuples(index=False, name=None))


def test_every_column_is_stored(loader: Client):
    (key,) = calculations(loader)
    values = {
        "partial_charge": -0.5, "force_x": 0.25, "force_y": -0.0, "force_z": 5e-324, "orbital_energy": -1.0,
        "metadata": {"a": 1}, "atomic_number": 8,
    }  # fmt: skip
    report = loader.atoms.bulk_load([atom(key, **values)])
    record = loader.atoms.get((key, 0))
    assert {name: repr(getattr(record, name)) for name in values | PLACE} == {
        name: repr(value) for name, value in (values | PLACE).items()
    }
    assert (counts(report), len(report.ids)) == ((1, 0, 0), 0)


def test_element_and_number_complete_each_other(loader: Client):
    (key,) = calculations(loader)
    by_symbol = pd.DataFrame([atom(key, n, element=e) for n, e in enumerate(["H", "Og", "Cl"])])
    by_number = pd.DataFrame([atom(key, n + 3, atomic_number=e) for n, e in enumerate([1, 118, 17])])
    loader.atoms.bulk_load(by_symbol)
    loader.atoms.bulk_load(by_number.drop(columns="element"))
    assert stored(loader, "element", "atomic_number") == [("H", 1), ("Og", 118), ("Cl", 17)] * 2


FAULTS = [
    ("calculation_id", None, "missing", None),
    ("calculation_id", 10**12, "unknown_calculation", str(10**12)),
    ("calculation_id", -1, "out_of_range", "-1"),
    ("atom_index", None, "missing", None),
    ("atom_index", -1, "out_of_range", "-1"),
    ("atom_index", 0.5, "wrong_type", "0.5"),
    ("element", "Xx", "unknown_element", "Xx"),
    ("element", "h", "unknown_element", "h"),
    ("element", "Uuuu", "too_long", "Uuuu"),
    ("element", None, "missing", None),
    ("atomic_number", 7, "element_mismatch", "O"),
    ("atomic_number", 119, "out_of_range", "119"),
    ("position_x", None, "missing", None),
    ("position_y", math.inf, "not_finite", "inf"),
    ("position_z", "left", "wrong_type", "left"),
    ("partial_charge", -math.inf, "not_finite", "-inf"),
    ("force_z", "1_0", "wrong_type", "1_0"),
    ("metadata", "[]", "not_json", "[]"),
]


@pytest.mark.parametrize("chunk_rows", [65_536, 3])
def test_each_fault_refuses_its_row_and_no_other(loader: Client, monkeypatch: pytest.MonkeyPatch, chunk_rows: int):
    monkeypatch.setattr(sources, "CHUNK_ROWS", chunk_rows)
    (key,) = calculations(loader)
    rows = []
    for n, (name, value, *_) in enumerate(FAULTS):
        rows += [atom(key, 2 * n), {**atom(key, 2 * n + 1), name: value}]
    columns = {name for row in rows for name in row}
    frame = pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in columns})
    report = collect(loader.atoms.bulk_load, frame)
    columns_named = [
        "element" if name == "atomic_number" and code != "out_of_range" else name for name, _, code, _ in FAULTS
    ]
    assert faults(report) == [(2 * n + 1, columns_named[n], code) for n, (_, _, code, _) in enumerate(FAULTS)]
    assert counts(report) == (len(FAULTS), 0, len(FAULTS))
    assert stored(loader, "atom_index") == [(2 * n,) for n in range(len(FAULTS))]


def test_a_fault_is_shown_as_it_came(client: Client):
    (key,) = calculations(client)
    found = []
    for column, value, *_ in FAULTS:
        with pytest.raises(RowsRejected) as caught:
            client.atoms.bulk_load(
                {name: [entry] for name, entry in {**atom(key), column: value}.items()}, on_error="raise"
            )
        (row,) = caught.value.report.rejected.itertuples(index=False)
        assert row.reason
        found.append((value, row.code, None if pd.isna(row.value) else row.value))
    assert found == [fault[1:] for fault in FAULTS]
    assert client.atoms.count() == 0


@pytest.mark.parametrize(
    "missing", ["calculation_id", "atom_index", "element", "position_x", "position_y", "position_z"]
)
def test_columns_that_are_needed_are_named(client: Client, missing: str):
    row = atom(1)
    del row[missing]
    with pytest.raises(InvalidInput, match=missing):
        client.atoms.bulk_load([row])


def test_unknown_columns_are_refused(client: Client):
    with pytest.raises(UnknownField, match="did you mean 'partial_charge'"):
        client.atoms.bulk_load([atom(1, partial_chrg=1.0)])
    with pytest.raises(InvalidInput, match="on_error is one of"):
        client.atoms.bulk_load([atom(1)], on_error="ignore")


def test_calculations_may_be_named_by_source_id(loader: Client):
    keys = calculations(loader, 2)
    rows = [{**atom(None, n), "source_id": source} for n, source in enumerate(["run-1", "run-0", "none", None, ""])]
    report = collect(loader.atoms.bulk_load, pd.DataFrame(rows).drop(columns="calculation_id"))
    assert faults(report) == [
        (2, "source_id", "unknown_calculation"), (3, "source_id", "missing"), (4, "source_id", "missing"),
    ]  # fmt: skip
    assert report.rejected["value"][0] == "none"
    assert stored(loader, "calculation_id", "atom_index") == [(keys[0], 1), (keys[1], 0)]


def test_anothers_calculation_and_an_absent_one_are_refused_alike(client: Client, tenant_client: TenantClient):
    bobs, services = calculations(tenant_client(BOB)), calculations(client)
    public = calculations(client, shared=True)
    alice = tenant_client(ALICE)
    own = calculations(alice)
    report = collect(alice.atoms.bulk_load, [atom(key) for key in (*bobs, *services, *public, 10**12, *own)])
    assert counts(report) == (1, 0, 4)
    assert len(report.rejected[["column", "code", "reason"]].drop_duplicates()) == 1
    assert stored(alice, "calculation_id", "user_id") == [(own[0], str(ALICE))]


def test_the_source_id_of_another_owner_is_not_found(client: Client, tenant_client: TenantClient):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    calculations(bob, 2)
    (own,) = calculations(alice)
    rows = [{**atom(None), "source_id": source} for source in ("run-0", "run-1")]
    report = collect(alice.atoms.bulk_load, pd.DataFrame(rows).drop(columns="calculation_id"))
    assert faults(report) == [(1, "source_id", "unknown_calculation")]
    assert stored(alice, "calculation_id") == [(own,)]


def test_shared_atoms_belong_to_shared_calculations(client: Client, tenant_client: TenantClient):
    (own,), (public,) = calculations(client), calculations(client, shared=True)
    report = collect(client.atoms.bulk_load, [atom(own), atom(public)], shared=True)
    assert faults(report) == [(0, "calculation_id", "unknown_calculation")]
    assert stored(tenant_client(ALICE), "calculation_id", "user_id") == [(public, str(PUBLIC_USER_ID))]
    with pytest.raises(AccessDenied):
        tenant_client(ALICE).atoms.bulk_load([atom(public)], shared=True)


def test_the_same_load_again_changes_nothing(loader: Client):
    keys = calculations(loader, 2)
    rows = [atom(key, n, partial_charge=None if n else 0.1) for key in keys for n in range(3)]
    first, second = loader.atoms.bulk_load(rows), loader.atoms.bulk_load(rows)
    assert (counts(first), counts(second)) == ((6, 0, 0), (0, 6, 0))


@pytest.mark.parametrize("chunk_rows", [65_536, 2])
def test_an_atom_that_differs_from_the_stored_one_is_refused(
    loader: Client, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
):
    monkeypatch.setattr(sources, "CHUNK_ROWS", chunk_rows)
    keys = calculations(loader, 2)
    loader.atoms.bulk_load([atom(keys[0], 0), atom(keys[0], 1)])
    rows = [atom(keys[0], 0), atom(keys[0], 1, position_x=9.0), atom(keys[0], 2), atom(keys[1], 0)]
    report = collect(loader.atoms.bulk_load, rows)
    assert faults(report) == [(1, "atom_index", "changed")]
    assert report.rejected["value"].tolist() == ["1"]
    assert counts(report) == (2, 1, 1)
    assert stored(loader, "position_x") == [(0.1,)] * 4


@pytest.mark.parametrize("chunk_rows", [65_536, 2])
def test_an_atom_that_stands_twice_in_the_input(loader: Client, monkeypatch: pytest.MonkeyPatch, chunk_rows: int):
    monkeypatch.setattr(sources, "CHUNK_ROWS", chunk_rows)
    (key,) = calculations(loader)
    rows = [atom(key, 0), atom(key, 1), atom(key, 0), atom(key, 0, position_x=9.0), atom(key, 2)]
    report = collect(loader.atoms.bulk_load, rows)
    assert faults(report) == [(3, "atom_index", "duplicate_in_load")]
    assert report.rejected["value"].tolist() == ["0"]
    assert counts(report) == (3, 1, 1)
    assert stored(loader, "atom_index", "position_x") == [(0, 0.1), (1, 0.1), (2, 0.1)]


def test_the_next_row_takes_the_place_of_a_first_one_that_is_refused(loader: Client):
    (key,) = calculations(loader)
    report = collect(loader.atoms.bulk_load, [atom(key, 0, position_x=math.inf), atom(key, 0, position_x=2.0)])
    assert (counts(report), stored(loader, "position_x")) == ((1, 0, 1), [(2.0,)])


def test_rows_in_any_order_are_loaded(loader: Client):
    keys = calculations(loader, 4)
    rows = [atom(key, n, position_x=float(n)) for key in keys for n in range(5)]
    random.Random(1).shuffle(rows)
    report = loader.atoms.bulk_load(rows)
    assert counts(report) == (20, 0, 0)
    assert stored(loader, "calculation_id", "position_x") == [(key, float(n)) for key in keys for n in range(5)]


def test_nothing_at_all_is_loaded_when_raising(loader: Client):
    (key,) = calculations(loader)
    with pytest.raises(RowsRejected, match="1 of 2 rows refused; row 1, position_x"):
        loader.atoms.bulk_load([atom(key, 0), atom(key, 1, position_x=None)], on_error="raise")
    assert loader.atoms.count() == 0


def test_an_error_inside_an_iterator_leaves_nothing_behind(loader: Client):
    (key,) = calculations(loader)

    def batches() -> Iterator[list[dict[str, Any]]]:
        yield [atom(key, 0)]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        loader.atoms.bulk_load(batches())
    assert loader.atoms.count() == 0


def test_one_load_is_one_event(client: Client, loader: Client):
    (key,) = calculations(loader)
    count = 150
    report = loader.atoms.bulk_load(
        pa.table({
            "calculation_id": np.full(count, key), "atom_index": np.arange(count), "atomic_number": np.full(count, 6),
            **{name: np.arange(count, dtype=float) for name in PLACE},
        })
    )  # fmt: skip
    events = client.events.query(entity_type="atomic_properties", columns=["id", "context"])
    assert report.n_inserted == count
    assert [context["rows"] for context in events["context"]] == [count]
    assert loader.calculations.geometry(key).positions[:, 2].tolist() == list(range(count))
