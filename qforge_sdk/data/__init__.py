"""Sample data: about three thousand molecules with GFN2-xTB single points, shipped as Parquet.

The geometries are RDKit conformers (ETKDGv3, then MMFF94 or UFF), not minima of GFN2-xTB; the energies are gas-phase
single points of tblite. The dipole moment of an ion depends on the origin, which is that of the stored positions.
Where a SMILES leaves a stereocentre or double bond open, the numbers are those of the one stereoisomer that was
embedded. In an open shell homo is the highest singly occupied orbital and lumo the lowest one without any electron.
:mod:`qforge_sdk.compute.sample` makes the files again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qforge_sdk.errors import InvalidInput
from qforge_sdk.quantities import did_you_mean

__all__ = ["SampleData", "load_sample", "sample_path", "xyz_text"]

TABLES: Final = ("molecules", "calculations", "atoms")
# Stored as float32 after rounding; rounding again on the way out gives back the decimal number.
DECIMALS: Final = {
    "partial_charge": 5,
    "position_x": 4,
    "position_y": 4,
    "position_z": 4,
    "force_x": 6,
    "force_y": 6,
    "force_z": 6,
}


@dataclass(frozen=True, slots=True)
class SampleData:
    """The three tables of the sample, joined by ``smiles`` and ``source_id``.

    Parameters
    ----------
    molecules
        ``name`` (null where there is no common one), canonical ``smiles``, ``category``.
    calculations
        One a molecule: ``source_id``, ``smiles``, ``energy`` (hartree), ``homo``, ``lumo``, ``gap`` (eV), ``dipole``
        (debye), ``total_charge`` (e), ``unpaired_electrons``, ``method``, ``xtb_version``, ``convergence_status``,
        ``optimized``, ``execution_time_seconds`` (s), ``xyz_file_hash``, ``metadata`` (JSON text).
    atoms
        One an atom: ``source_id``, ``atom_index`` from 0, ``element``, ``atomic_number``, ``partial_charge`` (e),
        ``position_x``, ``position_y``, ``position_z`` (angstrom), ``force_x``, ``force_y``, ``force_z``
        (hartree/bohr).
    """

    molecules: pa.Table
    calculations: pa.Table
    atoms: pa.Table


def load_sample() -> SampleData:
    """Sample molecules with their calculations and atoms.

    Returns
    -------
    SampleData
        Arrow tables; every number with a unit is float64 and its field carries the unit in ``metadata[b"unit"]``:
        energy in hartree, orbital energies in eV, dipole in debye, charges in e, positions in angstrom, forces in
        hartree/bohr, times in s.

    Raises
    ------
    FileNotFoundError
        The package was installed without its data files.
    """
    molecules, calculations, atoms = (pq.read_table(sample_path(name)) for name in TABLES)
    return SampleData(molecules, calculations, _decimal(atoms))


def sample_path(name: str) -> Path:
    """Where a table of the sample is stored.

    Parameters
    ----------
    name
        ``molecules``, ``calculations`` or ``atoms``.

    Returns
    -------
    Path
        The Parquet file.

    Raises
    ------
    InvalidInput
        The sample has no such table.
    """
    if name not in TABLES:
        raise InvalidInput(f"the sample has no table {name!r}{did_you_mean(name, list(TABLES))}")
    return Path(__file__).with_name(f"{name}.parquet")


def xyz_text(smiles: str, elements: Sequence[str], positions: Iterable[Sequence[float]]) -> str:
    """Text of an xyz file; its SHA-256 is the ``xyz_file_hash`` of a sample calculation.

    Parameters
    ----------
    smiles
        Comment line.
    elements
        Symbols, one an atom.
    positions
        Shape (n_atoms, 3), angstrom.

    Returns
    -------
    str
        Atom count, comment, then one line an atom with four decimals; ends with a line break.
    """
    atoms = (
        f"{symbol:<2s} {x:14.4f} {y:14.4f} {z:14.4f}" for symbol, (x, y, z) in zip(elements, positions, strict=True)
    )
    return "\n".join((str(len(elements)), smiles, *atoms, ""))


def _decimal(atoms: pa.Table) -> pa.Table:
    for name, decimals in DECIMALS.items():
        index = atoms.schema.get_field_index(name)
        exact = pc.round(atoms[name].cast(pa.float64()), ndigits=decimals)
        atoms = atoms.set_column(index, atoms.schema.field(index).with_type(pa.float64()), exact)
    return atoms
