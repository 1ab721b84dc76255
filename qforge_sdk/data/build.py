"""Recompute the sample data: ``python -m qforge_sdk.data.build``.

Reads ``named.csv`` and the rules of :mod:`qforge_sdk.data.series`, embeds every molecule with RDKit, runs one GFN2-xTB
single point with tblite and writes three Parquet files. Finished molecules are kept in the output folder, so that a
second run continues where the first one stopped.

References
----------
C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 2019, 15, 1652, doi:10.1021/acs.jctc.8b01176 (GFN2-xTB)
S. Wang, J. Witek, G. A. Landrum, S. Riniker, J. Chem. Inf. Model. 2020, 60, 2044, doi:10.1021/acs.jcim.0c00025 (ETKDGv3)
T. A. Halgren, J. Comput. Chem. 1996, 17, 490 (MMFF94)
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem, RDLogger, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from qforge_sdk.data import CHARGE_DECIMALS, FORCE_DECIMALS, POSITION_DECIMALS, sample_path, xyz_text
from qforge_sdk.data.series import Structure, systematic_structures
from qforge_sdk.errors import InvalidInput
from qforge_sdk.quantities import ATOMIC_DIPOLE_IN_DEBYE, BOHR_IN_ANGSTROM, HARTREE_IN_EV, QUANTITIES

FloatArray = npt.NDArray[np.float64]

METHOD: Final = "GFN2-xTB"
SEED: Final = 42
MAX_HEAVY_ATOMS: Final = 45
TABLES: Final = ("molecules", "calculations", "atoms")
# Constants for the SCF and the single point's numbers; all null unless it converged.
RESULTS: Final = ("energy", "homo", "lumo", "gap", "dipole", "execution_time_seconds")

_FORCE_FIELD_STEPS: Final = 5000
_log = logging.getLogger(__name__)


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


@dataclass(slots=True)
class Outcome:
    """What one molecule's calculation left behind, as it is kept between runs.

    Parameters
    ----------
    smiles
        Canonical SMILES.
    total_charge, unpaired_electrons
        Input of the calculation.
    convergence_status
        ``converged``, ``not_converged`` or ``error``.
    recipe, reason
        How the geometry was made, and why there is no result.
    elements, positions
        Atoms, angstrom; empty without a geometry.
    results
        The names of ``RESULTS`` to their values.
    charges, forces
        Mulliken charges, e, and forces, hartree/bohr; None without a result.
    """

    smiles: str
    total_charge: int
    unpaired_electrons: int
    convergence_status: str = "error"
    recipe: str | None = None
    reason: str | None = None
    elements: list[str] = field(default_factory=list)
    positions: list[list[float]] = field(default_factory=list)
    results: dict[str, float] = field(default_factory=dict)
    charges: list[float] | None = None
    forces: list[list[float]] | None = None


def read_named(path: Path) -> Iterator[Structure]:
    """Well-known molecules of a CSV file with the columns name, category, smiles and formula.

    Parameters
    ----------
    path
        The file; an empty formula is not compared.

    Yields
    ------
    Structure
        One a line.

    Raises
    ------
    InvalidInput
        A SMILES cannot be read, or its formula is not the one in the file.
    """
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            molecule = _parse(line["smiles"])
            formula = CalcMolFormula(molecule).rstrip("+-0123456789") if "." in line["smiles"] else _formula(molecule)
            if line["formula"] and Counter(_elements(line["formula"])) != Counter(formula):
                raise InvalidInput(f"{line['name']}: {line['smiles']} is not {line['formula']}")
            yield Structure(line["name"], line["smiles"], line["category"])
