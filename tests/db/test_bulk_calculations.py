"""bulk_load of calculations: each row is taken rightly, or refused for a reason, and nothing else happens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qforge_sdk.client import Client
from qforge_sdk.db.bulk import source as sources
from qforge_sdk.db.bulk import spill
from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.errors import AccessDenied, InvalidInput, LoadWarning, NotFound, RowsRejected, UnknownField
from tests.fixtures.bulk import collect, counts, faults
from tests.fixtures.clients import TenantClient
from tests.fixtures.tenants import ALICE, BOB

LONG = "x" * 256


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


def molecule(client: Client, smiles: str = "O", **options: Any) -> int:
    return int(client.molecules.create(smiles, **options).id)


def rows_of(key: int, **columns: list[Any]) -> dict[str, list[Any]]:
    count = max(len(values) for values in columns.values())
    return {"molecule_id": [key] * count, "energy": [-5.0] * count, **columns}


def stored(client: Client, *columns: str) -> list[tuple[Any, ...]]:
    frame = client.calculations.query(columns=["id", *columns], order_by="id")
    values = frame[list(columns)].astype(object)
    return list(values.where(values.notna(), None).itertuples(index=False, name=None))


def test_every_column_is_stored(loader: Client):
    values = {
        "energy": -5.25, "homo": -12.0, "lumo": -3.0, "gap": 9.0, "dipole": 1.5, "total_charge": -1.0,
        "unpaired_electrons": 1, "execution_time_seconds": 0.25, "xtb_version": "6.7.1", "method": "GFN1-xTB",
        "solvation": "ALPB", "solvent": "water", "optimized": True, "convergence_status": "not_converged",
        "xyz_file_hash": "a" * 64, "output_json_path": "/ü/out.json", "source_id": "run-1",
        "metadata": {"a": [1, None, "☃"]},
    }  # fmt: skip
    report = loader.calculations.bulk_load([{"molecule_id": molecule(loader), **values}])
    record = loader.calculations.get(int(report.ids[0]))
    assert {name: getattr(record, name) for name in values} == values


def test_missing_columns_take_the_defaults_of_the_table(loader: Client):
    given = {"molecule_id": [molecule(loader)] * 2, "energy": [-1.0, -2.0]}
    report = loader.calculations.bulk_load(given)
    record = loader.calculations.get(int(report.ids[1]))
    assert (record.energy, record.method, record.total_charge, record.unpaired_electrons) == (
        -2.0,
        "GFN2-xTB",
        0.0,
        0,
    )
    assert (record.convergence_status, record.optimized, record.metadata) == ("converged", False, {})


FAULTS = [
    ("energy", math.inf, "not_finite", "inf"),
    ("energy", math.nan, "missing_energy", None),
    ("energy", None, "missing_energy", None),
    ("energy", "low", "wrong_type", "low"),
    ("homo", "1_0", "wrong_type", "1_0"),
    ("gap", -math.inf, "not_finite", "-inf"),
    ("dipole", -1.5, "too_small", "-1.5"),
    ("execution_time_seconds", -1, "too_small", "-1"),
    ("unpaired_electrons", 0.5, "wrong_type", "0.5"),
    ("unpaired_electrons", 10_001, "out_of_range", "10001"),
    ("xtb_version", "v" * 51, "too_long", "v" * 51),
    ("method", "a\x00b", "control_character", "a\x00b"),
    ("solvent", 1.5, "wrong_type", "1.5"),
    ("optimized", "maybe", "wrong_type", "maybe"),
    ("convergence_status", "done", "unknown_word", "done"),
    ("xyz_file_hash", "abc", "wrong_length", "abc"),
    ("source_id", LONG, "too_long", LONG[:197] + "..."),
    ("metadata", [1], "not_json", "[1]"),
    ("metadata", {"x": math.nan}, "not_json", "{'x': nan}"),
    ("metadata", {"x": "\x00"}, "not_json", '{"x": "\\u0000"}'),
    ("molecule_id", None, "missing_molecule", None),
    ("molecule_id", 0, "out_of_range", "0"),
    ("molecule_id", 10**12, "unknown_molecule", str(10**12)),
]


@pytest.mark.parametrize("chunk_rows", [65_536, 3])
def test_each_fault_refuses_its_row_and_no_other(loader: Client, monkeypatch: pytest.MonkeyPatch, chunk_rows: int):
    monkeypatch.setattr(sources, "CHUNK_ROWS", chunk_rows)
    key = molecule(loader)
    names = {name for name, *_ in FAULTS} - {"molecule_id", "energy"}
    records: list[dict[str, Any]] = []
    for name, value, *_ in FAULTS:
        records += [
            {"molecule_id": key, "energy": -1.0, **dict.fromkeys(names)},
            {"molecule_id": key, "energy": -2.0, **dict.fromkeys(names), name: value},
        ]
    frame = pd.DataFrame({name: pd.Series([r[name] for r in records], dtype=object) for name in records[0]})
    report = collect(loader.calculations.bulk_load, frame)
    assert faults(report) == [(2 * n + 1, name, code) for n, (name, _, code, _) in enumerate(FAULTS)]
    assert counts(report) == (len(FAULTS), 0, len(FAULTS))
    assert report.ids.isna().tolist() == [False, True] * len(FAULTS)
    assert stored(loader, "energy") == [(-1.0,)] * len(FAULTS)


def test_a_fault_is_shown_as_it_came(client: Client):
    key = molecule(client)
    found = []
    for column, value, *_ in FAULTS:
        with pytest.raises(RowsRejected) as caught:
            client.calculations.bulk_load({"molecule_id": [key], "energy": [-1.0], column: [value]}, on_error="raise")
        (row,) = caught.value.report.rejected.itertuples(index=False)
        assert row.reason
        found.append((row.column, value, row.code, None if pd.isna(row.value) else row.value))
    assert found == FAULTS
    assert client.calculations.count() == 0


def test_the_first_fault_of_a_row_is_the_one_that_counts(loader: Client):
    report = collect(
        loader.calculations.bulk_load,
        rows_of(molecule(loader), gap=[math.inf], dipole=[-1.0], convergence_status=["bad"]),
    )
    assert faults(report) == [(0, "gap", "not_finite")]
    assert report.n_rejected == 1


@pytest.mark.parametrize("status", ["not_converged", "error"])
def test_a_run_that_failed_needs_no_energy(loader: Client, status: str):
    report = loader.calculations.bulk_load(
        {"molecule_id": [molecule(loader)], "energy": [None], "convergence_status": [status]}
    )
    assert loader.calculations.get(int(report.ids[0])).energy is None


def test_without_an_energy_column_only_failed_runs_are_taken(loader: Client):
    key = molecule(loader)
    report = collect(
        loader.calculations.bulk_load, {"molecule_id": [key, key], "convergence_status": ["error", "converged"]}
    )
    assert faults(report) == [(1, "energy", "missing_energy")]


def test_nothing_at_all_is_loaded_when_raising(loader: Client):
    given = {"smiles": ["CCO", "CC", "C"], "energy": [-1.0, math.inf, -3.0]}
    with pytest.raises(RowsRejected, match="1 of 3 rows refused; row 1, energy") as caught:
        loader.calculations.bulk_load(given, on_error="raise")
    report = caught.value.report
    assert report is not None
    assert (counts(report), report.n_molecules_created) == ((0, 0, 3), 0)
    assert (loader.calculations.count(), loader.molecules.count()) == (0, 0)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"energy": [-1.0]}, InvalidInput),
        ({"molecule_id": [1], "enrgy": [-1.0]}, UnknownField),
        ({"molecule_id": [1], "energy": [-1.0], "id": [1]}, UnknownField),
        ({"molecule_id": [1], "energy": [-1.0], "user_id": [str(ALICE)]}, UnknownField),
        ({"molecule_id": [1], "energy": [-1.0], "created_at": [None]}, UnknownField),
    ],
)
def test_columns_are_checked_before_anything_is_written(
    client: Client, given: dict[str, list[Any]], error: type[Exception]
):
    with pytest.raises(error):
        client.calculations.bulk_load(given)


def test_a_misspelt_column_gets_a_suggestion(client: Client):
    with pytest.raises(UnknownField, match="did you mean 'energy'"):
        client.calculations.bulk_load({"molecule_id": [1], "enrgy": [-1.0]})


@pytest.mark.parametrize(("option", "value"), [("on_error", "ignore"), ("on_conflict", "replace")])
def test_an_unknown_option_is_refused(client: Client, option: str, value: str):
    with pytest.raises(InvalidInput, match="is one of"):
        client.calculations.bulk_load({"molecule_id": [1], "energy": [-1.0]}, **{option: value})


def test_the_warning_points_at_the_caller(loader: Client):
    with pytest.warns(LoadWarning, match="1 of 1 rows refused; row 0, energy: NaN and infinity") as caught:
        loader.calculations.bulk_load(rows_of(molecule(loader), energy=[math.inf]))
    assert caught[0].filename == __file__


def test_molecules_by_smiles_are_registered_once(loader: Client):
    given = {
        "smiles": ["OCC", "CCO", "C", "OCC"],
        "energy": [-1.0, -2.0, -3.0, -4.0],
        "name": ["ethanol", "x", None, "y"],
    }
    report = loader.calculations.bulk_load(given)
    assert (counts(report), report.n_molecules_created) == ((4, 0, 0), 2)
    assert stored(loader, "smiles", "name", "energy") == [
        ("CCO", "ethanol", -1.0), ("CCO", "ethanol", -2.0), ("C", None, -3.0), ("CCO", "ethanol", -4.0),
    ]  # fmt: skip


def test_stored_molecules_are_found_and_keep_their_name(loader: Client):
    key = molecule(loader, "CCO", name="spirit")
    report = loader.calculations.bulk_load({"smiles": ["C(O)C"], "energy": [-1.0], "name": ["ethanol"]})
    assert report.n_molecules_created == 0
    assert stored(loader, "molecule_id", "name") == [(key, "spirit")]


def test_a_bad_smiles_refuses_its_rows(loader: Client):
    given = {"smiles": ["C", "C1CC", None, "", "C1CC", 5, "a\x00"], "energy": [-1.0] * 7}
    report = collect(loader.calculations.bulk_load, given)
    codes = [code for *_, code in faults(report)]
    assert [row for row, *_ in faults(report)] == [1, 2, 3, 4, 5, 6]
    assert codes[1:3] == ["empty", "empty"]
    assert codes[0] == codes[3]
    assert codes[5] == "control_character"
    assert report.rejected["value"][0] == "C1CC"
    assert counts(report) == (1, 0, 6)


def test_a_row_with_a_key_uses_the_key_and_one_without_uses_its_smiles(loader: Client):
    key = molecule(loader, "O")
    given = {"molecule_id": [key, None, None, 10**9], "smiles": ["not one", "CC", None, "CCC"], "energy": [-1.0] * 4}
    report = collect(loader.calculations.bulk_load, given)
    assert faults(report) == [(2, "smiles", "empty"), (3, "molecule_id", "unknown_molecule")]
    assert [smiles for (smiles,) in stored(loader, "smiles")] == ["O", "CC"]
    assert report.n_molecules_created == 1


def test_a_bad_name_refuses_its_row_and_the_next_one_names_the_molecule(loader: Client):
    given = {"smiles": ["C", "C"], "name": [LONG, "methane"], "energy": [-1.0, -2.0]}
    report = collect(loader.calculations.bulk_load, given)
    assert faults(report) == [(0, "name", "too_long")]
    assert stored(loader, "name", "energy") == [("methane", -2.0)]


def test_molecules_of_refused_rows_are_told_in_the_report(loader: Client):
    report = collect(loader.calculations.bulk_load, {"smiles": ["C", "CC"], "energy": [-1.0, math.inf]})
    assert counts(report) == (1, 0, 1)
    assert report.n_molecules_created == loader.molecules.count()


def test_an_own_molecule_comes_before_a_public_one(client: Client, tenant_client: TenantClient):
    alice = tenant_client(ALICE)
    public = molecule(client, "C", shared=True)
    own = molecule(alice, "C")
    other = molecule(client, "CC", shared=True)
    report = alice.calculations.bulk_load({"smiles": ["C", "CC"], "energy": [-1.0, -2.0]})
    assert report.n_molecules_created == 0
    assert stored(alice, "molecule_id") == [(own,), (other,)]
    assert public not in (own, other)


def test_anothers_molecule_and_an_absent_one_are_refused_alike(client: Client, tenant_client: TenantClient):
    bobs = molecule(tenant_client(BOB), "C")
    services = molecule(client, "CC")
    public = molecule(client, "CCC", shared=True)
    report = collect(
        tenant_client(ALICE).calculations.bulk_load,
        {"molecule_id": [bobs, services, 10**12, public], "energy": [-1.0] * 4},
    )
    rejected = report.rejected.drop(columns=["row", "value"])
    assert len(rejected) == 3
    assert len(rejected.drop_duplicates()) == 1
    assert counts(report) == (1, 0, 3)


def test_what_everybody_reads_refers_only_to_what_everybody_reads(client: Client, tenant_client: TenantClient):
    bobs = molecule(tenant_client(BOB), "C")
    services = molecule(client, "CC")
    public = molecule(client, "CCC", shared=True)
    given = {"molecule_id": [bobs, services, public], "energy": [-1.0] * 3}
    report = collect(client.calculations.bulk_load, given, shared=True)
    assert faults(report) == [(0, "molecule_id", "unknown_molecule"), (1, "molecule_id", "unknown_molecule")]
    assert tenant_client(ALICE).calculations.get(int(report.ids[2])).user_id == str(PUBLIC_USER_ID)


def test_shared_smiles_are_registered_for_everybody(client: Client, tenant_client: TenantClient):
    molecule(client, "C")
    report = client.calculations.bulk_load({"smiles": ["C", "CC"], "energy": [-1.0, -2.0]}, shared=True)
    assert report.n_molecules_created == 2
    assert tenant_client(ALICE).molecules.count() == 2


def test_a_tenant_shares_nothing(tenant_client: TenantClient):
    with pytest.raises(AccessDenied):
        tenant_client(ALICE).calculations.bulk_load({"smiles": ["C"], "energy": [-1.0]}, shared=True)


def test_the_service_loads_for_nobody_and_no_tenant_sees_it(client: Client, tenant_client: TenantClient):
    client.calculations.bulk_load({"smiles": ["C"], "energy": [-1.0], "source_id": ["a"]})
    alice = tenant_client(ALICE)
    assert (alice.calculations.count(), alice.molecules.count()) == (0, 0)
    alice.calculations.bulk_load({"smiles": ["C"], "energy": [-7.0], "source_id": ["a"]})
    assert stored(alice, "energy", "user_id") == [(-7.0, str(ALICE))]


@pytest.fixture
def loaded(loader: Client) -> tuple[Client, dict[str, list[Any]]]:
    """A loader with two stored calculations, and the table that they came from."""
    given = rows_of(
        molecule(loader), source_id=["a", "b"], energy=[-1.0, -2.0], gap=[0.5, None], metadata=[{"x": 1}, None]
    )
    loader.calculations.bulk_load(given)
    return loader, given


@pytest.mark.parametrize("on_conflict", ["skip", "update"])
def test_the_same_load_again_changes_nothing(loaded: tuple[Client, dict[str, list[Any]]], on_conflict: str):
    loader, given = loaded
    before = loader.calculations.query(order_by="id")
    report = loader.calculations.bulk_load(given, on_conflict=on_conflict)
    assert (counts(report), report.n_updated) == ((0, 2, 0), 0)
    assert report.ids.tolist() == before["id"].tolist()
    pd.testing.assert_frame_equal(loader.calculations.query(order_by="id"), before)


def test_a_row_that_differs_from_the_stored_one_is_refused(loaded: tuple[Client, dict[str, list[Any]]]):
    loader, given = loaded
    changed = {**given, "gap": [0.5, 9.0]}
    report = collect(loader.calculations.bulk_load, changed)
    assert faults(report) == [(1, "source_id", "changed")]
    assert report.rejected["value"].tolist() == ["b"]
    assert counts(report) == (0, 1, 1)
    assert stored(loader, "gap") == [(0.5,), (None,)]


def test_update_replaces_what_differs(loaded: tuple[Client, dict[str, list[Any]]]):
    loader, given = loaded
    before = loader.calculations.query(order_by="id")["id"].tolist()
    changed = {**given, "energy": [-1.0, -9.0], "metadata": [{"x": 1}, {"y": 2}], "source_id": ["a", "b"]}
    report = loader.calculations.bulk_load(changed, on_conflict="update")
    assert (counts(report), report.n_updated) == ((0, 2, 0), 1)
    assert report.ids.tolist() == before
    assert stored(loader, "energy") == [(-1.0,), (-9.0,)]
    assert loader.calculations.get(before[1]).metadata == {"y": 2}


def test_update_leaves_columns_alone_that_are_not_given(loaded: tuple[Client, dict[str, list[Any]]]):
    loader, given = loaded
    loader.calculations.bulk_load(
        {name: given[name] for name in ("molecule_id", "source_id")} | {"energy": [-7.0, -8.0]}, on_conflict="update"
    )
    assert stored(loader, "energy", "gap")[0] == (-7.0, 0.5)


def test_error_refuses_whatever_is_stored(loaded: tuple[Client, dict[str, list[Any]]]):
    loader, given = loaded
    more = {name: [*values, values[0]] for name, values in given.items()} | {"source_id": ["a", "b", "c"]}
    report = collect(loader.calculations.bulk_load, more, on_conflict="error")
    assert faults(report) == [(0, "source_id", "exists"), (1, "source_id", "exists")]
    assert report.rejected["value"].tolist() == ["a", "b"]
    assert counts(report) == (1, 0, 2)


@pytest.mark.parametrize("chunk_rows", [65_536, 3])
@pytest.mark.parametrize(
    ("on_conflict", "expected", "energy", "updated"),
    [
        ("skip", (3, 1, 1), -1.0, 0),
        ("error", (3, 1, 1), -1.0, 0),
        ("update", (3, 2, 0), -9.0, 1),
    ],
)
def test_a_source_id_that_stands_twice_in_the_input(
    loader: Client, monkeypatch: pytest.MonkeyPatch, chunk_rows: int, on_conflict: str, expected: tuple[int, ...],
    energy: float, updated: int,
):  # fmt: skip
    monkeypatch.setattr(sources, "CHUNK_ROWS", chunk_rows)
    given = rows_of(molecule(loader), source_id=["a", None, None, "a", "a"], energy=[-1.0, -2.0, -2.0, -1.0, -9.0])
    report = collect(loader.calculations.bulk_load, given, on_conflict=on_conflict)
    assert (counts(report), report.n_updated) == (expected, updated)
    assert stored(loader, "energy") == [(energy,), (-2.0,), (-2.0,)]
    assert report.ids[3] == report.ids[0]
    if on_conflict != "update":
        assert faults(report) == [(4, "source_id", "duplicate_in_load")]
        assert report.rejected["value"].tolist() == ["a"]


def test_the_last_of_several_updates_wins(loaded: tuple[Client, dict[str, list[Any]]]):
    loader, given = loaded
    again = rows_of(given["molecule_id"][0], source_id=["a", "a", "b", "b"], energy=[-8.0, -1.0, -8.0, -9.0])
    report = loader.calculations.bulk_load(again, on_conflict="update")
    assert (counts(report), report.n_updated) == ((0, 4, 0), 1)
    assert stored(loader, "energy") == [(-1.0,), (-9.0,)]


def test_the_next_row_takes_the_place_of_a_first_one_that_is_refused(loader: Client):
    given = rows_of(
        molecule(loader), source_id=["a", "a", "a", "b", "b"], energy=[math.inf, -2.0, -2.0, math.inf, None]
    )
    report = collect(loader.calculations.bulk_load, given)
    assert faults(report) == [
        (0, "energy", "not_finite"),
        (3, "energy", "not_finite"),
        (4, "energy", "missing_energy"),
    ]
    assert counts(report) == (1, 1, 3)
    assert report.ids[1] == report.ids[2]
    assert stored(loader, "source_id", "energy") == [("a", -2.0)]


def test_source_ids_of_two_owners_do_not_meet(client: Client, tenant_client: TenantClient):
    for one in (client, tenant_client(ALICE), tenant_client(BOB)):
        report = one.calculations.bulk_load(
            {"smiles": ["C"], "energy": [-1.0], "source_id": ["a"]}, on_conflict="error"
        )
        assert counts(report) == (1, 0, 0)


def test_an_update_moves_a_calculation_to_another_molecule(loaded: tuple[Client, dict[str, list[Any]]]):
    loader, _ = loaded
    report = loader.calculations.bulk_load(
        {"smiles": ["CC"], "energy": [-1.0], "source_id": ["a"]}, on_conflict="update"
    )
    assert (report.n_updated, report.n_molecules_created) == (1, 1)
    assert stored(loader, "smiles")[0] == ("CC",)


def test_results_complete_the_items_of_their_batch(loader: Client):
    keys = [molecule(loader, smiles) for smiles in ("C", "CC", "CCC", "CCCC")]
    batch = loader.batches.create("screen", molecules=keys[:3])
    given = {
        "molecule_id": [keys[0], keys[1], keys[1], keys[3]], "energy": [-1.0, None, -3.0, -4.0],
        "convergence_status": ["converged", "error", "converged", "converged"],
    }  # fmt: skip
    report = loader.calculations.bulk_load(given, batch_id="screen")
    items = loader.batches.items(batch.id).set_index("molecule_id")
    assert items["status"].to_dict() == {
        keys[0]: "completed", keys[1]: "completed", keys[2]: "pending", keys[3]: "completed",
    }  # fmt: skip
    assert items["calculation_id"][keys[1]] == report.ids[2]
    found = loader.batches.get(batch.id)
    assert (found.total_molecules, found.successful_count, found.failed_count) == (4, 3, 0)
    assert found.status == "in_progress"


def test_the_last_result_completes_the_batch(loader: Client):
    key = molecule(loader)
    batch = loader.batches.create("screen", molecules=[key])
    collect(
        loader.calculations.bulk_load, rows_of(key, energy=[None], convergence_status=["error"]), batch_id=batch.id
    )
    found = loader.batches.get(batch.id)
    assert (found.status, found.failed_count, found.successful_count) == ("completed", 1, 0)
    collect(loader.calculations.bulk_load, rows_of(key, energy=[-1.0]), batch_id=batch.id)
    found = loader.batches.get(batch.id)
    assert (found.status, found.failed_count, found.successful_count) == ("completed", 0, 1)


def test_refused_rows_complete_nothing(loader: Client):
    key = molecule(loader)
    batch = loader.batches.create("screen", molecules=[key])
    collect(loader.calculations.bulk_load, rows_of(key, energy=[math.inf]), batch_id=batch.id)
    assert loader.batches.items(batch.id)["status"].tolist() == ["pending"]


def test_anothers_batch_and_an_absent_one_are_not_found(client: Client, tenant_client: TenantClient):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    bobs = bob.batches.create("screen", molecules=[molecule(bob)])
    messages = set()
    with pytest.raises(NotFound, match="no batch 'screen'"):
        alice.calculations.bulk_load({"smiles": ["C"], "energy": [-1.0]}, batch_id="screen")
    for batch in (bobs.id, 10**12):
        with pytest.raises(NotFound) as caught:
            alice.calculations.bulk_load({"smiles": ["C"], "energy": [-1.0]}, batch_id=batch)
        messages.add(str(caught.value).replace(str(batch), "?"))
    assert len(messages) == 1
    assert alice.molecules.count() == 0


def test_ids_are_on_the_index_of_the_frame(loader: Client):
    index = pd.MultiIndex.from_tuples([("x", 1), ("x", 1), ("y", 2)])
    frame = pd.DataFrame(rows_of(molecule(loader), energy=[-1.0, math.inf, -3.0]), index=index)
    report = collect(loader.calculations.bulk_load, frame)
    assert report.ids.index.equals(index)
    assert report.ids.isna().tolist() == [False, True, False]
    assert loader.calculations.get(int(report.ids.iloc[2])).energy == -3.0


@pytest.mark.parametrize("chunk_rows", [1, 3, 7])
def test_chunks_leave_no_trace(loader: Client, monkeypatch: pytest.MonkeyPatch, chunk_rows: int):
    monkeypatch.setattr(sources, "CHUNK_ROWS", chunk_rows)
    smiles = ["C", "CC", "C", "bad(", "CCC", "CC", None] * 3
    energy = [-float(n) if n % 5 else math.inf for n in range(21)]
    report = collect(loader.calculations.bulk_load, {"smiles": smiles, "energy": energy, "gap": [None] * 20 + [1.0]})
    good = [n for n in range(21) if n % 5 and smiles[n] not in ("bad(", None)]
    assert report.ids.dropna().index.tolist() == good
    assert stored(loader, "smiles", "energy") == [(smiles[n], -float(n)) for n in good]
    assert [loader.calculations.get(int(report.ids[n])).energy for n in good] == [-float(n) for n in good]
    assert report.rejected["row"].tolist() == [n for n in range(21) if n not in good]


def test_an_error_inside_an_iterator_leaves_nothing_behind(loader: Client):
    key = molecule(loader)

    def batches() -> Iterator[pd.DataFrame]:
        yield pd.DataFrame(rows_of(key, energy=[-1.0]))
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        loader.calculations.bulk_load(batches())
    assert loader.calculations.count() == 0


def test_an_error_while_rows_are_sent_leaves_nothing_behind(loader: Client, monkeypatch: pytest.MonkeyPatch):
    from qforge_sdk.db.bulk import calculations

    def fail(*_: Any) -> None:
        raise RuntimeError("in the thread")

    monkeypatch.setattr(calculations, "_check_rules", fail)
    with pytest.raises(RuntimeError, match="in the thread"):
        loader.calculations.bulk_load({"smiles": ["C"], "energy": [-1.0]})
    assert (loader.calculations.count(), loader.molecules.count()) == (0, 0)


def test_more_refused_rows_than_are_held_go_to_a_file(loader: Client):
    count = spill.MOST_IN_MEMORY + 500
    table = pa.table({"molecule_id": np.full(count, molecule(loader)), "energy": np.full(count, np.nan)})
    report = collect(loader.calculations.bulk_load, table)
    assert report.rejected_path is not None
    rejected = report.rejected
    assert rejected["row"].tolist() == list(range(count))
    assert set(rejected["code"]) == {"not_finite"}
    report.rejected_path.unlink()


def test_one_load_is_one_event(client: Client, loader: Client):
    key = molecule(loader)
    before = int(client.events.query(order_by="-id", limit=1)["id"][0])
    loader.calculations.bulk_load(rows_of(key, energy=[-1.0] * 150))
    events = client.events.where().df()
    events = events[events["id"] > before]
    assert events["entity_type"].tolist() == ["calculations"]
    context = client.events.query(id=int(events["id"].iloc[0]), columns=["id", "context"])["context"][0]
    assert context["rows"] == 150


def test_loads_of_the_same_rows_at_once_take_turns(loader: Client):
    given = {"smiles": ["C", "CC"], "energy": [-1.0, -2.0], "source_id": ["a", "b"]}
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: loader.calculations.bulk_load(given, progress=False), range(4)))
    assert sorted(counts(report) for report in reports) == [(0, 2, 0)] * 3 + [(2, 0, 0)]
    assert sum(report.n_molecules_created for report in reports) == loader.molecules.count() == 2


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)
LEAF = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT
JSON = st.dictionaries(TEXT, st.recursive(LEAF, lambda inner: st.lists(inner, max_size=2)), max_size=2)
ROW = st.fixed_dictionaries(
    {
        "energy": st.floats(allow_nan=False, allow_infinity=False),
        "homo": NUMBER,
        "dipole": st.none() | st.floats(min_value=0, allow_infinity=False),
        "total_charge": st.floats(allow_nan=False, allow_infinity=False),
        "unpaired_electrons": st.integers(0, 10_000),
        "solvent": st.none() | TEXT.filter(bool),
        "optimized": st.booleans(),
        "metadata": JSON,
    }
)


@given(rows=st.lists(ROW, min_size=1, max_size=8), arrow=st.booleans())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_goes_in_comes_out(loader: Client, rows: list[dict[str, Any]], arrow: bool):
    key = loader.molecules.create("O", exist_ok=True).id
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"molecule_id": [key] * len(rows)}
    if arrow:
        columns["metadata"] = [json.dumps(value) for value in columns["metadata"]]
    report = loader.calculations.bulk_load(pa.table(columns) if arrow else pd.DataFrame(columns), on_error="raise")
    found = [loader.calculations.get(int(id_)) for id_ in report.ids]
    metadata = [row.pop("metadata") for row in rows]
    assert [record.metadata for record in found] == metadata
    assert [{name: repr(getattr(record, name)) for name in row} for row, record in zip(rows, found, strict=True)] == [
        {name: repr(value) for name, value in row.items()} for row in rows
    ]
