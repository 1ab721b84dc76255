"""Results in other programs' files: what every reader of them gives, and what they have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np

from qforge_sdk.chem.geometry import FloatArray, Geometry
from qforge_sdk.chem.result import Doubt, XtbResult
from qforge_sdk.chem.xtb_files import Unreadable
from qforge_sdk.quantities import QUANTITIES, conversion_factor

T = TypeVar("T")

_CHARGE_TOLERANCE: Final = 0.01
_LONGEST_TEXT: Final = 1000
#: Names of solvation models in the keywords of tblite's interfaces, as xtb's log spells them.
_MODELS: Final = {
    "alpb": "ALPB", "gbsa": "GBSA", "gb": "GB", "gbe": "GBE", "cosmo": "COSMO", "cpcm": "CPCM", "pcm": "PCM",
    "ddx": "ddX",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class PeerResult:
    """What one record of a file gave.

    Parameters
    ----------
    result
        Numbers in this package's units; its method is None where the file names none.
    name
        Of the molecule.
    smiles
        As the file gives it, not validated.
    facts
        What else it says, to be kept as it is: text and numbers.
    sources
        Where numbers came from that the file does not name.
    output_file
        Whether the file itself is the program's output.
    """

    result: XtbResult
    name: str | None = None
    smiles: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    output_file: bool = False


def stored(name: str, value: Any, unit: str) -> Any:
    """A number or an array in the unit of the column of that name.

    Parameters
    ----------
    name
        Key of :data:`qforge_sdk.quantities.QUANTITIES`.
    value
        In ``unit``.
    unit
        Such as ``eV``.

    Returns
    -------
    float or numpy.ndarray
        Converted.

    Raises
    ------
    UnknownField
        The unit is unknown or measures something else.
    """
    return value * conversion_factor(unit, QUANTITIES[name].unit)


def first(*values: T | None) -> T | None:
    """The first that is there."""
    return next((value for value in values if value is not None), None)


def finite(name: str, value: Any) -> float | None:
    """A finite number, None where there is none at all.

    Parameters
    ----------
    name
        For the message.
    value
        As the file has it.

    Raises
    ------
    Unreadable
        There is something else.
    """
    if value is None:
        return None
    plain = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    if isinstance(plain, bool) or not isinstance(plain, (int, float)) or not math.isfinite(plain):
        raise Unreadable(f"{name} is no finite number: {_short(plain)}")
    return float(plain)


def vectors(name: str, value: Any, n_atoms: int, doubts: list[Doubt]) -> FloatArray | None:
    """Three numbers an atom; what is something else is a doubt and left out.

    Parameters
    ----------
    name
        For the message.
    value
        As the file has it, flat or nested.
    n_atoms
        Of the molecule.
    doubts
        To which one may be added.

    Returns
    -------
    numpy.ndarray or None
        Shape (n_atoms, 3).
    """
    return _array(name, value, (n_atoms, 3), doubts)


def scalars(name: str, value: Any, n_atoms: int, doubts: list[Doubt]) -> FloatArray | None:
    """One number an atom; what is something else is a doubt and left out.

    Parameters
    ----------
    name, value, n_atoms, doubts
        As for :func:`vectors`.

    Returns
    -------
    numpy.ndarray or None
        Shape (n_atoms,).
    """
    return _array(name, value, (n_atoms,), doubts)


def charge_and_spin(
    geometry: Geometry,
    charges: FloatArray | None,
    *,
    charge: float | None,
    unpaired: float | None,
    doubts: list[Doubt],
) -> tuple[float, int, dict[str, str]]:
    """Total charge and unpaired electrons: as the file names them, else as they follow.

    Parameters
    ----------
    geometry
        Of the molecule.
    charges
        Shape (n_atoms,), e, or None.
    charge, unpaired
        As the file names them, None where it does not.
    doubts
        To which one may be added.

    Returns
    -------
    tuple
        Total charge, e: the sum of the atomic charges, or zero. Unpaired electrons: as few as the number of electrons
        allows. And which of them was not named.

    Raises
    ------
    Unreadable
        There are not as many electrons.
    """
    sources = {}
    electrons = sum(geometry.numbers)
    total = 0.0 if charges is None else float(np.sum(charges))
    if charge is None:
        sources["total_charge"] = "assumed" if charges is None else "atomic charges"
        charge = float(round(total))
    if charges is not None and abs(total - charge) > _CHARGE_TOLERANCE:
        apart = {"total_charge": charge, "sum of charges": total}
        doubts.append(Doubt("charge_sum_off", "the atomic charges do not sum to the total charge", apart))
    if unpaired is None:
        sources["unpaired_electrons"] = "number of electrons"
        unpaired = (electrons - round(charge)) % 2
    if abs(charge) > electrons or not 0 <= unpaired <= electrons:
        raise Unreadable(f"a charge of {charge:g} e and {unpaired:g} unpaired electrons of {electrons} in all")
    return charge, round(unpaired), sources


def solvation_in(keywords: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Solvation model and solvent in a calculation's keywords; a model without a name is called by its keyword.

    Parameters
    ----------
    keywords
        As tblite, xtb or others take them: ``alpb-solvation: water``, ``solvation: [alpb, water]``,
        ``solvent: water``, ``pcm: true``.

    Returns
    -------
    tuple
        Model and solvent, None for the gas phase.
    """
    for keyword, value in keywords.items():
        words = [str(one) for one in value] if isinstance(value, (list, tuple)) else [str(value)]
        name = keyword.lower()
        if not any(part in name for part in ("solv", "pcm")) or words[0].lower() in {"none", "false", "", "vacuum"}:
            continue
        if name in {"solvation", "solvation_model"} and words[0].lower() in _MODELS:
            return _MODELS[words[0].lower()], words[1].lower()[:50] if len(words) > 1 else None
        model = "implicit" if name == "solvent" else name.removesuffix("-solvation").removesuffix("_solvation")
        solvent = words[0].lower()[:50] if not isinstance(value, (bool, int, float)) else None
        return _MODELS.get(model, model[:50]), solvent
    return None, None


def program_of(name: Any, version: Any) -> tuple[str | None, str | None]:
    """Program and, where it is one of xtb's, what the column ``xtb_version`` holds.

    Parameters
    ----------
    name, version
        As the file names them.

    Returns
    -------
    tuple
        Such as ``("Psi4 1.9", None)`` or ``("tblite 0.8.0", "tblite 0.8.0")``; xtb itself is called by its version.
    """
    if not isinstance(name, str) or not name.strip() or name == "unknown":
        return None, None
    program = (f"{name} {version}" if version else name)[:50]
    if name.lower() == "xtb":
        return program, str(version)[:50] if version else None
    return program, program if name.lower() in {"tblite", "dxtb"} else None


def plain_facts(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Those that a JSON column can hold: text of some length, finite numbers, true and false."""
    plain = ((name, value.item() if isinstance(value, np.generic) else value) for name, value in pairs)
    return {name: value for name, value in plain if _is_plain(name) and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_TEXT and value.isprintable()
    return isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))


def _array(name: str, value: Any, shape: tuple[int, ...], doubts: list[Doubt]) -> FloatArray | None:
    if value is None:
        return None
    try:
        found = np.asarray(value, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError):
        doubts.append(Doubt("bad_field", f"{name}: not {' x '.join(map(str, shape))} numbers; left out"))
        return None
    if not np.isfinite(found).all():
        doubts.append(Doubt("bad_field", f"{name}: not all are finite numbers; left out"))
        return None
    return found + 0.0


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
