"""Every number with a unit, in one table.

Column comments, ``df.attrs["units"]``, Arrow and Parquet field metadata, ``units=`` conversion and the documentation
read this table; a new scalar result is one row here.

References
----------
CODATA 2022 recommended values: hartree-electronvolt relationship, Bohr radius, elementary charge;
kcal is the thermochemical calorie, 4.184 J (ISO 31-4).
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from qforge_sdk.errors import UnknownField

HARTREE_IN_EV: Final = 27.211386245981
HARTREE_IN_JOULE: Final = 4.3597447222060e-18
AVOGADRO: Final = 6.02214076e23
BOHR_IN_ANGSTROM: Final = 0.529177210544
ATOMIC_DIPOLE_IN_DEBYE: Final = 2.541746473


@dataclass(frozen=True, slots=True)
class Quantity:
    """One measured or computed number.

    Parameters
    ----------
    name
        Column name.
    unit
        Unit in which it is stored and returned.
    description
        What it is, its sign convention included.
    source
        Where the number comes from.
    shape
        ``()`` for one a calculation, ``("n_atoms",)`` for one an atom.
    """

    name: str
    unit: str
    description: str
    source: str
    shape: tuple[str, ...] = ()


_ATOM = ("n_atoms",)

QUANTITIES: Final[dict[str, Quantity]] = {
    q.name: q
    for q in (
        Quantity("energy", "hartree", "Total energy; below zero for bound electrons", "xtb: TOTAL ENERGY"),
        Quantity("homo", "eV", "Energy of the highest occupied orbital", "xtb: (HOMO)"),
        Quantity("lumo", "eV", "Energy of the lowest unoccupied orbital", "xtb: (LUMO)"),
        Quantity("gap", "eV", "lumo minus homo; positive when both are right", "xtb: HOMO-LUMO gap"),
        Quantity("dipole", "debye", "Norm of the molecular dipole moment", "xtb: molecular dipole, full"),
        Quantity("total_charge", "e", "Charge of the molecule; a cation is positive", "input"),
        Quantity("execution_time_seconds", "s", "Wall time of the calculation", "the program that ran it"),
        Quantity("partial_charge", "e", "Atomic partial charge; sums to total_charge", "xtb: charges", _ATOM),
        Quantity("position_x", "angstrom", "Cartesian x of the nucleus", "final geometry", _ATOM),
        Quantity("position_y", "angstrom", "Cartesian y of the nucleus", "final geometry", _ATOM),
        Quantity("position_z", "angstrom", "Cartesian z of the nucleus", "final geometry", _ATOM),
        Quantity("force_x", "hartree/bohr", "Force along x: minus the gradient", "minus xtb: gradient", _ATOM),
        Quantity("force_y", "hartree/bohr", "Force along y: minus the gradient", "minus xtb: gradient", _ATOM),
        Quantity("force_z", "hartree/bohr", "Force along z: minus the gradient", "minus xtb: gradient", _ATOM),
        Quantity("orbital_energy", "eV", "Orbital energy assigned to the atom", "the program that ran it", _ATOM),
    )
}

# Value of one unit in the first unit of its row.
_DIMENSIONS: Final[tuple[dict[str, float], ...]] = (
    {
        "hartree": 1.0,
        "eV": 1.0 / HARTREE_IN_EV,
        "kcal/mol": 4184.0 / (HARTREE_IN_JOULE * AVOGADRO),
        "kJ/mol": 1000.0 / (HARTREE_IN_JOULE * AVOGADRO),
    },
    {
        "debye": 1.0,
        "e*bohr": ATOMIC_DIPOLE_IN_DEBYE,
        "e*angstrom": ATOMIC_DIPOLE_IN_DEBYE / BOHR_IN_ANGSTROM,
    },
    {"e": 1.0},
    {"angstrom": 1.0, "bohr": BOHR_IN_ANGSTROM, "nm": 10.0},
    {
        "hartree/bohr": 1.0,
        "eV/angstrom": BOHR_IN_ANGSTROM / HARTREE_IN_EV,
        "hartree/angstrom": BOHR_IN_ANGSTROM,
        "kcal/mol/angstrom": 4184.0 / (HARTREE_IN_JOULE * AVOGADRO) * BOHR_IN_ANGSTROM,
    },
    {"s": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0},
)


def units_of(names: list[str]) -> dict[str, str]:
    """Units of those columns that have one.

    Parameters
    ----------
    names
        Column names, in any order; names without a unit are left out.

    Returns
    -------
    dict[str, str]
        Column name to unit.
    """
    return {name: QUANTITIES[name].unit for name in names if name in QUANTITIES}


def conversion_factor(source: str, target: str) -> float:
    """Number by which a value in ``source`` is multiplied to be in ``target``.

    Parameters
    ----------
    source, target
        Unit names such as ``hartree``, ``kcal/mol``, ``eV``, ``e*bohr``, ``nm``.

    Returns
    -------
    float
        The factor.

    Raises
    ------
    UnknownField
        A unit is unknown, or the two measure different things.
    """
    for dimension in _DIMENSIONS:
        if source in dimension:
            if target in dimension:
                return dimension[source] / dimension[target]
            raise UnknownField(
                f"{source} cannot be converted to {target!r}; it can to: {', '.join(dimension)}",
                field="units",
                value=target,
            )
    known = [unit for dimension in _DIMENSIONS for unit in dimension]
    raise UnknownField(f"unknown unit {source!r}{did_you_mean(source, known)}", field="units", value=source)


def did_you_mean(word: str, known: list[str]) -> str:
    """Ending of an error message that names the nearest known word.

    Parameters
    ----------
    word
        What was typed.
    known
        What exists.

    Returns
    -------
    str
        ``"; did you mean 'gap'?"``, or the list of what exists.
    """
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
