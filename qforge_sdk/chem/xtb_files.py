"""The files that xtb leaves beside its log: xtbout.json, charges, xtbopt.xyz, gradient, vibspectrum."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from qforge_sdk.chem.electrons import frontier_orbitals
from qforge_sdk.chem.geometry import FloatArray, Geometry, atomic_number, element_symbol
from qforge_sdk.quantities import ATOMIC_DIPOLE_IN_DEBYE, BOHR_IN_ANGSTROM

_COMMENT: Final = re.compile(r"energy:\s*(\S+)(?:\s+gnorm:\s*(\S+))?(?:\s+xtb:\s*(\S+))?")
_CALL: Final = re.compile(rb'^\s*"program call"\s*:.*$', re.M)


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
    unpaired_electrons: int | None
    method: str | None
    version: str | None
    program_call: str | None


def read_xtb_json(data: bytes) -> JsonFacts:
    """Read xtbout.json with the keys of 6.6 and older, or of 6.7.

    Parameters
    ----------
    data
        The file. A command line that is not escaped, as xtb writes it, does not matter.

    Returns
    -------
    JsonFacts
        None for what is not there.

    Raises
    ------
    Unreadable
        It is no JSON object.
    """
    content = load_json(data, otherwise=lambda: load_json(_CALL.sub(b'"program call": null,', data, count=1)))
    energies = _numbers(_first(content, "orbital energies/eV", "orbital energies / eV"))
    electrons = _count_electrons(content)
    homo = lumo = None
    if energies is not None and electrons is not None:
        homo, lumo = frontier_orbitals(energies, *electrons)
    moment = _numbers(_first(content, "dipole", "dipole / a.u."))
    version = _first(content, "xtb version")
    return JsonFacts(
        energy=number(_first(content, "total energy", "total energy / Eh")),
        homo=homo,
        lumo=lumo,
        gap=number(_first(content, "HOMO-LUMO gap/eV", "HOMO-LUMO gap / eV")),
        dipole=None if moment is None else float(np.linalg.norm(moment)) * ATOMIC_DIPOLE_IN_DEBYE,
        charges=_numbers(_first(content, "partial charges")),
        unpaired_electrons=_whole(_first(content, "number of unpaired electrons")),
        method=_text(_first(content, "method")),
        version=None if version is None else str(version).split()[0],
        program_call=_text(_first(content, "program call")),
    )


def _count_electrons(content: dict[str, Any]) -> tuple[int, int] | None:
    """Electrons and how many of them are unpaired; by the occupations where they are not counted."""
    unpaired = _whole(_first(content, "number of unpaired electrons")) or 0
    counted = _whole(_first(content, "number of electrons"))
    if counted is not None:
        return counted, unpaired
    occupied = _numbers(_first(content, "fractional occupation"))
    return None if occupied is None else (round(float(occupied.sum())), unpaired)


def load_json(data: bytes, *, otherwise: Any = None) -> dict[str, Any]:
    """A JSON object from bytes that may have a byte-order mark or odd bytes in them.

    Raises
    ------
    Unreadable
        It is no JSON object.
    """
    try:
        content = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as exc:
        if otherwise is None:
            raise Unreadable(f"no JSON: {exc}" if data.strip() else "empty") from exc
        return otherwise()  # type: ignore[no-any-return]
    if not isinstance(content, dict):
        raise Unreadable("JSON, but no object")
    return content


def read_charges(data: bytes) -> FloatArray:
    """Atomic charges, one a line.

    Raises
    ------
    Unreadable
        A line is no number.
    """
    try:
        values = np.array([float(word) for word in data.replace(b"D", b"E").split()])
    except ValueError as exc:
        raise Unreadable(str(exc)) from exc
    if not np.isfinite(values).all():
        raise Unreadable("a charge is not finite")
    if not len(values):
        raise Unreadable("empty")
    return values


def read_first_xyz(data: bytes) -> Geometry:
    """First geometry of an XYZ file, as xtb and others write it; odd bytes in the comment do not matter.

    Raises
    ------
    Unreadable
        It is no XYZ.
    """
    lines = data.decode("utf-8", "replace").replace("\r\n", "\n").lstrip("\ufeff").split("\n")
    try:
        count = int(lines[0])
        words = [line.split(None, 4)[:4] for line in lines[2 : count + 2]]
        if count < 1 or len(words) < count:
            raise Unreadable(f"the XYZ names {count} atoms and has {len(words)}")
        symbols = tuple(_symbol(row[0]) for row in words)
        positions = np.array([[_coordinate(word) for word in row[1:]] for row in words])
        return Geometry(symbols, positions, lines[1].strip())
    except Unreadable:
        raise
    except (ValueError, IndexError) as exc:
        raise Unreadable(f"no XYZ: {exc}") from exc


def read_comment(comment: str) -> tuple[float | None, str | None]:
    """Energy in hartree and xtb's version from the comment of xtbopt.xyz."""
    found = _COMMENT.search(comment)
    if not found:
        return None, None
    return number(found[1]), found[3]


def read_coord(data: bytes) -> Geometry:
    """Turbomole's coord file: bohr, and the element at the end of the line.

    Raises
    ------
    Unreadable
        It is no such file.
    """
    rows = []
    for line in data.decode("utf-8", "replace").split("$coord", 1)[-1].splitlines()[1:]:
        if line.lstrip().startswith("$"):
            break
        if line.strip():
            rows.append(line.split())
    try:
        symbols = tuple(_symbol(row[3]) for row in rows)
        positions = np.array([[_coordinate(word) for word in row[:3]] for row in rows]) * BOHR_IN_ANGSTROM
        return Geometry(symbols, positions)
    except (ValueError, IndexError) as exc:
        raise Unreadable(f"no coord file: {exc}") from exc


def read_gradient(data: bytes, n_atoms: int) -> FloatArray:
    """Forces of the last cycle of Turbomole's gradient file.

    Parameters
    ----------
    data
        The file.
    n_atoms
        Of the molecule.

    Returns
    -------
    numpy.ndarray
        Shape (n_atoms, 3), hartree/bohr: minus the gradient.

    Raises
    ------
    Unreadable
        It has not one line of three numbers for each atom.
    """
    rows = [line.split() for line in data.partition(b"$end")[0].rsplit(b"cycle", 1)[-1].splitlines()[1:]]
    gradient = [row for row in rows if len(row) == 3][-n_atoms:]
    return _forces([word for row in gradient for word in row], n_atoms)


def read_engrad(data: bytes, n_atoms: int) -> FloatArray:
    """Forces from ORCA's .engrad form.

    Parameters
    ----------
    data
        The file.
    n_atoms
        Of the molecule.

    Returns
    -------
    numpy.ndarray
        Shape (n_atoms, 3), hartree/bohr: minus the gradient.

    Raises
    ------
    Unreadable
        It has not three numbers for each atom.
    """
    values = [line.strip() for line in data.splitlines() if line.strip() and not line.startswith(b"#")]
    return _forces(values[2 : 2 + 3 * n_atoms], n_atoms)


def count_imaginary(data: bytes) -> int:
    """Imaginary modes in vibspectrum: wave numbers below -20 cm^-1, as xtb counts them.

    Raises
    ------
    Unreadable
        There is no mode in it.
    """
    waves = []
    for line in data.decode("utf-8", "replace").splitlines():
        words = line.split()
        if words and words[0].isdigit():
            wave = next((value for word in words[1:4] if (value := number(word)) is not None), None)
            if wave is not None:
                waves.append(wave)
    if not waves:
        raise Unreadable("no mode")
    return sum(wave < -20 for wave in waves)


def _forces(words: Sequence[bytes], n_atoms: int) -> FloatArray:
    try:
        values = -np.array([_coordinate(word.decode()) for word in words]).reshape(n_atoms, 3)
    except ValueError as exc:
        raise Unreadable(f"no gradient of {n_atoms} atoms: {exc}") from exc
    return values + 0.0


def _symbol(word: str) -> str:
    if word.isdigit():
        return element_symbol(int(word))
    symbol = word.capitalize()
    atomic_number(symbol)
    return symbol


def _coordinate(word: str) -> float:
    value = float(word.replace("D", "E").replace("d", "e"))
    if not math.isfinite(value):
        raise ValueError(word)
    return value


def _first(content: dict[str, Any], *names: str) -> Any:
    return next((content[name] for name in names if content.get(name) is not None), None)


def number(value: Any) -> float | None:
    """A finite number from JSON or text, None from anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) and not isinstance(value, bool) else None


def _numbers(value: Any) -> FloatArray | None:
    if not isinstance(value, list) or not value:
        return None
    found = [number(one) for one in value]
    return None if any(one is None for one in found) else np.array(found, dtype=np.float64)


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else round(found)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
