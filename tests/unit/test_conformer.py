"""From a SMILES to a geometry that is the molecule, or to the reason why there is none."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import rdkit
from rdkit import Chem

from qforge_sdk.chem import Conformer, Geometry, conformer, geometry_from_smiles
from qforge_sdk.chem.geometry import read_xyz
from qforge_sdk.chem.perception import perceive
from qforge_sdk.data import load_sample
from qforge_sdk.errors import ComputationFailed, InvalidInput, InvalidSmiles

BRIDGE_ACROSS_BOTH_FACES = "O[C@@H]1[C@@H](O)[C@H]2OC[C@@H](O2)[C@H]1O"


def distances(geometry: Geometry) -> np.ndarray:
    return np.linalg.norm(geometry.positions[:, None] - geometry.positions[None], axis=-1)


def distance(found: Conformer, one: int, other: int) -> float:
    return float(distances(found.geometry)[one, other])


def bond_angles(found: Conformer, centre: int = 0) -> list[int]:
    arms = found.geometry.positions[[i for i in range(len(found.geometry.symbols)) if i != centre]]
    arms = arms - found.geometry.positions[centre]
    arms /= np.linalg.norm(arms, axis=1)[:, None]
    cosines = (arms @ arms.T)[np.triu_indices(len(arms), 1)]
    return sorted(round(float(angle)) for angle in np.degrees(np.arccos(np.clip(cosines, -1, 1))))


def flat(smiles: str) -> str:
    return Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)


# The molecule


@pytest.mark.parametrize(
    "smiles",
    [
        "CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "C[N+](C)(C)C", "CC(=O)[O-]", "O=[N+]([O-])c1ccccc1",
        "CS(C)(=O)=O", "C[Si](C)(C)C", "C1CCCCCCCCCCC1", "C12C3C4C1C5C2C3C45", "C1C2CC12", "N#CC#N",
        "O=C=O", "[C-]#[O+]", "[H][H]",
    ],
)  # fmt: skip
def test_the_geometry_is_perceived_as_the_molecule(smiles: str):
    found = geometry_from_smiles(smiles)
    seen = perceive(found.geometry, found.charge, found.unpaired_electrons).smiles
    assert seen is not None
    assert flat(seen) == flat(smiles)


@pytest.mark.parametrize(
    "smiles",
    [
        "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "F[C@](Cl)(Br)I", "C/C=C/C", "C/C=C\\C", "F/C(Cl)=C(/Br)I",
        "C[C@H]1CC[C@@H](O)CC1", "C[C@H]1CC[C@H](O)CC1", "C[S@](=O)CC", "[2H][C@H](C)O",
        "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5", "C/C=N/O", "O=C1/C=C\\CCCCCCCCCCCC1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", [42, 7])
def test_the_stereochemistry_is_that_of_the_smiles(smiles: str, seed: int):
    found = geometry_from_smiles(smiles, seed=seed)
    seen = Chem.AddHs(Chem.MolFromSmiles(Chem.CanonSmiles(smiles)))
    wanted = Chem.MolToSmiles(Chem.RemoveHs(seen))
    shape = Chem.Conformer(seen.GetNumAtoms())
    shape.SetPositions(found.geometry.positions)
    seen.AddConformer(shape)
    Chem.RemoveStereochemistry(seen)
    Chem.AssignStereochemistryFrom3D(seen)
    assert Chem.MolToSmiles(Chem.RemoveHs(seen)) == wanted


def test_a_phosphine_keeps_its_handedness():
    one, other = (geometry_from_smiles(smiles).geometry for smiles in ("C[P@](Cl)F", "C[P@@](Cl)F"))
    hands = []
    for geometry in (one, other):
        place = {symbol: geometry.positions[geometry.symbols.index(symbol)] for symbol in ("C", "P", "F", "Cl")}
        hands.append(np.linalg.det([place[symbol] - place["P"] for symbol in ("C", "F", "Cl")]))
    assert hands[0] * hands[1] < 0


def test_every_spelling_gives_the_same_geometry():
    one, other = geometry_from_smiles("OCC"), geometry_from_smiles("C(C)O")
    assert one.geometry.symbols == other.geometry.symbols
    assert one.geometry.positions.tobytes() == other.geometry.positions.tobytes()


def test_the_same_seed_gives_the_same_bits_in_every_process():
    smiles, seed = "CC(C)CC1=CC=C(C=C1)C(C)C(=O)O", 11
    code = (
        "import sys; from qforge_sdk.chem import geometry_from_smiles\n"
        f"found = geometry_from_smiles({smiles!r}, seed={seed}, n_conformers=3)\n"
        "sys.stdout.write(found.geometry.positions.tobytes().hex())"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.decode()
    here = geometry_from_smiles(smiles, seed=seed, n_conformers=3)
    assert here.geometry.positions.tobytes().hex() == other
    assert here.geometry.positions.tobytes() != geometry_from_smiles(smiles, seed=12).geometry.positions.tobytes()


def test_the_geometry_survives_its_xyz_text():
    found = geometry_from_smiles("CC(=O)Nc1ccc(O)cc1")
    again = read_xyz(found.geometry.to_xyz())
    assert again.positions.tobytes() == found.geometry.positions.tobytes()
    assert again.comment == "CC(=O)Nc1ccc(O)cc1"


def test_the_sample_s_geometries_come_out_again():
    sample = load_sample()
    atoms = dict(tuple(sample.atoms.to_pandas().groupby("source_id")))
    rows = sample.calculations.to_pandas()[["source_id", "smiles"]].iloc[::160]
    for source, smiles in rows.itertuples(index=False):
        stored = atoms[source][["position_x", "position_y", "position_z"]].to_numpy()
        np.testing.assert_allclose(geometry_from_smiles(smiles).geometry.positions, stored, atol=5.1e-5)


# Charge and spin


@pytest.mark.parametrize(
    ("smiles", "charge", "unpaired"),
    [
        ("[NH4+]", 1, 0), ("[OH-]", -1, 0), ("[CH3]", 0, 1), ("[CH2]", 0, 2), ("[O][O]", 0, 2), ("[N]=O", 0, 1),
        ("[Na+].[Cl-]", 0, 0), ("[Mg+2].[Cl-]", 1, 0), ("[H]", 0, 1), ("[H+]", 1, 0), ("[Cu+2]", 2, 1),
        ("[Gd+3]", 3, 0), ("[Eu+2]", 2, 1), ("[Nd+3].[Cl-].[Cl-].[Cl-]", 0, 0),
    ],
)  # fmt: skip
def test_charge_and_spin_come_from_the_smiles(smiles: str, charge: int, unpaired: int):
    found = geometry_from_smiles(smiles)
    assert (found.charge, found.unpaired_electrons) == (charge, unpaired)


# Provenance


def test_provenance_says_how_the_geometry_was_made():
    found = geometry_from_smiles("CCCCO", seed=3, n_conformers=5).provenance
    assert found == json.loads(json.dumps(found))
    assert (found["generator"], found["seed"], found["n_conformers"], found["n_embedded"]) == ("ETKDGv3", 3, 5, 5)
    assert (found["force_field"], found["energy_unit"], found["relaxed"]) == ("MMFF94", "kcal/mol", True)
    assert (found["random_coordinates"], found["rdkit_version"]) == (False, rdkit.__version__)


def test_the_lowest_of_several_conformers_is_taken():
    energies = [geometry_from_smiles("OCCCCCO", n_conformers=n).provenance["energy"] for n in (1, 2, 4, 8, 16)]
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] < energies[0] - 0.1
    assert geometry_from_smiles("OCCCCCO", n_conformers=16).provenance["chosen"] > 0


@pytest.mark.parametrize(
    ("smiles", "force_field"), [("CCO", "MMFF94"), ("C[Hg]C", "UFF"), ("[Xe]", None), ("FS(F)(F)(F)(F)F", None)]
)
def test_the_force_field_is_the_first_that_has_parameters(smiles: str, force_field: str | None):
    provenance = geometry_from_smiles(smiles).provenance
    assert provenance["force_field"] == force_field
    assert (provenance["energy"] is None) == (force_field is None)


@pytest.mark.parametrize(("smiles", "angstrom"), [("N#N", 1.12), ("O=C=O", 1.24), ("[C-]#N", 1.16)])
def test_bonds_that_mmff_would_stretch_are_relaxed_with_uff(smiles: str, angstrom: float):
    found = geometry_from_smiles(smiles)
    assert found.provenance["force_field"] == "UFF"
    assert distance(found, 0, 1) == pytest.approx(angstrom, abs=0.02)


# Shapes


@pytest.mark.parametrize("smiles", ["[He]", "[Fe+2]", "[U]", "[Og]", "[Cl-]"])
def test_an_atom_has_a_place(smiles: str):
    assert geometry_from_smiles(smiles).geometry.positions.shape == (1, 3)


def test_ions_lie_side_by_side():
    salt = geometry_from_smiles("[Na+].[Cl-]")
    assert distance(salt, 0, 1) == pytest.approx(2.4, abs=0.1)


@pytest.mark.parametrize(
    "smiles",
    ["O.O.O", "[Mg+2].[Cl-].[Cl-]", "F[P-](F)(F)(F)(F)F.[Na+]", "C[N+](=O)[O-].[K+].[Br-]", ".".join("C" * 14)],
)
def test_molecules_joined_by_dots_do_not_overlap(smiles: str):
    found = geometry_from_smiles(smiles)
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    fragment = np.zeros(molecule.GetNumAtoms(), dtype=int)
    for number, atoms in enumerate(Chem.GetMolFrags(Chem.AddHs(Chem.MolFromSmiles(found.geometry.comment)))):
        fragment[list(atoms)] = number
    between = distances(found.geometry)[fragment[:, None] != fragment[None]]
    assert between.min() > 1.4
    assert between.min() < 4.5


def test_isotopes_change_nothing_but_their_name():
    plain, heavy = geometry_from_smiles("CO"), geometry_from_smiles("[13CH3]O")
    assert heavy.geometry.symbols == plain.geometry.symbols
    np.testing.assert_allclose(heavy.geometry.positions, plain.geometry.positions, atol=1e-4)


@pytest.mark.parametrize("smiles", ["FS(F)(F)(F)(F)F", "F[P-](F)(F)(F)(F)F", "Cl[Co](Cl)(Cl)(Cl)(Cl)Cl"])
def test_six_neighbours_form_an_octahedron(smiles: str):
    found = geometry_from_smiles(smiles)
    centre = next(i for i, symbol in enumerate(found.geometry.symbols) if symbol in {"S", "P", "Co"})
    angles = bond_angles(found, centre)
    assert all(abs(angle - 90) < 20 for angle in angles[:12])
    assert all(angle > 155 for angle in angles[12:])


def test_five_neighbours_form_a_bipyramid():
    found = geometry_from_smiles("FP(F)(F)(F)F")
    assert bond_angles(found, 1) == [90] * 6 + [120] * 3 + [180]


def test_a_macrocycle_closes():
    found = geometry_from_smiles("O=C1CCCCCCCCCCCCCCCCCCCO1")
    assert found.provenance["relaxed"]
    assert perceive(found.geometry, 0).smiles == Chem.CanonSmiles("O=C1CCCCCCCCCCCCCCCCCCCO1")


FULLERENE = (
    "c12c3c4c5c1c1c6c7c2c2c8c3c3c9c4c4c%10c5c5c1c1c6c6c%11c7c2c2c7c8c3c3c8c9c4c4c9c%10c5c5c1c1c6c6c%11c2c2c7c3c3c8c4"
    "c4c9c5c1c1c6c2c3c41"
)


@pytest.mark.parametrize(
    ("smiles", "generator", "bonds"),
    [("c1cc2ccc1CCc1ccc(cc1)CC2", "DG", 18), (FULLERENE, "DG", 90), ("C" * 50, "ETKDGv3", 49)],
    ids=["paracyclophane", "fullerene", "long chain"],
)
def test_what_is_bent_or_long_is_found_in_another_way(smiles: str, generator: str, bonds: int):
    found = geometry_from_smiles(smiles)
    carbon = [index for index, symbol in enumerate(found.geometry.symbols) if symbol == "C"]
    between = distances(found.geometry)[np.ix_(carbon, carbon)]
    assert (found.provenance["generator"], found.provenance["relaxed"]) == (generator, True)
    assert (between[np.triu_indices(len(carbon), 1)] < 1.7).sum() == bonds


# Refusals


def test_a_molecule_that_cannot_be_built_says_what_stood_in_the_way():
    with pytest.raises(ComputationFailed, match="most attempts failed at final chiral bounds") as caught:
        geometry_from_smiles(BRIDGE_ACROSS_BOTH_FACES)
    assert caught.value.code == "no_geometry"


def test_a_molecule_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conformer, "_EMBED_SECONDS", 1)
    monkeypatch.setattr(conformer, "_ATTEMPTS", conformer._ATTEMPTS[-1:])
    with pytest.raises(ComputationFailed, match="longer than 1 s") as caught:
        geometry_from_smiles("CC(C)(C)" * 60 + "C")
    assert caught.value.code == "no_geometry"


def test_clashing_atoms_are_not_a_geometry():
    molecule = Chem.AddHs(Chem.MolFromSmiles("C.C"))
    shape = Chem.Conformer(10)
    shape.SetPositions(np.array([[i * 0.01, 0.0, 0.0] for i in range(10)]))
    molecule.AddConformer(shape)
    assert conformer._fault(molecule, 0) == "C0 and C1 are 0.01 angstrom apart"


def test_an_inverted_stereocentre_is_not_the_molecule():
    molecule = Chem.AddHs(Chem.MolFromSmiles("[C@](F)(Cl)(Br)I"))
    found = geometry_from_smiles("[C@](F)(Cl)(Br)I").geometry
    order = [found.symbols.index(atom.GetSymbol()) for atom in molecule.GetAtoms()]
    for mirror, fault in ((1.0, ""), (-1.0, "the stereocentre C0 came out inverted")):
        seen = Chem.Mol(molecule)
        shape = Chem.Conformer(5)
        shape.SetPositions(found.positions[order] * [1.0, 1.0, mirror])
        seen.AddConformer(shape)
        assert conformer._fault(seen, 0) == fault


def test_an_inverted_double_bond_is_not_the_molecule():
    cis, trans = (geometry_from_smiles(smiles) for smiles in ("C/C=C\\C", "C/C=C/C"))
    molecule = Chem.AddHs(Chem.MolFromSmiles(cis.geometry.comment))
    shape = Chem.Conformer(12)
    shape.SetPositions(trans.geometry.positions)
    molecule.AddConformer(shape)
    assert "double bond" in conformer._fault(molecule, 0)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("seed", -1), ("seed", 1.5), ("n_conformers", 0), ("n_conformers", True), ("seed", 2**31), ("decimals", 1)],
)
def test_numbers_that_make_no_sense_are_refused(argument: str, value: object):
    with pytest.raises(InvalidInput, match=argument) as caught:
        geometry_from_smiles("C", **{argument: value})  # type: ignore[arg-type]
    assert caught.value.field == argument


def test_what_is_no_smiles_is_refused_as_everywhere():
    with pytest.raises(InvalidSmiles) as caught:
        geometry_from_smiles("CC(")
    assert caught.value.code == "syntax"
