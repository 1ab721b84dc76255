"""What the energy of a composition usually is: a sum over elements, fitted on the energies themselves.

The sum has one term for each element, one for each unit of positive and of negative charge and one for each unpaired
electron. The fit withstands faulty energies: it begins with least absolute deviations of the energies per atom and
ends with least squares over what lies near. The error of a sum of n atoms is taken to grow with the square root of n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from qforge_sdk.chem.formula import composition
from qforge_sdk.chem.geometry import FloatArray, atomic_number
from qforge_sdk.errors import InvalidInput

BoolArray: TypeAlias = npt.NDArray[np.bool_]
CountArray: TypeAlias = npt.NDArray[np.int16]
KeyArray: TypeAlias = npt.NDArray[np.int64]

N_NUMBERS: Final = 119
"""Columns of a table of counts: atomic numbers from 0 to 118."""

LEAST_ROWS: Final = 30
"""Energies without which nothing is fitted."""

LEAST_ROWS_A_TERM: Final = 5
"""Energies that must hold an element, or a charge of that sign, before others that hold it are judged."""

_ROW: Final = np.dtype(
    [("order", "u8"), ("energy", "f8"), ("charge", "f8"), ("unpaired", "f8"), ("counts", "i2", (N_NUMBERS,))]
)
_MAD_TO_DEVIATION: Final = 1.4826
_NEAR: Final = 5.0


class Compositions:
    """Atoms of each element in formulas; each formula is read once.

    Parameters
    ----------
    most
        Formulas that are remembered.
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._known: dict[str | None, CountArray] = {}

    def table(self, formulas: list[str | None]) -> CountArray:
        """Counts of the formulas.

        Parameters
        ----------
        formulas
            Such as ``C2H6O`` or ``H4N+``.

        Returns
        -------
        numpy.ndarray
            Shape (n_formulas, 119), by atomic number; a row of zeros where a formula cannot be read.
        """
        if len(self._known) > self._most:
            self._known.clear()
        for formula in formulas:
            if formula not in self._known:
                self._known[formula] = _counts(formula)
        return np.array([self._known[formula] for formula in formulas], np.int16).reshape(-1, N_NUMBERS)


@dataclass(frozen=True, slots=True, eq=False)
class ElementSum:
    """A fitted sum.

    Parameters
    ----------
    rows
        Energies that it was fitted on.
    spread
        Robust standard deviation of an energy from the sum, hartree; that of n atoms is sqrt(n) times as large.
    terms
        Shape (122,), hartree: by atomic number, then a positive charge, a negative one and an unpaired electron.
    judged
        Shape (122,): which terms enough energies have.
    """

    rows: int
    spread: float
    terms: FloatArray
    judged: BoolArray
    _used: KeyArray
    _inverse: FloatArray

    def deviations(
        self,
        energy: FloatArray,
        counts: CountArray,
        charge: FloatArray,
        unpaired: FloatArray,
        *,
        times: float,
        floor: float,
    ) -> tuple[FloatArray, FloatArray]:
        """How far energies lie from the sum, and how far they may.

        Parameters
        ----------
        energy
            Shape (n,), hartree.
        counts
            Shape (n, 119).
        charge, unpaired
            Shape (n,).
        times
            How many times the spread is allowed.
        floor
            What is allowed in any case, hartree an atom.

        Returns
        -------
        tuple of numpy.ndarray
            Energy minus sum and the limit for its absolute value, hartree; NaN where the fit cannot tell.
        """
        design = _design(counts, charge, unpaired)
        n_atoms = counts.sum(axis=1, dtype=np.float64)
        scaled = design[:, self._used] / np.sqrt(np.maximum(n_atoms, 1))[:, None]
        leverage = np.einsum("ij,ij->i", scaled @ self._inverse, scaled)
        spread = self.spread * np.sqrt(n_atoms * (1 + np.maximum(leverage, 0)))
        limit = np.maximum(times * spread, floor * n_atoms)
        blind = ((design != 0) & ~self.judged).any(axis=1) | (n_atoms == 0)
        deviation = energy - design @ self.terms
        return np.where(blind, np.nan, deviation), np.where(blind, np.nan, limit)


class EnergySample:
    """Energies to fit on: at most so many, the same ones in whatever order they come.

    Parameters
    ----------
    most
        How many, chosen by a hash of their keys.
    each
        So many that hold an element are kept beyond that, or all where it is rare.
    """

    def __init__(self, most: int = 10_000, each: int = 200) -> None:
        self._most = most
        self._each = each
        self._rows = np.empty(0, _ROW)

    def add(
        self, keys: KeyArray, energy: FloatArray, counts: CountArray, charge: FloatArray, unpaired: FloatArray
    ) -> None:
        """Take more energies.

        Parameters
        ----------
        keys
            Shape (n,), of the calculations.
        energy
            Shape (n,), hartree, finite.
        counts
            Shape (n, 119).
        charge, unpaired
            Shape (n,).
        """
        # Whatever is left out at once would be left out later, too.
        for start in range(0, len(keys), self._most):
            part = slice(start, start + self._most)
            more = np.empty(len(keys[part]), _ROW)
            more["order"] = _mixed(keys[part])
            more["energy"], more["counts"] = energy[part], counts[part]
            more["charge"], more["unpaired"] = charge[part], unpaired[part]
            self._rows = np.concatenate([self._rows, more])
            if len(self._rows) > 2 * self._most:
                self._thin()

    def fit(self, *, floor: float) -> ElementSum | str:
        """Fit the sum.

        Parameters
        ----------
        floor
            Deviation that is ordinary in any case, hartree an atom.

        Returns
        -------
        ElementSum or str
            A sentence where there are too few energies.
        """
        self._thin()
        rows = self._rows
        rows = rows[(rows["counts"] > 0).any(axis=1)]
        design = _design(rows["counts"], rows["charge"], rows["unpaired"])
        needed = max(LEAST_ROWS, 3 * int((design != 0).any(axis=0).sum()))
        if len(rows) < needed:
            return f"{len(rows)} converged energies, {needed} are needed"
        return _fit(rows["energy"], design, floor)

    def _thin(self) -> None:
        rows = self._rows = np.sort(self._rows, order="order")
        if len(rows) <= self._most:
            return
        holds = rows["counts"] > 0
        rare = (holds & (np.cumsum(holds, axis=0, dtype=np.int32) <= self._each)).any(axis=1)
        self._rows = rows[rare | (np.arange(len(rows)) < self._most)]


def _fit(energy: FloatArray, design: FloatArray, floor: float) -> ElementSum:
    used = np.flatnonzero((design != 0).any(axis=0))
    n_atoms = design[:, :N_NUMBERS].sum(axis=1)
    root = np.sqrt(n_atoms)
    y, x = energy / root, design[:, used] / root[:, None]
    residual = y - x @ _least_absolute(energy / n_atoms, design[:, used] / n_atoms[:, None])
    kept: BoolArray = np.zeros(len(y), bool)
    for _ in range(20):
        spread = _MAD_TO_DEVIATION * float(np.median(np.abs(residual)))
        near = np.abs(residual) <= np.maximum(_NEAR * spread, floor * root)
        if (near == kept).all():
            break
        kept = near
        terms = _least_squares(x[kept], y[kept])
        residual = y - x @ terms
    every = np.zeros(design.shape[1])
    every[used] = terms
    inverse = np.linalg.pinv(x[kept].T @ x[kept], hermitian=True)
    judged = np.count_nonzero(design[kept], axis=0) >= LEAST_ROWS_A_TERM
    return ElementSum(int(kept.sum()), spread, every, judged, used, inverse)


def _least_absolute(y: FloatArray, x: FloatArray) -> FloatArray:
    """Least absolute deviations, by least squares with weights that are taken from the last ones."""
    weight: FloatArray = np.ones(len(y))
    for _ in range(30):
        terms = _least_squares(x * weight[:, None], y * weight)
        weight = np.maximum(np.abs(y - x @ terms), 1e-5) ** -0.5
    return terms


def _least_squares(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0], np.float64)


def _design(counts: CountArray, charge: FloatArray, unpaired: FloatArray) -> FloatArray:
    return np.column_stack([counts, np.maximum(charge, 0), np.maximum(-charge, 0), unpaired]).astype(np.float64)


def _mixed(keys: KeyArray) -> npt.NDArray[np.uint64]:
    """Keys in an order that has nothing to do with them: the finaliser of splitmix64."""
    value = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _counts(formula: str | None) -> CountArray:
    counts = np.zeros(N_NUMBERS, np.int16)
    try:
        for symbol, number in (composition(formula or "") or {}).items():
            counts[atomic_number(symbol)] = number
    except (InvalidInput, OverflowError):
        counts[:] = 0
    return counts
