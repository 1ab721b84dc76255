"""What the new tables refuse is adapted and told, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pandas as pd
import pytest

import qforge_sdk as qf
from qforge_sdk.db.adopt import adopt
from qforge_sdk.db.bulk import spill
from qforge_sdk.schemas import AdoptionReport
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.old_module import OldModule, Row, engine_of, fetch
from tests.fixtures.servers import MAIN
from tests.fixtures.tenants import ALICE

LONG: Final = "ä" * 300
CYRILLIC: Final = "\u0421\u0421\u041e"
HANGS: Final = "C" + "(C" * 2_000 + ")" * 2_000
MOLECULES: Final = [
    (1, "CCO", "C2H6O", "ethanol", {}),
    (2, "OCC", "C2H6O", "spirit", {"note": "kept"}),
    (3, "C1CC", "C3H6", "open ring", {}),
    (4, None, "Unknown", "nothing", {}),
    (5, "", "", "empty", {}),
    (6, " CCO", "C2H6O", "blank", {}),
    (7, "c1ccccc1", "C6H7", "", {}),
    (8, "CO", "OH4C", LONG, {}),
    (9, HANGS, "Unknown", "deep", {}),
    (10, "CN", "CH5N", "list", [1, 2]),
    (11, "CCC", "C3H8", "nul", r'{"a": "\u0000"}'),
    (12, "CCN", None, "taken", {"adopted": 1, "other": 2}),
    (13, CYRILLIC, "C2H6O", "cyrillic", None),
    (14, "[Na+].[Cl-]x", "ClNa", "salt", "null"),
]


def molecules() -> Iterator[Row]:
    for key, smiles, formula, name, metadata in MOLECULES:
        yield {
            "id": key, "name": name, "smiles": smiles, "formula": formula, "metadata": metadata,
            "created_at": None if key == 10 else "2025-01-01",
            "updated_at": "infinity" if key == 10 else "2025-02-01",
        }  # fmt: skip


def calculations() -> Iterator[Row]:
    ordinary = {
        "molecule_id": 1, "energy": -11.5, "homo": -10, "gap": 8, "dipole": 1.5, "total_charge": 0,
        "execution_time_seconds": 2, "xtb_version": "6.7.1", "method": "GFN2-xTB", "convergence_status": "converged",
        "xyz_file_hash": "a" * 64, "metadata": {}, "created_at": "2025-01-01", "updated_at": "2025-01-01",
    }  # fmt: skip
    changes: dict[int, Row] = {
        1: {},
        2: {"energy": "NaN"},
        3: {"energy": None},
        4: {"homo": "NaN", "gap": "-Infinity", "dipole": -1, "execution_time_seconds": -2},
        5: {"convergence_status": "running"},
        6: {
            "convergence_status": None,
            "method": None,
            "total_charge": None,
            "xyz_file_hash": "md5",
            "xtb_version": LONG,
        },
        7: {"molecule_id": 99},
        8: {"molecule_id": None, "metadata": r'{"b": "\u0000"}'},
        9: {"molecule_id": 2},
        10: {"molecule_id": 3},
        11: {"molecule_id": 6, "energy": None, "convergence_status": "error"},
    }
    for key, changed in changes.items():
        yield {"id": key, **ordinary, **changed}


def atoms() -> Iterator[Row]:
    ordinary = {
        "calculation_id": 1, "element": "C", "atomic_number": 6, "partial_charge": 0.1, "position_x": 0.5,
        "position_y": 0, "position_z": 0, "metadata": {}, "created_at": "2025-01-01",
    }  # fmt: skip
    changes: list[Row] = [
        {},
        {},
        {},
        {"atom_index": 0, "partial_charge": 0.9},
        {"calculation_id": 77},
        {"position_y": "NaN"},
        {"atom_index": None},
        {"atom_index": -1},
        {"element": "c", "atomic_number": 0},
        {"element": None, "atomic_number": 8},
        {"element": "Xx", "atomic_number": None},
        {"atomic_number": 7},
        {"partial_charge": "Infinity"},
        {"calculation_id": 8},
    ]
    for key, changed in enumerate(changes, 1):
        yield {"id": key, "atom_index": key - 1, **ordinary, **changed}


def batches() -> Iterator[Row]:
    ordinary = {
        "status": "completed", "total_molecules": 2, "successful_count": 1, "failed_count": 1, "parameters": {},
        "metadata": {}, "created_at": "2025-01-01", "started_at": None, "updated_at": "2025-01-01",
    }  # fmt: skip
    yield {"id": 1, "batch_name": "screen", **ordinary}
    yield {
        "id": 2, "batch_name": None, **ordinary, "status": "Running", "total_molecules": -1, "successful_count": None,
        "failed_count": 3_000_000_000, "started_at": "infinity",
    }  # fmt: skip
    yield {"id": 3, "batch_name": LONG, **ordinary, "status": "weird", "parameters": ["GFN2"]}


def items() -> Iterator[Row]:
    ordinary = {
        "batch_id": 1, "molecule_id": 1, "status": "completed", "calculation_id": None, "retry_count": 0,
        "metadata": {}, "created_at": "2025-01-01", "updated_at": "2025-01-01",
    }  # fmt: skip
    changes: list[Row] = [
        {"calculation_id": 1},
        {"error_message": "a second one"},
        {"batch_id": 55},
        {"molecule_id": 98},
        {"molecule_id": 2, "calculation_id": 66},
        {"molecule_id": 3, "status": None, "retry_count": None},
        {"molecule_id": None},
        {"batch_id": 2, "molecule_id": 2, "calculation_id": 9},
    ]
    for key, changed in enumerate(changes, 1):
        yield {"id": key, "error_message": None, **ordinary, **changed}


def events() -> Iterator[Row]:
    ordinary = {
        "event_type": "error", "entity_type": "calculations", "status": "error", "error_code": None, "context": {},
        "created_at": "2025-01-01", "service": "api",
    }  # fmt: skip
    yield {"id": 1, **ordinary}
    yield {"id": 2, **ordinary, "event_type": None, "entity_type": "batches", "status": "failed"}
    yield {
        "id": 3, **ordinary, "entity_type": "xtb", "status": None, "error_code": LONG, "context": "[1]",
        "service": None, "created_at": None,
    }  # fmt: skip


ROWS: Final = {
    "molecules": molecules, "calculations": calculations, "atomic_properties": atoms, "batch_jobs": batches,
    "batch_items": items, "event_logs": events,
}  # fmt: skip

# table, id (of an atom its calculation's), column, code
EXPECTED: Final = [
    ("molecules", 2, "smiles", "same_structure"),
    ("molecules", 3, "smiles", "syntax"),
    ("molecules", 4, "smiles", "missing"),
    ("molecules", 5, "smiles", "empty"),
    ("molecules", 6, "smiles", "whitespace"),
    ("molecules", 7, "formula", "formula_mismatch"),
    ("molecules", 7, "name", "empty"),
    ("molecules", 8, "name", "too_long"),
    ("molecules", 9, "smiles", "too_many_atoms"),
    ("molecules", 10, "created_at", "missing"),
    ("molecules", 10, "metadata", "not_an_object"),
    ("molecules", 10, "updated_at", "not_finite"),
    ("molecules", 11, "metadata", "not_json"),
    ("molecules", 12, "metadata", "key_taken"),
    ("molecules", 13, "smiles", "not_ascii"),
    ("molecules", 14, "smiles", "syntax"),
    ("calculations", 2, "convergence_status", "no_energy"),
    ("calculations", 2, "energy", "not_finite"),
    ("calculations", 3, "convergence_status", "no_energy"),
    ("calculations", 4, "dipole", "too_small"),
    ("calculations", 4, "execution_time_seconds", "too_small"),
    ("calculations", 4, "gap", "not_finite"),
    ("calculations", 4, "homo", "not_finite"),
    ("calculations", 5, "convergence_status", "unknown_word"),
    ("calculations", 6, "convergence_status", "unknown_word"),
    ("calculations", 6, "method", "missing"),
    ("calculations", 6, "total_charge", "missing"),
    ("calculations", 6, "xtb_version", "too_long"),
    ("calculations", 6, "xyz_file_hash", "wrong_length"),
    ("calculations", 7, "molecule_id", "missing_molecule"),
    ("calculations", 8, None, "missing"),
    ("atomic_properties", 1, "element", "element_mismatch"),
    ("atomic_properties", 1, "atomic_number", "unknown_element"),
    ("atomic_properties", 1, "element", "unknown_element"),
    ("atomic_properties", 1, "partial_charge", "not_finite"),
    ("atomic_properties", 1, None, "duplicate"),
    ("atomic_properties", 1, None, "not_finite"),
    ("atomic_properties", 1, None, "out_of_range"),
    ("atomic_properties", 1, None, "out_of_range"),
    ("atomic_properties", 1, None, "unknown_element"),
    ("atomic_properties", 8, None, "missing_calculation"),
    ("atomic_properties", 77, None, "missing_calculation"),
    *[
        ("batch_jobs", key, name, "count_corrected")
        for key, name in (
            (1, "successful_count"),
            (1, "total_molecules"),
            (2, "successful_count"),
            (2, "total_molecules"),
            (3, "failed_count"),
            (3, "successful_count"),
        )
    ],
    ("batch_jobs", 2, "batch_name", "empty"),
    ("batch_jobs", 2, "failed_count", "out_of_range"),
    ("batch_jobs", 2, "started_at", "not_finite"),
    ("batch_jobs", 2, "status", "unknown_word"),
    ("batch_jobs", 2, "successful_count", "missing"),
    ("batch_jobs", 2, "total_molecules", "out_of_range"),
    ("batch_jobs", 3, "batch_name", "too_long"),
    ("batch_jobs", 3, "parameters", "not_an_object"),
    ("batch_jobs", 3, "status", "unknown_word"),
    ("batch_items", 2, None, "duplicate"),
    ("batch_items", 3, None, "missing_batch"),
    ("batch_items", 4, "molecule_id", "missing_molecule"),
    ("batch_items", 5, "calculation_id", "missing_calculation"),
    ("batch_items", 6, "retry_count", "missing"),
    ("batch_items", 6, "status", "unknown_word"),
    ("batch_items", 7, None, "missing"),
    ("event_logs", 2, "entity_type", "unknown_word"),
    ("event_logs", 2, "event_type", "missing"),
    ("event_logs", 2, "status", "unknown_word"),
    ("event_logs", 3, "context", "not_an_object"),
    ("event_logs", 3, "created_at", "missing"),
    ("event_logs", 3, "entity_type", "unknown_word"),
    ("event_logs", 3, "error_code", "too_long"),
    ("event_logs", 3, "service", "missing"),
    ("event_logs", 3, "status", "unknown_word"),
]


@pytest.fixture(scope="module", params=(15, MAIN), ids=lambda version: f"pg{version}")
def doubtful(request: pytest.FixtureRequest, databases_of: DatabasesOf) -> Iterator[tuple[str, AdoptionReport]]:
    databases, old = databases_of(request.param), OldModule("loose")
    with databases.clone(migrated=False) as name:
        url = databases.url(name)
        old.create(databases, name)
        with old.opened(url) as cursor:
            for table, rows in ROWS.items():
                for row in rows():
                    old.insert(cursor, table, [row])
        yield url, adopt(engine_of(url), dry_run=False)


def test_every_doubt_is_in_the_report(doubtful: tuple[str, AdoptionReport]) -> None:
    found = doubtful[1].doubts
    found = found[found.id.notna()]
    lines = [
        (row.table, int(row.id), None if pd.isna(row.column) else row.column, row.code)
        for row in found.itertuples(index=False)
    ]
    assert sorted(lines, key=str) == sorted(EXPECTED, key=str)
    assert found.reason.str.len().min() > 10


def test_counts_that_the_items_do_not_give_are_corrected(doubtful: tuple[str, AdoptionReport]) -> None:
    batches = rows_of(doubtful[0], "batch_jobs", "total_molecules, successful_count, failed_count, waiting_count")
    assert batches[1] == (4, 3, 1, 0)
    query = "SELECT context FROM event_logs WHERE event_type = 'batch_counts_corrected' AND entity_id = 1"
    assert fetch(doubtful[0], query)[0].context == {
        "before": {"total_molecules": 2, "successful_count": 1},
        "after": {"total_molecules": 4, "successful_count": 3},
    }  # fmt: skip


def test_doubts_hold_the_old_value(doubtful: tuple[str, AdoptionReport]) -> None:
    doubts = doubtful[1].doubts
    value = {(row.table, row.id, row.column): row.value for row in doubts.itertuples()}
    assert value["molecules", 2, "smiles"] == "OCC"
    assert value["molecules", 8, "name"] == LONG
    assert value["molecules", 10, "metadata"] == "[1, 2]"
    assert value["molecules", 11, "metadata"] == r'{"a": "\u0000"}'
    assert value["calculations", 2, "energy"] == "NaN"
    assert value["calculations", 5, "convergence_status"] == "running"
    assert value["batch_jobs", 2, "failed_count"] == "3000000000"
    atoms = doubts[doubts.table == "atomic_properties"].set_index("value").reason
    assert atoms["Infinity"] == "atom 12: NaN and infinity are not stored"


def test_the_report_accounts_for_every_row(doubtful: tuple[str, AdoptionReport]) -> None:
    tables = doubtful[1].tables.set_index("table")
    assert tables.found.tolist() == [14, 11, 14, 3, 8, 3]
    assert tables.set_aside.tolist() == [0, 1, 7, 0, 3, 0]
    assert (tables.found == tables.adopted + tables.set_aside).all()
    # For calculation 7 and item 4.
    assert tables.added.tolist() == [2, 0, 0, 0, 0, 0]


def rows_of(url: str, table: str, columns: str, key: str = "id") -> dict[int, tuple[Any, ...]]:
    return {row[0]: tuple(row[1:]) for row in fetch(url, f"SELECT {key}, {columns} FROM {table} ORDER BY {key}")}


def test_molecules_without_a_structure_are_stored_without_smiles(doubtful: tuple[str, AdoptionReport]) -> None:
    found = rows_of(doubtful[0], "molecules", "smiles, formula, charge, input_smiles")
    assert found[1] == ("CCO", "C2H6O", 0, "CCO")
    assert found[2] == (None, "C2H6O", 0, "OCC")
    assert found[3] == (None, "C3H6", 0, "C1CC")
    assert found[4] == (None, "Unknown", 0, None)
    assert found[5] == (None, "unknown", 0, "")
    assert found[7] == ("c1ccccc1", "C6H6", 0, "c1ccccc1")
    assert found[8] == ("CO", "CH4O", 0, "CO")
    assert found[12] == ("CCN", "C2H7N", 0, "CCN")
    assert found[99] == found[98] == (None, "unknown", 0, None)
    with qf.connect(doubtful[0]) as client:
        unresolved = client.molecules.unresolved()
    assert unresolved.id.tolist() == [2, 3, 4, 5, 6, 9, 13, 14, 98, 99]
    assert unresolved.graph_hash.nunique() == 10
    assert unresolved.graph_hash.str.len().unique().tolist() == [64]


def test_metadata_says_why_there_is_no_smiles(doubtful: tuple[str, AdoptionReport]) -> None:
    found = {key: row[0] for key, row in rows_of(doubtful[0], "molecules", "metadata").items()}
    assert found[2] == {
        "note": "kept",
        "adopted": {
            "same_as": 1,
            "doubts": [{"column": "smiles", "value": "OCC", "code": "same_structure",
                        "reason": "molecule 1 is the same structure"}],
        },
    }  # fmt: skip
    assert found[3]["adopted"]["unknown"] == ["charge"]
    assert found[3]["adopted"]["doubts"][0]["code"] == "syntax"
    assert found[4]["adopted"]["unknown"] == ["formula", "charge"]
    assert found[99]["adopted"]["doubts"][0]["code"] == "missing_molecule"
    assert found[1] == {}
    assert found[12]["other"] == 2
    assert found[12]["adopted"]["doubts"][0]["value"] == '{"adopted": 1, "other": 2}'
    assert found[13]["adopted"]["doubts"][0]["value"] == CYRILLIC
    assert set(found[14]) == {"adopted"}


def test_numbers_and_words_that_are_refused_are_adapted(doubtful: tuple[str, AdoptionReport]) -> None:
    url = doubtful[0]
    found = rows_of(
        url, "calculations",
        "molecule_id, energy, homo, gap, dipole, execution_time_seconds, convergence_status, method, total_charge, "
        "xyz_file_hash",
    )  # fmt: skip
    whole = (1, -11.5, -10, 8, 1.5, 2, "converged", "GFN2-xTB", 0, "a" * 64)
    assert found[1] == whole
    assert found[2] == found[3] == (1, None, *whole[2:6], "error", *whole[7:])
    assert found[4] == (1, -11.5, None, None, None, None, *whole[6:])
    assert found[5][6] == "error"
    assert found[6] == (*whole[:6], "error", "GFN2-xTB", 0, None)
    assert [found[key][0] for key in (7, 9, 10, 11)] == [99, 2, 3, 6]
    assert 8 not in found
    kept = rows_of(url, "calculations", "metadata->'adopted'->'doubts'")
    assert [(one["column"], one.get("value"), one["code"]) for one in kept[2][0]] == [
        ("convergence_status", "converged", "no_energy"), ("energy", "NaN", "not_finite"),
    ]  # fmt: skip
    assert kept[1] == (None,)
    batches = rows_of(url, "batch_jobs", "batch_name, status, total_molecules, successful_count, failed_count")
    assert batches[2] == ("batch 2", "in_progress", 1, 1, 0)
    assert batches[3] == (LONG[:255], "failed", 2, 0, 0)
    items = rows_of(url, "batch_items", "batch_id, molecule_id, status, calculation_id, retry_count")
    assert items == {
        1: (1, 1, "completed", 1, 0), 4: (1, 98, "completed", None, 0), 5: (1, 2, "completed", None, 0),
        6: (1, 3, "failed", None, 0), 8: (2, 2, "completed", 9, 0),
    }  # fmt: skip
    events = rows_of(url, "event_logs", "event_type, entity_type, status, service")
    assert events[2] == ("unknown", "batch_jobs", "error", "api")
    assert events[3] == ("error", "system", "warning", "api")


def test_atoms_get_the_element_that_can_be_told(doubtful: tuple[str, AdoptionReport]) -> None:
    found = rows_of(
        doubtful[0], "atomic_properties", "element, atomic_number, partial_charge, calculation_id", "atom_index"
    )
    assert found == {
        0: ("C", 6, 0.1, 1), 1: ("C", 6, 0.1, 1), 2: ("C", 6, 0.1, 1), 8: ("c", 6, 0.1, 1), 9: ("O", 8, 0.1, 1),
        11: ("C", 7, 0.1, 1), 12: ("C", 6, None, 1),
    }  # fmt: skip


def test_rows_that_cannot_be_stored_are_kept_as_events(doubtful: tuple[str, AdoptionReport]) -> None:
    found = fetch(doubtful[0], "SELECT * FROM event_logs WHERE event_type = 'row_set_aside' ORDER BY id")
    assert [(row.entity_type, row.context["row"]["id"], row.error_code) for row in found] == [
        ("calculations", 8, "missing"),
        ("atomic_properties", 4, "duplicate"), ("atomic_properties", 5, "missing_calculation"),
        ("atomic_properties", 6, "not_finite"), ("atomic_properties", 7, "out_of_range"),
        ("atomic_properties", 8, "out_of_range"), ("atomic_properties", 11, "unknown_element"),
        ("atomic_properties", 14, "missing_calculation"),
        ("batch_items", 2, "duplicate"), ("batch_items", 3, "missing_batch"), ("batch_items", 7, "missing"),
    ]  # fmt: skip
    by_key = {(row.entity_type, row.context["row"]["id"]): row for row in found}
    assert by_key["atomic_properties", 4].context["row"]["partial_charge"] == 0.9
    assert by_key["atomic_properties", 4].error_message == "row 1 has the same calculation_id and atom_index"
    assert by_key["atomic_properties", 4].entity_id == 1
    assert by_key["atomic_properties", 6].context["row"]["position_y"] == "NaN"
    assert by_key["calculations", 8].context["row"]["metadata"] == r'{"b": "\u0000"}'
    assert by_key["batch_items", 2].context["row"]["error_message"] == "a second one"
    assert {(row.status, row.service) for row in found} == {("warning", "adopt")}


def test_old_texts_and_their_calculations_can_be_settled(databases_of: DatabasesOf) -> None:
    databases, old = databases_of(), OldModule("loose")
    with databases.clone(migrated=False) as name:
        url = databases.url(name)
        old.create(databases, name)
        with old.opened(url) as cursor:
            for table, rows in ROWS.items():
                for row in rows():
                    old.insert(cursor, table, [row])
        adopt(engine_of(url), dry_run=False)
        with qf.connect(url) as client:
            # Readable formula: it is compared. The charge was never stored: it is not.
            with pytest.raises(qf.InvalidInput, match="formula of 'CCCC' is C4H10, of the molecule C3H6") as caught:
                client.molecules.assign_smiles(3, "CCCC")
            assert caught.value.code == "formula_mismatch"
            settled = client.molecules.assign_smiles(3, "C1CC1")
            assert (settled.id, settled.smiles, settled.formula) == (3, "C1CC1", "C3H6")
            assert client.calculations.for_molecule(3).id.tolist() == [10]
            assert client.molecules.assign_smiles(14, "[Na+].[Cl-]").charge == 0
            # Nothing is known of these.
            assert client.molecules.assign_smiles(4, "[NH4+]").charge == 1
            assert client.molecules.assign_smiles(99, "CC=O").id == 99
            # A wrong formula can be overruled.
            assert client.molecules.assign_smiles(13, "CCl", check=False).formula == "CH3Cl"
            # The second spelling: its calculations and items go to the first.
            with pytest.raises(qf.DuplicateMolecule) as known:
                client.molecules.assign_smiles(2, "OCC")
            assert known.value.existing_id == 1
            assert client.molecules.assign_smiles(2, "OCC", merge=True).id == 1
            assert 9 in client.calculations.for_molecule(1).id.tolist()
            moved = client.batches.items(2)
            assert (moved.molecule_id.tolist(), moved.calculation_id.tolist()) == ([1], [9])
            # Batch 1 had both molecules: the item of the first stays.
            assert sorted(client.batches.items(1).molecule_id) == [1, 3, 98]
            gone = client.events.query(event_type="batch_item_deleted")
            assert sorted(event["before"]["id"] for event in gone.context) == [5, 8]
            assert client.molecules.unresolved().id.tolist() == [5, 6, 9, 98]


def test_a_tenant_merges_molecules_with_items(databases_of: DatabasesOf) -> None:
    databases, old = databases_of(), OldModule("orm")
    with databases.clone(migrated=False) as name:
        url = databases.url(name)
        old.create(databases, name)
        with old.opened(url) as cursor:
            owned = {"user_id": ALICE, "created_at": "2025-01-01", "updated_at": "2025-01-01"}
            old.insert(cursor, "molecules", [
                {"id": 1, "name": "a", "smiles": "CCO", "formula": "C2H6O", **owned},
                {"id": 2, "name": "b", "smiles": "OCC", "formula": "C2H6O", **owned},
            ])  # fmt: skip
            old.insert(cursor, "batch_jobs", [{"id": 1, "batch_name": "b", "status": "completed", **owned}])
            old.insert(cursor, "batch_items", [
                {"id": 1, "batch_id": 1, "molecule_id": 2, "status": "completed", "error_message": "kept", **owned}
            ])  # fmt: skip
        adopt(engine_of(url), dry_run=False)
        with qf.connect(url, user_id=ALICE) as client:
            assert client.molecules.assign_smiles(2, "CCO", merge=True).id == 1
            items = client.batches.items(1)
    assert (items.molecule_id.tolist(), items.error_message.tolist(), items.user_id.tolist()) == (
        [1], ["kept"], [str(ALICE)],
    )  # fmt: skip


def test_many_doubts_go_to_a_file(databases_of: DatabasesOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(spill, "MOST_IN_MEMORY", 3)
    databases, old = databases_of(), OldModule("loose")
    with databases.clone(migrated=False) as name:
        url = databases.url(name)
        old.create(databases, name)
        with old.opened(url) as cursor:
            for row in molecules():
                old.insert(cursor, "molecules", [row])
        report = adopt(engine_of(url))
    assert report.doubts_path is not None
    assert report.doubts.id.notna().sum() == 16
    assert pd.read_parquet(report.to_parquet(tmp_path / "doubts.parquet")).equals(report.doubts)
    report.doubts_path.unlink()
