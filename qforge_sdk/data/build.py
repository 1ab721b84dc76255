"""Compute the sample data: ``python -m qforge_sdk.data.build``.

Reads ``molecules.csv`` and the rules of :mod:`qforge_sdk.data.series`, embeds every molecule with RDKit, runs one
GFN2-xTB single point with tblite and writes three Parquet files. Finished molecules are kept in the output folder, so
that a second run continues where the first one stopped.

References
----------
C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 2019, 15, 1652, doi:10.1021/acs.jctc.8b01176 (GFN2-xTB)
S. Wang et al., J. Chem. Inf. Model. 2020, 60, 2044, doi:10.1021/acs.jcim.0c00025 (ETKDGv3)
T. A. Halgren, J. Comput. Chem. 1996, 17, 490 (MMFF94)
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import multiprocessing
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from qforge_sdk.data import DECIMALS, TABLES, sample_path, xyz_text
from qforge_sdk.data.series import Structure, systematic_structures
from qforge_sdk.errors import InvalidInput, MissingExtra
from qforge_sdk.quantities import ATOMIC_DIPOLE_IN_DEBYE, BOHR_IN_ANGSTROM, HARTREE_IN_EV, QUANTITIES

FloatArray = npt.NDArray[np.float64]

METHOD: Final = "GFN2-xTB"
SEED: Final = 42
MAX_HEAVY_ATOMS: Final = 45

_FORCE_FIELD_STEPS: Final = 5000
_STRETCHED_ANGSTROM: Final = 0.15
_AXES: Final = ("x", "y", "z")
_log = logging.getLogger("qforge_sdk.data.build")


class GeometryNotFound(InvalidInput):
    """RDKit has no conformer for a molecule."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Atoms of one molecule and how their positions were made.

    Parameters
    ----------
    elements
        Symbols, one an atom.
    positions
        Shape (n_atoms, 3), angstrom, already rounded as they are stored.
    recipe
        Steps that led to the positions.
    """

    elements: list[str]
    positions: FloatArray
    recipe: str


@dataclass(frozen=True, slots=True)
class SinglePoint:
    """Results of one calculation.

    Parameters
    ----------
    energy
        Hartree.
    homo, lumo
        Frontier orbital energies, eV; see :func:`frontier_orbitals` for open shells.
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


def read_named(path: Path) -> Iterator[Structure]:
    """Well-known molecules of a CSV file with the columns name, category, smiles and formula.

    Parameters
    ----------
    path
        The file.

    Yields
    ------
    Structure
        One a line.

    Raises
    ------
    InvalidInput
        A SMILES cannot be read, or is not the molecule whose formula the file gives.
    """
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            molecule = Chem.AddHs(_parse(line["smiles"]))
            atoms = Counter(atom.GetSymbol() for atom in molecule.GetAtoms())
            if atoms != _atom_counts(line["formula"]):
                raise InvalidInput(f"{line['name']}: {line['smiles']} is not {line['formula']}", field="formula")
            yield Structure(line["name"], line["smiles"], line["category"])


def sample_structures() -> Iterator[Structure]:
    """Structures of the sample: well-known molecules first, each molecule once.

    Yields
    ------
    Structure
        Canonical SMILES of at most 45 heavy atoms, one component.

    Raises
    ------
    InvalidInput
        A SMILES cannot be read, or its formula is another one than stated.
    """
    seen: set[str] = set()
    for structure in chain(read_named(Path(__file__).with_name("molecules.csv")), systematic_structures()):
        molecule = _parse(structure.smiles)
        smiles = Chem.MolToSmiles(molecule)
        if smiles not in seen and molecule.GetNumHeavyAtoms() <= MAX_HEAVY_ATOMS:
            seen.add(smiles)
            yield structure._replace(smiles=smiles)


def embed(molecule: Any) -> Geometry:
    """One conformer, the same on every run.

    Parameters
    ----------
    molecule
        RDKit molecule, hydrogen atoms implicit.

    Returns
    -------
    Geometry
        ETKDGv3 and then MMFF94, or UFF where MMFF94 has no parameters, or no force field where UFF has none
        either.

    Raises
    ------
    GeometryNotFound
        ETKDGv3 gave no conformer, from random coordinates either.
    """
    molecule = Chem.AddHs(molecule)
    recipe = ["AddHs", "ETKDGv3"]
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = SEED
    if rdDistGeom.EmbedMolecule(molecule, parameters) < 0:
        parameters.useRandomCoords = True
        recipe.append("random coordinates")
        if rdDistGeom.EmbedMolecule(molecule, parameters) < 0:
            raise GeometryNotFound("ETKDGv3 found no conformer", field="smiles")
    recipe.append(_relax(molecule))
    # Adding zero turns -0.0 into 0.0, which prints differently.
    positions = np.round(molecule.GetConformer().GetPositions(), DECIMALS["position_x"]) + 0.0
    return Geometry([atom.GetSymbol() for atom in molecule.GetAtoms()], positions, ", ".join(recipe))


def single_point(geometry: Geometry, total_charge: int, unpaired_electrons: int) -> SinglePoint:
    """GFN2-xTB energy and properties in the gas phase.

    Parameters
    ----------
    geometry
        Atoms and positions.
    total_charge
        In units of e.
    unpaired_electrons
        Number of alpha electrons minus beta electrons.

    Returns
    -------
    SinglePoint
        Results.

    Raises
    ------
    MissingExtra
        tblite is not installed.
    InvalidInput
        There is no homo or no lumo.
    tblite.exceptions.TBLiteRuntimeError
        The self-consistent charges did not converge.
    """
    calculator = _calculator(geometry, total_charge, unpaired_electrons)
    start = perf_counter()
    results = calculator.singlepoint()
    seconds = perf_counter() - start
    orbitals = HARTREE_IN_EV * results.get("orbital-energies")
    n_electrons = round(float(results.get("orbital-occupations").sum()))
    homo, lumo = frontier_orbitals(orbitals, n_electrons, unpaired_electrons)
    return SinglePoint(
        energy=float(results.get("energy")),
        homo=homo,
        lumo=lumo,
        dipole=ATOMIC_DIPOLE_IN_DEBYE * float(np.linalg.norm(results.get("dipole"))),
        charges=_rounded(results.get("charges"), DECIMALS["partial_charge"]),
        forces=_rounded(-results.get("gradient"), DECIMALS["force_x"]),
        seconds=seconds,
    )


def frontier_orbitals(orbitals: FloatArray, n_electrons: int, unpaired_electrons: int) -> tuple[float, float]:
    """Energies of the highest occupied and the lowest unoccupied orbital.

    GFN2-xTB without spin polarisation has one set of orbitals for both spins; the alpha electrons reach higher in it.
    In an open shell homo is therefore the highest singly occupied orbital, lumo the lowest one without any electron.

    Parameters
    ----------
    orbitals
        Energies, ascending.
    n_electrons
        Valence electrons.
    unpaired_electrons
        Number of alpha electrons minus beta electrons.

    Returns
    -------
    tuple[float, float]
        homo and lumo in the unit of ``orbitals``.

    Raises
    ------
    InvalidInput
        The valence basis has no occupied or no unoccupied orbital, as in a proton or a hydrogen atom.
    """
    n_alpha = (n_electrons + unpaired_electrons + 1) // 2
    if not 0 < n_alpha < len(orbitals):
        raise InvalidInput(f"no homo or no lumo: {n_alpha} occupied of {len(orbitals)} valence orbitals")
    return float(orbitals[n_alpha - 1]), float(orbitals[n_alpha])


def compute(smiles: str) -> Outcome:
    """Geometry and single point of one molecule; a failure is an outcome too.

    Parameters
    ----------
    smiles
        Canonical SMILES.

    Returns
    -------
    Outcome
        With a result, or with the reason why there is none.

    Raises
    ------
    InvalidInput
        The SMILES cannot be read.
    MissingExtra
        tblite is not installed.
    """
    molecule = _parse(smiles)
    outcome = Outcome(
        smiles=smiles,
        total_charge=Chem.GetFormalCharge(molecule),
        unpaired_electrons=sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()),
    )
    try:
        geometry = embed(molecule)
        outcome.recipe, outcome.elements = geometry.recipe, geometry.elements
        outcome.positions = geometry.positions.tolist()
        outcome.result = single_point(geometry, outcome.total_charge, outcome.unpaired_electrons)
    except (GeometryNotFound, RuntimeError, ValueError) as failure:
        outcome.reason = str(failure)
        outcome.convergence_status = "not_converged" if "not converged" in outcome.reason else "error"
    else:
        outcome.convergence_status = "converged"
    return outcome


def compute_or_read(smiles: str, *, folder: Path) -> Outcome:
    """Outcome of an earlier run, or a new one that is kept.

    Parameters
    ----------
    smiles
        Canonical SMILES.
    folder
        Existing folder with one JSON file a molecule.

    Returns
    -------
    Outcome
        The outcome.

    Raises
    ------
    InvalidInput
        The SMILES cannot be read.
    MissingExtra
        tblite is not installed.
    """
    path = folder / f"{sha256(smiles.encode()).hexdigest()[:20]}.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Outcome(**stored | {"result": stored["result"] and SinglePoint(**stored["result"])})
    outcome = compute(smiles)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    unfinished.replace(path)
    return outcome


def compute_all(smiles: Sequence[str], *, folder: Path, workers: int) -> list[Outcome]:
    """Outcomes in the order of the molecules.

    Parameters
    ----------
    smiles
        Canonical SMILES.
    folder
        Where finished molecules are kept; made if missing.
    workers
        Number of processes, each of one thread.

    Returns
    -------
    list[Outcome]
        One a molecule.

    Raises
    ------
    MissingExtra
        tblite is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # tblite reads it when it is loaded: only a spawned process starts without it.
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    outcomes = []
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_be_quiet) as pool:
        for outcome in pool.map(partial(compute_or_read, folder=folder), smiles, chunksize=4):
            outcomes.append(outcome)
            if len(outcomes) % 100 == 0:
                _log.info("%d of %d molecules", len(outcomes), len(smiles))
    return outcomes


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


def build(folder: Path, *, workers: int = 2, limit: int | None = None) -> list[Path]:
    """Compute the sample and write its three tables.

    Parameters
    ----------
    folder
        Receives the Parquet files, and ``cache`` with one file a molecule.
    workers
        Number of processes.
    limit
        Stop after so many molecules.

    Returns
    -------
    list[Path]
        The molecules, calculations and atoms.

    Raises
    ------
    MissingExtra
        tblite is not installed.
    InvalidInput
        A line of ``molecules.csv`` is wrong.
    """
    structures = list(islice(sample_structures(), limit))
    outcomes = compute_all([one.smiles for one in structures], folder=folder / "cache", workers=workers)
    tables = (molecules_table(structures), calculations_table(outcomes), atoms_table(outcomes))
    paths = [folder / sample_path(name).name for name in TABLES]
    for table, path in zip(tables, paths, strict=True):
        write_table(table, path)
        _log.info("%s: %d rows, %d bytes", path.name, table.num_rows, path.stat().st_size)
    _log.info("%s", dict(Counter(outcome.convergence_status for outcome in outcomes)))
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: ``--output``, ``--workers``, ``--limit``, ``--install``.

    Parameters
    ----------
    arguments
        Words of the command line; those of the process if None.

    Raises
    ------
    MissingExtra
        tblite is not installed.
    InvalidInput
        A line of ``molecules.csv`` is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m qforge_sdk.data.build", description="Compute the sample data.")
    parser.add_argument("--output", type=Path, default=Path("build/sample"), help="folder of results and tables")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--limit", type=int, help="stop after so many molecules")
    parser.add_argument("--install", action="store_true", help="copy the tables into the package")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    paths = build(options.output, workers=options.workers, limit=options.limit)
    if options.install:
        for path in paths:
            shutil.copyfile(path, sample_path(path.stem))


def _parse(smiles: str) -> Any:
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise InvalidInput(f"not a SMILES: {smiles}", field="smiles", value=smiles)
    return molecule


def _atom_counts(formula: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for element, number in re.findall(r"([A-Z][a-z]?)(\d*)", formula):
        counts[element] += int(number or 1)
    return counts


def _relax(molecule: Any) -> str:
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule) and _mmff_knows_bonds(molecule):
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=_FORCE_FIELD_STEPS)
        return "MMFF94"
    if rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=_FORCE_FIELD_STEPS)
        return "UFF"
    return "no force field"


def _mmff_knows_bonds(molecule: Any) -> bool:
    return not any(map(_is_stretched_by_mmff, molecule.GetBonds()))


def _is_stretched_by_mmff(bond: Any) -> bool:
    # Without a bond of its own, MMFF94 as RDKit has it takes single-bond radii: 1.46 A in N2, 1.41 A in CO2.
    # P=S is the one where MMFF94 (1.95 A) is right and UFF (1.73 A) is not.
    atoms = bond.GetBeginAtom(), bond.GetEndAtom()
    if "P" in {atom.GetSymbol() for atom in atoms}:
        return False
    molecule, (first, second) = bond.GetOwningMol(), (atom.GetIdx() for atom in atoms)
    mmff = rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule).GetMMFFBondStretchParams(molecule, first, second)
    uff = rdForceFieldHelpers.GetUFFBondStretchParams(molecule, first, second)
    return bool(mmff and uff and mmff[2] - uff[1] > _STRETCHED_ANGSTROM)


def _calculator(geometry: Geometry, total_charge: int, unpaired_electrons: int) -> Any:
    try:
        from tblite.interface import Calculator
    except ImportError as exc:
        raise MissingExtra("tblite", "xtb") from exc
    numbers = np.array([_atomic_number(element) for element in geometry.elements])
    positions = geometry.positions / BOHR_IN_ANGSTROM
    calculator = Calculator(METHOD, numbers, positions, float(total_charge), unpaired_electrons)
    calculator.set("verbosity", 0)
    return calculator


def _atomic_number(element: str) -> int:
    return int(Chem.GetPeriodicTable().GetAtomicNumber(element))


def _be_quiet() -> None:
    rdBase.DisableLog("rdApp.*")


def _rounded(values: FloatArray, decimals: int) -> Any:
    return (np.round(values, decimals) + 0.0).tolist()


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
            "atomic_number": _atomic_number(element),
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


if __name__ == "__main__":
    main()
