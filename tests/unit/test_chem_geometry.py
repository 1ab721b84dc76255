"""Geometries: XYZ text, ASE, and bonds laid on coordinates."""

from __future__ import annotations

import math
import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.io import read as ase_read
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from qforge_sdk.chem.geometry import (
    Geometry,
    atomic_number,
    element_symbol,
    geometry_to_ase,
    hill_formula,
    molecule_with_positions,
    read_xyz,
    write_sdf,
)
from qforge_sdk.errors import InvalidInput, MissingExtra

WATER = Geometry(
    ("O", "H", "H"), np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]]), "water"
)

finite = st.floats(allow_nan=False, allow_infinity=False)
geometries = st.lists(st.tuples(st.integers(1, 118), finite, finite, finite), min_size=1, max_size=12).map(
    lambda rows: Geometry(tuple(element_symbol(row[0]) for row in rows), np.array([row[1:] for row in rows]))
)


def embedded_geometry(smiles: str, *, seed: int | None = None) -> Geometry:
    """A geometry of a molecule; with a seed, its atoms in a random order."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=7) == 0
    order = list(range(molecule.GetNumAtoms()))
    if seed is not None:
        random.Random(seed).shuffle(order)
    positions = molecule.GetConformer().GetPositions()[order]
    return Geometry(tuple(molecule.GetAtomWithIdx(index).GetSymbol() for index in order), positions)


@given(geometry=geometries, comment=st.text(st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_xyz_gives_the_same_doubles_back(geometry: Geometry, comment: str) -> None:
    found = read_xyz(Geometry(geometry.symbols, geometry.positions, comment).to_xyz())
    assert found.symbols == geometry.symbols
    assert found.positions.tobytes() == geometry.positions.tobytes()
    assert found.comment == comment.strip()


def test_xyz_file_is_read_by_ase(tmp_path: Path) -> None:
    path = tmp_path / "water.xyz"
    path.write_text(WATER.to_xyz())
    atoms = ase_read(path)
    assert atoms.get_chemical_formula() == "H2O"
    assert atoms.positions.tobytes() == WATER.positions.tobytes()
    for source in (path, str(path)):
        assert read_xyz(source).positions.tobytes() == WATER.positions.tobytes()


@pytest.mark.parametrize("comment", ["two\nlines", "a\rb", "a\x0bb", "a\u2028b", "a\x85b"])
def test_comment_stays_one_line(comment: str) -> None:
    found = read_xyz(Geometry(("H",), np.zeros((1, 3)), comment).to_xyz())
    assert found.symbols == ("H",)
    assert found.comment == " ".join(comment.splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\n\nH 1.5D-01 0.0d0 -2.5D+00\n", [0.15, 0.0, -2.5]),
        ("1\n\nH 1.5E-01 0 -2\n", [0.15, 0.0, -2.0]),
        ("  1  \n\n  1\t0.15 0 -2 extra 7\n", [0.15, 0.0, -2.0]),
        ("1\r\n\r\nh 0.15 0 -2\r\n", [0.15, 0.0, -2.0]),
        ("1\n\nH 0.15 0 -2\n\n\n", [0.15, 0.0, -2.0]),
        ("1\nfirst frame\nH 0.15 0 -2\n1\nsecond frame\nH 9 9 9\n", [0.15, 0.0, -2.0]),
    ],
)
def test_xyz_as_other_programs_write_it(text: str, expected: list[float]) -> None:
    found = read_xyz(text)
    assert found.symbols == ("H",)
    assert found.positions.tolist() == [expected]


@pytest.mark.parametrize("given", ["CL", "cl", "Cl", "17"])
def test_element_is_read_in_any_spelling(given: str) -> None:
    assert read_xyz(f"1\n\n{given} 0 0 0\n").symbols == ("Cl",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "line 1 of an XYZ file is the number of atoms"),
        ("water\n\nO 0 0 0\n", "line 1 of an XYZ file is the number of atoms"),
        ("1.0\n\nO 0 0 0\n", "line 1 of an XYZ file is the number of atoms"),
        ("0\n\n", "names 0 atoms"),
        ("-1\n\n", "names -1 atoms"),
        ("2\n\nO 0 0 0\n", "names 2 atoms and has 1 lines"),
        ("1\n", "names 1 atoms and has 0 lines"),
        ("2\n\nO 0 0 0\nQq 0 0 0\n", "line 4 of the XYZ"),
        ("2\n\nO 0 0 0\nH 0 0\n", "line 4 of the XYZ"),
        ("1\n\nO 0 zero 0\n", "line 3 of the XYZ"),
        ("2\n\nO 0 0 0\n\n", "line 4 of the XYZ"),
        ("1\n\nX 0 0 0\n", "line 3 of the XYZ"),
        ("1\n\n0 0 0 0\n", "line 3 of the XYZ"),
        ("1\n\n119 0 0 0\n", "line 3 of the XYZ"),
        ("1\n\n\u00b2 0 0 0\n", "line 3 of the XYZ"),
        ("1\n\nH 1_0 0 0\n", "line 3 of the XYZ"),
        ("1\n\nH nan 0 0\n", "line 3 of the XYZ"),
        ("2\n\nO 0 0 0\nH 0 0 inf\n", "line 4 of the XYZ"),
        ("1\n\nH 1e999 0 0\n", "line 3 of the XYZ"),
    ],
)
def test_fault_in_xyz_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read_xyz(text)
    assert caught.value.field == "xyz"


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_xyz(tmp_path / "missing.xyz")


def test_byte_order_mark_of_a_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "water.xyz"
    path.write_text(WATER.to_xyz(), encoding="utf-8-sig")
    assert read_xyz(path).symbols == WATER.symbols


def test_binary_file_is_no_xyz(tmp_path: Path) -> None:
    path = tmp_path / "image.xyz"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(InvalidInput):
        read_xyz(path)


@pytest.mark.parametrize(
    ("symbols", "positions", "field"),
    [
        (("H",), [[0, 0, 0], [1, 0, 0]], "positions"),
        (("H", "H"), [[0, 0, 0]], "positions"),
        (("H",), [[0, 0, math.nan]], "positions"),
        (("H",), [[0, 0, math.inf]], "positions"),
        (("H",), [[0, 0]], "positions"),
        (("H", "H"), [[0, 0, 0, 1, 1, 1]], "positions"),
        (("Qq",), [[0, 0, 0]], "element"),
        (("X",), [[0, 0, 0]], "element"),
        (("h",), [[0, 0, 0]], "element"),
    ],
)
def test_impossible_geometry_is_refused(symbols: tuple[str, ...], positions: list[list[float]], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Geometry(symbols, np.array(positions))
    assert caught.value.field == field


def test_geometry_cannot_be_changed_through_an_array() -> None:
    given = np.zeros((1, 3))
    geometry = Geometry(("H",), given)
    given[0, 0] = math.nan
    assert geometry.positions.tolist() == [[0.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="read-only"):
        geometry.positions[0, 0] = math.nan


def test_geometry_knows_numbers_and_formula() -> None:
    assert WATER.numbers == [8, 1, 1]
    assert WATER.formula == "H2O"


def test_every_element_has_a_symbol_and_a_number() -> None:
    assert [atomic_number(element_symbol(number)) for number in range(1, 119)] == list(range(1, 119))
    for number in (0, -1, 119):
        with pytest.raises(InvalidInput, match="no atomic number"):
            element_symbol(number)


@pytest.mark.parametrize(
    ("symbols", "formula"),
    [
        ("H O H", "H2O"),
        ("O H C H H H", "CH4O"),
        ("Cl C Br", "CBrCl"),
        ("H C N", "CHN"),
        ("Na Cl", "ClNa"),
        ("Br H", "BrH"),
        ("C", "C"),
        ("H H", "H2"),
        ("", ""),
    ],
)
def test_hill_formula(symbols: str, formula: str) -> None:
    assert hill_formula(symbols.split()) == formula


def test_ase_atoms_carry_results_in_units_of_ase() -> None:
    forces = np.arange(9.0).reshape(3, 3)
    charges = np.array([-0.6, 0.3, 0.3])
    atoms = geometry_to_ase(WATER, energy=-5.0, forces=forces, charges=charges, info={"name": "water"})
    assert atoms.positions.tobytes() == WATER.positions.tobytes()
    assert atoms.get_atomic_numbers().tolist() == [8, 1, 1]
    # ASE holds CODATA 2014, we hold a later one.
    assert atoms.get_potential_energy() == pytest.approx(-5.0 * units.Hartree, rel=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), forces * units.Hartree / units.Bohr, rtol=1e-7)
    assert atoms.get_charges().tolist() == charges.tolist()
    assert atoms.info == {"name": "water"}


def test_ase_atoms_without_results_have_none() -> None:
    assert geometry_to_ase(WATER).calc.results == {}


def test_missing_ase_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(MissingExtra, match=r'pip install .*"ase>=') as caught:
        geometry_to_ase(WATER)
    assert (caught.value.package, caught.value.extra) == ("ase", "xtb")


def test_ase_atoms_do_not_share_memory_with_the_geometry() -> None:
    atoms = geometry_to_ase(WATER)
    atoms.positions += 1
    assert WATER.positions[0, 0] == 0.0


@pytest.mark.parametrize(
    "smiles",
    [
        "c1ccccc1",
        "[NH3+]CC(=O)[O-]",
        "C[N+](=O)[O-]",
        "C[N+](C)(C)C",
        "CC(=O)[O-]",
        "C[C@H](O)C(=O)O",
        "F/C=C\\F",
        "C#N",
        "[C-]#[O+]",
        "c1ccc2[nH]ccc2c1",
        "CS(C)(=O)=O",
        "F[P-](F)(F)(F)(F)F",
        "OO",
        "[H][H]",
        "[CH2]C=O",
        "C[N+](=O)[O]",
        "C[O]",
    ],
)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_bonds_of_the_smiles_are_laid_on_the_geometry(smiles: str, seed: int | None) -> None:
    geometry = embedded_geometry(smiles, seed=seed)
    molecule = molecule_with_positions(smiles, geometry)
    assert tuple(atom.GetSymbol() for atom in molecule.GetAtoms()) == geometry.symbols
    np.testing.assert_array_equal(molecule.GetConformer().GetPositions(), geometry.positions)
    assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(molecule))) == Chem.CanonSmiles(smiles)


@pytest.mark.parametrize("smiles", ["O=[13C]=O", "[2H]C([2H])([2H])C(=O)O", "[2H]c1ccccc1", "[13CH3]C#N"])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_isotopes_keep_their_bonds(smiles: str, seed: int | None) -> None:
    molecule = molecule_with_positions(smiles, embedded_geometry(smiles, seed=seed))
    assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(molecule))) == Chem.CanonSmiles(smiles)


def test_geometry_of_another_molecule_keeps_its_own_connectivity() -> None:
    geometry = embedded_geometry("CCO")
    for smiles in ("COC", "CCN", "not a smiles", None):
        molecule = molecule_with_positions(smiles, geometry)
        assert molecule.GetNumAtoms() == 9
        assert {bond.GetBondType() for bond in molecule.GetBonds()} == {Chem.BondType.SINGLE}
        np.testing.assert_array_equal(molecule.GetConformer().GetPositions(), geometry.positions)


def test_molecule_without_smiles_has_bonds_where_atoms_touch() -> None:
    assert molecule_with_positions(None, WATER).GetNumBonds() == 2
    far = Geometry(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 9.0]]))
    assert molecule_with_positions(None, far).GetNumBonds() == 0


def test_metal_complex_without_smiles_keeps_its_atoms() -> None:
    square = [[0.0, 0.0, 0.0], [2.3, 0.0, 0.0], [0.0, 2.3, 0.0], [-2.3, 0.0, 0.0], [0.0, -2.3, 0.0]]
    molecule = molecule_with_positions(None, Geometry(("Pt", "Cl", "Cl", "Cl", "Cl"), np.array(square)))
    assert [atom.GetAtomicNum() for atom in molecule.GetAtoms()] == [78, 17, 17, 17, 17]


def test_atoms_on_one_another_are_no_crash() -> None:
    assert molecule_with_positions("[H][H]", Geometry(("H", "H"), np.zeros((2, 3)))).GetNumAtoms() == 2


def test_bonds_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    molecule_with_positions("not a smiles", embedded_geometry("CCO"))
    assert capfd.readouterr() == ("", "")


def test_symmetric_molecule_is_matched_quickly() -> None:
    smiles = "C" * 30
    molecule = molecule_with_positions(smiles, embedded_geometry(smiles, seed=3))
    assert Chem.MolToSmiles(Chem.RemoveHs(molecule)) == smiles


def test_sd_file_holds_molecules_in_order_with_properties(tmp_path: Path) -> None:
    glycine = embedded_geometry("[NH3+]CC(=O)[O-]", seed=4)
    records = [
        ("O", WATER, {"name": "water", "energy": -5.07, "converged": True}),
        ("[NH3+]CC(=O)[O-]", glycine, {"energy": -17.5}),
        (None, WATER, {}),
    ]
    path = write_sdf(records, tmp_path / "out.sdf")
    first, second, third = Chem.SDMolSupplier(str(path), removeHs=False)
    assert first.GetPropsAsDict() == {"name": "water", "energy": -5.07, "converged": "True"}
    assert [m.GetProp("_Name") for m in (first, second, third)] == ["water", "[NH3+]CC(=O)[O-]", "H2O"]
    assert Chem.MolToSmiles(Chem.RemoveHs(second)) == "[NH3+]CC(=O)[O-]"
    np.testing.assert_allclose(second.GetConformer().GetPositions(), glycine.positions, atol=5e-5)


@pytest.mark.parametrize("text", ["two\nlines", "two\r\nlines", "blank\n\n$$$$\nline", "a\x0cb\u2028c", "a  b"])
def test_line_ends_in_names_and_values_do_not_break_an_sd_file(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_sdf([("O", WATER, {"name": text, "note": text}), ("O", WATER, {"name": "next"})], tmp_path / "o.sdf")
    first, second = Chem.SDMolSupplier(str(path), removeHs=False)
    one_line = " ".join(text.splitlines())
    assert (first.GetProp("_Name"), first.GetProp("name"), first.GetProp("note")) == (one_line, one_line, one_line)
    assert second.GetProp("_Name") == "next"
    assert capfd.readouterr() == ("", "")


def test_large_molecule_is_written(tmp_path: Path) -> None:
    line = np.zeros((1200, 3))
    line[:, 0] = 5.0 * np.arange(1200)
    path = write_sdf([(None, Geometry(("He",) * 1200, line), {})], tmp_path / "helium.sdf")
    assert next(iter(Chem.SDMolSupplier(str(path)))).GetNumAtoms() == 1200


def test_doubles_keep_their_sign_of_zero() -> None:
    found = read_xyz(Geometry(("H",), np.array([[-0.0, 5e-324, 1.7976931348623157e308]])).to_xyz())
    assert struct.pack("3d", *found.positions[0]) == struct.pack("3d", -0.0, 5e-324, 1.7976931348623157e308)
