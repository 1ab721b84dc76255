"""bulk_load of calculations: each row is taken rightly, or refused for a reason, and nothing else happens."""

from __future__ import annotations

import json
import math
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from qforge_sdk.client import Client
from qforge_sdk.db.bulk import account as accounts
from qforge_sdk.db.bulk import source as sources
from qforge_sdk.db.models import PUBLIC_USER_ID
from qforge_sdk.errors import AccessDenied, InvalidInput, LoadWarning, NotFound, RowsRejected, UnknownField
from qforge_sdk.schemas import LoadReport
from tests.fixtures.clients import TenantClient
from tests.fixtures.tenants import ALICE, BOB

LONG = "x" * 256


@pytest.fixture(params=["service", "tenant"])
def loader(request: pytest.FixtureRequest, client: Client, tenant_client: TenantClient) -> Client:
    """Who loads: the service straight into the table, a tenant through a temporary one."""
    return client if request.param == "service" else tenant_client(ALICE)


def molecule(client: Client, smiles: str = "O", **options: Any) -> int:
    return int(client.molecules.create(smiles, **options).id)


def rows_of(key: int, **columns: list[Any]) -> dict[str, list[Any]]:
    count = max(len(values) for values in columns.values())
    return {"molecule_id": [key] * count, "energy": [-5.0] * count, **columns}


def collect(client: Client, source: Any, **options: Any) -> LoadReport:
    """Load, with the warning that belongs to it if rows are refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LoadWarning)
        return client.calculations.bulk_load(source, progress=False, **options)


def faults(report: LoadReport) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in report.rejected[["row", "column", "code"]].itertuples(index=False)]


def counts(report: LoadReport) -> tuple[int, int, int]:
    return report.n_inserted, report.n_existing, report.n_rejected


def stored(client: Client, *columns: str) -> list[tuple[Any, ...]]:
    frame = client.calculations.query(columns=["id", *columns], order_by="id")
    return list(frame[list(columns)].itertuples(index=False, name=None))


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
    ("execution_time_seconds", -1, "too_small", "-1.0"),
    ("unpaired_electrons", 0.5, "wrong_type", "0.5"),
    ("unpaired_electrons", 10_001, "out_of_range", "10001.0"),
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
    report = collect(loader, frame)
    found = report.rejected.astype(object).where(report.rejected.notna(), None)
    expected = [(2 * n + 1, name, code) for n, (name, _, code, _) in enumerate(FAULTS)]
    assert faults(report) == expected
    assert dict(zip(found["column"] + found["code"], found["value"], strict=True)).keys() == {
        name + code for name, _, code, _ in FAULTS
    }
    assert counts(report) == (len(FAULTS), 0, len(FAULTS))
    assert report.ids.isna().tolist() == [False, True] * len(FAULTS)
    assert stored(loader, "energy") == [(-1.0,)] * len(FAULTS)


@pytest.mark.parametrize(("column", "value", "code", "shown"), FAULTS)
def test_a_fault_is_shown_as_it_came(client: Client, column: str, value: Any, code: str, shown: str | None):
    given = {"molecule_id": [molecule(client)], "energy": [-1.0], column: [value]}
    with pytest.raises(RowsRejected) as caught:
        client.calculations.bulk_load(given, on_error="raise")
    (row,) = caught.value.report.rejected.itertuples(index=False)
    assert (row.row, row.column, row.code) == (0, column, code)
    assert shown is None if pd.isna(row.value) else row.value == shown
    assert row.reason
    assert client.calculations.count() == 0
