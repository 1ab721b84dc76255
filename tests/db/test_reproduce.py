"""Stored rows, computed by whichever engine or reader, are repeated and give their numbers again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qforge_sdk import Client, connect
from qforge_sdk.chem import Geometry, geometry_from_smiles, read_xyz
from qforge_sdk.chem.result import XtbResult
from qforge_sdk.chem.run_folder import Run, read_run
from qforge_sdk.compute import Parameters, get_engine, provenance, xtb, xyz_hash
from qforge_sdk.data import load_sample
from qforge_sdk.errors import InvalidInput, NotFound
from tests.fixtures.clients import TenantClient
from tests.fixtures.databases import DatabasesOf
from tests.fixtures.tenants import ALICE, BOB

COLUMNS = (
    "energy", "homo", "lumo", "gap", "dipole", "total_charge", "unpaired_electrons", "method", "solvation", "solvent",
    "xtb_version", "optimized", "execution_time_seconds",
)  # fmt: skip


@pytest.fixture(scope="module")
def client(databases_of: DatabasesOf) -> Iterator[Client]:
    """Client of the service on one database for all of these tests, which only add rows."""
    databases = databases_of()
    with pytest.MonkeyPatch.context() as environment, databases.clone() as name:
        environment.delenv("QFORGE_USER_ID", raising=False)
        with connect(databases.url(name)) as client:
            yield client


def store(client: Client, smiles: str, result: XtbResult, metadata: dict[str, Any], **columns: Any) -> int:
    """One result as a row with its atoms."""
    values = {name: getattr(result, name) for name in COLUMNS} | columns
    row = client.calculations.create(smiles=smiles, metadata=metadata, **values)
    assert result.geometry is not None
    atoms: dict[str, Any] = {"calculation_id": row.id, "element": result.geometry.symbols}
    atoms |= {f"position_{axis}": result.geometry.positions[:, n] for n, axis in enumerate("xyz")}
    client.atoms.bulk_load(
        pd.DataFrame(atoms | {"atom_index": range(len(result.geometry.symbols))})
    ).raise_for_rejected()
    return row.id


def computed(client: Client, smiles: str, engine: str, parameters: Parameters, **options: Any) -> int:
    """A row as a batch leaves it."""
    chosen = get_engine(engine, **options)
    conformer = geometry_from_smiles(smiles)
    result = chosen.run(
        conformer.geometry,
        charge=conformer.charge,
        unpaired_electrons=conformer.unpaired_electrons,
        parameters=parameters,
    )
    run = provenance(chosen, parameters, result, conformer=conformer)
    return store(client, smiles, result, {"run": run}, xyz_file_hash=xyz_hash(conformer.geometry))


def largest(differences: dict[str, float]) -> float:
    assert "energy" in differences
    return max(map(abs, differences.values()))


LEVELS = [
    ("tblite", "CC(=O)[O-]", Parameters("GFN2-xTB")),
    ("tblite", "[CH2]C", Parameters("GFN1-xTB", solvation="ALPB", solvent="water")),
    ("tblite", "CCO", Parameters("IPEA1-xTB", optimize=True)),
    ("tblite", "OCC", Parameters(optimize=True, accuracy=0.1, electronic_temperature=500.0)),
    ("tblite", "CO", Parameters(solvation="ddPCM", solvent="dmso")),
    ("xtb", "C[NH3+]", Parameters("GFN2-xTB", solvation="GBSA", solvent="dmso", max_iterations=100)),
    ("xtb", "CCO", Parameters("GFN1-xTB", optimize=True, hessian=True)),
    ("xtb", "CCO", Parameters("GFN0-xTB", optimize=True)),
    ("xtb", "C1CCCCC1", Parameters("GFN-FF", optimize=True)),
]


@pytest.mark.parametrize(
    ("engine", "smiles", "parameters"), LEVELS, ids=lambda value: getattr(value, "method", value)
)
def test_a_computed_row_repeats_here_and_in_a_shell(
    client: Client, tmp_path: Path, engine: str, smiles: str, parameters: Parameters
):
    recipe = client.calculations.reproduce(computed(client, smiles, engine, parameters))
    assert (recipe.engine, recipe.parameters, recipe.assumed) == (engine, parameters, ())
    differences = recipe.differences(recipe.run())
    assert abs(differences.pop("energy")) < 1e-6
    assert all(abs(difference) < 1e-3 for difference in differences.values())
    if recipe.shell is None:
        assert parameters.method == "IPEA1-xTB" or parameters.solvation == "ddPCM"
        return
    # Two optimisers stop at two points of the same flat minimum.
    same_optimiser = engine == "xtb" or not parameters.optimize
    energy = energy_of(recipe.shell, tmp_path)
    assert energy == pytest.approx(recipe.stored["energy"], abs=1e-6 if same_optimiser else 2e-5)


def energy_of(shell: str, folder: Path) -> float | None:
    """Energy that xtb prints when a shell runs the text, hartree."""
    environment = {name: value for name, value in os.environ.items() if name != "XTBPATH"}
    with (folder / "xtb.out").open("w") as log:
        subprocess.run(["sh", "-euc", shell], cwd=folder, stdout=log, stderr=log, check=True, env=environment)
    return read_run(Run(folder, "xtb.out")).result.energy


def test_the_script_repeats_it(client: Client):
    recipe = client.calculations.reproduce(
        computed(client, "C/C=C\\C", "tblite", Parameters(optimize=True), max_steps=99)
    )
    assert "max_steps=99" in recipe.script
    printed = subprocess.run([sys.executable, "-c", recipe.script], check=True, capture_output=True, text=True).stdout
    energy, gap = map(float, printed.split())
    assert energy == pytest.approx(recipe.stored["energy"], abs=1e-6)
    assert gap == pytest.approx(recipe.stored["gap"], abs=1e-3)


def test_the_xyz_is_the_input_to_the_last_bit(client: Client):
    key = computed(client, "C/C=C\\C", "xtb", Parameters(optimize=True))
    recipe = client.calculations.reproduce(key)
    start = geometry_from_smiles("C/C=C\\C").geometry
    assert read_xyz(recipe.xyz).positions.tobytes() == start.positions.tobytes()
    assert xyz_hash(recipe.geometry) == client.calculations.get(key).xyz_file_hash
    assert client.calculations.to_xyz(key) != recipe.xyz


def test_the_command_is_the_one_that_was_run(client: Client):
    recipe = client.calculations.reproduce(
        computed(
            client, "CC(=O)[O-]", "xtb", Parameters(optimize=True, solvation="ALPB", solvent="Water"), level="tight"
        )
    )
    assert recipe.argv == (
        "xtb", "molecule.xyz", "--gfn", "2", "--chrg", "-1", "--uhf", "0", "--alpb", "water", "--acc", "1.0",
        "--etemp", "300.0", "--iterations", "250", "--opt", "tight", "--grad", "--json",
    )  # fmt: skip
    assert (recipe.program, recipe.input_name) == (f"xtb {recipe.run().xtb_version}", "molecule.xyz")


def test_another_engine_gives_the_same_numbers(client: Client):
    recipe = client.calculations.reproduce(computed(client, "c1ccncc1", "xtb", Parameters()))
    assert abs(recipe.differences(recipe.run("tblite"))["energy"]) < 1e-6
    assert abs(recipe.differences(recipe.run(get_engine("tblite")))["energy"]) < 1e-6


def test_a_single_point_repeats_the_numbers_of_an_optimised_row(client: Client):
    recipe = client.calculations.reproduce(
        computed(client, "CCO", "tblite", Parameters(optimize=True)), single_point=True
    )
    assert not recipe.parameters.optimize
    differences = recipe.differences(recipe.run())
    assert largest(differences) < 1e-6


def test_sample_rows_repeat(client: Client):
    sample = load_sample()
    chosen = sample.calculations.slice(40, 3)
    ids = client.calculations.bulk_load(chosen).ids
    atoms = sample.atoms.to_pandas()
    atoms["calculation_id"] = atoms.source_id.map(dict(zip(chosen["source_id"].to_pylist(), ids, strict=True)))
    client.atoms.bulk_load(atoms.dropna(subset="calculation_id").drop(columns="source_id"))
    for key in ids:
        recipe = client.calculations.reproduce(key)
        assert (recipe.engine, recipe.program) == ("tblite", "tblite 0.8.0")
        assert recipe.assumed == ("accuracy 1.0", "electronic temperature 300 K", "250 SCF iterations")
        differences = recipe.differences(recipe.run())
        assert abs(differences.pop("energy")) < 1e-6
        assert all(abs(difference) < 1e-3 for difference in differences.values())


@pytest.mark.parametrize(
    "parameters",
    [Parameters(optimize=True, solvation="ALPB", solvent="water"), Parameters("GFN1-xTB", accuracy=0.2)],
    ids=["optimisation", "single point"],
)
def test_migrated_rows_repeat(client: Client, tmp_path: Path, parameters: Parameters):
    name, text = xtb.input_file(geometry_from_smiles("CC(=O)[O-]").geometry, parameters.method)
    folder = tmp_path / "acetate"
    folder.mkdir()
    (folder / name).write_text(text)
    command = xtb.xtb_arguments(parameters, charge=-1, unpaired_electrons=0, level="loose")
    with (folder / "xtb.out").open("w") as log:
        subprocess.run(["xtb", *command, "-P", "1"], cwd=folder, stdout=log, stderr=log, check=True)
    report = client.migrate(tmp_path, dry_run=False, jobs=1)
    recipe = client.calculations.reproduce(int(report.rows.calculation_id.iloc[0]))
    assert (recipe.parameters, recipe.charge, recipe.engine) == (parameters, -1, "xtb")
    if parameters.optimize:
        assert recipe.options == {"level": "loose"}
    differences = recipe.differences(recipe.run())
    assert abs(differences.pop("energy")) < 1e-6
    assert all(abs(difference) < 2e-3 for difference in differences.values())


# What cannot be repeated


def without(client: Client, *, optimize: bool = False, **changes: Any) -> int:
    """A row of ethanol whose ``metadata["run"]`` was changed; None takes a part away."""
    chosen, level = get_engine("tblite"), Parameters(optimize=optimize)
    result = chosen.run(geometry_from_smiles("CCO").geometry, parameters=level)
    run = provenance(chosen, level, result) | changes
    return store(client, "CCO", result, {"run": {name: value for name, value in run.items() if value is not None}})


def refusal(client: Client, key: int, **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        client.calculations.reproduce(key, **options)
    assert caught.value.code == "not_reproducible"
    return str(caught.value)


def test_an_optimised_row_without_its_start_says_so(client: Client):
    key = without(client, optimize=True, input_geometry=None)
    message = refusal(client, key)
    assert "the geometry that it started from is not stored" in message
    assert "single_point=True" in message
    assert largest((recipe := client.calculations.reproduce(key, single_point=True)).differences(recipe.run())) < 1e-6


def test_a_row_without_atoms_says_so(client: Client):
    key = client.calculations.create(smiles="CCO", energy=-11.39).id
    assert "it has no stored atoms" in refusal(client, key)
    assert "it has no stored atoms" in refusal(client, key, single_point=True)


def test_a_run_with_a_file_that_is_not_stored_names_it(client: Client):
    call = "xtb a.xyz --opt --input constraints.inp"
    message = refusal(client, without(client, engine=None, parameters=None, program_call=call))
    assert "--input" in message
    assert call in message


def test_a_method_of_another_program_is_named(client: Client):
    result = get_engine("tblite").run(geometry_from_smiles("C").geometry)
    key = store(client, "C", result, {}, method="PBE0", xtb_version="orca 6.0")
    assert "no engine here computes 'PBE0'" in refusal(client, key)


def test_a_solvation_model_of_another_version_is_named(client: Client):
    result = get_engine("xtb").run(geometry_from_smiles("C").geometry)
    key = store(client, "C", result, {}, solvation="CPCM-X", solvent="water")
    assert "no engine here has the solvation model 'CPCM-X'" in refusal(client, key)


def test_an_engine_that_is_not_here_is_named(client: Client):
    assert "'mopac'" in refusal(client, without(client, engine="mopac"))


def test_a_fractional_charge_cannot_be_repeated(client: Client):
    result = get_engine("tblite").run(geometry_from_smiles("C").geometry)
    assert "0.5 is no whole number" in refusal(client, store(client, "C", result, {}, total_charge=0.5))


def test_a_row_runs_no_program_that_it_names(client: Client, tmp_path: Path):
    trap = tmp_path / "trap"
    program = tmp_path / "xtb"
    program.write_text(f"#!/bin/sh\ntouch {trap}\n")
    program.chmod(0o755)
    result = get_engine("xtb").run(geometry_from_smiles("C").geometry)
    run = provenance(get_engine("xtb", program=str(program)), Parameters(), result)
    assert "program" not in run["options"]
    key = store(client, "C", result, {"run": run | {"options": {"program": str(program)}}})
    recipe = client.calculations.reproduce(key)
    assert largest(recipe.differences(recipe.run())) < 1e-6
    assert not trap.exists()


@pytest.mark.parametrize("run", ["the second of May", 7, {"parameters": [1], "options": "fast", "program_call": 3}])
def test_odd_metadata_of_a_user_s_own_is_not_taken_for_a_run(client: Client, run: Any):
    result = get_engine("tblite").run(geometry_from_smiles("C").geometry)
    recipe = client.calculations.reproduce(store(client, "C", result, {"run": run}))
    assert largest(recipe.differences(recipe.run())) < 1e-6


def test_a_tenant_repeats_its_own_rows_only(tenant_client: TenantClient):
    alice, bob = tenant_client(ALICE), tenant_client(BOB)
    key = computed(alice, "C", "tblite", Parameters())
    assert alice.calculations.reproduce(key).calculation_id == key
    with pytest.raises(NotFound):
        bob.calculations.reproduce(key)


# What the record shows


def test_the_record_shows_what_was_assumed_and_escapes_it(client: Client):
    result = get_engine("tblite").run(geometry_from_smiles("C").geometry)
    recipe = client.calculations.reproduce(store(client, "C", result, {}, xtb_version="tblite <b>0.1</b>"))
    shown = recipe._repr_html_()
    assert "tblite &lt;b&gt;0.1&lt;/b&gt;" in shown
    assert "accuracy 1.0" in shown
    assert str(recipe).startswith("cat > molecule.xyz")
    assert repr(recipe).startswith(f"<Reproduction of calculation {recipe.calculation_id}: xtb molecule.xyz --gfn 2")


def test_provenance_is_json_and_leaves_out_what_is_not_known():
    chosen, parameters = get_engine("xtb"), Parameters(optimize=True)
    geometry = geometry_from_smiles("CCO").geometry
    run = provenance(chosen, parameters, chosen.run(geometry, parameters=parameters))
    assert json.loads(json.dumps(run)) == run
    assert set(run) == {"engine", "options", "program", "parameters", "input_geometry", "program_call"}
    assert Parameters(**run["parameters"]) == parameters
    numpy_s = provenance(
        get_engine("xtb", max_steps=np.int64(9)), Parameters(accuracy=np.float64(0.1)), XtbResult("error")
    )
    assert json.loads(json.dumps(numpy_s)) == numpy_s
    again = Geometry.from_json(run["input_geometry"])
    assert again.positions.tobytes() == geometry.positions.tobytes()
    assert again.symbols == geometry.symbols


@pytest.mark.parametrize("packed", [{}, {"symbols": ["C"]}, {"symbols": ["C"], "positions": [1.0]}, {"symbols": 3}])
def test_what_is_no_packed_geometry_is_refused(packed: dict[str, Any]):
    with pytest.raises(InvalidInput):
        Geometry.from_json(packed)


def test_a_packed_geometry_keeps_every_bit():
    positions = np.array([[0.1, 1 / 3, -1e-300], [np.pi, 2.0**-40, 12345.678901234567]])
    again = Geometry.from_json(json.loads(json.dumps(Geometry(("C", "O"), positions).as_json())))
    assert again.positions.tobytes() == positions.tobytes()
