"""Whatever holds rows is loaded: frames, Arrow, files, iterators, and what other libraries bring."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qforge_sdk.client import Client, connect
from qforge_sdk.db.bulk import source as sources
from qforge_sdk.db.bulk.source import open_source
from qforge_sdk.errors import InvalidInput, UnknownField
from qforge_sdk.schemas import LoadReport
from tests.fixtures.bulk import collect

SMILES = ["C", "CC", "CCO", "c1ccccc1", "C#N"]
ENERGIES = [-1.5, -2.25, 0.1, -1e-300, -3.0]
SOLVENTS = ["water", None, 'a "b", c', "ünï\ncode ☃", None]
COLUMNS = {"smiles": SMILES, "energy": ENERGIES, "solvent": SOLVENTS}
ROWS = list(zip(SMILES, ENERGIES, SOLVENTS, strict=True))
FRAME = pd.DataFrame(COLUMNS)
TABLE = pa.table(COLUMNS)


@pytest.fixture
def client(bulk_url: str) -> Iterator[Client]:
    """Client on one database for all tests here; each looks at the rows of its own report."""
    with connect(bulk_url) as client:
        yield client


@pytest.fixture(params=[65_536, 3, 1])
def chunk_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sources, "CHUNK_ROWS", request.param)
    return int(request.param)


def loaded(client: Client, report: LoadReport, *columns: str) -> list[tuple[Any, ...]]:
    """Stored rows in the order of the input."""
    keys = [int(key) for key in report.ids.dropna()]
    frame = client.calculations.query(id=keys, columns=["id", *columns]).set_index("id").loc[keys]
    values = frame[list(columns)].astype(object)
    return list(values.where(values.notna(), None).itertuples(index=False, name=None))


def frames() -> Iterator[pd.DataFrame]:
    for start in range(0, len(FRAME), 2):
        yield FRAME.iloc[start : start + 2]


def batches_of_other_types() -> Iterator[Any]:
    yield TABLE.slice(0, 1)
    yield pd.DataFrame({"smiles": ["CC"], "energy": [-2.25], "solvent": [None]})
    yield pa.RecordBatch.from_pydict(
        {"solvent": pa.array([SOLVENTS[2]]).dictionary_encode(), "smiles": ["CCO"], "energy": ["0.1"]}
    )
    yield pl.DataFrame({"smiles": [SMILES[3]], "energy": [ENERGIES[3]], "solvent": [SOLVENTS[3]]})
    yield [{"smiles": "C#N", "energy": -3, "solvent": None}]


SOURCES: dict[str, Callable[[], Any]] = {
    "frame": lambda: FRAME,
    "frame with nullable types": FRAME.convert_dtypes,
    "frame with Arrow types": lambda: FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "frame of objects": lambda: FRAME.astype(object),
    "frame with categories": lambda: FRAME.astype({"smiles": "category", "solvent": "category"}),
    "table": lambda: TABLE,
    "table in chunks": lambda: pa.concat_tables([TABLE.slice(0, 2), TABLE.slice(2)]),
    "table with dictionaries": lambda: TABLE.set_column(2, "solvent", TABLE["solvent"].dictionary_encode()),
    "slice of a table": lambda: pa.concat_tables([TABLE, TABLE, TABLE]).slice(5, 5),
    "record batch": lambda: TABLE.to_batches()[0],
    "reader": lambda: TABLE.to_reader(max_chunksize=2),
    "polars": lambda: pl.DataFrame(COLUMNS),
    "polars with categories": lambda: pl.DataFrame(COLUMNS).with_columns(pl.col("solvent").cast(pl.Categorical)),
    "duckdb": lambda: duckdb.from_arrow(TABLE),
    "dict of columns": lambda: COLUMNS,
    "dict of arrays": lambda: {"smiles": np.array(SMILES), "energy": np.array(ENERGIES), "solvent": SOLVENTS},
    "dicts": lambda: [dict(zip(COLUMNS, row, strict=True)) for row in ROWS],
    "generator of frames": frames,
    "list of frames": lambda: list(frames()),
    "iterator of batches": lambda: iter(TABLE.to_batches(max_chunksize=2)),
    "batches of other types": batches_of_other_types,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_rows_are_read_alike_from_every_source(kind: str, chunk_rows: int):
    source = open_source(SOURCES[kind]())
    assert sorted(source.names) == sorted(COLUMNS)
    assert source.n_rows == len(ROWS)
    for _ in range(2):
        tables = list(source.read(["energy", "smiles", "solvent"]))
        assert all(0 < table.num_rows <= chunk_rows for table in tables)
        assert [table.column_names for table in tables] == [["energy", "smiles", "solvent"]] * len(tables)
        rows = [tuple(row.values()) for table in tables for row in table.to_pylist()]
        assert [(smiles, float(energy), solvent) for energy, smiles, solvent in rows] == ROWS


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_is_loaded(client: Client, kind: str):
    report = client.calculations.bulk_load(SOURCES[kind](), on_error="raise", progress=False)
    assert loaded(client, report, "smiles", "energy", "solvent") == ROWS


@pytest.mark.parametrize("chunk_rows", [2], indirect=True)
@pytest.mark.parametrize("form", ["file", "text", "folder", "list", "partitions", "row groups"])
def test_parquet_is_read(client: Client, tmp_path: Path, chunk_rows: int, form: str):
    path = tmp_path / "rows.parquet"
    pq.write_table(TABLE, path, row_group_size=2 if form == "row groups" else None)
    source: Any = path
    if form == "text":
        source = str(path)
    elif form in {"folder", "partitions"}:
        source = tmp_path / "folder"
        source.mkdir()
        for n, part in enumerate((TABLE.slice(0, 2), TABLE.slice(2))):
            folder = source / f"part={n}" if form == "partitions" else source
            folder.mkdir(exist_ok=True)
            pq.write_table(part, folder / f"{n}.parquet")
    elif form == "list":
        source = [tmp_path / "1.parquet", str(tmp_path / "0.parquet")]
        pq.write_table(TABLE.slice(0, 2), source[0])
        pq.write_table(TABLE.slice(2), source[1])
    report = client.calculations.bulk_load(source, on_error="raise", progress=False)
    assert loaded(client, report, "smiles", "energy", "solvent") == ROWS


CSV = """\
smiles,energy,solvent
C,-1.5,water
CC,-2.25,
CCO,0.1,"a ""b"", c"
c1ccccc1,-1e-300,"ünï
code ☃"
C#N,-3.0,""
"""


@pytest.mark.parametrize("form", ["plain", "bom", "crlf", "no last newline", "tsv", "blank lines"])
def test_csv_is_read(client: Client, tmp_path: Path, form: str):
    text = CSV
    if form == "crlf":
        text = text.replace("\n", "\r\n").replace("ünï\r\n", "ünï\n")
    elif form == "no last newline":
        text = text.rstrip("\n")
    elif form == "tsv":
        text = text.replace('"a ""b"", c"', "@").replace(",", "\t").replace("@", '"a ""b"", c"')
    elif form == "blank lines":
        text = text.replace("\nCCO", "\n\nCCO") + "\n"
    path = tmp_path / ("rows.tsv" if form == "tsv" else "rows.CSV")
    path.write_text(("\ufeff" if form == "bom" else "") + text, encoding="utf-8", newline="")
    report = client.calculations.bulk_load(path, on_error="raise", progress=False)
    assert loaded(client, report, "smiles", "energy", "solvent") == ROWS


def test_csv_of_pandas_comes_back(client: Client, tmp_path: Path):
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    report = client.calculations.bulk_load(str(tmp_path / "rows.csv"), on_error="raise", progress=False)
    assert loaded(client, report, "smiles", "energy", "solvent") == ROWS


def test_bad_values_of_a_csv_refuse_their_rows(client: Client, tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text("smiles,energy,optimized\nC,one,true\nC,-1,2\nC,NA,\nC,-1e3,YES\n", encoding="utf-8")
    report = collect(client.calculations.bulk_load, path)
    assert report.rejected[["row", "column", "code"]].to_numpy().tolist() == [
        [0, "energy", "wrong_type"], [1, "optimized", "wrong_type"], [2, "energy", "missing_energy"],
    ]  # fmt: skip
    assert loaded(client, report, "energy", "optimized") == [(-1000.0, True)]


@pytest.mark.parametrize(
    "content",
    [
        b"smiles,energy\nC,-1,2\n",
        b"smiles,energy\nC\n",
        b"smiles,energy\nC\xff,-1\n",
        b"\xff\xfe",
        b"smiles,smiles\nC,C\n",
    ],
    ids=["too many fields", "too few", "no UTF-8", "no UTF-8 in the header", "a column twice"],
)
def test_a_csv_that_cannot_be_read_is_refused_as_a_whole(client: Client, tmp_path: Path, content: bytes):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    before = client.calculations.count()
    with pytest.raises(InvalidInput):
        client.calculations.bulk_load(path)
    assert client.calculations.count() == before


@pytest.mark.parametrize("name", ["none.parquet", "rows.xlsx", "bad.parquet", "empty"])
def test_a_file_that_cannot_be_read_is_named(client: Client, tmp_path: Path, name: str):
    if name.startswith(("rows", "bad")):
        (tmp_path / name).write_bytes(b"no table")
    elif name == "empty":
        (tmp_path / name).mkdir()
    with pytest.raises(InvalidInput, match=name):
        client.calculations.bulk_load(tmp_path / name)


def _parquet(folder: Path) -> Path:
    pq.write_table(TABLE.slice(0, 0), folder / "rows.parquet")
    return folder / "rows.parquet"


def _csv(folder: Path) -> Path:
    (folder / "rows.csv").write_text("smiles,energy\n", encoding="utf-8")
    return folder / "rows.csv"


EMPTY: dict[str, Callable[[Path], Any]] = {
    "frame": lambda _: FRAME.iloc[:0],
    "frame without columns": lambda _: pd.DataFrame(),
    "frame of objects": lambda _: pd.DataFrame(columns=["smiles", "energy"]),
    "table": lambda _: TABLE.slice(0, 0),
    "table without columns": lambda _: pa.table({}),
    "table of nulls": lambda _: pa.table({"smiles": pa.nulls(0), "energy": pa.nulls(0)}),
    "record batch": lambda _: pa.RecordBatch.from_pydict({"smiles": [], "energy": []}),
    "reader": lambda _: TABLE.schema.empty_table().to_reader(),
    "polars": lambda _: pl.DataFrame(COLUMNS).head(0),
    "duckdb": lambda _: duckdb.from_arrow(TABLE).limit(0),
    "dict": lambda _: {"smiles": [], "energy": []},
    "list": lambda _: [],
    "generator": lambda _: iter(()),
    "generator of empty frames": lambda _: (FRAME.iloc[:0] for _ in range(2)),
    "parquet": _parquet,
    "csv": _csv,
}


@pytest.mark.parametrize("kind", EMPTY)
def test_no_rows_are_no_error(client: Client, tmp_path: Path, kind: str):
    report = client.calculations.bulk_load(EMPTY[kind](tmp_path))
    assert (report.n_rows, len(report.ids), str(report.ids.dtype)) == (0, 0, "Int64")
    assert report.rejected.empty


@pytest.mark.parametrize("accessor", ["molecules", "atoms"])
def test_a_list_of_nothing_is_loaded_everywhere(client: Client, accessor: str):
    assert getattr(client, accessor).bulk_load([]).n_rows == 0


@pytest.mark.parametrize(
    "source",
    [
        pd.DataFrame(index=range(3)),
        7,
        None,
        b"smiles,energy",
        {"smiles": "C", "energy": -1.0},
        {"smiles": ["C"], "energy": [-1.0, -2.0]},
        [1, 2],
        iter([{"smiles": "C", "energy": -1.0}]),
        pd.DataFrame([["C", "CC"]], columns=["smiles", "smiles"]),
        pa.table([["C"], ["C"]], names=["smiles", "smiles"]),
        pa.table([["C"], ["C"]], names=["smiles", "smiles"]).to_reader(),
        [pd.DataFrame({"smiles": ["C"], "energy": [1.0]}), pd.DataFrame({"smiles": ["C"]})],
    ],
    ids=lambda source: type(source).__name__,
)
def test_what_holds_no_rows_is_refused(client: Client, source: Any):
    with pytest.raises(InvalidInput):
        client.calculations.bulk_load(source)


def test_ids_follow_the_index_of_the_frame_even_if_it_repeats(client: Client):
    frame = FRAME.set_axis(["a", "a", "b", None, "a"])
    report = client.calculations.bulk_load(frame)
    assert report.ids.index.equals(frame.index)
    assert loaded(client, report, "smiles") == [(smiles,) for smiles in SMILES]


def test_a_filtered_frame_keeps_its_labels(client: Client):
    frame = FRAME[FRAME["energy"] < -1]
    report = client.calculations.bulk_load(frame)
    assert report.ids.index.tolist() == [0, 1, 4]


def test_a_mixed_column_is_taken_value_by_value(client: Client):
    frame = pd.DataFrame({
        "smiles": ["C"] * 6,
        "energy": pd.Series([-1, "-2.5", None, "x", np.float32(-0.5), pd.NA], dtype=object),
        "solvent": pd.Series(["water", 7, None, None, "", pd.NaT], dtype=object),
        "convergence_status": ["converged", "converged", "error", "error", "error", "error"],
    })  # fmt: skip
    report = collect(client.calculations.bulk_load, frame)
    assert report.rejected[["row", "column", "code", "value"]].to_numpy().tolist() == [
        [3, "energy", "wrong_type", "x"]
    ]
    assert loaded(client, report, "energy", "solvent") == [
        (-1.0, "water"), (-2.5, "7"), (None, None), (-0.5, None), (None, None),
    ]  # fmt: skip


def test_columns_that_hold_nothing_are_null(client: Client):
    nothing = ["solvent", "gap", "unpaired_electrons", "optimized", "source_id"]
    report = client.calculations.bulk_load(
        pa.table(
            {"smiles": ["C"], "energy": [-1.0], **{name: pa.nulls(1) for name in nothing}, "metadata": pa.nulls(1)}
        )
    )
    assert loaded(client, report, *nothing) == [(None, None, 0, False, None)]
    frame = pd.DataFrame({"smiles": ["C"], "energy": [-1.0], "solvent": [np.nan], "gap": [None]})
    assert loaded(client, client.calculations.bulk_load(frame), "solvent", "gap") == [(None, None)]


@pytest.mark.parametrize("unit", ["ns", "us"])
def test_times_stand_for_nothing_else(client: Client, unit: str):
    times = pd.Series([pd.Timestamp("2026-01-01", tz="UTC"), None]).dt.as_unit(unit)
    report = collect(
        client.calculations.bulk_load, pd.DataFrame({"smiles": ["C", "C"], "energy": [-1.0, -1.0], "gap": times})
    )
    (row,) = report.rejected.itertuples(index=False)
    assert (row.row, row.column, row.code, row.value) == (0, "gap", "wrong_type", "2026-01-01 00:00:00+00:00")


def test_nanosecond_times_of_arrow_are_refused_with_all_their_digits(client: Client):
    times = pa.array([1_767_225_600_000_000_001], pa.timestamp("ns"))
    report = collect(client.calculations.bulk_load, pa.table({"smiles": ["C"], "energy": [-1.0], "solvent": times}))
    assert report.rejected["code"].tolist() == ["wrong_type"]
    assert report.rejected["value"].tolist() == ["2026-01-01 00:00:00.000000001"]


def test_a_column_of_times_that_the_database_keeps_is_refused_by_its_name(client: Client):
    frame = FRAME.assign(created_at=pd.Timestamp("2026-01-01").as_unit("ns"))
    with pytest.raises(UnknownField, match="the database fills 'created_at'"):
        client.calculations.bulk_load(frame)


def test_other_objects_in_a_column_refuse_their_rows_alone(client: Client):
    values = [datetime.date(2026, 1, 1), b"x", object, ["a"], "water"]
    frame = pd.DataFrame({"smiles": ["C"] * 5, "energy": [-1.0] * 5, "gap": pd.Series(values, dtype=object)})
    report = collect(client.calculations.bulk_load, frame)
    assert report.rejected["row"].tolist() == [0, 1, 2, 3, 4]


def test_names_of_columns_need_not_be_text(client: Client):
    with pytest.raises(UnknownField, match="'0'"):
        client.calculations.bulk_load(pd.DataFrame({"smiles": ["C"], 0: [1]}))


def test_a_batch_with_its_columns_in_another_order_is_the_same(client: Client):
    parts = [FRAME.iloc[:2], FRAME.iloc[2:][["solvent", "energy", "smiles"]]]
    report = client.calculations.bulk_load(parts)
    assert loaded(client, report, "smiles", "energy", "solvent") == ROWS


@pytest.mark.parametrize("kind", ["polars", "categories", "dictionary", "chunks"])
def test_a_refused_value_is_shown_from_every_kind_of_text(client: Client, kind: str):
    words = ["converged", "done", "converged"]
    made: dict[str, Callable[[], Any]] = {
        "polars": lambda: pl.Series(words),
        "categories": lambda: pl.Series(words, dtype=pl.Categorical),
        "dictionary": lambda: pa.array(words).dictionary_encode(),
        "chunks": lambda: pa.chunked_array([words[:1], words[1:]]),
    }
    columns = {"smiles": ["C"] * 3, "energy": [-1.0] * 3, "convergence_status": made[kind]()}
    report = collect(
        client.calculations.bulk_load,
        pl.DataFrame(columns) if "po" in kind or kind == "categories" else pa.table(columns),
    )
    assert report.rejected[["row", "code", "value"]].to_numpy().tolist() == [[1, "unknown_word", "done"]]
