"""Geometries: XYZ text, ASE atoms, RDKit molecules with coordinates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds
from rdkit.Geometry import Point3D

from qforge_sdk.errors import InvalidInput, MissingExtra
from qforge_sdk.quantities import BOHR_IN_ANGSTROM, HARTREE_IN_EV

FloatArray: TypeAlias = npt.NDArray[np.float64]

_TABLE: Final = Chem.GetPeriodicTable()
_SYMBOLS: Final = ("X", *(_TABLE.GetElementSymbol(number) for number in range(1, 119)))
_NUMBERS: Final = {symbol: number for number, symbol in enumerate(_SYMBOLS)}
#: Of the elements, in the order of their numbers.
ELEMENT_SYMBOLS: Final = _SYMBOLS[1:]


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Atoms in space.

    Parameters
    ----------
    symbols
        Element symbols, n_atoms of them.
    positions
        Shape (n_atoms, 3), angstrom; copied, and read-only from then on.
    comment
        One line of text.

    Raises
    ------
    InvalidInput
        The lengths disagree, a symbol is unknown or a position is not finite.
    """

    symbols: tuple[str, ...]
    positions: FloatArray
    comment: str = ""

    def __post_init__(self) -> None:
        positions = np.array(self.positions, dtype=np.float64)
        positions.setflags(write=False)
        if positions.shape != (len(self.symbols), 3):
            raise InvalidInput(
                f"{len(self.symbols)} symbols and positions of shape {positions.shape}", field="positions"
            )
        if not np.isfinite(positions).all():
            raise InvalidInput("a position is not a finite number", field="positions")
        for symbol in set(self.symbols):
            atomic_number(symbol)
        object.__setattr__(self, "positions", positions)

    @property
    def numbers(self) -> list[int]:
        """Atomic numbers."""
        return [_NUMBERS[symbol] for symbol in self.symbols]

    @property
    def formula(self) -> str:
        """Molecular formula in Hill order."""
        return hill_formula(self.symbols)

    def to_xyz(self) -> str:
        """XYZ text, angstrom, with as many digits as give the same doubles back."""
        lines = [
            f"{symbol:<2s} {x!r:>20} {y!r:>20} {z!r:>20}"
            for symbol, (x, y, z) in zip(self.symbols, self.positions.tolist(), strict=True)
        ]
        return "\n".join([str(len(lines)), " ".join(self.comment.splitlines()), *lines, ""])

    def as_json(self) -> dict[str, Any]:
        """For a metadata column: ``symbols``, and ``positions`` as x, y, z of one atom after the other, angstrom.

        The numbers give the same doubles back.
        """
        return {"symbols": list(self.symbols), "positions": self.positions.ravel().tolist()}

    @classmethod
    def from_json(cls, packed: Mapping[str, Any], comment: str = "") -> Self:
        """The geometry of :meth:`as_json`.

        Parameters
        ----------
        packed
            With ``symbols`` and ``positions``.
        comment
            One line of text.

        Raises
        ------
        InvalidInput
            A part is missing, or the numbers do not fit the symbols.
        """
        try:
            symbols, numbers = tuple(packed["symbols"]), np.array(packed["positions"], dtype=np.float64)
            return cls(symbols, numbers.reshape(-1, 3), comment)
        except (KeyError, TypeError, ValueError) as exc:
            if isinstance(exc, InvalidInput):
                raise
            raise InvalidInput(f"this is no packed geometry: {exc}", field="positions") from exc


def atomic_number(symbol: str) -> int:
    """Atomic number of an element.

    Raises
    ------
    InvalidInput
        No element has that symbol.
    """
    number = _NUMBERS.get(symbol, 0)
    if number == 0:
        raise InvalidInput(f"{symbol!r} is no element symbol", field="element", value=symbol)
    return number


def element_symbol(number: int) -> str:
    """Symbol of the element of an atomic number.

    Raises
    ------
    InvalidInput
        There is no such element.
    """
    if not 1 <= number < len(_SYMBOLS):
        raise InvalidInput(f"{number!r} is no atomic number", field="atomic_number", value=number)
    return _SYMBOLS[number]


def hill_formula(symbols: Iterable[str]) -> str:
    """Molecular formula: carbon, hydrogen, then the rest by alphabet; all by alphabet without carbon.

    References
    ----------
    E. A. Hill, J. Am. Chem. Soc. 1900, 22, 478, doi:10.1021/ja02046a005
    """
    counts = Counter(symbols)
    first = [symbol for symbol in ("C", "H") if "C" in counts and symbol in counts]
    order = first + sorted(symbol for symbol in counts if symbol not in first)
    return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in order)


def read_xyz(source: str | Path) -> Geometry:
    """First geometry of XYZ text or of a file.

    Parameters
    ----------
    source
        A path, or the text itself (which has line ends).

    Returns
    -------
    Geometry
        Positions in angstrom.

    Raises
    ------
    InvalidInput
        The text is no XYZ; the message names the line.
    OSError
        The file cannot be read.
    """
    text = source if isinstance(source, str) and "\n" in source else _read_text(Path(source))
    # Only these end a line: splitlines() would cut a comment at a form feed too.
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    try:
        count = int(lines[0])
    except (IndexError, ValueError):
        raise InvalidInput("line 1 of an XYZ file is the number of atoms", field="xyz") from None
    if count < 1 or len(lines) < count + 2:
        raise InvalidInput(
            f"the XYZ names {count} atoms and has {max(len(lines) - 2, 0)} lines for them", field="xyz"
        )
    symbols, positions = [], []
    for number, line in enumerate(lines[2 : count + 2], start=3):
        words = line.split()
        try:
            symbol = element_symbol(int(words[0])) if words[0].isdigit() else words[0].capitalize()
            atomic_number(symbol)
            positions.append([_coordinate(word) for word in words[1:4]])
            symbols.append(symbol)
            if len(positions[-1]) != 3:
                raise ValueError(line)
        except (IndexError, ValueError):
            raise InvalidInput(
                f"line {number} of the XYZ is not 'element x y z': {line!r}", field="xyz", value=line
            ) from None
    return Geometry(tuple(symbols), np.array(positions), lines[1].strip())


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{path} is no text: {exc.reason} at byte {exc.start}", field="xyz") from exc


def _coordinate(word: str) -> float:
    """A finite number as C or Fortran writes it."""
    number = float(word.replace("D", "E").replace("d", "e"))
    if "_" in word or not math.isfinite(number):
        raise ValueError(word)
    return number


def geometry_to_ase(
    geometry: Geometry,
    *,
    energy: float | None = None,
    forces: FloatArray | None = None,
    charges: FloatArray | None = None,
    info: Mapping[str, Any] | None = None,
) -> Any:
    """A geometry as ``ase.Atoms``, with results in ASE's units.

    Parameters
    ----------
    geometry
        Angstrom, as in ASE.
    energy
        Hartree.
    forces
        Shape (n_atoms, 3), hartree/bohr.
    charges
        Shape (n_atoms,), e.
    info
        For ``atoms.info``.

    Returns
    -------
    ase.Atoms
        Its calculator gives energy (eV), forces (eV/angstrom) and charges (e), those that were given.

    Raises
    ------
    MissingExtra
        ase is not installed.
    """
    try:
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator
    except ImportError as exc:
        raise MissingExtra("ase", "xtb") from exc
    atoms = Atoms(numbers=geometry.numbers, positions=geometry.positions, info=dict(info or {}))
    results = {
        "energy": None if energy is None else energy * HARTREE_IN_EV,
        "forces": None if forces is None else np.asarray(forces) * (HARTREE_IN_EV / BOHR_IN_ANGSTROM),
        "charges": charges,
    }
    atoms.calc = SinglePointCalculator(atoms, **{name: value for name, value in results.items() if value is not None})
    return atoms


def molecule_with_positions(smiles: str | None, geometry: Geometry) -> Chem.Mol:
    """RDKit molecule whose conformer is the geometry, atoms in its order.

    Parameters
    ----------
    smiles
        Gives the bonds, when its graph can be laid on the geometry; else, or for None, bonds are perceived from
        distances and left out where that fails.
    geometry
        Angstrom.

    Returns
    -------
    rdkit.Chem.Mol
        With hydrogens and one conformer.
    """
    with rdBase.BlockLogs():
        bare = unconnected(geometry)
        try:
            rdDetermineBonds.DetermineConnectivity(bare)
        except (RuntimeError, ValueError):
            return bare
        return _with_bonds(smiles, bare) if smiles is not None else bare


def unconnected(geometry: Geometry) -> Chem.Mol:
    """RDKit molecule of the atoms, without bonds, hydrogens or charges of its own making.

    Parameters
    ----------
    geometry
        Angstrom.

    Returns
    -------
    rdkit.Chem.Mol
        With one conformer.
    """
    molecule = Chem.RWMol()
    conformer = Chem.Conformer(len(geometry.symbols))
    for symbol, (x, y, z) in zip(geometry.symbols, geometry.positions.tolist(), strict=True):
        atom = Chem.Atom(symbol)
        atom.SetNoImplicit(True)
        conformer.SetAtomPosition(molecule.AddAtom(atom), Point3D(x, y, z))
    molecule.AddConformer(conformer, assignId=True)
    return molecule.GetMol()


def _with_bonds(smiles: str, bare: Chem.Mol) -> Chem.Mol:
    """Bonds of a SMILES on atoms that are connected in the same way."""
    parsed: Any = Chem.MolFromSmiles(smiles)
    if parsed is None:
        return bare
    wanted = Chem.AddHs(parsed)
    if wanted.GetNumAtoms() != bare.GetNumAtoms():
        return bare
    graph = Chem.RWMol(wanted)
    for bond in graph.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
        bond.SetIsAromatic(False)
    for atom in graph.GetAtoms():
        atom.SetIsAromatic(False)
        atom.SetFormalCharge(0)
        # A query atom that has either is matched on it, and atoms of a geometry have neither.
        atom.SetIsotope(0)
        atom.SetNumRadicalElectrons(0)
        atom.SetNoImplicit(True)
    match = bare.GetSubstructMatch(graph.GetMol())
    if len(match) != wanted.GetNumAtoms():
        return bare
    order = [match.index(place) for place in range(len(match))]
    placed = Chem.RenumberAtoms(wanted, order)
    conformer = Chem.Conformer(placed.GetNumAtoms())
    for index, (x, y, z) in enumerate(bare.GetConformer().GetPositions()):
        conformer.SetAtomPosition(index, Point3D(float(x), float(y), float(z)))
    placed.AddConformer(conformer, assignId=True)
    return placed


def write_sdf(records: Iterable[tuple[str | None, Geometry, Mapping[str, Any]]], path: Path) -> Path:
    """Write an SD file.

    Parameters
    ----------
    records
        SMILES (None when there is none), geometry and properties of each molecule; a value is written on one line.
    path
        File to write.

    Returns
    -------
    pathlib.Path
        The file.
    """
    with Chem.SDWriter(str(path)) as writer:
        writer.SetKekulize(False)
        for smiles, geometry, properties in records:
            molecule = molecule_with_positions(smiles, geometry)
            molecule.SetProp("_Name", _one_line(properties.get("name", smiles or geometry.formula)))
            for name, value in properties.items():
                molecule.SetProp(name, _one_line(value))
            writer.write(molecule)
    return path


def _one_line(value: Any) -> str:
    # A line end in a title shifts the record, and RDKit leaves out a value with a blank line.
    return " ".join(str(value).splitlines())
