"""bulk_load of molecules: every spelling of a molecule is one row of its owner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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

LONG = "x" * 256


@pytest.fixture
def database_url(emptied_url: str) -> str:
    return emptied_url


def stored(client: Client, *columns: str) -> list[tuple[Any, ...]]:
    frame = client.molecules.query(columns=["id", *columns], order_by="id")
    values = frame[list(columns)].astype(object)
    return list(values.where(values.notna(), None).itertuples(index=False, name=None))


def test_a_loaded_molecule_is_the_same_as_a_created_one(loader: Client):
    smiles = "C[C@H](N)C(=O)[O-]"
    report = loader.molecules.bulk_load(
        [{"smiles": smiles, "name": "alaninate", "formula": "C3H6NO2-", "metadata": {"a": [1, None]}}]
    )
    loaded = loader.molecules.get(int(report.ids[0])).model_dump()
    loader.molecules.delete(loaded["id"])
    created = loader.molecules.create(smiles, name="alaninate", metadata={"a": [1, None]}).model_dump()
    assert {name for name in loaded if loaded[name] != created[name]} <= {"id", "created_at", "updated_at"}


def test_a_second_spelling_counts_as_existing(loader: Client):
    key = loader.molecules.create("C").id
    report = loader.molecules.bulk_load({"smiles": ["OCC", "[CH4]", "C(O)C", "CCO", "CC"]})
    assert counts(report) == (2, 3, 0)
    assert report.ids[[0, 2, 3]].nunique() == 1
    assert report.ids[1] == key
    assert stored(loader, "smiles") == [("C",), ("CCO",), ("CC",)]


def test_each_fault_refuses_its_row_and_no_other(loader: Client):
    rows = [
        ("C", "a", "CH4", None, None),
        (None, None, None, None, ("smiles", "empty")),
        ("", None, None, None, ("smiles", "empty")),
        ("C\x00C", None, None, None, ("smiles", "control_character")),
        ("CCCC", LONG, None, None, ("name", "too_long")),
        ("CCCC", "a\x00", None, None, ("name", "control_character")),
        ("CCCC", None, "C4H9", None, ("formula", "formula_mismatch")),
        ("CCCC", None, None, "[1]", ("metadata", "not_json")),
        ("CC", "b", None, '{"x": 1}', None),
    ]
    frame = pd.DataFrame([row[:4] for row in rows], columns=["smiles", "name", "formula", "metadata"])
    report = collect(loader.molecules.bulk_load, frame)
    assert faults(report) == [(n, *row[4]) for n, row in enumerate(rows) if row[4]]
    assert counts(report) == (2, 0, 7)
    assert stored(loader, "smiles", "name") == [("C", "a"), ("CC", "b")]
    assert loader.molecules.get(int(report.ids[8])).metadata == {"x": 1}


@pytest.mark.parametrize("smiles", ["C1CC", "C(C)(C)(C)(C)C", "xyz", "C.C.", "c1cccc1", "C" * 20_000, "[H", "é"])
def test_a_refused_smiles_has_the_code_that_create_gives_it(client: Client, smiles: str):
    report = collect(client.molecules.bulk_load, {"smiles": [smiles, "C"]})
    with pytest.raises(InvalidInput) as caught:
        client.molecules.create(smiles)
    assert faults(report) == [(0, "smiles", caught.value.code)]
    assert report.rejected["value"][0].startswith(smiles[:50])


@pytest.mark.parametrize(
    ("smiles", "formula"), [("N", "NH3"), ("OCC", "CH3CH2OH"), ("[NH4+]", "NH4"), ("C", " CH4 ")]
)
def test_a_formula_agrees_by_its_composition(client: Client, smiles: str, formula: str):
    report = client.molecules.bulk_load({"smiles": [smiles], "formula": [formula]}, on_error="raise")
    assert client.molecules.get(int(report.ids[0])).formula == client.molecules.get_by_smiles(smiles).formula


@pytest.mark.parametrize("formula", ["NH4", "?", "nh3", "H3N)", "N"])
def test_a_formula_that_disagrees_refuses_its_row(client: Client, formula: str):
    report = collect(client.molecules.bulk_load, {"smiles": ["N", "N"], "formula": [formula, None]})
    assert faults(report) == [(0, "formula", "formula_mismatch")]
    assert report.rejected["value"].tolist() == [formula]
    assert counts(report) == (1, 0, 1)


def test_a_molecule_takes_name_and_metadata_of_its_first_good_row(loader: Client):
    given = {
        "smiles": ["CCO", "OCC", "OCC", "C"],
        "name": [LONG, "ethanol", "spirit", None],
        "metadata": [None, '{"n": 1}', '{"n": 2}', None],
    }
    report = collect(loader.molecules.bulk_load, given)
    assert faults(report) == [(0, "name", "too_long")]
    assert counts(report) == (2, 1, 1)
    assert stored(loader, "smiles", "name") == [("CCO", "ethanol"), ("C", None)]
    assert [loader.molecules.get(int(report.ids[n])).metadata for n in (1, 3)] == [{"n": 1}, {}]


def test_a_molecule_of_refused_rows_only_is_not_registered(loader: Client):
    report = collect(loader.molecules.bulk_load, {"smiles": ["CCO", "OCC", "C"], "name": [LONG, LONG, "methane"]})
    assert counts(report) == (1, 0, 2)
    assert stored(loader, "name") == [("methane",)]


def test_a_stored_molecule_keeps_its_name(loader: Client):
    key = loader.molecules.create("C", name="methane").id
    report = loader.molecules.bulk_load({"smiles": ["C"], "name": ["marsh gas"]})
    assert (counts(report), report.ids.tolist()) == ((0, 1, 0), [key])
    assert stored(loader, "name") == [("methane",)]


def test_the_same_load_again_inserts_nothing(loader: Client):
    given = {"smiles": ["C", "CC", "CCO"]}
    first, second = loader.molecules.bulk_load(given), loader.molecules.bulk_load(given)
    assert (counts(first), counts(second)) == ((3, 0, 0), (0, 3, 0))
    assert first.ids.equals(second.ids)


def test_nothing_at_all_is_loaded_when_raising(loader: Client):
    with pytest.raises(RowsRejected, match="2 of 3 rows refused; row 1, smiles") as caught:
        loader.molecules.bulk_load({"smiles": ["C", "bad(", None]}, on_error="raise")
    assert loader.molecules.count() == 0
    report = caught.value.report
    assert report is not None
    assert counts(report) == (0, 0, 3)
    assert report.ids.isna().all()


@pytest.mark.parametrize("chunk_rows", [1, 3])
def test_chunks_leave_no_trace(loader: Client, monkeypatch: pytest.MonkeyPatch, chunk_rows: int):
    monkeypatch.setattr(sources, "CHUNK_ROWS", chunk_rows)
    smiles = ["C", None, "OCC", "CC", "bad(", "CCO", "C", "CCC", "CC"]
    names = [None, "x", LONG, "ethane", None, "ethanol", "late", "propane", "no"]
    report = collect(loader.molecules.bulk_load, {"smiles": smiles, "name": names})
    assert faults(report)[:2] == [(1, "smiles", "empty"), (2, "name", "too_long")]
    assert report.rejected["row"].tolist() == [1, 2, 4]
    assert sorted(stored(loader, "smiles", "name"), key=str) == sorted(
        [("C", None), ("CC", "ethane"), ("CCO", "ethanol"), ("CCC", "propane")], key=str
    )
    found = [report.ids[n] for n in (0, 6)], [report.ids[n] for n in (3, 8)]
    assert found[0][0] == found[0][1]
    assert found[1][0] == found[1][1]
    assert [loader.molecules.get(int(report.ids[n])).smiles for n in (0, 3, 5, 7)] == ["C", "CC", "CCO", "CCC"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"name": ["a"]}, InvalidInput),
        ({"smiles": ["C"], "nmae": ["a"]}, UnknownField),
        ({"smiles": ["C"], "id": [1]}, UnknownField),
        ({"smiles": ["C"], "inchikey": ["a"]}, UnknownField),
    ],
)
def test_columns_are_checked_first(client: Client, given: dict[str, list[Any]], error: type[Exception]):
    with pytest.raises(error):
        client.molecules.bulk_load(given)


def test_an_unknown_option_is_refused(client: Client):
    with pytest.raises(InvalidInput, match="on_error is one of"):
        client.molecules.bulk_load({"smiles": ["C"]}, on_error="ignore")


def test_owners_have_their_own_molecules(client: Client, tenant_client: TenantClient):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    reports = [one.molecules.bulk_load({"smiles": ["C", "CC"]}) for one in (client, alice, bob)]
    shared = client.molecules.bulk_load({"smiles": ["C"]}, shared=True)
    assert [counts(report) for report in reports] == [(2, 0, 0)] * 3
    assert counts(shared) == (1, 0, 0)
    assert stored(alice, "smiles", "user_id") == [
        ("C", str(ALICE)), ("CC", str(ALICE)), ("C", str(PUBLIC_USER_ID)),
    ]  # fmt: skip


def test_a_tenant_shares_nothing(tenant_client: TenantClient):
    with pytest.raises(AccessDenied):
        tenant_client(ALICE).molecules.bulk_load({"smiles": ["C"]}, shared=True)


def test_a_public_molecule_does_not_stand_for_ones_own(client: Client, tenant_client: TenantClient):
    client.molecules.create("C", shared=True)
    assert counts(tenant_client(ALICE).molecules.bulk_load({"smiles": ["C"]})) == (1, 0, 0)


def test_of_several_spellings_the_first_good_one_names_the_molecule(loader: Client):
    spellings = ["CCO", "OCC", "C(O)C", "[CH3]CO"]
    report = collect(
        loader.molecules.bulk_load, {"smiles": [*spellings, "C"], "name": [LONG, LONG, "third", "x", LONG]}
    )
    assert faults(report) == [(0, "name", "too_long"), (1, "name", "too_long"), (4, "name", "too_long")]
    assert stored(loader, "name", "input_smiles") == [("third", "C(O)C")]
    assert counts(report) == (1, 1, 3)
    assert report.ids[2] == report.ids[3]


def test_an_error_inside_an_iterator_leaves_nothing_behind(loader: Client):
    def batches() -> Iterator[pa.Table]:
        yield pa.table({"smiles": ["C"]})
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        loader.molecules.bulk_load(batches())
    assert loader.molecules.count() == 0


def test_one_load_is_one_event(client: Client, loader: Client):
    report = loader.molecules.bulk_load({"smiles": ["C" * n for n in range(1, 121)]})
    events = client.events.query(entity_type="molecules", columns=["id", "event_type", "context"])
    assert report.n_inserted == 120
    assert len(events) == 1
    assert events["context"][0]["rows"] == 120


def test_wrong_types_of_smiles_are_refused(client: Client):
    report = collect(client.molecules.bulk_load, pa.table({"smiles": [1.5, None]}))
    assert faults(report) == [(0, "smiles", "wrong_type"), (1, "smiles", "empty")]
    report = collect(client.molecules.bulk_load, {"smiles": pd.Categorical(["C", "bad(", "C", None])})
    assert report.rejected["row"].tolist() == [1, 3]
    assert report.n_inserted == 1
