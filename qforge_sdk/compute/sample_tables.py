"""The sample data as Arrow tables and Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import rdBase

from qforge_sdk.chem.geometry import atomic_number
from qforge_sdk.data import DECIMALS, xyz_text
from qforge_sdk.data.series import Structure
from qforge_sdk.quantities import QUANTITIES

METHOD: Final = "GFN2-xTB"
SEED: Final = 42

_AXES: Final = ("x", "y", "z")


@dataclass(frozen=True, slots=True)
class SinglePoint:
    """Results of one calculation.

    Parameters
    ----------
    energy
        Hartree.
    homo, lumo
        Frontier orbital energies, eV; see :func:`qforge_sdk.chem.electrons.frontier_orbitals` for open shells.
    dipole
        Norm, debye.
    charges
        Mulliken, e, one an atom.
    forces
        Shape (n_atoms, 3), hartree/bohr.
    seconds
        Wall time.
    """

    energy: float
    homo: float
    lumo: float
    dipole: float
    charges: list[float]
    forces: list[list[float]]
    seconds: float


@dataclass(slots=True)
class Outcome:
    """What one molecule left behind, as it is kept between runs.

    Parameters
    ----------
    smiles
        Canonical SMILES.
    total_charge, unpaired_electrons
        Input of the calculation.
    convergence_status
        ``converged``, ``not_converged`` or ``error``.
    reason
        Why there is no result.
    recipe, elements, positions
        The geometry, angstrom; empty when none was found.
    result
        None unless converged.
    """

    smiles: str
    total_charge: int
    unpaired_electrons: int
    convergence_status: str = "error"
    reason: str | None = None
    recipe: str | None = None
    elements: list[str] = field(default_factory=list)
    positions: list[list[float]] = field(default_factory=list)
    result: SinglePoint | None = None


def molecules_table(structures: Sequence[Structure]) -> pa.Table:
    """Names and groups.

    Parameters
    ----------
    structures
        The sample.

    Returns
    -------
    pyarrow.Table
        One row a molecule.
    """
    schema = pa.schema([_text("name", nullable=True), _text("smiles"), _text("category")])
    return pa.Table.from_pylist([structure._asdict() for structure in structures], schema=schema)


def calculations_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """Results, one row a molecule; numbers are null where there is no result.

    Parameters
    ----------
    outcomes
        In the order of the sample.

    Returns
    -------
    pyarrow.Table
        Fields with their unit as metadata.
    """
    schema = pa.schema(
        [
            _text("source_id"),
            _text("smiles"),
            *(_number(name) for name in ("energy", "homo", "lumo", "gap", "dipole", "total_charge")),
            pa.field("unpaired_electrons", pa.int16()),
            _text("method"),
            _text("xtb_version"),
            _text("convergence_status"),
            pa.field("optimized", pa.bool_()),
            _number("execution_time_seconds"),
            _text("xyz_file_hash", nullable=True),
            _text("metadata"),
        ]
    )
    rows = (_calculation(outcome) for outcome in outcomes)
    return pa.Table.from_pylist(
        [{"source_id": source_id(index)} | row for index, row in enumerate(rows, start=1)], schema=schema
    )


def atoms_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """Atoms with their positions, charges and forces.

    Parameters
    ----------
    outcomes
        In the order of the sample.

    Returns
    -------
    pyarrow.Table
        One row an atom; charge and force are null where the calculation has no result.
    """
    numbers = tuple(DECIMALS)
    schema = pa.schema(
        [
            _text("source_id"),
            pa.field("atom_index", pa.int32()),
            _text("element"),
            pa.field("atomic_number", pa.int16()),
            *(_number(name, pa.float32()) for name in numbers),
        ]
    )
    rows = [row for index, outcome in enumerate(outcomes, start=1) for row in _atoms(source_id(index), outcome)]
    return pa.Table.from_pylist(rows, schema=schema)


def source_id(index: int) -> str:
    """Identifier of a calculation of the sample.

    Parameters
    ----------
    index
        Position in the sample, from 1.

    Returns
    -------
    str
        ``sample:0001`` and so on: the text sorts as the number does.
    """
    return f"sample:{index:04d}"


def write_table(table: pa.Table, path: Path) -> None:
    """Parquet file, as small as it gets with zstd.

    Parameters
    ----------
    table
        One of the three tables.
    path
        File to write.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    floats = [column.name for column in table.schema if pa.types.is_floating(column.type)]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=[column.name for column in table.schema if pa.types.is_string(column.type)],
        column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
    )


def _calculation(outcome: Outcome) -> dict[str, Any]:
    row = {
        "smiles": outcome.smiles,
        "total_charge": float(outcome.total_charge),
        "unpaired_electrons": outcome.unpaired_electrons,
        "method": METHOD,
        "xtb_version": f"tblite {version('tblite')}",
        "convergence_status": outcome.convergence_status,
        "optimized": False,
        "xyz_file_hash": _xyz_hash(outcome),
        "metadata": json.dumps(_provenance(outcome)),
    }
    if outcome.result is None:
        return row
    one = outcome.result
    return row | {
        "energy": one.energy,
        "homo": one.homo,
        "lumo": one.lumo,
        "gap": one.lumo - one.homo,
        "dipole": one.dipole,
        "execution_time_seconds": one.seconds,
    }


def _xyz_hash(outcome: Outcome) -> str | None:
    if not outcome.elements:
        return None
    return sha256(xyz_text(outcome.smiles, outcome.elements, outcome.positions).encode()).hexdigest()


def _provenance(outcome: Outcome) -> dict[str, Any]:
    facts = {
        "program": f"tblite {version('tblite')}",
        "geometry": outcome.recipe,
        "seed": SEED,
        "rdkit": rdBase.rdkitVersion,
        "reason": outcome.reason,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _atoms(source: str, outcome: Outcome) -> Iterator[dict[str, Any]]:
    for index, element in enumerate(outcome.elements):
        row = {
            "source_id": source,
            "atom_index": index,
            "element": element,
            "atomic_number": atomic_number(element),
        } | _along("position", outcome.positions[index])
        if outcome.result is not None:
            row["partial_charge"] = outcome.result.charges[index]
            row |= _along("force", outcome.result.forces[index])
        yield row


def _along(quantity: str, vector: Iterable[float]) -> dict[str, Any]:
    return {f"{quantity}_{axis}": value for axis, value in zip(_AXES, vector, strict=True)}


def _text(name: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, pa.string(), nullable=nullable)


def _number(name: str, type_: Any = None) -> pa.Field:
    return pa.field(name, type_ or pa.float64(), metadata={"unit": QUANTITIES[name].unit})
