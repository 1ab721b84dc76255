"""What ASE writes: rows of its databases and frames of extended XYZ.

Energies are in eV, positions in angstrom, forces in eV/angstrom, dipole moments in e*angstrom, charges in e, whatever
the calculator was.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from qforge_sdk.chem.geometry import FloatArray, Geometry, element_symbol
from qforge_sdk.chem.peer import (
    PeerResult,
    charge_and_spin,
    finite,
    first,
    plain_facts,
    program_of,
    scalars,
    solvation_in,
    stored,
    vectors,
)
from qforge_sdk.chem.result import Doubt, XtbResult
from qforge_sdk.chem.xtb_files import Unreadable, read_comment
from qforge_sdk.errors import MissingExtra, UnknownField

_MOST_ATOMS: Final = 100_000
_LONGEST_LINE: Final = 1_000_000

#: What is looked for, and the names that it has in the information of a frame or a row, in lower case.
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "name": ("name", "molecule_name"),
    "smiles": ("smiles", "canonical_smiles"),
    "method": ("method",),
    "charge": ("total_charge", "charge", "molecular_charge"),
    "unpaired": ("unpaired_electrons", "uhf"),
    "multiplicity": ("multiplicity", "spin_multiplicity", "molecular_multiplicity"),
    "homo": ("homo",),
    "lumo": ("lumo",),
    "gap": ("gap",),
    "energy unit": ("energy_unit", "energy_units", "energies_unit"),
    "force unit": ("force_unit", "force_units", "forces_unit", "forces_units"),
    "unit": ("unit", "units"),
}
_PAIR: Final = re.compile(r"""(?<!\S)([A-Za-z_]+)=(?:"([^"]+)"|([^\s"]+))""")
_ORBITALS: Final = ("homo", "lumo", "gap")
_EV: Final = "eV"
_EV_PER_ANGSTROM: Final = "eV/angstrom"


class Said:
    """What a frame or a row says beside its results, by any of the names that it may have.

    Parameters
    ----------
    pairs
        Names and values.
    """

    def __init__(self, pairs: Mapping[str, Any]) -> None:
        self.pairs = dict(pairs)
        self._lower = {name.lower(): value for name, value in pairs.items()}

    def __getitem__(self, wanted: str) -> Any:
        return next((self._lower[name] for name in _NAMES[wanted] if self._lower.get(name) is not None), None)

    def text(self, wanted: str) -> str | None:
        """The same, where it is text with something in it; ASE makes numbers of digits."""
        value = self[wanted]
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            return str(value)
        return value.strip() if isinstance(value, str) and value.strip() else None


def require_ase() -> None:
    """Raise where ase cannot be imported.

    Raises
    ------
    MissingExtra
        It names the extra that brings it.
    """
    try:
        import ase  # noqa: F401
    except ImportError as exc:
        raise MissingExtra("ase", "xtb") from exc


def split_frames(file: BinaryIO) -> Iterator[bytes | str]:
    """Frames of an XYZ file, one at a time.

    Parameters
    ----------
    file
        Open for reading bytes.

    Yields
    ------
    bytes or str
        A frame, or, as the last one, why it goes no further.
    """
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if not line.strip():
            continue
        try:
            count = int(line.removeprefix(b"\xef\xbb\xbf"))
        except ValueError:
            count = 0
        if not 1 <= count <= _MOST_ATOMS:
            yield f"line {number} is no number of atoms ({line[:40]!r}), so frames cannot be told apart from here on"
            return
        lines = [file.readline(_LONGEST_LINE) for _ in range(count + 1)]
        if not lines[-1].strip():
            there = sum(bool(one.strip()) for one in lines[1:])
            yield f"the file ends inside the frame of line {number}: {there} of {count} atoms"
            return
        number += count + 1
        yield b"%d\n" % count + b"".join(lines)


def read_frame(data: bytes) -> PeerResult:
    """Read one frame of extended XYZ.

    Parameters
    ----------
    data
        The frame: number of atoms, ``name=value`` pairs, atoms. What xtb writes in that place is understood as well.

    Returns
    -------
    PeerResult
        Of the molecule.

    Raises
    ------
    Unreadable
        It is no frame, is periodic, or has no energy.
    MissingExtra
        ase is not installed.
    """
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    atoms = _parsed(text)
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    comment = text.split("\n", 2)[1]
    said, unit = Said(dict(atoms.info) | _smiles_in(comment)), _EV
    energy, version = read_comment(comment)
    if "energy" not in results and energy is not None and version is not None:
        # xtb's own comment, in hartree; ASE makes keys of its words.
        said, unit, results = Said({}), "hartree", {"energy": energy}
    cut = Doubt("bad_file", "its last line has no end, so a number may be cut short")
    return _molecule(
        atoms.numbers,
        atoms.positions,
        atoms.pbc,
        results,
        said,
        initial_charge=_sum(atoms.arrays.get("initial_charges")),
        initial_moment=_sum(atoms.arrays.get("initial_magmoms")),
        energy_unit=unit,
        xtb_version=version,
        doubts=[] if text.endswith("\n") else [cut],
    )


def _smiles_in(comment: str) -> dict[str, str]:
    """SMILES as they were written: ASE drops their backslashes, and reads F as False."""
    found = (match for match in _PAIR.finditer(comment) if match[1].lower() in _NAMES["smiles"])
    # Some programs write backslashes twice; no SMILES has two.
    return {match[1]: (match[2] or match[3]).replace("\\\\", "\\") for match in found}


def _parsed(text: str) -> Any:
    require_ase()
    from ase.io.extxyz import read_xyz

    try:
        return next(iter(read_xyz(io.StringIO(text), index=0)))
    except KeyError as exc:
        raise Unreadable(f"{exc} is no element") from exc
    except (OSError, ValueError, TypeError, IndexError, StopIteration) as exc:
        raise Unreadable(f"no extended XYZ: {exc}") from exc


def read_row(row: Any) -> PeerResult:
    """Read one row of an ASE database.

    Parameters
    ----------
    row
        An ``ase.db.row.AtomsRow``.

    Returns
    -------
    PeerResult
        Of the molecule.

    Raises
    ------
    Unreadable
        It is periodic or has no energy, or something in it is damaged.
    """
    names = ("energy", "forces", "dipole", "charges", "magmom")
    results = {name: value for name in names if (value := row.get(name)) is not None}
    parameters = row.get("calculator_parameters") or {}
    return _molecule(
        row.numbers,
        row.positions,
        row.pbc,
        results,
        Said(row.key_value_pairs),
        parameters=parameters if isinstance(parameters, Mapping) else {},
        program=row.get("calculator"),
        initial_charge=_sum(row.get("initial_charges")),
        initial_moment=_sum(row.get("initial_magmoms")),
    )


def _molecule(
    numbers: Any,
    positions: Any,
    pbc: Any,
    results: Mapping[str, Any],
    said: Said,
    *,
    parameters: Mapping[str, Any] | None = None,
    program: str | None = None,
    initial_charge: float | None = None,
    initial_moment: float | None = None,
    energy_unit: str = _EV,
    xtb_version: str | None = None,
    doubts: Sequence[Doubt] = (),
) -> PeerResult:
    if np.any(pbc):
        raise Unreadable("it is periodic, and molecules are stored here; for one in a box set pbc to F F F")
    energy_unit, force_unit = _units(said, energy_unit)
    geometry = Geometry(tuple(element_symbol(int(one)) for one in numbers), np.array(positions, dtype=np.float64))
    if "energy" not in results:
        raise Unreadable(f"no energy under that name; there is {', '.join(sorted(said.pairs)) or 'nothing else'}")
    doubts = list(doubts)
    n_atoms, facts = len(geometry.symbols), said.pairs
    if energy_unit != _EV:
        results, said = _without_unit(results, said, force_unit, doubts)
    charges = scalars("charges", results.get("charges"), n_atoms, doubts)
    parameters = parameters or {}
    charge, unpaired, sources = charge_and_spin(
        geometry,
        charges,
        charge=first(finite("charge", said["charge"]), finite("charge", parameters.get("charge")), initial_charge),
        unpaired=_unpaired(said, parameters, results, initial_moment),
        doubts=doubts,
    )
    solvation, solvent = solvation_in(parameters)
    named, version = program_of(program, None)
    result = XtbResult(
        status="converged",
        energy=_energy("energy", results["energy"], energy_unit),
        homo=_energy("homo", said["homo"], _EV),
        lumo=_energy("lumo", said["lumo"], _EV),
        gap=_energy("gap", said["gap"], _EV),
        dipole=_dipole(results.get("dipole"), doubts),
        total_charge=charge,
        unpaired_electrons=unpaired,
        method=next((text for text in _methods(said, parameters) if text), None),
        solvation=solvation,
        solvent=solvent,
        xtb_version=xtb_version or version,
        geometry=geometry,
        charges=charges,
        forces=_forces(results.get("forces"), n_atoms, force_unit or _EV_PER_ANGSTROM, doubts),
        doubts=tuple(doubts),
    )
    facts = {"program": named} | facts | {f"parameter {name}": value for name, value in parameters.items()}
    return PeerResult(
        result, name=said.text("name"), smiles=said.text("smiles"), facts=plain_facts(facts.items()), sources=sources
    )


def ase_database(path: Path) -> Any:
    """An ASE database in an SQLite file, whatever its name.

    Parameters
    ----------
    path
        The file, which must have ASE's tables: in one that has not ASE would make them.

    Returns
    -------
    ase.db.core.Database
        A context manager that keeps one connection open.

    Raises
    ------
    MissingExtra
        ase is not installed.
    """
    require_ase()
    from ase.db import connect

    return connect(path, type="db", use_lock_file=False)


def row_keys(database: Any, *, at_once: int = 1000) -> Iterator[int]:
    """Keys of all rows, a few at a time: ASE fetches all that one query gives.

    Parameters
    ----------
    database
        From :func:`ase_database`.
    at_once
        How many it is asked for.

    Yields
    ------
    int
        Rising.
    """
    last = 0
    while True:
        rows = database.select(f"id>{last}", sort="id", limit=at_once, columns=["id"], include_data=False)
        keys = [int(row.id) for row in rows]
        if not keys:
            return
        yield from keys
        last = keys[-1]


def _methods(said: Said, parameters: Mapping[str, Any]) -> list[str | None]:
    named = (parameters.get(name) for name in ("method", "xc"))
    return [said.text("method"), *(one.strip() if isinstance(one, str) else None for one in named)]


def _units(said: Said, energy_unit: str) -> tuple[str, str | None]:
    """Units of energies and, where it is named, of forces; one that is named must be one that can be converted."""
    general = said.text("unit")
    if general is not None and general.lower() not in {"ev", "ase"}:
        raise Unreadable(
            f"units {general!r} may mean energies, forces and positions; name energy_unit and force_unit"
        )
    energy_unit, force_unit = said.text("energy unit") or energy_unit, said.text("force unit")
    try:
        stored("energy", 1.0, energy_unit)
        stored("force_x", 1.0, force_unit or _EV_PER_ANGSTROM)
    except UnknownField as exc:
        raise Unreadable(str(exc)) from exc
    return energy_unit, force_unit


def _without_unit(
    results: Mapping[str, Any], said: Said, force_unit: str | None, doubts: list[Doubt]
) -> tuple[dict[str, Any], Said]:
    """Without what may be in other units than ASE's, as the energy is."""
    doubtful = {"dipole"} | (set() if force_unit else {"forces"})
    orbitals = {name for name in said.pairs if name.lower() in _ORBITALS}
    left_out = sorted((doubtful & set(results)) | orbitals)
    if left_out:
        doubts.append(
            Doubt("bad_field", f"the energy is not in eV, and nothing names a unit of: {', '.join(left_out)}")
        )
    kept = {name: value for name, value in results.items() if name not in doubtful}
    return kept, Said({name: value for name, value in said.pairs.items() if name not in orbitals})


def _energy(name: str, value: Any, unit: str) -> float | None:
    found = finite(name, value)
    return None if found is None else float(stored(name, found, unit))


def _forces(value: Any, n_atoms: int, unit: str, doubts: list[Doubt]) -> FloatArray | None:
    found = vectors("forces", value, n_atoms, doubts)
    return None if found is None else np.asarray(stored("force_x", found, unit))


def _dipole(value: Any, doubts: list[Doubt]) -> float | None:
    found = scalars("dipole", value, 3, doubts)
    return None if found is None else float(stored("dipole", float(np.linalg.norm(found)), "e*angstrom"))


def _unpaired(
    said: Said, parameters: Mapping[str, Any], results: Mapping[str, Any], initial: float | None
) -> float | None:
    named = finite("unpaired electrons", said["unpaired"])
    multiplicity = first(
        finite("multiplicity", said["multiplicity"]), finite("multiplicity", parameters.get("multiplicity"))
    )
    moment = finite("magmom", results.get("magmom"))
    return first(
        named,
        None if multiplicity is None else multiplicity - 1,
        None if moment is None else abs(moment),
        None if initial is None else abs(initial),
    )


def _sum(values: Any) -> float | None:
    return None if values is None else float(np.sum(values))
