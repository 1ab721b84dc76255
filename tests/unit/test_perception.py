"""From a geometry to a molecule, and whether two geometries are one."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from rdkit import Chem

from qforge_sdk.chem.geometry import Geometry
from qforge_sdk.chem.perception import connection_graph, draws, is_rearranged, perceive, stored_formula
from qforge_sdk.chem.smiles import validate_here
from qforge_sdk.data import load_sample

MOLECULES = {
    "CCO": 0, "c1ccccc1": 0, "CC(=O)[O-]": -1, "[NH4+]": 1, "C[N+](C)(C)C": 1, "N#N": 0, "[C-]#[O+]": 0,
    "CS(C)=O": 0, "CS(=O)(=O)C": 0, "COP(=O)(OC)OC": 0, "O=[N+]([O-])c1ccccc1": 0, "[NH3+]CC(=O)[O-]": 0,
    "C[C@H](N)C(=O)O": 0, r"C/C=C\C": 0, "c1ccc2[nH]ccc2c1": 0, "ClC(Cl)Cl": 0, "B(O)(O)O": 0, "C[Si](C)(C)C": 0,
    "C1CC1": 0, "O=C=O": 0, "[N-]=[N+]=NC": 0, "CSSC": 0, "Brc1ccncc1": 0, "[Na+].[Cl-]": 0,
}  # fmt: skip


@pytest.fixture
def geometry(make_runs: ModuleType):
    def make(smiles: str) -> Geometry:
        atoms = make_runs.geometry(smiles)
        return Geometry(tuple(a[0] for a in atoms), np.array([a[1:] for a in atoms]))

    return make


@pytest.mark.parametrize("smiles", [one for one in MOLECULES if "." not in one])
def test_a_molecule_is_found_again_in_its_geometry(geometry, smiles: str):
    found = perceive(geometry(smiles), MOLECULES[smiles])
    assert found.smiles == validate_here(smiles).smiles
    assert found.reason is None


@pytest.mark.parametrize("smiles", [one for one in MOLECULES if "." not in one])
def test_a_smiles_draws_the_graph_of_its_geometry(geometry, smiles: str):
    assert draws(smiles, connection_graph(geometry(smiles)))


@pytest.mark.parametrize(
    ("smiles", "other"), [("CCO", "COC"), ("CC(=O)C", "CC(O)=C"), ("[NH3+]CC(=O)[O-]", "NCC(=O)O")]
)
def test_an_isomer_does_not(geometry, smiles: str, other: str):
    assert not draws(other, connection_graph(geometry(smiles)))


def test_what_a_metal_is_bound_to_is_not_drawn():
    iron = Geometry(("Fe", "C", "O"), np.array([[0, 0, 0], [1.8, 0, 0], [2.95, 0, 0]]))
    assert draws("[Fe].[C-]#[O+]", connection_graph(iron))


@pytest.mark.parametrize(("charge", "unpaired"), [(1, 1), (-1, 1), (0, 2), (2, 0)])
def test_a_structure_of_another_charge_or_spin_is_no_smiles(geometry, charge: int, unpaired: int):
    found = perceive(geometry("CCO"), charge, unpaired)
    assert found.smiles is None
    assert found.reason


def test_the_graph_hash_depends_on_graph_and_charge(geometry):
    found = perceive(geometry("CCO"), 1, 1)
    assert found.graph == connection_graph(geometry("CCO"))
    assert len({found.graph_hash(0), found.graph_hash(1), perceive(geometry("COC"), 1, 1).graph_hash(1)}) == 3


def test_a_proton_that_moves_rearranges_and_one_that_swings_does_not(geometry):
    first = geometry("O=CCO")
    swung = Geometry(first.symbols, first.positions * 1.02)
    assert not is_rearranged(first, swung)
    oxygen = first.symbols.index("O")
    proton = max(n for n, symbol in enumerate(first.symbols) if symbol == "H")
    moved = first.positions.copy()
    away = moved[oxygen] - moved[oxygen + 1]
    moved[proton] = moved[oxygen] + 0.97 * away / np.linalg.norm(away)
    assert is_rearranged(first, Geometry(first.symbols, moved))


def test_a_proton_that_changes_its_place_with_another_rearranges_nothing(geometry):
    first = geometry("CCO")
    order = [*range(len(first.symbols))]
    order[-1], order[-2] = order[-2], order[-1]
    assert not is_rearranged(first, Geometry(first.symbols, first.positions[order]))


@pytest.mark.parametrize(
    "smiles",
    [
        "Cc1c([N+](=O)[O-])cc([N+](=O)[O-])cc1[N+](=O)[O-]",
        "O=[N+]([O-])c1cc([N+](=O)[O-])c([N+](=O)[O-])c([N+](=O)[O-])c1[N+](=O)[O-]",
        "O=[N+]([O-])N1CN([N+](=O)[O-])CN([N+](=O)[O-])C1",
        "O=[N+]([O-])OCC(O[N+](=O)[O-])CO[N+](=O)[O-]",
        "C[N+](C)(C)c1ccc([N+](=O)[O-])cc1[N+](=O)[O-]",
        "[O-]c1c([N+](=O)[O-])cc([N+](=O)[O-])cc1[N+](=O)[O-]",
    ],
)
def test_many_nitro_groups_are_drawn(geometry, smiles: str):
    charge = Chem.GetFormalCharge(Chem.MolFromSmiles(smiles))
    assert perceive(geometry(smiles), charge).smiles == validate_here(smiles).smiles


@pytest.mark.parametrize("smiles", ["Cl", "Br", "OCl", "OB(O)O", "B", "[Li]C", "Cl[Si](Cl)(Cl)Cl"])
def test_a_formula_is_compared_by_its_atoms(geometry, smiles: str):
    assert perceive(geometry(smiles), 0).smiles == validate_here(smiles).smiles
    assert stored_formula(geometry(smiles)) == validate_here(smiles).formula


@pytest.mark.parametrize(("smiles", "drawn"), [("NC(=N)N", "N=C(N)N"), ("N=N", "N=N"), (r"C/C=N/O", r"C/C=N/O")])
def test_hydrogens_of_imines_have_no_side(geometry, smiles: str, drawn: str):
    assert perceive(geometry(smiles), 0).smiles == drawn


def test_the_sample_s_molecules_are_found_in_their_geometries(long: bool):
    sample = load_sample()
    calculations = sample.calculations.to_pandas().set_index("source_id")
    found, drawn, all_of_them = 0, 0, 0
    for number, (source_id, atoms) in enumerate(sample.atoms.to_pandas().groupby("source_id", sort=False)):
        row = calculations.loc[source_id]
        if number % (1 if long else 12) or row.unpaired_electrons:
            continue
        all_of_them += 1
        positions = atoms[["position_x", "position_y", "position_z"]].to_numpy()
        perceived = perceive(Geometry(tuple(atoms.element), positions), int(row.total_charge))
        drawn += draws(row.smiles, perceived.graph)
        found += perceived.smiles is not None and flat(perceived.smiles) == flat(row.smiles)
    assert drawn >= 0.998 * all_of_them
    assert found >= 0.97 * all_of_them


def flat(smiles: str) -> str:
    return Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)
