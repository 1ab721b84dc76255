"""The files that xtb leaves beside its log: xtbout.json, charges, gradient, vibspectrum; and numbers in them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from qforge_sdk.chem.electrons import frontier_orbitals
from qforge_sdk.chem.geometry import FloatArray
from qforge_sdk.quantities import ATOMIC_DIPOLE_IN_DEBYE, BOHR_IN_ANGSTROM

_COMMENT: Final = re.compile(r"energy:\s*(\S+)(?:\s+gnorm:\s*(\S+))?(?:\s+xtb:\s*(\S+))?")
_CALL: Final = re.compile(rb'^\s*"program call"\s*:.*$', re.M)
_MOST_CHARGE: Final = 1000
_OVERFLOW: Final = re.compile(rb"\*{2,}")


class Unreadable(ValueError):
    """A file is damaged; the message says how."""


@dataclass(frozen=True, slots=True)
class JsonFacts:
    """What xtbout.json says, units as in :class:`~qforge_sdk.chem.result.XtbResult`."""

    energy: float | None
    homo: float | None
    lumo: float | None
    gap: float | None
    dipole: float | None
    charges: FloatArray | None
    electrons: int | None
    unpaired_electrons: int | None
    method: str | None
    version: str | None
    program_call: str | None


@dataclass(frozen=True, slots=True)
class Gradient:
    """What a file of gradients says.

    Parameters
    ----------
    energy
        Hartree.
    positions
        Shape (n_atoms, 3), angstrom: where the forces were computed.
    forces
        Shape (n_atoms, 3), hartree/bohr: minus the gradient.
    """

    energy: float | None
    positions: FloatArray
    forces: FloatArray


def read_xtb_json(data: bytes) -> JsonFacts:
    """Read xtbout.json with the keys of 6.6 and older, or of 6.7.

    Parameters
    ----------
    data
        The file. A command line that is not escaped, as xtb writes it, and numbers that overflowed do not matter.

    Returns
    -------
    JsonFacts
        None for what is not there.

    Raises
    ------
    Unreadable
        It is no JSON object.
    """
    content = load_json(data, otherwise=lambda: load_json(_repaired(data)))
    energies = _numbers(_first(content, "orbital energies/eV", "orbital energies / eV"))
    electrons = _count_electrons(content)
    homo, lumo = (None, None) if energies is None or electrons is None else frontier_orbitals(energies, *electrons)
    moment = _numbers(_first(content, "dipole", "dipole / a.u."))
    version = _text(_first(content, "xtb version"))
    return JsonFacts(
        energy=number(_first(content, "total energy", "total energy / Eh")),
        homo=homo,
        lumo=lumo,
        gap=number(_first(content, "HOMO-LUMO gap/eV", "HOMO-LUMO gap / eV")),
        dipole=None if moment is None or len(moment) != 3 else number(_norm(moment) * ATOMIC_DIPOLE_IN_DEBYE),
        charges=_small(_numbers(_first(content, "partial charges"))),
        electrons=count(_first(content, "number of electrons")),
        unpaired_electrons=count(_first(content, "number of unpaired electrons")),
        method=_text(_first(content, "method")),
        version=version.split()[0] if version else None,
        program_call=_text(_first(content, "program call")),
    )


def load_json(data: bytes, *, otherwise: Callable[[], dict[str, Any]] | None = None) -> dict[str, Any]:
    """A JSON object from bytes that may have a byte-order mark or odd bytes in them.

    Parameters
    ----------
    data
        Of a file.
    otherwise
        Called where it is no JSON, instead of raising.

    Returns
    -------
    dict
        The object.

    Raises
    ------
    Unreadable
        It is no JSON object.
    """
    try:
        try:
            content = json.loads(data)
        except UnicodeDecodeError:
            content = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as exc:
        if otherwise is None:
            raise Unreadable(f"no JSON: {exc}") from exc
        return otherwise()
    if not isinstance(content, dict):
        raise Unreadable("JSON, but no object")
    return content


def read_charges(data: bytes) -> FloatArray:
    """Atomic charges, one a line.

    Raises
    ------
    Unreadable
        A line is no number, or none of an atom's charge.
    """
    charges = _floats(data.split())
    if max(charges) > _MOST_CHARGE or min(charges) < -_MOST_CHARGE:
        raise Unreadable(f"a charge is beyond {_MOST_CHARGE}")
    return np.array(charges)


def read_comment(comment: str) -> tuple[float | None, str | None]:
    """Energy in hartree and xtb's version from the comment of xtbopt.xyz."""
    found = _COMMENT.search(comment)
    if not found:
        return None, None
    return number(found[1]), found[3]


def read_gradient(data: bytes, n_atoms: int) -> Gradient:
    """Last cycle of Turbomole's gradient file.

    Parameters
    ----------
    data
        The file.
    n_atoms
        Of the molecule.

    Returns
    -------
    Gradient
        Forces, and the geometry that they are of.

    Raises
    ------
    Unreadable
        It has not two lines for each atom.
    """
    title, _, body = data.partition(b"$end")[0].rpartition(b"cycle")[2].partition(b"\n")
    rows = [row for line in body.split(b"\n") if (row := line.split())]
    if len(rows) != 2 * n_atoms:
        raise Unreadable(f"no gradient of {n_atoms} atoms: it has {len(rows)} lines")
    energy = title.partition(b"energy =")[2].split(None, 1)
    return Gradient(
        number(energy[0]) if energy else None,
        _table([row[:3] for row in rows[:n_atoms]]) * BOHR_IN_ANGSTROM,
        0.0 - _table(rows[n_atoms:]),
    )


def read_engrad(data: bytes, n_atoms: int) -> Gradient:
    """ORCA's .engrad form.

    Parameters
    ----------
    data
        The file.
    n_atoms
        Of the molecule.

    Returns
    -------
    Gradient
        Forces, and the geometry that they are of.

    Raises
    ------
    Unreadable
        It has not three numbers, and a line with a position, for each atom.
    """
    lines = [line for line in data.split(b"\n") if line.strip() and not line.startswith(b"#")]
    if len(lines) != 2 + 4 * n_atoms:
        raise Unreadable(f"no gradient of {n_atoms} atoms: it has {len(lines)} lines")
    gradient = [lines[at : at + 3] for at in range(2, 2 + 3 * n_atoms, 3)]
    positions = [line.split()[1:4] for line in lines[2 + 3 * n_atoms :]]
    return Gradient(number(lines[1]), _table(positions) * BOHR_IN_ANGSTROM, 0.0 - _table(gradient))


def count_imaginary(data: bytes) -> int:
    """Imaginary modes in vibspectrum: wave numbers below -20 cm^-1, as xtb counts them.

    Raises
    ------
    Unreadable
        There is no mode in it.
    """
    waves = []
    for line in data.split(b"\n"):
        words = line.split(None, 4)
        if words and words[0].isdigit():
            wave = next((value for word in words[1:4] if (value := number(word)) is not None), None)
            if wave is not None:
                waves.append(wave)
    if not waves:
        raise Unreadable("no mode")
    return sum(wave < -20 for wave in waves)


# Numbers ------------------------------------------------------------------------------------------------------------


def number(value: Any) -> float | None:
    """A finite number as Fortran or JSON writes it, 1.0D-03 included; None for anything else."""
    kind = type(value)
    if kind is not bytes and kind is not float:
        if kind is not str:
            return _finite(value) if kind is int else None
        value = value.encode("ascii", "replace")
    try:
        found = float(value)
    except ValueError:
        found = _fortran(value)
    # Python reads 1_0 as ten.
    return found if math.isfinite(found) and (kind is float or b"_" not in value) else None


def count(value: Any) -> int | None:
    """A whole number from 0 to a million; None for anything else."""
    found = number(value)
    return round(found) if found is not None and 0 <= found <= 1e6 and found == round(found) else None


def coordinate(word: str | bytes) -> float:
    """A finite number as C or Fortran writes it.

    Raises
    ------
    ValueError
        It is none.
    """
    found = number(word)
    if found is None:
        raise ValueError(f"{word!r} is no number")
    return found


def _finite(value: int) -> float | None:
    return float(value) if abs(value) < 2**1023 else None


def _fortran(word: bytes) -> float:
    try:
        return float(word.replace(b"D", b"E").replace(b"d", b"e")) if len(word) < 60 else math.nan
    except ValueError:
        return math.nan


def _floats(words: Sequence[bytes]) -> list[float]:
    try:
        found = list(map(float, words))
        if all(map(math.isfinite, found)) and not any(b"_" in word for word in words):
            return found
    except ValueError:
        pass
    try:
        return [coordinate(word) for word in words]
    except ValueError as exc:
        raise Unreadable(str(exc)[:200]) from exc


def _table(rows: Sequence[Sequence[bytes]]) -> FloatArray:
    if any(len(row) != 3 for row in rows):
        raise Unreadable("a line has not three numbers")
    return np.array(_floats([word for row in rows for word in row])).reshape(-1, 3)


def _repaired(data: bytes) -> bytes:
    return _OVERFLOW.sub(b"null", _CALL.sub(b'"program call": null,', data, count=1))


def _count_electrons(content: dict[str, Any]) -> tuple[int, int] | None:
    """Electrons and how many of them are unpaired; by the occupations where they are not counted."""
    unpaired = count(_first(content, "number of unpaired electrons")) or 0
    counted = count(_first(content, "number of electrons"))
    if counted is not None:
        return counted, unpaired
    occupied = _numbers(_first(content, "fractional occupation"))
    return None if occupied is None else (round(float(occupied.sum())), unpaired)


def _first(content: dict[str, Any], *names: str) -> Any:
    for name in names:
        if content.get(name) is not None:
            return content[name]
    return None


def _norm(moment: FloatArray) -> float:
    return math.sqrt(sum(value * value for value in moment.tolist()))


def _numbers(value: Any) -> FloatArray | None:
    """Numbers of a list, None where one of them is none."""
    if not isinstance(value, list) or not value or not set(map(type, value)) <= {int, float}:
        return None
    try:
        found = np.array(value, dtype=np.float64)
    except OverflowError:
        return None
    return found if np.isfinite(found).all() else None


def _small(charges: FloatArray | None) -> FloatArray | None:
    return charges if charges is None or np.abs(charges).max() <= _MOST_CHARGE else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
