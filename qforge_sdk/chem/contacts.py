"""The closest pair of atoms in each of many molecules."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from rdkit import Chem

from qforge_sdk.chem.geometry import FloatArray

#: Distances that are held at once.
_AT_ONCE: Final = 1_000_000


class Contacts(NamedTuple):
    """The closest pair of each molecule.

    Parameters
    ----------
    ratio
        Shape (n_molecules,): distance of the pair over the sum of its covalent radii, the smallest of the molecule's;
        infinite for a single atom.
    distance
        Shape (n_molecules,), angstrom.
    first, second
        Shape (n_molecules,): indices of the two atoms in their molecule.
    """

    ratio: FloatArray
    distance: FloatArray
    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]


def closest_contacts(sizes: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64], positions: FloatArray) -> Contacts:
    """Find the closest pair of atoms in each molecule, by the sum of their covalent radii.

    Parameters
    ----------
    sizes
        Shape (n_molecules,): atoms of each, which follow one another.
    numbers
        Shape (n_atoms,), atomic numbers.
    positions
        Shape (n_atoms, 3), angstrom.

    Returns
    -------
    Contacts
        One pair a molecule.

    References
    ----------
    Covalent radii: B. Cordero et al., Dalton Trans. 2008, 2832, doi:10.1039/b801115j, as RDKit has them
    """
    found = Contacts(np.full(len(sizes), np.inf), np.full(len(sizes), np.inf), *np.zeros((2, len(sizes)), np.int64))
    starts = np.cumsum(sizes) - sizes
    radii = _radii()[numbers]
    for size in np.unique(sizes[sizes > 1]).tolist():
        those = np.flatnonzero(sizes == size)
        together = max(1, _AT_ONCE // size**2)
        for begin in range(0, len(those), together):
            part = those[begin : begin + together]
            atoms = starts[part][:, None] + np.arange(size)
            _search(found, part, positions[atoms], radii[atoms])
    return found


def _search(found: Contacts, molecules: npt.NDArray[np.int64], positions: FloatArray, radii: FloatArray) -> None:
    """Molecules of one size, some of their atoms against all of them at a time."""
    count, size = radii.shape
    # Near the origin the difference of squares keeps its digits.
    positions = positions - positions.mean(axis=1, keepdims=True)
    squares = np.einsum("mik,mik->mi", positions, positions)
    step = max(1, _AT_ONCE // (count * size))
    for start in range(0, size, step):
        rows = slice(start, start + step)
        squared = -2 * (positions[:, rows] @ positions.transpose(0, 2, 1))
        squared += squares[:, rows, None]
        squared += squares[:, None, :]
        squared /= (radii[:, rows, None] + radii[:, None, :]) ** 2
        here = np.arange(squared.shape[1])
        squared[:, here, start + here] = np.inf
        place = squared.reshape(count, -1).argmin(axis=1)
        first, second = start + place // size, place % size
        ratio = np.sqrt(np.maximum(squared.reshape(count, -1)[np.arange(count), place], 0))
        better = ratio < found.ratio[molecules]
        those, each = molecules[better], np.flatnonzero(better)
        found.ratio[those] = ratio[better]
        found.distance[those] = ratio[better] * (radii[each, first[better]] + radii[each, second[better]])
        found.first[those], found.second[those] = first[better], second[better]


def _radii() -> FloatArray:
    table = Chem.GetPeriodicTable()
    return np.array([1.0, *(table.GetRcovalent(number) for number in range(1, 119))])
