"""QCSchema results as QCElemental writes them, computed by tblite."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import qcelemental
from qcelemental.models import v1, v2
from tblite.interface import Calculator
from tblite.qcschema import run_schema

from qforge_sdk.chem.peer import PeerResult
from qforge_sdk.chem.qcschema import is_qcschema, read_qcschema
from qforge_sdk.chem.xtb_files import Unreadable

Content = dict[str, Any]

# Ammonia, bohr, not at rest: its forces are far from zero.
SYMBOLS = ["N", "H", "H", "H"]
POSITIONS = np.array([[0.1, 0.0, 0.2], [0.0, 1.9, -0.5], [1.6, -0.9, -0.5], [-1.6, -0.9, -0.5]])
DRIVERS = ("energy", "gradient", "properties")
ANGSTROM = qcelemental.constants.bohr2angstroms
DEBYE = qcelemental.constants.dipmom_au2debye


def molecule(version: int, **options: Any) -> Any:
    model = v1.Molecule if version == 1 else v2.Molecule
    return model(symbols=options.pop("symbols", SYMBOLS), geometry=options.pop("geometry", POSITIONS), **options)


def computed(version: int, driver: str, *, method: str = "GFN2-xTB", keywords: Content | None = None, **options: Any):
    """What tblite returns through QCSchema."""
    how = {"driver": driver, "model": {"method": method}, "keywords": {"verbosity": 0} | (keywords or {})}
    if version == 1:
        return run_schema(v1.AtomicInput(molecule=molecule(1, **options), **how))
    return run_schema(v2.AtomicInput(molecule=molecule(2, **options), specification=how))


@pytest.fixture(scope="module")
def directly() -> dict[str, Any]:
    """The same numbers from tblite's own interface."""
    calculator = Calculator("GFN2-xTB", np.array([7, 1, 1, 1]), POSITIONS)
    calculator.set("verbosity", 0)
    return calculator.singlepoint().dict()


def content(result: Any, encoding: str = "json") -> Content:
    return json.loads(result.serialize(encoding))


def read(result: Any, encoding: str = "json") -> PeerResult:
    return read_qcschema(content(result, encoding))


@pytest.mark.parametrize("encoding", ["json", "json-ext"])
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("version", [1, 2])
def test_a_result_is_read_as_the_program_computed_it(version: int, driver: str, encoding: str, directly: Content):
    peer = read(computed(version, driver), encoding)
    result = peer.result
    assert result.status == "converged"
    assert result.energy == pytest.approx(directly["energy"], abs=1e-9)
    assert result.dipole == pytest.approx(np.linalg.norm(directly["dipole"]) * DEBYE, rel=1e-6)
    assert result.forces == pytest.approx(-directly["gradient"], abs=1e-8)
    assert result.geometry.symbols == ("N", "H", "H", "H")
    assert result.geometry.positions == pytest.approx(POSITIONS * ANGSTROM, abs=1e-8)
    assert (result.method, result.xtb_version) == ("GFN2-xTB", "tblite 0.8.0")
    assert (result.total_charge, result.unpaired_electrons, result.doubts) == (0, 0, ())
    if driver == "properties":
        assert result.charges == pytest.approx(directly["charges"], abs=1e-6)
    assert peer.facts["driver"] == driver


@pytest.mark.parametrize("version", [1, 2])
def test_forces_push_towards_lower_energies(version: int):
    before = read(computed(version, "gradient")).result
    moved = POSITIONS + 1e-3 * before.forces
    assert read(computed(version, "energy", geometry=moved)).result.energy < before.energy


@pytest.mark.parametrize("version", [1, 2])
def test_charge_and_multiplicity_are_the_molecule_s(version: int):
    result = read(computed(version, "energy", molecular_charge=1, molecular_multiplicity=2)).result
    assert (result.total_charge, result.unpaired_electrons) == (1, 1)


@pytest.mark.parametrize("version", [1, 2])
def test_a_solvent_in_the_keywords_is_kept(version: int):
    gas, wet = (
        read(computed(version, "energy", keywords=keywords)) for keywords in (None, {"alpb-solvation": "water"})
    )
    assert (gas.result.solvation, gas.result.solvent) == (None, None)
    assert (wet.result.solvation, wet.result.solvent) == ("ALPB", "water")
    assert wet.facts["keyword alpb-solvation"] == "water"
    assert gas.result.energy != wet.result.energy


@pytest.mark.parametrize("version", [1, 2])
def test_a_failed_result_has_a_reason_and_no_number(version: int):
    failed = computed(version, "energy", method="GFN7-xTB")
    assert not failed.success
    result = read(failed).result
    assert (result.status, result.energy, result.dipole, result.forces) == ("error", None, None, None)
    assert result.reason == "Model 'GFN7-xTB' is not supported by tblite."
    assert result.geometry.formula == "H3N"


def test_a_failed_operation_of_version_1_is_read():
    asked = v1.AtomicInput(molecule=molecule(1), driver="energy", model={"method": "B3LYP", "basis": "def2-SVP"})
    error = {"error_type": "random_error", "error_message": "the node went down"}
    failed = v1.FailedOperation(input_data=asked.dict(), error=error)
    result = read(failed, "json").result
    assert (result.status, result.reason, result.method) == ("error", "the node went down", "B3LYP/def2-SVP")


def optimized(version: int) -> Any:
    """An optimisation of two steps, put together of real single points."""
    end = POSITIONS * 0.99
    steps = [computed(version, "gradient", geometry=where) for where in (POSITIONS, end)]
    if version == 1:
        return v1.OptimizationResult(
            initial_molecule=molecule(1),
            input_specification={"driver": "gradient", "model": {"method": "GFN2-xTB"}},
            final_molecule=molecule(1, geometry=end),
            trajectory=steps,
            energies=[one.properties.return_energy for one in steps],
            success=True,
            provenance={"creator": "geomeTRIC", "version": "1.1"},
        )
    specification = {"program": "tblite", "driver": "gradient", "model": {"method": "GFN2-xTB"}}
    return v2.OptimizationResult(
        input_data={
            "initial_molecule": molecule(2),
            "specification": {"program": "geometric", "specification": specification},
        },
        final_molecule=molecule(2, geometry=end),
        trajectory_results=steps,
        trajectory_properties=[one.properties for one in steps],
        properties={"return_energy": steps[-1].properties.return_energy},
        success=True,
        provenance={"creator": "geomeTRIC", "version": "1.1"},
    )


@pytest.mark.parametrize("version", [1, 2])
def test_an_optimisation_is_read_at_its_end(version: int):
    peer = read(optimized(version))
    last = read(computed(version, "gradient", geometry=POSITIONS * 0.99)).result
    result = peer.result
    assert result.optimized
    assert result.energy == pytest.approx(last.energy, abs=1e-10)
    assert result.geometry.positions == pytest.approx(POSITIONS * 0.99 * ANGSTROM, abs=1e-8)
    assert result.input_geometry.positions == pytest.approx(POSITIONS * ANGSTROM, abs=1e-8)
    assert result.forces == pytest.approx(last.forces, abs=1e-10)
    assert (result.method, result.xtb_version) == ("GFN2-xTB", None)
    assert peer.facts["program"] == "geomeTRIC 1.1"


def test_a_name_and_a_smiles_are_taken_and_a_formula_is_no_name():
    named = computed(2, "energy", name="ammonia", identifiers={"canonical_isomeric_smiles": "N"})
    assert (read(named).name, read(named).smiles) == ("ammonia", "N")
    assert read(computed(2, "energy")).name is None


def edited(change: Callable[[Content], object]) -> Content:
    whole = content(computed(1, "energy"))
    change(whole)
    return whole


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: one["molecule"].pop("symbols"), "molecule.symbols is missing"),
        (lambda one: one["molecule"].pop("geometry"), "molecule.geometry is missing"),
        (lambda one: one["molecule"]["geometry"].pop(), "molecule.geometry: not 4 x 3 numbers"),
        (lambda one: one["molecule"].update(geometry=[float("nan")] * 12), "not all are finite"),
        (lambda one: one["molecule"].update(real=[True, True, True, False]), "ghost atoms"),
        (lambda one: one["molecule"].update(molecular_charge="one"), "molecular_charge is no finite number: 'one'"),
        (lambda one: one["properties"].update(return_energy=float("nan")), "return_energy is no finite number"),
        (lambda one: (one.pop("return_result"), one["properties"].pop("return_energy")), "no energy"),
        (lambda one: one.update(return_result=[1.0, 2.0]), "return_result is no finite number"),
        (lambda one: one["molecule"].update(geometry={"_nd_": True, "data": "zz"}), "an array cannot be read"),
    ],
)
def test_what_is_damaged_is_named(change: Callable[[Content], object], reason: str):
    with pytest.raises(Unreadable, match=reason):
        read_qcschema(edited(change))


def test_an_unknown_element_is_named():
    with pytest.raises(ValueError, match="'Xq' is no element symbol"):
        read_qcschema(edited(lambda one: one["molecule"].update(symbols=["Xq", "H", "H", "H"])))


def test_energies_that_disagree_and_a_short_gradient_are_doubts():
    peer = read_qcschema(edited(lambda one: one["properties"].update(return_energy=-4.0, return_gradient=[0.0])))
    assert peer.result.energy == -4.0
    assert peer.result.forces is None
    assert [doubt.code for doubt in peer.result.doubts] == ["energy_differs", "bad_field"]


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ({"method": "HF", "basis": "STO-3G"}, "HF/STO-3G"),
        ({"method": "ani2x", "basis": None}, "ani2x"),
        ({"method": "mp2", "basis": {"name": "cc-pVDZ", "center_data": {}}}, "mp2/cc-pVDZ"),
        ({"method": " "}, None),
    ],
)
def test_a_method_is_called_as_the_file_calls_it(model: Content, method: str | None):
    assert read_qcschema(edited(lambda one: one.update(model=model))).result.method == method


def test_other_json_is_no_qcschema():
    assert is_qcschema(content(computed(1, "energy")))
    for other in ({}, {"schema_name": "qcschema_input"}, {"success": False}, {"total energy": -1}, {"molecule": {}}):
        assert not is_qcschema(other)
