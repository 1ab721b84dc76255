"""Compute the sample data: ``python -m qforge_sdk.compute.sample``.

Reads ``molecules.csv`` and the rules of :mod:`qforge_sdk.data.series`, makes a geometry of every molecule, runs one
GFN2-xTB single point with tblite and writes three Parquet files. Finished molecules are kept in the output folder, so
that a second run continues where the first one stopped.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from rdkit import Chem, rdBase

from qforge_sdk.chem.conformer import Conformer, geometry_from_smiles
from qforge_sdk.chem.geometry import FloatArray
from qforge_sdk.compute.sample_tables import (
    SEED,
    Outcome,
    SinglePoint,
    atoms_table,
    calculations_table,
    molecules_table,
    write_table,
)
from qforge_sdk.compute.tblite import TbliteEngine
from qforge_sdk.data import DECIMALS, TABLES, sample_path
from qforge_sdk.data.series import Structure, systematic_structures
from qforge_sdk.errors import ComputationFailed, InvalidInput

T = TypeVar("T")

MAX_HEAVY_ATOMS: Final = 45

_log = logging.getLogger("qforge_sdk.compute.sample")


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
    for structure in chain(read_named(sample_path("molecules").with_name("molecules.csv")), systematic_structures()):
        molecule = _parse(structure.smiles)
        smiles = Chem.MolToSmiles(molecule)
        if smiles not in seen and molecule.GetNumHeavyAtoms() <= MAX_HEAVY_ATOMS:
            seen.add(smiles)
            yield structure._replace(smiles=smiles)


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
        conformer = geometry_from_smiles(smiles, seed=SEED, decimals=DECIMALS["position_x"])
        outcome.recipe, outcome.elements = _recipe(conformer), list(conformer.geometry.symbols)
        outcome.positions = conformer.geometry.positions.tolist()
        outcome.result = single_point(conformer)
    except ComputationFailed as failure:
        outcome.reason = str(failure)
        outcome.convergence_status = "not_converged" if failure.code == "scf_not_converged" else "error"
    else:
        outcome.convergence_status = "converged"
    return outcome


def single_point(conformer: Conformer) -> SinglePoint:
    """GFN2-xTB energy and properties in the gas phase.

    Parameters
    ----------
    conformer
        Geometry, charge and spin.

    Returns
    -------
    SinglePoint
        Results.

    Raises
    ------
    ComputationFailed
        tblite has no result, or there is no homo or no lumo.
    MissingExtra
        tblite is not installed.
    """
    result = TbliteEngine().run(
        conformer.geometry, charge=conformer.charge, unpaired_electrons=conformer.unpaired_electrons
    )
    if result.homo is None or result.lumo is None:
        raise ComputationFailed("no homo or no lumo in the valence basis", code="engine_error")
    return SinglePoint(
        energy=_known(result.energy),
        homo=result.homo,
        lumo=result.lumo,
        dipole=_known(result.dipole),
        charges=_rounded(_known(result.charges), DECIMALS["partial_charge"]),
        forces=_rounded(_known(result.forces), DECIMALS["force_x"]),
        seconds=_known(result.execution_time_seconds),
    )


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
    parser = argparse.ArgumentParser(
        prog="python -m qforge_sdk.compute.sample", description="Compute the sample data."
    )
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


def _recipe(conformer: Conformer) -> str:
    made = conformer.provenance
    random = ["random coordinates"] if made["random_coordinates"] else []
    return ", ".join(["AddHs", made["generator"], *random, made["force_field"] or "no force field"])


def _known(value: T | None) -> T:
    assert value is not None
    return value


def _be_quiet() -> None:
    rdBase.DisableLog("rdApp.*")


def _rounded(values: FloatArray, decimals: int) -> Any:
    return (np.round(values, decimals) + 0.0).tolist()


if __name__ == "__main__":
    main()
