"""Planted faults are found with their reason, and ordinary molecules are left alone."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import qforge_sdk as qf
from qforge_sdk import Client, connect
from qforge_sdk.accessors import Calculations, suspicion
from qforge_sdk.chem.plausibility import SUSPICIONS, Limits
from qforge_sdk.data import load_sample
from qforge_sdk.frames import PANDAS_TYPES
from qforge_sdk.quantities import conversion_factor
from tests.fixtures.clients import TenantClient
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.jobs import WATER, write_job
from tests.fixtures.tenants import ALICE, BOB, TenantLogin

COLUMNS = ["id", "molecule_id", "smiles", "name", "formula", "method", "energy", "gap"]
EV = conversion_factor("hartree", "eV")
# Six carbon and six hydrogen atoms in no order, as somebody once sent them off as benzene.
HEAP = tuple(
    (symbol, *position)
    for symbol, position in zip(
        "CCCCCCHHHHHH",
        np.random.default_rng(4).permutation(np.mgrid[0:3, 0:2, 0:2].reshape(3, -1).T) * 1.3,
        strict=True,
    )
)
ETHANOL = {"smiles": "CCO", "energy": -11.3943, "gap": 9.4}

#: A calculation and the code that it must raise, None for none.
PLANTED: dict[str, tuple[dict[str, object], str | None]] = {
    "ordinary": (ETHANOL, None),
    "too high": (ETHANOL | {"energy": -10.6}, "energy_off"),
    "too low": (ETHANOL | {"energy": -12.2}, "energy_off"),
    "in eV": (ETHANOL | {"energy": -11.3943 * EV}, "energy_off"),
    "of another method": (ETHANOL | {"energy": -154.1, "method": "PBE"}, None),
    "small gap": (ETHANOL | {"gap": 0.05}, "gap_tiny"),
    "gap in hartree": (ETHANOL | {"gap": 3.2 / EV}, "gap_tiny"),
    "negative gap": (ETHANOL | {"gap": -1.2}, "gap_negative"),
    "radical": ({"smiles": "[CH3]", "energy": -3.5625, "gap": 0.05, "unpaired_electrons": 1}, None),
    "radical below zero": (
        {"smiles": "[CH3]", "energy": -3.5625, "gap": -1, "unpaired_electrons": 1},
        "gap_negative",
    ),
    "rearranged": (ETHANOL | {"metadata": {"run": {"doubts": [{"code": "rearranged"}]}}}, "rearranged"),
    "other doubt": (ETHANOL | {"metadata": {"run": {"doubts": [{"code": "gap_differs"}]}}}, None),
    "odd metadata": (ETHANOL | {"metadata": {"run": "rearranged", "doubts": [1]}}, None),
    "failed": ({"smiles": "CCO", "convergence_status": "error"}, None),
    "atoms of another": ({"smiles": "C", "energy": -4.1752, "gap": 13.0}, "formula_differs"),
    "charges astray": ({"smiles": "O", "energy": -5.07, "gap": 14.2}, "charge_sum_off"),
    "squeezed": ({"smiles": "O", "energy": -5.07, "gap": 14.2, "total_charge": 0.0}, "atoms_close"),
    "proper atoms": ({"smiles": "O", "energy": -5.07, "gap": 14.2}, None),
}


def water_atoms(source: str, *, scale: float = 1.0, oxygen: float = -0.56) -> list[dict[str, object]]:
    return [
        {
            "source_id": source, "atom_index": index, "element": symbol,
            "partial_charge": oxygen if symbol == "O" else 0.28,
            "position_x": x * scale, "position_y": y * scale, "position_z": z * scale,
        }
        for index, (symbol, x, y, z) in enumerate(WATER)
    ]  # fmt: skip


ATOMS = [
    *water_atoms("atoms of another"),
    *water_atoms("charges astray", oxygen=-0.4),
    *water_atoms("squeezed", scale=0.4),
    *water_atoms("proper atoms"),
]


def load_sample_into(client: Client, **options: bool) -> None:
    sample = load_sample()
    client.calculations.bulk_load(sample.calculations, **options)
    client.atoms.bulk_load(sample.atoms, **options)


@pytest.fixture(scope="module")
def sampled_url(databases_of: DatabasesOf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database with the sample data, the planted faults, and a job that is called benzene."""
    databases = databases_of()
    jobs = tmp_path_factory.mktemp("jobs")
    write_job(jobs, "benzene", 1, atoms=HEAP, energy=-14.42, gap=0.117)
    with databases.clone() as name:
        with connect(databases.url(name)) as client:
            load_sample_into(client)
            for source, (row, _) in PLANTED.items():
                client.calculations.create(**row, source_id=source)
            client.atoms.bulk_load(ATOMS, on_error="raise")
            client.migrate(jobs, dry_run=False, jobs=1)
        yield databases.url(name)


@pytest.fixture(scope="module")
def sampled(sampled_url: str) -> Iterator[Client]:
    with connect(sampled_url) as client:
        yield client


@pytest.fixture(scope="module")
def found(sampled: Client) -> pd.DataFrame:
    """Everything suspicious, with where it came from."""
    frame = sampled.calculations.suspicious()
    sources = sampled.calculations.query(columns=["id", "source_id"])
    judged = frame.attrs
    merged = frame.merge(sources, on="id", how="left")
    merged.attrs = judged
    return merged


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_fault_is_found_and_what_is_ordinary_is_not(found: pd.DataFrame, source: str):
    code = PLANTED[source][1]
    lines = found[found.source_id == source]
    assert lines.reasons.tolist() == ([] if code is None else [code])


def test_less_than_one_in_a_hundred_of_the_sample_is_suspicious(found: pd.DataFrame):
    suspicious = found.source_id.str.startswith("sample:").sum()
    assert 0 < suspicious < 3231 / 150


def test_a_heap_of_atoms_is_no_benzene(found: pd.DataFrame):
    line = found[found.source_id == "job:benzene_20251121_133039_00000001"].iloc[0]
    assert {"energy_off", "gap_tiny"} <= set(line.reasons.split(", "))
    assert "gap 0.117 eV, below 0.3 eV" in line.explanation
    assert "hartree above the sum over elements" in line.explanation


def test_an_explanation_says_by_how_much(found: pd.DataFrame):
    line = found[found.source_id == "too high"].iloc[0]
    above = float(line.explanation.split()[1])
    assert "hartree above the sum over elements" in line.explanation
    assert above == pytest.approx(0.8, abs=0.1)


def test_the_worst_come_first(found: pd.DataFrame):
    assert found.severity.is_monotonic_decreasing
    assert found.severity.min() >= 1
    assert found.source_id[0] == "in eV" or found.severity[0] >= 10


def test_the_frame_has_its_columns_units_and_account(sampled: Client):
    frame = sampled.calculations.suspicious()
    assert list(frame) == [*COLUMNS, "reasons", "explanation", "severity"]
    assert frame.attrs["units"] == {"energy": "hartree", "gap": "eV"}
    assert frame.attrs["judged"]["calculations"] == 3231 + len(PLANTED) + 1
    fits = {fit["method"]: fit for fit in frame.attrs["energy_fits"]}
    assert fits["GFN2-xTB"]["applies"]
    assert fits["GFN2-xTB"]["rows"] > 3000
    assert fits["PBE"] == {
        "method": "PBE",
        "solvation": None,
        "applies": False,
        "why_not": "1 converged energies, 30 are needed",
    }
    assert frame.attrs["judged"]["without_fit"] == 1


def test_filters_choose_what_is_judged_and_not_what_is_fitted(sampled: Client, found: pd.DataFrame):
    some = sampled.calculations.suspicious(smiles="OCC")
    assert some.id.tolist() == found[found.smiles == "CCO"].id.tolist()
    assert some.attrs["energy_fits"] == found.attrs["energy_fits"]
    narrow = sampled.calculations.suspicious(qf.Calculation.source_id == "squeezed", method=["GFN2-xTB", "x"])
    assert narrow.reasons.tolist() == ["atoms_close"]
    assert sampled.calculations.suspicious(formula="XeF6").empty


def test_pieces_of_any_size_give_the_same(sampled: Client, found: pd.DataFrame, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(suspicion, "_ROWS_AT_ONCE", 37)
    pieces = sampled.calculations.suspicious()
    pd.testing.assert_frame_equal(pieces, found.drop(columns="source_id"), check_exact=True)


def test_limits_are_the_caller_s(sampled: Client, found: pd.DataFrame):
    strict = sampled.calculations.suspicious(min_gap=1.0, max_deviation=6)
    assert set(found.id) < set(strict.id)
    gentle = sampled.calculations.suspicious(
        min_gap=0, max_deviation=1e6, max_charge_error=100, min_contact=0, min_deviation=0
    )
    assert set(", ".join(gentle.reasons).split(", ")) == {"gap_negative", "rearranged", "formula_differs"}


def test_the_limits_of_the_method_are_those_of_the_rules():
    parameters = inspect.signature(Calculations.suspicious).parameters
    defaults = {name: one.default for name, one in parameters.items()}
    assert {one.name: one.default for one in fields(Limits)}.items() <= defaults.items()


@pytest.mark.parametrize(("option", "value"), [("min_gap", -1), ("max_deviation", float("nan"))])
def test_a_limit_below_zero_is_refused(client: Client, option: str, value: float):
    with pytest.raises(qf.InvalidInput, match=option):
        client.calculations.suspicious(**{option: value})


def test_an_unknown_filter_is_refused(client: Client):
    with pytest.raises(qf.UnknownField, match="did you mean 'gap'"):
        client.calculations.suspicious(gapp=1)


def test_an_empty_database_has_nothing_suspicious(client: Client):
    frame = client.calculations.suspicious()
    assert frame.empty
    kinds = {"id": "key", "molecule_id": "key", "energy": "float64", "gap": "float64", "severity": "float64"}
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        name: PANDAS_TYPES[kinds.get(name, "str")] for name in [*COLUMNS, "reasons", "explanation", "severity"]
    }
    assert frame.attrs["judged"] == {"calculations": 0, "without_fit": 0, "without_atoms": 0}


def test_few_rows_are_judged_by_the_other_rules(client: Client):
    client.calculations.create(**ETHANOL | {"energy": -1.0})
    client.calculations.create(**ETHANOL | {"gap": 0.01})
    frame = client.calculations.suspicious()
    assert frame.reasons.tolist() == ["gap_tiny"]
    assert frame.attrs["energy_fits"][0]["why_not"] == "2 converged energies, 30 are needed"


def shifted(owner: uuid.UUID, off: float) -> pa.Table:
    """The sample with every energy off by so much an atom, so that a fit on it is another one."""
    rows = load_sample().calculations.slice(300, 400).drop_columns(["metadata"])
    names = [f"{owner}:{one}" for one in rows["source_id"].to_pylist()]
    energy = pa.array([None if one is None else one * off for one in rows["energy"].to_pylist()])
    rows = rows.set_column(rows.schema.get_field_index("source_id"), "source_id", pa.array(names))
    return rows.set_column(rows.schema.get_field_index("energy"), "energy", energy)


def test_tenants_judge_what_they_see_by_what_they_see(client: Client, tenant_client: TenantClient):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    alice.calculations.bulk_load(shifted(ALICE, 1.0))
    bob.calculations.bulk_load(shifted(BOB, 27.2))
    wrong = {one: one.calculations.create(**ETHANOL | {"energy": -10.0}).id for one in (alice, bob)}
    right = {one: one.calculations.create(**ETHANOL).id for one in (alice, bob)}
    public = client.calculations.create(**ETHANOL | {"gap": 0.01}, shared=True).id
    of_alice, of_bob = set(alice.calculations.suspicious().id), set(bob.calculations.suspicious().id)
    assert {wrong[alice], public} <= of_alice
    assert right[alice] not in of_alice
    assert {wrong[bob], right[bob], public} <= of_bob
    assert not of_alice & {wrong[bob], right[bob]}
    assert not of_bob & {wrong[alice], right[alice]}
    assert alice.calculations.suspicious().attrs["judged"]["calculations"] == 403
    assert client.calculations.suspicious().attrs["judged"]["calculations"] == 805


def test_a_tenant_s_own_login_judges_as_its_scope_does(
    client: Client, database_url: str, tenant_client: TenantClient, tenant_login: TenantLogin
):
    tenant_client(ALICE).calculations.create(**ETHANOL | {"gap": 0.01})
    tenant_client(BOB).calculations.create(**ETHANOL | {"gap": 0.01})
    with connect(tenant_login(database_url, ALICE)) as alice:
        frame = alice.calculations.suspicious()
    assert frame.reasons.tolist() == ["gap_tiny"]
    assert frame.attrs["judged"]["calculations"] == 1


def test_codes_in_the_documentation_are_all_there_are():
    page = (Path(__file__).parents[2] / "docs" / "querying.md").read_text(encoding="utf-8")
    table = page.split("<!-- suspicions -->")[1].split("<!-- end -->")[0]
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == list(SUSPICIONS)
