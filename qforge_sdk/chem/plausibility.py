"""What makes a stored result suspicious: rules over columns, without a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from qforge_sdk.chem.contacts import closest_contacts
from qforge_sdk.chem.element_sum import N_NUMBERS, BoolArray, CountArray, ElementSum
from qforge_sdk.chem.geometry import FloatArray, element_symbol, hill_formula
from qforge_sdk.errors import InvalidInput

IntArray = npt.NDArray[np.int64]

SUSPICIONS: Final[Mapping[str, str]] = {
    "energy_off": "the energy is far from a sum over elements fitted on the database",
    "gap_tiny": "the gap is smaller than that of ordinary molecules",
    "gap_negative": "the gap is below zero",
    "rearranged": "input and final geometry were perceived as different molecules",
    "formula_differs": "the stored atoms are not those of the molecule",
    "charge_sum_off": "the atomic charges do not sum to the total charge",
    "atoms_close": "two atoms are closer than any bond",
}
"""Codes of suspicions."""

#: What one reason adds to the severity at most, and what one without a measure adds.
_MOST, _UNMEASURED = 10.0, 2.0
_NOISE_EV: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a number is suspicious.

    The defaults are for GFN-xTB. Of the sample data (3,231 molecules, explosives, ions and radicals among them) they
    name less than one in a hundred.

    Parameters
    ----------
    min_gap
        eV, of closed shells. The sample has none between 0.17 (a dye) and 0.55.
    min_gap_open_shell
        eV, where there are unpaired electrons: the gap of a degenerate radical such as NO is zero.
    max_deviation
        Robust standard deviations of an energy from the sum over elements.
    min_deviation
        Hartree an atom: what is never suspicious, however well the sum fits.
    max_charge_error
        e, between the sum of the atomic charges and the total charge.
    min_contact
        Distance of two atoms over the sum of their covalent radii. Triple bonds reach 0.77.

    Raises
    ------
    InvalidInput
        A limit is no finite number, or below zero.
    """

    min_gap: float = 0.3
    min_gap_open_shell: float = 0.0
    max_deviation: float = 12.0
    min_deviation: float = 0.005
    max_charge_error: float = 0.02
    min_contact: float = 0.65

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < inf:
                raise InvalidInput(f"{one.name} is a number, 0 or more, not {value!r}", field=one.name, value=value)


class Suspicion(NamedTuple):
    """One reason.

    Parameters
    ----------
    row
        Which calculation, from 0.
    code
        Key of :data:`SUSPICIONS`.
    sentence
        With the numbers.
    severity
        How many times the limit is exceeded, from 1 to 10; 2 where there is no measure.
    """

    row: int
    code: str
    sentence: str
    severity: float


@dataclass(frozen=True, slots=True, eq=False)
class CalculationRows:
    """Columns of calculations.

    Parameters
    ----------
    energy, gap, charge, unpaired
        Shape (n,); hartree, eV, e; NaN where there is none.
    counts
        Shape (n, 119): atoms of each element by the molecule's formula, zeros where that cannot be read.
    rearranged
        Shape (n,).
    """

    energy: FloatArray
    gap: FloatArray
    charge: FloatArray
    unpaired: FloatArray
    counts: CountArray
    rearranged: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class AtomRows:
    """Atoms of calculations, one calculation after the other.

    Parameters
    ----------
    rows
        Shape (n_atoms,): which calculation, rising.
    numbers
        Shape (n_atoms,), atomic numbers.
    positions
        Shape (n_atoms, 3), angstrom.
    charges
        Shape (n_atoms,), e; NaN where there is none.
    """

    rows: IntArray
    numbers: IntArray
    positions: FloatArray
    charges: FloatArray


def judge_numbers(these: CalculationRows, sums: Sequence[ElementSum | None], limits: Limits) -> Iterator[Suspicion]:
    """Suspicions that the numbers of calculations raise.

    Parameters
    ----------
    these
        What is judged.
    sums
        For each calculation what its energy is compared with, None for nothing.
    limits
        From where on.

    Yields
    ------
    Suspicion
        Rule by rule.
    """
    yield from _energies(these, sums, limits)
    yield from _gaps(these, limits)
    for row in np.flatnonzero(these.rearranged).tolist():
        yield Suspicion(row, "rearranged", SUSPICIONS["rearranged"], _UNMEASURED)


def judge_atoms(these: CalculationRows, atoms: AtomRows, limits: Limits) -> Iterator[Suspicion]:
    """Suspicions that the stored atoms of calculations raise.

    Parameters
    ----------
    these
        What is judged.
    atoms
        Of some of them.
    limits
        From where on.

    Yields
    ------
    Suspicion
        Rule by rule.
    """
    if not len(atoms.rows):
        return
    rows, sizes = np.unique(atoms.rows, return_counts=True)
    yield from _formulas(these, atoms, rows)
    yield from _charge_sums(these, atoms, rows, sizes, limits)
    yield from _contacts(atoms, rows, sizes, limits)


def _energies(these: CalculationRows, sums: Sequence[ElementSum | None], limits: Limits) -> Iterator[Suspicion]:
    different = {id(one): one for one in sums if one is not None}
    identities = np.array([id(one) for one in sums])
    for identity, fitted in different.items():
        rows = np.flatnonzero((identities == identity) & np.isfinite(these.energy))
        deviation, limit = fitted.deviations(
            these.energy[rows], these.counts[rows], these.charge[rows], these.unpaired[rows],
            times=limits.max_deviation, floor=limits.min_deviation,
        )  # fmt: skip
        for at in np.flatnonzero(np.abs(deviation) > limit).tolist():
            off = float(deviation[at])
            sentence = (
                f"energy {abs(off):.3f} hartree {'above' if off > 0 else 'below'} the sum over elements, "
                f"{limit[at]:.3f} is ordinary"
            )
            yield Suspicion(int(rows[at]), "energy_off", sentence, _times(abs(off), float(limit[at])))


def _gaps(these: CalculationRows, limits: Limits) -> Iterator[Suspicion]:
    least = np.where(these.unpaired > 0, limits.min_gap_open_shell, limits.min_gap)
    for row in np.flatnonzero((these.gap < least) | (these.gap < -_NOISE_EV)).tolist():
        gap = float(these.gap[row])
        if gap < -_NOISE_EV:
            yield Suspicion(row, "gap_negative", f"gap {gap:.3f} eV is below zero", _MOST)
        elif gap < least[row] - _NOISE_EV:
            yield Suspicion(
                row, "gap_tiny", f"gap {gap:.3f} eV, below {least[row]:g} eV", _times(float(least[row]), gap)
            )


def _formulas(these: CalculationRows, atoms: AtomRows, rows: IntArray) -> Iterator[Suspicion]:
    place = np.searchsorted(rows, atoms.rows)
    counted = np.bincount(place * N_NUMBERS + atoms.numbers, minlength=len(rows) * N_NUMBERS).reshape(-1, N_NUMBERS)
    wanted = these.counts[rows]
    for at in np.flatnonzero((counted != wanted).any(axis=1) & wanted.any(axis=1)).tolist():
        found, formula = _formula(counted[at]), _formula(wanted[at])
        yield Suspicion(
            int(rows[at]), "formula_differs", f"the stored atoms are {found}, the molecule is {formula}", _MOST
        )


def _charge_sums(
    these: CalculationRows, atoms: AtomRows, rows: IntArray, sizes: IntArray, limits: Limits
) -> Iterator[Suspicion]:
    # An atom without a charge makes the sum NaN, which is judged by nothing.
    summed = np.add.reduceat(atoms.charges, np.cumsum(sizes) - sizes)
    for at in np.flatnonzero(np.abs(summed - these.charge[rows]) > limits.max_charge_error).tolist():
        total = float(these.charge[rows[at]])
        yield Suspicion(
            int(rows[at]),
            "charge_sum_off",
            f"the atomic charges sum to {summed[at]:.3f} e, the total charge is {total:g} e",
            _times(abs(float(summed[at]) - total), limits.max_charge_error),
        )


def _contacts(atoms: AtomRows, rows: IntArray, sizes: IntArray, limits: Limits) -> Iterator[Suspicion]:
    closest = closest_contacts(sizes, atoms.numbers, atoms.positions)
    starts = np.cumsum(sizes) - sizes
    for at in np.flatnonzero(closest.ratio < limits.min_contact).tolist():
        pair = sorted([int(closest.first[at]), int(closest.second[at])])
        named = " and ".join(f"{element_symbol(int(atoms.numbers[starts[at] + one]))} {one}" for one in pair)
        yield Suspicion(
            int(rows[at]),
            "atoms_close",
            f"atoms {named} are {closest.distance[at]:.3f} angstrom apart",
            _times(limits.min_contact, float(closest.ratio[at])),
        )


def _times(larger: float, smaller: float) -> float:
    return min(larger / smaller, _MOST) if smaller > 0 else _MOST


def _formula(counts: npt.NDArray[np.integer]) -> str:
    return hill_formula(
        symbol
        for number in np.flatnonzero(counts).tolist()
        for symbol in [element_symbol(number)] * int(counts[number])
    )
