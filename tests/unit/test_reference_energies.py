"""Energies, orbitals, dipoles and charges are those that others publish, and both engines agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qforge_sdk.chem import Geometry, geometry_from_smiles
from qforge_sdk.chem.result import XtbResult
from qforge_sdk.compute import Engine, Parameters, get_engine
from qforge_sdk.quantities import BOHR_IN_ANGSTROM
from tests.fixtures.published import PUBLISHED, Published

NEUTRAL = [
    "O", "N#N", "CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "FC(F)(F)Br",
    "C[Si](C)(C)Cl", "O=S(C)C", "OP(=O)(O)O", "C[NH2+]CC(=O)[O-]", "[Na+].[Cl-]", "C[Zn]C", "O=[N+]([O-])c1ccccc1",
    "[Li]C", "I",
]  # fmt: skip
CHARGED = ["[NH4+]", "CC(=O)[O-]", "[OH-]", "c1cc[nH+]cc1", "[O-]c1ccccc1"]
OPEN_SHELL = ["[CH3]", "[O][O]", "CC1(C)CCCC(C)(C)N1[O]", "[CH2]c1ccccc1", "[N]=O"]
# Water between two geometries of no symmetry.
BENT = Geometry(("O", "H", "H"), np.array([[0.01, -0.02, 0.119], [0.05, 0.7594, -0.4753], [-0.1, -0.79, -0.45]]))


def computed(engine: Engine, smiles: str, parameters: Parameters) -> XtbResult:
    conformer = geometry_from_smiles(smiles)
    return engine.run(
        conformer.geometry,
        charge=conformer.charge,
        unpaired_electrons=conformer.unpaired_electrons,
        parameters=parameters,
    )


@pytest.mark.parametrize("engine", ["tblite", "xtb"])
@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.name)
def test_an_energy_is_the_published_one(published: Published, engine: str):
    chosen = get_engine(engine)
    energies = {method: energy for method, energy in published.energies.items() if method in chosen.methods}
    found = {
        method: chosen.run(published.geometry, charge=published.charge, parameters=Parameters(method)).energy
        for method in energies
    }
    assert found == pytest.approx(energies, abs=1e-6)


@pytest.mark.parametrize("method", ["GFN2-xTB", "GFN1-xTB"])
@pytest.mark.parametrize("smiles", NEUTRAL + CHARGED + OPEN_SHELL)
def test_tblite_and_xtb_agree(smiles: str, method: str):
    one, other = (computed(get_engine(name), smiles, Parameters(method)) for name in ("tblite", "xtb"))
    assert one.energy == pytest.approx(other.energy, abs=1e-6)
    assert (one.homo, one.lumo, one.gap) == pytest.approx((other.homo, other.lumo, other.gap), abs=1e-3)
    assert one.dipole == pytest.approx(other.dipole, abs=1e-2)
    np.testing.assert_allclose(one.charges, other.charges, atol=1e-3)
    np.testing.assert_allclose(one.forces, other.forces, atol=1e-4)


@pytest.mark.parametrize(("solvation", "solvent"), [("ALPB", "water"), ("ALPB", "toluene"), ("GBSA", "dmso")])
def test_tblite_and_xtb_agree_in_solution(solvation: str, solvent: str):
    parameters = Parameters(solvation=solvation, solvent=solvent)
    one, other = (computed(get_engine(name), "CC(=O)[O-]", parameters) for name in ("tblite", "xtb"))
    assert (one.solvation, one.solvent) == (other.solvation, other.solvent) == (solvation, solvent)
    assert one.energy == pytest.approx(other.energy, abs=1e-6)
    assert one.energy < computed(get_engine("tblite"), "CC(=O)[O-]", Parameters()).energy  # type: ignore[operator]


LEVELS = [
    ("tblite", Parameters("GFN2-xTB")),
    ("tblite", Parameters("GFN1-xTB")),
    ("tblite", Parameters("IPEA1-xTB")),
    ("tblite", Parameters(solvation="ALPB", solvent="water")),
    ("tblite", Parameters(solvation="ddCPCM", solvent="water")),
    ("xtb", Parameters("GFN2-xTB")),
    ("xtb", Parameters("GFN1-xTB")),
    ("xtb", Parameters("GFN0-xTB")),
    ("xtb", Parameters("GFN-FF")),
    ("xtb", Parameters(solvation="ALPB", solvent="water")),
]


@pytest.mark.parametrize(("name", "parameters"), LEVELS, ids=lambda value: getattr(value, "method", value))
def test_forces_are_minus_the_slope_of_the_energy(name: str, parameters: Parameters):
    engine = get_engine(name)
    step = 1e-3
    slopes = np.zeros((3, 3))
    for atom, axis in np.ndindex(3, 3):
        energies: Any = [
            engine.run(_moved(BENT, atom, axis, sign * step), parameters=parameters).energy for sign in (1, -1)
        ]
        slopes[atom, axis] = (energies[0] - energies[1]) / (2 * step / BOHR_IN_ANGSTROM)
    np.testing.assert_allclose(engine.run(BENT, parameters=parameters).forces, -slopes, atol=2e-5)


def _moved(geometry: Geometry, atom: int, axis: int, step: float) -> Geometry:
    positions = geometry.positions.copy()
    positions[atom, axis] += step
    return Geometry(geometry.symbols, positions)
