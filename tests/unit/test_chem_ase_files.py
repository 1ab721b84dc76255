"""Frames and rows as ASE writes them, computed by tblite's own calculator for ASE."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from tblite.ase import TBLite
from tblite.interface import Calculator

from qforge_sdk.chem.ase_files import ase_database, read_frame, read_row, require_ase, row_keys, split_frames
from qforge_sdk.chem.geometry import Geometry, geometry_to_ase
from qforge_sdk.chem.peer import PeerResult
from qforge_sdk.chem.xtb_files import Unreadable
from qforge_sdk.errors import InvalidInput, MissingExtra
from qforge_sdk.quantities import conversion_factor

POSITIONS = np.array([[0.05, 0.0, 0.1], [0.0, 1.0, -0.25], [0.85, -0.5, -0.25], [-0.85, -0.5, -0.25]])
#: ASE 3.29 converts by CODATA 2014, this package by CODATA 2022: energies differ by 8.1e-9 of their value.
CODATA = 1e-8


@pytest.fixture(scope="module")
def ammonia() -> Atoms:
    atoms = Atoms("NH3", positions=POSITIONS)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    atoms.get_potential_energy()
    return atoms


@pytest.fixture(scope="module")
def directly() -> dict[str, Any]:
    """The same numbers in hartree and bohr, from tblite's own interface."""
    calculator = Calculator("GFN2-xTB", np.array([7, 1, 1, 1]), POSITIONS / units.Bohr)
    calculator.set("verbosity", 0)
    return calculator.singlepoint().dict()


def frame(atoms: Atoms, **options: Any) -> bytes:
    file = io.StringIO()
    ase.io.write(file, atoms, format="extxyz", **options)
    return file.getvalue().encode()


def with_results(symbols: str = "H2", positions: Any = ((0, 0, 0), (0, 0, 0.74)), info: Any = None, **results: Any):
    atoms = Atoms(symbols, positions=positions, info=info or {})
    atoms.calc = SinglePointCalculator(atoms, **{"energy": -26.7} | results)
    return atoms


def rows(path: Path, *written: tuple[Atoms, dict[str, Any]]) -> list[PeerResult]:
    with ase.db.connect(path) as database:
        for atoms, pairs in written:
            database.write(atoms, **pairs)
    with ase_database(path) as database:
        return [read_row(database.get(id=key)) for key in row_keys(database)]


def assert_ammonia(peer: PeerResult, directly: dict[str, Any], *, digits: float) -> None:
    result = peer.result
    assert result.energy == pytest.approx(directly["energy"], rel=CODATA)
    assert result.dipole == pytest.approx(np.linalg.norm(directly["dipole"]) * 2.541746473, rel=1e-6)
    assert result.forces == pytest.approx(-directly["gradient"], abs=digits)
    assert result.charges == pytest.approx(directly["charges"], abs=digits)
    assert result.geometry.positions == pytest.approx(POSITIONS, abs=digits)
    assert result.geometry.symbols == ("N", "H", "H", "H")
    assert (result.status, result.total_charge, result.unpaired_electrons) == ("converged", 0, 0)
    assert result.doubts == ()


def test_a_frame_is_read_as_the_program_computed_it(ammonia: Atoms, directly: dict[str, Any]):
    assert_ammonia(read_frame(frame(ammonia)), directly, digits=1e-8)


def test_a_row_is_read_as_the_program_computed_it(ammonia: Atoms, directly: dict[str, Any], tmp_path: Path):
    (peer,) = rows(tmp_path / "peer.db", (ammonia, {"name": "ammonia", "smiles": "N", "temperature": 0.5}))
    assert_ammonia(peer, directly, digits=1e-9)
    assert (peer.name, peer.smiles) == ("ammonia", "N")
    assert peer.facts["temperature"] == 0.5
    assert (peer.facts["program"], peer.result.xtb_version) == ("tblite", "tblite")


def test_a_default_that_ase_does_not_write_is_no_method(ammonia: Atoms, tmp_path: Path):
    (peer,) = rows(tmp_path / "peer.db", (ammonia, {}))
    assert peer.result.method is None
    assert read_frame(frame(ammonia)).result.method is None


def test_what_this_package_hands_to_ase_comes_back():
    geometry = Geometry(("N", "H", "H", "H"), POSITIONS)
    forces, charges = np.arange(12.0).reshape(4, 3) / 100, np.array([-0.3, 0.1, 0.1, 0.1])
    info = {"smiles": "N", "total_charge": 0.0}
    atoms = geometry_to_ase(geometry, energy=-4.42, forces=forces, charges=charges, info=info)
    peer = read_frame(frame(atoms))
    assert peer.result.energy == pytest.approx(-4.42, rel=1e-14)
    assert peer.result.forces == pytest.approx(forces, abs=1e-9)
    assert peer.result.charges == pytest.approx(charges, abs=1e-9)
    assert peer.smiles == "N"


@pytest.mark.parametrize("smiles", ["F", "C", "[Na+].[Cl-]", "F/C=C\\F", "C[C@H](N)O", "C#N", "[2H]O[2H]", "CC=O"])
def test_a_smiles_comes_back_as_it_was_written(smiles: str, tmp_path: Path):
    atoms = with_results(info={"smiles": smiles, "name": 1234})
    peer = read_frame(frame(atoms))
    assert (peer.smiles, peer.name) == (smiles, "1234")
    (row,) = rows(tmp_path / "peer.db", (atoms, {"smiles": smiles}))
    assert row.smiles == smiles


def test_a_backslash_that_was_written_twice_is_one():
    data = H2.replace("energy=", 'smiles="F/C=C\\\\F" energy=').encode()
    assert read_frame(data).smiles == "F/C=C\\F"


@pytest.mark.parametrize(
    ("info", "results", "found"),
    [
        ({}, {}, (0, 0)),
        ({"charge": 1}, {}, (1, 1)),
        ({"total_charge": -1.0}, {}, (-1, 1)),
        ({}, {"charges": [0.5, 0.5]}, (1, 1)),
        ({"multiplicity": 3}, {}, (0, 2)),
        ({"uhf": 2}, {}, (0, 2)),
        ({}, {"magmom": 2.0}, (0, 2)),
        ({"spin_multiplicity": 2, "charge": 1}, {"charges": [0.5, 0.5]}, (1, 1)),
    ],
)
def test_charge_and_spin_are_named_or_follow(info: dict[str, Any], results: dict[str, Any], found: tuple[int, int]):
    peer = read_frame(frame(with_results(info=info, **results)))
    assert (peer.result.total_charge, peer.result.unpaired_electrons) == found
    named = {"charge", "total_charge"} & info.keys()
    assert ("total_charge" in peer.sources) != bool(named)


def test_initial_charges_and_moments_of_a_row_are_the_molecule_s(tmp_path: Path):
    atoms = with_results()
    atoms.set_initial_charges([1, 0])
    atoms.set_initial_magnetic_moments([1, 0])
    atoms.calc = SinglePointCalculator(atoms, energy=-26.7)
    (peer,) = rows(tmp_path / "peer.db", (atoms, {}))
    assert (peer.result.total_charge, peer.result.unpaired_electrons) == (1, 1)


def test_charges_that_miss_the_named_total_are_a_doubt():
    peer = read_frame(frame(with_results(info={"charge": 1}, charges=[0.1, -0.1])))
    assert [doubt.code for doubt in peer.result.doubts] == ["charge_sum_off"]


@pytest.mark.parametrize(
    ("parameters", "pairs", "method"),
    [
        ({"method": "GFN1-xTB"}, {}, "GFN1-xTB"),
        ({"xc": "PBE"}, {}, "PBE"),
        ({"method": "GFN1-xTB"}, {"method": "mine"}, "mine"),
        ({"method": {"name": "x"}}, {}, None),
    ],
)
def test_a_method_is_taken_from_where_it_is_named(parameters: Any, pairs: Any, method: str | None, tmp_path: Path):
    atoms = with_results()
    atoms.calc.name, atoms.calc.parameters = "some", parameters
    (peer,) = rows(tmp_path / "peer.db", (atoms, pairs))
    assert peer.result.method == method


def test_a_solvent_among_the_parameters_is_kept(tmp_path: Path):
    atoms = with_results()
    atoms.calc.name, atoms.calc.parameters = "tblite", {"method": "GFN2-xTB", "solvation": ("alpb", "water")}
    (peer,) = rows(tmp_path / "peer.db", (atoms, {}))
    assert (peer.result.solvation, peer.result.solvent) == ("ALPB", "water")


def test_orbital_energies_are_in_ev():
    peer = read_frame(frame(with_results(info={"HOMO": -11.0, "lumo": 2.5, "gap": 13.5})))
    assert (peer.result.homo, peer.result.lumo, peer.result.gap) == (-11.0, 2.5, 13.5)


def test_units_that_are_named_are_converted():
    info = {"energy_unit": "kcal/mol", "force_units": "hartree/bohr"}
    peer = read_frame(frame(with_results(energy=-627.5, info=info, forces=[[0, 0, 0.1], [0, 0, -0.1]])))
    assert peer.result.energy == pytest.approx(-627.5 * conversion_factor("kcal/mol", "hartree"))
    assert peer.result.forces[0, 2] == 0.1


def test_forces_whose_unit_nobody_names_are_left_out():
    info = {"energy_unit": "hartree", "gap": 0.4}
    peer = read_frame(frame(with_results(energy=-1.0, info=info, forces=[[0, 0, 1], [0, 0, -1]])))
    assert (peer.result.energy, peer.result.forces, peer.result.gap) == (-1.0, None, None)
    assert peer.result.doubts[0].message == "the energy is not in eV, and nothing names a unit of: forces, gap"
    assert peer.facts["gap"] == 0.4


H2 = frame(with_results(forces=[[0, 0, 1], [0, 0, -1]])).decode()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("energy=-26.7", "REF_energy=-26.7", "no energy under that name; there is REF_energy"),
        ("energy=-26.7", "", "no energy under that name; there is nothing else"),
        ("energy=-26.7", "energy=nan", "energy is no finite number: nan"),
        ("energy=-26.7", "energy=inf", "energy is no finite number"),
        ("energy=-26.7", "energy=low", "energy is no finite number: 'low'"),
        ("energy=-26.7", 'energy="-26.7 1.0"', "energy is no finite number"),
        ("energy=-26.7", "energy", "energy is no finite number: True"),
        ("energy=-26.7", "energy=-26.7 units=a.u.", "units 'a.u.' may mean energies, forces and positions"),
        ("energy=-26.7", "energy=-26.7 energy_unit=Ry", "unknown unit 'Ry'"),
        ("energy=-26.7", "energy=-26.7 force_unit=N", "unknown unit 'N'"),
        ('pbc="F F F"', 'pbc="T T T" Lattice="9 0 0 0 9 0 0 0 9"', "it is periodic"),
        (
            "H        0.00000000       0.00000000       0.7",
            "Qq       0.00000000       0.00000000       0.7",
            "no element",
        ),
        ("0.74000000", "0.7400zzzz", "no extended XYZ"),
        ("pos:R:3", "pos:R:9", "no extended XYZ"),
        ("0.74000000", "nan", "a position is not a finite number"),
        ("energy=-26.7", "energy=-26.7 charge=3", "a charge of 3 e and 1 unpaired electrons of 2 in all"),
        ("energy=-26.7", "energy=-26.7 uhf=-2", "a charge of 0 e and -2 unpaired electrons of 2 in all"),
        ("energy=-26.7", "energy=-26.7 multiplicity=1e20", "unpaired electrons of 2 in all"),
    ],
)
def test_a_frame_that_cannot_be_taken_says_why(old: str, new: str, reason: str):
    assert old in H2
    with pytest.raises((Unreadable, InvalidInput), match=re.escape(reason)):
        read_frame(H2.replace(old, new).encode())


def test_forces_that_are_no_numbers_are_a_doubt():
    peer = read_frame(H2.replace("-1.00000000", "        nan").encode())
    assert peer.result.forces is None
    assert [doubt.code for doubt in peer.result.doubts] == ["bad_field"]


def test_a_number_that_may_be_cut_short_is_a_doubt():
    peer = read_frame(H2.encode()[:-5])
    (doubt,) = peer.result.doubts
    assert doubt.message == "its last line has no end, so a number may be cut short"
    with pytest.raises(Unreadable, match="no extended XYZ"):
        read_frame(H2.encode()[:-40])


def test_the_comment_of_xtb_is_understood_in_hartree():
    text = "2\n energy: -1.034655 gnorm: 0.0002 xtb: 6.5.1 (unknown)\nH 0 0 0\nH 0 0 0.74\n"
    result = read_frame(text.encode()).result
    assert (result.energy, result.xtb_version, result.forces) == (-1.034655, "6.5.1", None)


def test_windows_line_ends_and_odd_bytes_do_not_matter():
    data = H2.replace("\n", "\r\n").replace("pbc=", "note=\x00\xe9 pbc=").encode("latin-1")
    peer = read_frame(data)
    assert peer.result.energy == pytest.approx(-26.7 / 27.211386245981)
    assert "note" not in peer.facts


def frames(data: bytes) -> list[bytes | str]:
    return list(split_frames(io.BytesIO(data)))


def test_frames_are_told_apart():
    second = b"1\nenergy=-1\nHe 0 0 0"
    found = frames(b"\xef\xbb\xbf" + H2.encode() + b"\n\n" + second)
    assert [read_frame(one).result.geometry.formula for one in found] == ["H2", "He"]


@pytest.mark.parametrize(
    ("data", "last"),
    [
        (
            H2.encode() + b"two\n",
            "line 5 is no number of atoms (b'two\\n'), so frames cannot be told apart from here on",
        ),
        (H2.encode()[:-110], "the file ends inside the frame of line 1: 1 of 2 atoms"),
        (b"2\n", "the file ends inside the frame of line 1: 0 of 2 atoms"),
        (b"-3\n", "line 1 is no number of atoms"),
        (b"99999999999\n", "line 1 is no number of atoms"),
        (b"\x00\x01\x02" * 100, "line 1 is no number of atoms"),
    ],
)
def test_a_broken_file_says_from_where_on(data: bytes, last: str):
    found = frames(data)[-1]
    assert isinstance(found, str)
    assert found.startswith(last)


def test_frames_are_read_no_further_than_they_are_taken():
    class Endless(io.RawIOBase):
        lines = 0

        def readline(self, size: int = -1, /) -> bytes:
            self.lines += 1
            return H2.encode().splitlines(keepends=True)[(self.lines - 1) % 4]

    file = Endless()
    found = split_frames(file)
    assert [next(found) for _ in range(3)] == [H2.encode()] * 3
    assert file.lines <= 12


def test_keys_of_many_rows_are_fetched_a_few_at_a_time(tmp_path: Path):
    path = tmp_path / "peer.db"
    with ase.db.connect(path) as database:
        for number in range(7):
            database.write(with_results(energy=-float(number)))
        database.delete([3])
    with ase_database(path) as database:
        assert list(row_keys(database, at_once=2)) == [1, 2, 4, 5, 6, 7]


def test_without_ase_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(MissingExtra, match=r'pip install .*"ase>='):
        require_ase()
