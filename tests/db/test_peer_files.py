"""Files of other programs become rows, by the same path as folders of runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import Result
from qcelemental.models import v1, v2
from tblite.ase import TBLite
from tblite.qcschema import run_schema
from typer.testing import CliRunner

import qforge_sdk as qf
from qforge_sdk import Client
from qforge_sdk.chem.isolation import Worker
from qforge_sdk.chem.peer import stored
from qforge_sdk.cli import app
from qforge_sdk.migrate import MigrationReport, files, folders, records
from tests.fixtures.clients import TenantClient
from tests.fixtures.jobs import IRON_CARBONYL, WATER, xyz
from tests.fixtures.tenants import ALICE, BOB

NAMES = ("H2O", "NH3", "CH4", "C2H6", "CH3OH", "CO2")
SMILES = ["O", "N", "C", "CC", "CO", "O=C=O"]


def computed(name: str) -> Atoms:
    """A molecule of ASE's collection with GFN2-xTB results."""
    atoms = molecule(name)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    atoms.get_forces()
    return atoms


@pytest.fixture(scope="module", autouse=True)
def lent_workers() -> Iterator[None]:
    """Processes that read, kept from one test to the next: what they import takes longer than what they do."""
    idle: dict[str, list[Worker]] = {}
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def lend(*, cpu_seconds: float, task: str) -> Iterator[Worker]:
            waiting = idle.setdefault(task, [])
            worker = waiting.pop() if waiting else stack.enter_context(Worker(cpu_seconds=cpu_seconds, task=task))
            yield worker
            waiting.append(worker)

        patch.setattr(folders, "Worker", lend)
        yield


@pytest.fixture(scope="module")
def peers() -> list[Atoms]:
    return [computed(name) for name in NAMES]


@pytest.fixture
def trajectory(peers: list[Atoms], tmp_path: Path) -> Path:
    """All of them as frames that name their method."""
    path = tmp_path / "peers.extxyz"
    frames = []
    for atoms in peers:
        frame = Atoms(atoms.symbols, positions=atoms.positions, info={"method": "GFN2-xTB"})
        frame.calc = SinglePointCalculator(
            frame, **{n: atoms.calc.results[n] for n in ("energy", "forces", "charges")}
        )
        frames.append(frame)
    ase.io.write(path, frames, format="extxyz")
    return path


@pytest.fixture
def database(peers: list[Atoms], tmp_path: Path) -> Path:
    """All of them as rows."""
    path = tmp_path / "peers.db"
    with ase.db.connect(path) as connection:
        for name, atoms in zip(NAMES, peers, strict=True):
            connection.write(atoms, method="GFN2-xTB", name=name.lower())
    return path


def qcschema(version: int, path: Path, *, symbols: Any = ("O", "H", "H"), method: str = "GFN2-xTB", **options: Any):
    """A QCSchema result of a gradient, written to a file."""
    where = options.pop("geometry", [[0, 0, 0.22], [0, 1.43, -0.9], [0, -1.43, -0.9]])
    model, keywords = {"method": method}, {"verbosity": 0}
    how: dict[str, Any] = {"driver": "gradient", "model": model, "keywords": keywords}
    if version == 1:
        asked: Any = v1.AtomicInput(molecule=v1.Molecule(symbols=symbols, geometry=where, **options), **how)
    else:
        asked = v2.AtomicInput(molecule=v2.Molecule(symbols=symbols, geometry=where, **options), specification=how)
    result = run_schema(asked)
    path.write_text(result.serialize("json"))
    return result


def load(client: Client, path: Path, **options: Any) -> MigrationReport:
    return client.migrate(path, **{"dry_run": False, "jobs": 1} | options)


def outcomes(report: MigrationReport) -> list[str]:
    return report.rows.outcome.tolist()


def reasons(report: MigrationReport) -> list[str]:
    return report.rows.reason.fillna("").tolist()


def of_program(client: Client) -> pd.DataFrame:
    return client.calculations.query(order_by="id")


@pytest.mark.parametrize("kind", ["trajectory", "database"])
def test_every_record_becomes_a_row_with_atoms(
    client: Client, peers: list[Atoms], kind: str, request: pytest.FixtureRequest
):
    path: Path = request.getfixturevalue(kind)
    report = load(client, path)
    assert report.counts == {"new": 6, "changed": 0, "doubtful": 0, "already_there": 0, "unreadable": 0}
    first = 0 if kind == "trajectory" else 1
    assert report.rows.path.tolist() == [f"{path}#{place}" for place in range(first, first + 6)]
    rows = of_program(client)
    assert rows.smiles.tolist() == SMILES
    assert set(rows.method) == {"GFN2-xTB"}
    energies = [stored("energy", atoms.calc.results["energy"], "eV") for atoms in peers]
    assert rows.energy.tolist() == pytest.approx(energies, rel=1e-12)
    assert rows.name.dropna().tolist() == ([] if first == 0 else [name.lower() for name in NAMES])
    for key, atoms in zip(rows.id, peers, strict=True):
        found = client.atoms.for_calculation(int(key))
        forces = stored("force_x", atoms.calc.results["forces"], "eV/angstrom")
        assert found[["force_x", "force_y", "force_z"]].to_numpy() == pytest.approx(forces, abs=1e-9)
        assert found[["position_x", "position_y", "position_z"]].to_numpy() == pytest.approx(
            atoms.positions, abs=1e-8
        )
        assert found.partial_charge.to_numpy() == pytest.approx(atoms.calc.results["charges"], abs=1e-8)
    assert client.calculations.suspicious().empty


@pytest.mark.parametrize("kind", ["trajectory", "database"])
def test_a_second_time_and_from_another_place_changes_nothing(
    client: Client, kind: str, request: pytest.FixtureRequest, tmp_path: Path
):
    path: Path = request.getfixturevalue(kind)
    load(client, path)
    before, events = of_program(client), client.events.count()
    moved = tmp_path / "elsewhere" / f"other{path.suffix.upper()}"
    moved.parent.mkdir()
    shutil.copy(path, moved)
    for place in (path, moved):
        assert outcomes(load(client, place)) == ["already_there"] * 6
    pd.testing.assert_frame_equal(of_program(client), before)
    assert client.events.count() == events


def test_a_dry_run_plans_and_writes_nothing(client: Client, trajectory: Path):
    planned = client.migrate(trajectory, jobs=1)
    assert planned.dry_run
    assert client.calculations.count() == client.events.count() == 0
    assert planned.rows.drop(columns="calculation_id").equals(
        load(client, trajectory).rows.drop(columns="calculation_id")
    )


def test_frames_that_moved_replace_nothing(client: Client, trajectory: Path):
    load(client, trajectory)
    whole = of_program(client)
    frames = ase.io.read(trajectory, index=":")
    extra = frames[0].copy()
    extra.positions[0, 0] += 0.01
    extra.calc = SinglePointCalculator(extra, energy=-137.9)
    ase.io.write(trajectory, [extra, *frames[::-1]], format="extxyz")
    assert outcomes(load(client, trajectory)) == ["new", *["already_there"] * 6]
    rows = of_program(client)
    pd.testing.assert_frame_equal(rows.iloc[:6][["energy", "smiles"]], whole[["energy", "smiles"]])
    assert len(rows) == 7


def test_a_row_that_changed_updates_its_calculation(client: Client, database: Path):
    load(client, database)
    with ase.db.connect(database) as connection:
        connection.update(2, name="hartshorn")
    report = load(client, database)
    assert outcomes(report) == ["already_there", "changed", *["already_there"] * 4]
    row = client.calculations.query(columns=["metadata"], id=int(report.rows.calculation_id[1])).iloc[0]
    assert row.metadata["job"]["name"] == "hartshorn"
    assert client.calculations.count() == 6


def test_a_second_copy_of_a_frame_counts_once(client: Client, trajectory: Path):
    trajectory.write_bytes(trajectory.read_bytes() * 2)
    assert outcomes(load(client, trajectory)) == ["new"] * 6 + ["already_there"] * 6
    assert client.calculations.count() == 6


@pytest.mark.parametrize("version", [1, 2])
def test_a_qcschema_result_becomes_a_row(client: Client, tmp_path: Path, version: int):
    path = tmp_path / "run.json"
    result = qcschema(version, path)
    report = load(client, path)
    assert outcomes(report) == ["new"]
    row = of_program(client).iloc[0]
    assert (row.smiles, row.method, row.xtb_version) == ("O", "GFN2-xTB", "tblite 0.8.0")
    assert row.energy == pytest.approx(result.properties.return_energy, abs=1e-12)
    assert row.output_json_path == str(path)
    forces = client.atoms.for_calculation(int(row.id))[["force_x", "force_y", "force_z"]].to_numpy()
    assert forces == pytest.approx(-np.array(result.return_result).reshape(3, 3), abs=1e-12)
    assert outcomes(load(client, path)) == ["already_there"]


def test_another_result_in_the_same_place_is_another_row(client: Client, tmp_path: Path):
    path = tmp_path / "run.json"
    qcschema(1, path)
    load(client, path)
    qcschema(1, path, symbols=["He"], geometry=[[0, 0, 0]])
    assert outcomes(load(client, path)) == ["new"]
    assert of_program(client).smiles.tolist() == ["O", "[He]"]


def test_a_list_of_results_is_several_records(client: Client, tmp_path: Path):
    qcschema(1, tmp_path / "a.json")
    qcschema(2, tmp_path / "b.json", method="GFN1-xTB")
    qcschema(2, tmp_path / "c.json", method="GFN9-xTB")
    several = [json.loads((tmp_path / f"{one}.json").read_text()) for one in "abc"]
    (tmp_path / "all.json").write_text(json.dumps([*several, 7]))
    report = load(client, tmp_path / "all.json")
    assert outcomes(report) == ["new", "new", "new", "unreadable"]
    assert report.rows.status.tolist()[:3] == ["converged", "converged", "error"]
    assert report.rows.reason[2] == "Model 'GFN9-xTB' is not supported by tblite."
    assert report.rows.path[3].endswith("all.json#3")
    assert client.calculations.query(convergence_status="error").energy.isna().all()


def test_a_functional_of_another_program_is_kept_as_it_is_called(client: Client, tmp_path: Path):
    path = tmp_path / "run.json"
    qcschema(1, path)
    content = json.loads(path.read_text())
    content["model"] = {"method": "wB97X-D3", "basis": "def2-TZVP"}
    content["provenance"] = {"creator": "Psi4", "version": "1.9.1"}
    path.write_text(json.dumps(content))
    load(client, path)
    row = client.calculations.query(columns=["method", "xtb_version", "metadata"]).iloc[0]
    assert (row.method, pd.isna(row.xtb_version)) == ("wB97X-D3/def2-TZVP", True)
    assert row.metadata["job"]["program"] == "Psi4 1.9.1"
    content["model"]["basis"] = "x" * 60
    path.write_text(json.dumps(content))
    report = load(client, path)
    assert outcomes(report) == ["unreadable"]
    assert "a method of more than 50 characters: 'wB97X-D3/xxx" in report.rows.reason[0]


def xtb(folder: Path, *options: str, atoms: Any = WATER) -> Path:
    """The folder of a real run of xtb with --json."""
    folder.mkdir()
    (folder / "water.xyz").write_text(xyz(atoms))
    with (folder / "out.txt").open("w") as out:
        subprocess.run(
            ["xtb", "water.xyz", "--json", *options], cwd=folder, stdout=out, stderr=out, check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    return folder


def printed(folder: Path, pattern: str) -> float:
    return float(re.findall(pattern, (folder / "out.txt").read_text())[-1])


@pytest.fixture(scope="module")
def optimised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An optimisation of the water cation in a solvent."""
    return xtb(tmp_path_factory.mktemp("xtb") / "run", "--opt", "--chrg", "1", "--uhf", "1", "--alpb", "water")


def alone(tmp_path: Path, folder: Path, *others: str) -> Path:
    """xtb's JSON under another name in a folder of its own."""
    tmp_path.joinpath("run.json").write_bytes((folder / "xtbout.json").read_bytes())
    for name in others:
        shutil.copy(folder / name, tmp_path)
    return tmp_path / "run.json"


def test_xtb_s_json_beside_its_input_becomes_a_row(client: Client, tmp_path: Path):
    folder = xtb(tmp_path / "run")
    path = alone(tmp_path, folder, "water.xyz")
    report = load(client, path)
    assert outcomes(report) == ["new"]
    row = of_program(client).iloc[0]
    assert (row.smiles, row.method, row.optimized, row.total_charge) == ("O", "GFN2-xTB", False, 0)
    assert row.xtb_version.startswith("6.")
    assert row.energy == pytest.approx(printed(folder, r"TOTAL ENERGY\s+(\S+)"), abs=1e-8)
    assert row.gap == pytest.approx(printed(folder, r"HOMO-LUMO GAP\s+(\S+)"), abs=1e-7)
    assert row.dipole == pytest.approx(
        printed(folder, r"(?s)molecular dipole:.*?full:(?:\s+\S+){3}\s+(\S+)"), abs=1e-3
    )
    charges = [float(one) for one in (folder / "charges").read_text().split()]
    assert client.atoms.query().partial_charge.tolist() == pytest.approx(charges, abs=1e-8)


def test_an_optimised_ion_in_a_solvent_is_told_by_its_call(client: Client, tmp_path: Path, optimised: Path):
    report = load(client, alone(tmp_path, optimised, "water.xyz", "xtbopt.xyz"))
    assert outcomes(report) == ["doubtful"]
    assert report.rows.doubts[0] == "dipole_differs"
    row = of_program(client).iloc[0]
    assert (row.total_charge, row.unpaired_electrons, row.optimized) == (1, 1, True)
    assert (row.solvation, row.solvent) == ("ALPB", "water")
    assert pd.isna(row.dipole)
    end = ase.io.read(optimised / "xtbopt.xyz").positions
    stored_end = client.atoms.query(order_by="atom_index")[["position_x", "position_y", "position_z"]].to_numpy()
    assert stored_end == pytest.approx(end, abs=1e-12)


def test_a_call_that_xtb_did_not_escape_is_read_all_the_same(client: Client, tmp_path: Path, optimised: Path):
    path = alone(tmp_path, optimised, "water.xyz")
    data = path.read_text().replace("xtb water.xyz", 'xtb "C:\\my runs\\water.xyz"')
    with pytest.raises(json.JSONDecodeError):
        json.loads(data)
    path.write_text(data)
    load(client, path)
    assert of_program(client)[["formula", "total_charge", "solvent"]].to_numpy().tolist() == [["H2O", 1.0, "water"]]


def test_the_optimised_geometry_of_another_run_is_not_taken(client: Client, tmp_path: Path, optimised: Path):
    path = alone(tmp_path, optimised, "water.xyz")
    (tmp_path / "xtbopt.xyz").write_text(xyz(WATER, " energy: -5.070544408476 gnorm: 0.0002 xtb: 6.6.1 (test)"))
    load(client, path)
    assert client.calculations.count(optimized=True) == 1
    assert client.atoms.count() == 0


def test_xtb_s_json_alone_needs_a_smiles(client: Client, tmp_path: Path, optimised: Path):
    path = alone(tmp_path, optimised)
    report = load(client, path)
    assert outcomes(report) == ["unreadable"]
    assert "xtb --json names no atoms" in report.rows.reason[0]
    assert outcomes(load(client, path, smiles="[OH2+]")) == ["doubtful"]
    assert of_program(client).smiles.tolist() == ["[OH2+]"]
    with pytest.raises(qf.InvalidSmiles, match="ring"):
        load(client, path, smiles="C1CC")


def test_the_json_in_a_run_s_folder_is_that_run(client: Client, tmp_path: Path):
    folder = xtb(tmp_path / "run")
    (folder / "out.txt").rename(folder / "xtb_stdout.log")
    assert outcomes(load(client, folder / "xtbout.json")) == ["new"]
    assert outcomes(load(client, tmp_path)) == ["already_there"]
    row = of_program(client).iloc[0]
    assert row.source_id == f"path:{folder}"
    assert row.execution_time_seconds > 0


def test_a_method_that_nobody_names_is_asked_for(client: Client, peers: list[Atoms], tmp_path: Path):
    path = tmp_path / "peers.xyz"
    ase.io.write(path, peers[:2], format="extxyz")
    report = load(client, path)
    assert outcomes(report) == ["unreadable", "unreadable"]
    assert set(reasons(report)) == {"nothing names the method; give it: method=..., or --method"}
    assert client.calculations.count() == 0
    assert outcomes(load(client, path, method="GFN1-xTB")) == ["new", "new"]
    assert outcomes(load(client, path, method="GFN2-xTB")) == ["changed", "changed"]
    assert of_program(client).method.tolist() == ["GFN2-xTB"] * 2


def test_another_method_than_the_file_s_is_a_doubt(client: Client, trajectory: Path):
    report = load(client, trajectory, method="GFN1-xTB", limit=1)
    assert report.rows.doubts.tolist() == ["method_differs"]
    assert of_program(client).method.tolist() == ["GFN2-xTB"]


def test_what_no_smiles_describes_is_stored_by_its_graph(client: Client, tmp_path: Path):
    iron = Atoms([one[0] for one in IRON_CARBONYL], positions=[one[1:] for one in IRON_CARBONYL])
    iron.calc = SinglePointCalculator(iron, energy=-857.2)
    ase.io.write(tmp_path / "iron.xyz", iron, format="extxyz")
    load(client, tmp_path / "iron.xyz", method="GFN2-xTB")
    assert client.molecules.unresolved().formula.tolist() == ["C5FeO5"]


def test_good_frames_are_stored_whatever_lies_between_them(client: Client, trajectory: Path):
    whole = trajectory.read_text()
    frames = [frame for frame in re.split(r"(?m)^(?=\d+\n)", whole) if frame]
    frames[1] = frames[1].replace("energy=", "REF_energy=")
    frames[2] = re.sub(r"energy=\S+", "energy=nan", frames[2])
    frames[3] = frames[3].replace("\nC ", "\nQq", 1)
    frames[5] = frames[5][:120]
    trajectory.write_text("".join(frames))
    report = load(client, trajectory)
    assert outcomes(report) == ["new", "unreadable", "unreadable", "unreadable", "new", "unreadable"]
    assert reasons(report)[1:4] == [
        "no energy under that name; there is REF_energy, method",
        "energy is no finite number: nan",
        "'Qq' is no element",
    ]
    assert "the file ends inside the frame" in reasons(report)[5]
    assert of_program(client).smiles.tolist() == ["O", "CO"]


DAMAGED = {
    "empty.json": (b"", "empty"),
    "cut.json": (b'{"schema_name": "qcschema_output", "molecule": {"symb', "no JSON: Unterminated string"),
    "list.json": (b"[]", "an empty list"),
    "word.json": (b'"hello"', "JSON, but no object"),
    "other.json": (b'{"a": 1, "b": 2}', "neither a QCSchema result nor what xtb --json writes; its keys: a, b"),
    "stars.json": (b'{"total energy": ******, "partial charges": [0.0]}', "no "),
    "nothing.json": (b'{"total energy": null, "partial charges": [0.0]}', "no energy"),
    "text.db": (b"no database" * 100, "no SQLite database: file is not a database"),
    "empty.xyz": (b"", "empty"),
    "binary.xyz": (bytes(range(256)), "line 1 is no number of atoms"),
    "plain.xyz": (xyz(WATER).encode(), "no energy under that name"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_cannot_be_read_is_a_line_with_its_reason(client: Client, tmp_path: Path, name: str):
    data, reason = DAMAGED[name]
    (tmp_path / name).write_bytes(data)
    report = load(client, tmp_path / name, smiles="O" if name == "nothing.json" else None)
    assert outcomes(report) == ["unreadable"]
    assert reason in report.rows.reason[0]
    assert client.calculations.count() == 0


def test_names_and_texts_of_any_bytes_stop_nothing(client: Client, tmp_path: Path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/od\xff.json"))
    qcschema(1, path)
    content = json.loads(path.read_text())
    content["molecule"] |= {"name": "a\0", "identifiers": {"smiles": "O\0"}}
    content["keywords"] = {"key\0": 1, "text": "\ud800"}
    path.write_text(json.dumps(content))
    report = load(client, path)
    assert (outcomes(report), report.rows.smiles.tolist()) == (["new"], ["O"])
    assert report.rows.path[0].endswith("od\\xff.json")
    content["model"]["method"] = "m\0"
    path.write_text(json.dumps(content))
    assert reasons(load(client, path)) == ["nothing names the method; give it: method=..., or --method"]


def test_a_database_of_somebody_else_is_not_touched(client: Client, tmp_path: Path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (id integer)")
    connection.close()
    before = path.read_bytes()
    report = load(client, path)
    assert report.rows.reason.tolist() == ["an SQLite database, but none of ASE's: it has no table systems"]
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["other.db"]


def test_a_row_that_is_damaged_does_not_stop_the_others(client: Client, database: Path):
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE systems SET positions = x'00' WHERE id = 3")
    connection.close()
    report = load(client, database)
    assert outcomes(report) == ["new", "new", "unreadable", "new", "new", "new"]
    assert report.rows.reason[2]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("absent.json", {}, "there is no file"),
        ("peers.extxyz", {"smiles": "O"}, "each record names its own"),
        ("peers.extxyz", {"limit": 0}, "limit must be 1 or more"),
        ("peers.extxyz", {"method": " "}, "a method is text of 1 to 50 characters"),
        ("peers.extxyz", {"method": "x" * 51}, "a method is text of 1 to 50 characters"),
        ("notes.txt", {}, r"results are read from \.json, \.db, \.xyz, \.extxyz files"),
        ("", {"method": "GFN2-xTB"}, "method is for files"),
        ("", {"smiles": "O"}, "smiles is for files"),
    ],
)
def test_what_does_not_fit_is_refused(
    client: Client, trajectory: Path, name: str, options: dict[str, Any], message: str
):
    (trajectory.parent / "notes.txt").write_text("x")
    with pytest.raises(qf.InvalidInput, match=message):
        client.migrate(trajectory.parent / name, **options)


def test_a_limit_takes_the_first_records(client: Client, database: Path):
    assert load(client, database, limit=2).rows.smiles.tolist() == SMILES[:2]


def test_tenants_load_apart_and_the_service_may_share(
    client: Client, tenant_client: TenantClient, trajectory: Path, database: Path
):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    assert outcomes(load(alice, trajectory)) == ["new"] * 6
    assert bob.calculations.count() == 0
    assert outcomes(load(bob, trajectory)) == ["new"] * 6
    with pytest.raises(qf.AccessDenied):
        load(alice, trajectory, shared=True)
    assert outcomes(load(client, database, shared=True)) == ["new"] * 6
    assert (alice.calculations.count(), bob.calculations.count(), client.calculations.count()) == (12, 12, 18)


def test_several_processes_give_the_same(client: Client, tenant_client: TenantClient, trajectory: Path):
    frames = ase.io.read(trajectory, index=":")
    many = []
    for number in range(130):
        frame = frames[number % 6].copy()
        frame.calc = SinglePointCalculator(frame, energy=-100.0 - number)
        many.append(frame)
    ase.io.write(trajectory, many, format="extxyz")
    one = load(tenant_client(ALICE), trajectory, method="GFN2-xTB")
    three = load(tenant_client(BOB), trajectory, method="GFN2-xTB", jobs=3)
    assert outcomes(one) == ["new"] * 130
    assert one.rows.drop(columns="calculation_id").equals(three.rows.drop(columns="calculation_id"))


def test_records_are_read_no_further_than_a_few_groups_ahead(trajectory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders, "Worker", Worker)
    taken = []

    def endless() -> Iterator[records.Record]:
        record = next(files.FILES[".extxyz"](trajectory, None, None))
        while True:
            taken.append(1)
            yield record

    found = folders.read_all(endless(), 1, task=records.TASK, lost=records.lost)
    assert [one.smiles for one in islice(found, 60)] == ["O"] * 60
    found.close()
    assert len(taken) <= 60 + 50 * 4


@pytest.fixture
def run(wide_terminal: None, database_url: str) -> Any:
    """``qforge load`` on the test's database."""

    def load_it(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["load", *(str(one) for one in arguments), "--url", database_url])

    return load_it


def test_the_command_loads_and_says_what_it_did_not_take(run: Any, client: Client, trajectory: Path, tmp_path: Path):
    good = run(trajectory)
    assert good.exit_code == 0, good.output
    assert re.search(r"new\s*│\s*6", good.output)
    whole = trajectory.read_text()
    trajectory.write_text(whole + "1\nREF_energy=1\nHe 0 0 0\n")
    rejects = tmp_path / "rejects.csv"
    bad = run(trajectory, "--rejects", rejects)
    assert bad.exit_code == 2
    assert "no energy under that name; there is REF_energy" in bad.output
    assert pd.read_csv(rejects).path.tolist() == [f"{trajectory}#6"]
    assert client.calculations.count() == 6


def test_the_command_takes_a_method_and_a_smiles(run: Any, client: Client, tmp_path: Path, optimised: Path):
    path = alone(tmp_path, optimised)
    assert run(path).exit_code == 2
    assert run(path, "--smiles", "[OH2+]").exit_code == 0
    helium = tmp_path / "helium.xyz"
    helium.write_text("1\nenergy=-47\nHe 0 0 0\n")
    assert run(helium, "--method", "GFN1-xTB").exit_code == 0
    assert sorted(of_program(client).method) == ["GFN1-xTB", "GFN2-xTB"]


@pytest.mark.parametrize("options", [("--into", "atoms"), ("--on-error", "raise"), ("--on-conflict", "update")])
def test_options_of_tables_do_not_go_with_results(run: Any, trajectory: Path, options: tuple[str, str]):
    done = run(trajectory, *options)
    assert done.exit_code == 2
    assert "this is a file of results" in done.output


def test_options_of_results_do_not_go_with_tables(run: Any, tmp_path: Path):
    (tmp_path / "rows.csv").write_text("smiles,energy\nO,-5\n")
    done = run(tmp_path / "rows.csv", "--method", "GFN2-xTB")
    assert done.exit_code == 2
    assert "--method and --smiles are for files of results" in done.output
