"""Filters, order, pages and endings of queries."""

from __future__ import annotations

import datetime as dt

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qforge_sdk import Calculation, Client, InvalidInput, InvalidSmiles, Molecule, Query, UnknownField
from qforge_sdk.db.schema import head_revision
from qforge_sdk.fields import ALL_TABLES
from qforge_sdk.frames import PANDAS_TYPES
from tests.fixtures.clients import TenantClient
from tests.fixtures.tenants import ALICE, BOB

ROWS = [
    {"smiles": "CCO", "energy": -11.4, "gap": 9.1, "dipole": 1.9, "method": "GFN2-xTB"},
    {"smiles": "CCO", "energy": -11.2, "gap": 8.7, "dipole": 2.0, "method": "GFN1-xTB"},
    {"smiles": "c1ccccc1", "energy": -15.9, "gap": 4.6, "dipole": 0.0, "method": "GFN2-xTB"},
    {"smiles": "O", "energy": -5.07, "gap": 14.5, "dipole": 2.3, "method": "GFN2-xTB"},
    {"smiles": "[CH3]", "energy": None, "gap": None, "dipole": None, "convergence_status": "not_converged"},
]


@pytest.fixture
def filled(client: Client) -> Client:
    for row in ROWS:
        client.calculations.create(**row)
    return client


def energies(frame: pd.DataFrame) -> list[float]:
    return frame["energy"].dropna().tolist()


def test_a_value_means_equals(filled: Client):
    assert energies(filled.calculations.query(method="GFN1-xTB")) == [-11.2]


def test_a_tuple_is_a_range_with_both_ends(filled: Client):
    assert sorted(energies(filled.calculations.query(energy=(-11.4, -5.07)))) == [-11.4, -11.2, -5.07]


def test_none_in_a_tuple_leaves_that_end_open(filled: Client):
    assert sorted(energies(filled.calculations.query(gap=(9, None)))) == [-11.4, -5.07]
    assert energies(filled.calculations.query(gap=(None, 5))) == [-15.9]


def test_a_list_means_any_of(filled: Client):
    found = filled.calculations.query(formula=["C6H6", "H2O", "XeF6"], order_by="energy")
    assert found["formula"].tolist() == ["C6H6", "H2O"]


@pytest.mark.parametrize("many", [np.array([-5.07]), pd.Series([-5.07]), {-5.07}])
def test_arrays_series_and_sets_count_as_lists(filled: Client, many: object):
    assert energies(filled.calculations.query(energy=many)) == [-5.07]


def test_an_empty_list_matches_nothing(filled: Client):
    assert filled.calculations.query(formula=[]).empty
    assert filled.calculations.query(energy=[]).empty


def test_none_matches_null_alone_and_in_a_list(filled: Client):
    assert filled.calculations.count(gap=None) == 1
    assert filled.calculations.count(gap=[None, 4.6]) == 2


def test_smiles_are_found_in_any_spelling(filled: Client):
    assert len(filled.calculations.query(smiles="OCC")) == 2
    assert len(filled.calculations.query(smiles=["C(O)C", "C1=CC=CC=C1"])) == 3
    assert filled.molecules.query(smiles="OCC")["smiles"].tolist() == ["CCO"]


def test_a_filter_that_is_no_smiles_says_so(filled: Client):
    with pytest.raises(InvalidSmiles):
        filled.calculations.query(smiles="not a smiles")


def test_calculations_filter_on_and_select_molecule_columns(filled: Client):
    found = filled.calculations.query(charge=0, formula="H2O", columns=["inchikey", "gap"])
    assert found.to_dict("records") == [{"inchikey": "XLYOFNOQVPJJNP-UHFFFAOYSA-N", "gap": 14.5}]


def test_order_by_takes_several_columns_and_nulls_come_last(filled: Client):
    found = filled.calculations.query(order_by=["formula", "-gap"])
    assert found["formula"].tolist() == ["C2H6O", "C2H6O", "C6H6", "CH3", "H2O"]
    assert found["gap"].tolist()[:2] == [9.1, 8.7]
    assert pd.isna(filled.calculations.query(order_by="-gap")["gap"].iloc[-1])


def test_a_limit_without_an_order_gives_the_newest(filled: Client):
    found = filled.calculations.query(limit=2)
    assert found["id"].tolist() == sorted(filled.calculations.query()["id"], reverse=True)[:2]


def test_expressions_and_filters_go_together(filled: Client):
    found = filled.calculations.where(
        Calculation.gap > 2 * Calculation.dipole, Molecule.formula != "H2O", gap=(5, None)
    )
    assert sorted(energies(found.df())) == [-11.4, -11.2]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda c: c.calculations.query(gpa=1), "'gap'"),
        (lambda c: c.calculations.query(columns=["enrgy"]), "'energy'"),
        (lambda c: c.calculations.query(order_by="-dipol"), "'dipole'"),
        (lambda c: c.molecules.query(formla="H2O"), "'formula'"),
        (lambda c: c.calculations.query(units={"energy": "kcal"}), "kcal/mol"),
        (lambda c: c.calculations.query(units={"method": "eV"}), "method"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(client: Client, call, word: str):
    with pytest.raises(UnknownField, match=word):
        call(client)


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ({"energy": "low"}, "finite number"),
        ({"energy": float("nan")}, "finite number"),
        ({"energy": True}, "finite number"),
        ({"energy": (1, 2, 3)}, "write a list"),
        ({"energy": (2, 1)}, "upside down"),
        ({"molecule_id": 1.5}, "whole number"),
        ({"optimized": 1}, "True or False"),
        ({"method": 2}, "text"),
        ({"method": "a\x00b"}, "text"),
        ({"created_at": "yesterdayish"}, "date"),
        ({"user_id": "me"}, "uuid"),
        ({"metadata": {}}, "expression"),
        ({"convergence_status": "failed"}, "one of converged, not_converged, error"),
        ({"convergence_status": ["error", "failed"]}, "not 'failed'"),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_refused(client: Client, filters: dict, reason: str):
    with pytest.raises(InvalidInput, match=reason):
        client.calculations.query(**filters)


@pytest.mark.parametrize("limit", [-1, 1.5, True, "10"])
def test_a_limit_is_a_whole_number(client: Client, limit: object):
    with pytest.raises(InvalidInput, match="limit"):
        client.calculations.query(limit=limit)


def test_times_are_compared_in_utc(filled: Client):
    now = dt.datetime.now(dt.UTC)
    assert filled.calculations.count(created_at=(now - dt.timedelta(minutes=5), None)) == len(ROWS)
    assert filled.calculations.count(created_at=(None, "2020-01-01")) == 0


def test_hostile_text_is_only_text(filled: Client):
    hostile = "x' OR '1'='1'; DROP TABLE molecules; -- %s %(a)s \\ \U0001f600 :name"
    filled.molecules.create("N", name=hostile)
    assert filled.molecules.query(name=hostile)["name"].tolist() == [hostile]
    assert filled.molecules.query(name=[hostile])["name"].tolist() == [hostile]


@pytest.mark.parametrize("table", ["molecules", "calculations", "atoms", "batches", "events"])
def test_an_empty_frame_has_the_columns_and_dtypes_of_a_full_one(client: Client, table: str):
    accessor = getattr(client, table)
    query = accessor.where().select(list(accessor._table.fields))
    empty = query.limit(0).df()
    row = client.calculations.create(smiles="O", energy=-5.07, metadata={"a": [1, None]})
    client.atoms.create(row.id, [{"element": "O", "position_x": 0, "position_y": 0, "position_z": 0}])
    client.batches.create("one", molecules=["O"])
    full = query.df()
    assert len(full) > 0
    assert full.dtypes.astype(str).to_dict() == empty.dtypes.astype(str).to_dict()
    expected = {name: PANDAS_TYPES[field.kind] for name, field in accessor._table.fields.items()}
    assert full.dtypes.astype(str).to_dict() == expected
    assert isinstance(full.index, pd.RangeIndex)
    assert empty.attrs["units"] == full.attrs["units"]


def test_every_table_has_fields_for_all_its_columns():
    for table in ALL_TABLES.values():
        columns = {column.name for column in table.model.__table__.columns} - {"identity_hash"}
        assert columns <= set(table.fields)


def test_units_are_converted_and_named(filled: Client):
    plain = filled.calculations.query(smiles="O")
    converted = filled.calculations.query(smiles="O", units={"energy": "kcal/mol"})
    assert plain.attrs["units"]["energy"] == "hartree"
    assert converted.attrs["units"]["energy"] == "kcal/mol"
    assert converted["energy"][0] == pytest.approx(-5.07 * 627.5094740631, rel=1e-12)
    assert converted["gap"][0] == 14.5


def test_metadata_comes_as_dicts_when_selected(client: Client):
    client.calculations.create(smiles="O", energy=-5.07, metadata={"basis": {"a": 1}, "tags": ["x"]})
    assert "metadata" not in client.calculations.query()
    found = client.calculations.query(columns=["metadata"])
    assert found["metadata"][0] == {"basis": {"a": 1}, "tags": ["x"]}


def test_a_query_is_lazy_and_immutable(filled: Client):
    query = filled.calculations.where(method="GFN2-xTB")
    narrower = query.where(gap=(10, None))
    assert query.count() == 4
    assert narrower.count() == 1
    assert query.limit(2).count() == 2
    with pytest.raises(AttributeError):
        query.n = 5


def test_a_dataframe_method_on_a_query_says_to_call_df(client: Client):
    with pytest.raises(AttributeError, match=r"call \.df\(\)"):
        client.calculations.where().groupby("method")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = client.calculations.where().nonsense


def test_arrow_fields_carry_units(filled: Client):
    table = filled.calculations.where().arrow()
    assert table.schema.field("energy").metadata[b"unit"] == b"hartree"
    assert table.num_rows == len(ROWS)


def test_batches_are_no_larger_than_asked_for(filled: Client):
    batches = list(filled.calculations.where().iter_batches(2))
    assert all(0 < batch.num_rows <= 2 for batch in batches)
    assert sum(batch.num_rows for batch in batches) == len(ROWS)
    with pytest.raises(InvalidInput):
        filled.calculations.where().iter_batches(0)


def test_a_stream_left_half_way_gives_its_connection_back(filled: Client):
    for _ in range(12):
        stream = filled.calculations.where().iter_batches(1)
        next(stream)
        stream.close()
    assert filled.calculations.count() == len(ROWS)


def test_polars_and_duckdb_take_a_query_as_it_is(filled: Client):
    query = filled.calculations.where(gap=(1, None))
    assert pl.DataFrame(query)["gap"].sum() == pytest.approx(9.1 + 8.7 + 4.6 + 14.5)
    reader = pa.RecordBatchReader.from_stream(query)
    assert duckdb.from_arrow(reader).aggregate("count(*)").fetchall() == [(4,)]


def test_parquet_carries_units_and_schema_revision(filled: Client, tmp_path):
    path = filled.calculations.where(gap=(1, None)).order_by("gap").to_parquet(tmp_path / "gaps.parquet")
    schema = pq.read_schema(path)
    assert schema.metadata[b"qforge.schema_revision"] == head_revision().encode()
    assert schema.field("gap").metadata[b"unit"] == b"eV"
    assert pd.read_parquet(path)["gap"].tolist() == [4.6, 8.7, 9.1, 14.5]


def test_a_failed_parquet_export_leaves_no_file(filled: Client, tmp_path):
    with pytest.raises(InvalidInput, match="division by zero"):
        filled.calculations.where(1 / (Calculation.id - Calculation.id) > 0).to_parquet(tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_breaks_says_what_the_server_said(filled: Client):
    broken = filled.calculations.where(1 / (Calculation.id - Calculation.id) > 0)
    with pytest.raises(InvalidInput, match="division by zero"):
        list(broken.iter_batches())


def test_sql_runs_by_itself_and_explain_shows_a_plan(filled: Client):
    query = filled.calculations.where(formula=["H2O"], name=None).order_by("-gap").limit(3)
    assert len(filled.sql(query.sql())) == 1
    assert "calculations" in query.explain()
    assert "actual time" in query.explain(analyze=True)


def test_a_tenants_page_takes_the_ordered_branches_and_reads_the_same(client: Client, tenant_client: TenantClient):
    alice = tenant_client(ALICE)
    for n in range(30):
        alice.calculations.create(smiles="CCO", energy=-1.0 - n, gap=float(n % 7))
        client.calculations.create(smiles="CCO", energy=-100.0 - n, gap=float(n % 5), shared=True)
    tenant_client(BOB).calculations.create(smiles="CCO", energy=-0.5, gap=0.0)
    query = alice.calculations.where(gap=(1, 6)).order_by("gap", "-energy").limit(17)
    everything = alice.calculations.where(gap=(1, 6)).df().sort_values(["gap", "energy"], ascending=[True, False])
    assert "UNION ALL" in query.sql()
    assert query.df()["energy"].tolist() == everything["energy"].tolist()[:17]
    joined = query.where(Molecule.formula == "C2H6O")
    assert "UNION ALL" not in joined.sql()
    assert joined.df()["energy"].tolist() == everything["energy"].tolist()[:17]
    newest = alice.calculations.where().order_by("-created_at", "-id").limit(5)
    assert newest.df()["id"].tolist() == alice.calculations.query()["id"].sort_values(ascending=False).tolist()[:5]


def test_query_repr_says_that_it_is_lazy(client: Client):
    assert repr(client.calculations.where(gap=(1, 2))) == "Query(calculations, 1 conditions, lazy: call .df())"
    assert isinstance(client.calculations.where(), Query)


def test_a_database_without_rows_has_one_empty_page(client: Client):
    for page in (client.molecules.page(), client.molecules.page(order_by="gap"), client.calculations.page()):
        assert (len(page.frame), page.count, page.is_exact, page.next, page.previous) == (0, 0, True, None, None)
