"""Electrons of the tight-binding methods: how many an element brings, and which orbitals are homo and lumo."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from qforge_sdk.chem.geometry import FloatArray
from qforge_sdk.errors import InvalidInput

HEAVIEST: Final = 86
"""Largest atomic number that the GFN methods have parameters for (radon)."""

LANTHANIDES: Final = range(57, 72)
"""Atomic numbers of lanthanum to lutetium, whose f electrons belong to the core."""

# First element of each block and the electrons of its core; that of zinc, cadmium and mercury holds their d shell.
_CORES: Final = (
    (80, 78), (72, 68), (55, 54), (48, 46), (37, 36), (30, 28), (19, 18), (11, 10), (3, 2), (1, 0)
)  # fmt: skip


def valence_electrons(number: int) -> int:
    """Electrons that an atom brings into the valence shell of GFN2-xTB, GFN1-xTB, IPEA1-xTB and GFN0-xTB.

    Parameters
    ----------
    number
        Atomic number, 1 to 86.

    Returns
    -------
    int
        3 for every lanthanide: their f electrons belong to the core.

    Raises
    ------
    InvalidInput
        The methods have no parameters for the element.

    References
    ----------
    S. Grimme, C. Bannwarth, P. Shushkov, J. Chem. Theory Comput. 2017, 13, 1989, doi:10.1021/acs.jctc.7b00118
    """
    if not 1 <= number <= HEAVIEST:
        raise InvalidInput(f"no valence electrons of element {number}", field="atomic_number", value=number)
    if number in LANTHANIDES:
        return 3
    return next(number - core for first, core in _CORES if number >= first)


def count_electrons(numbers: Iterable[int], charge: int) -> int:
    """Valence electrons of a molecule.

    Parameters
    ----------
    numbers
        Atomic numbers, 1 to 86.
    charge
        e.

    Returns
    -------
    int
        Below zero where the charge takes more than there are.

    Raises
    ------
    InvalidInput
        The methods have no parameters for an element.
    """
    return sum(map(valence_electrons, numbers)) - charge


def frontier_orbitals(
    orbitals: FloatArray, n_electrons: int, unpaired_electrons: int
) -> tuple[float | None, float | None]:
    """Energies of the highest occupied and the lowest unoccupied orbital.

    Without spin polarisation there is one set of orbitals for both spins; the alpha electrons reach higher in it. In
    an open shell homo is therefore the highest singly occupied orbital, lumo the lowest one without any electron.

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
    tuple of float or None
        homo and lumo in the unit of ``orbitals``; None where the valence basis has no such orbital: a proton has no
        homo, and a hydrogen atom of GFN2-xTB no lumo.
    """
    n_alpha = (n_electrons + unpaired_electrons + 1) // 2
    homo = float(orbitals[n_alpha - 1]) if 0 < n_alpha <= len(orbitals) else None
    lumo = float(orbitals[n_alpha]) if 0 <= n_alpha < len(orbitals) else None
    return homo, lumo
