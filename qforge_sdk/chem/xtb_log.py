"""What xtb prints, versions 6.1 to 6.7.

Numbers that are printed several times count where they are printed last. A log is searched from its end, as bytes:
most of it is never decoded.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final

from qforge_sdk.chem.result import Doubt

_VERSION: Final = re.compile(rb"(?:xtb version|\bVersion)\s+([0-9][\w.]*)")
_METHODS: Final = (
    (re.compile(rb"Hamiltonian\s+(GFN\d-xTB|IPEA\d?-xTB)"), None),
    (re.compile(rb"G F N (\d) - x T B"), "GFN{}-xTB"),
    (re.compile(rb"G F N - F F"), "GFN-FF"),
)
_IONISED: Final = re.compile(rb"\s--?(?:vip|vea|vipea|vomega|vfukui)\b")
_CALL_CHARGE: Final = re.compile(rb"\s(?:--chrg|--charge|-c)[ =]+([+-]?\d+)")
_CALL_UNPAIRED: Final = re.compile(rb"\s(?:--uhf|-u)[ =]+(\d+)")
_CALL_SOLVENT: Final = re.compile(rb"\s--?(alpb|gbsa|g|cosmo|tmcosmo|cpcmx)[ =]+([A-Za-z][\w-]*)")
_SOLVATION: Final = re.compile(rb"\* Solvation model:\s+(\S+)[^\n]*\n\s+Solvent\s+(\S+)")
_HEADER: Final = re.compile(rb"^\s*(charge|net charge|spin|unpaired electrons)\s+:\s+(\S+)", re.M)
_WALL: Final = re.compile(rb"wall-time:\s*(\d+) d,\s*(\d+) h,\s*(\d+) min,\s*([\d.]+) sec")
_OCCUPATIONS: Final = re.compile(rb"occ\. :([^\n]*)\n\s*eps\s+:([^\n]*)\n")
_MODELS: Final = {
    b"g": "GBSA", b"gbsa": "GBSA", b"alpb": "ALPB", b"cosmo": "COSMO", b"tmcosmo": "COSMO", b"cpcmx": "CPCM-X"
}  # fmt: skip


@dataclass(slots=True)
class LogFacts:
    """What a log says, units as in :class:`~qforge_sdk.chem.result.XtbResult`; None where it says nothing."""

    version: str | None = None
    program_call: str | None = None
    input_file: str | None = None
    method: str | None = None
    solvation: str | None = None
    solvent: str | None = None
    total_charge: float | None = None
    unpaired_electrons: int | None = None
    energy: float | None = None
    homo: float | None = None
    lumo: float | None = None
    gap: float | None = None
    dipole: float | None = None
    wall_time: float | None = None
    imaginary_modes: int | None = None
    optimized: bool = False
    optimization_failed: bool = False
    scf_failed: bool = False
    finished: bool = False
    ionised: bool = False
    fatal: str | None = None
    final_structure: bytes | None = None
    doubts: list[Doubt] = field(default_factory=list)


def looks_like_log(data: bytes) -> bool:
    """Whether the beginning of a file is xtb's banner."""
    head = data[:4096]
    return b"x T B" in head or (b"xtb version" in head and not head.lstrip().startswith(b"{"))


def read_log(data: bytes) -> LogFacts:
    """Read a log, whole or cut.

    Parameters
    ----------
    data
        What xtb printed; bytes that are no text do not matter.

    Returns
    -------
    LogFacts
        Of a run that failed, too; numbers that cannot be read are doubts.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    facts = LogFacts()
    start = max(data.find(b"Calculation Setup"), 0)
    _read_head(data, start, facts)
    _read_end(data, facts)
    _read_numbers(data, facts)
    return facts


def _read_head(data: bytes, start: int, facts: LogFacts) -> None:
    version = _VERSION.search(data, 0, start or 8192)
    facts.version = version[1].decode() if version else None
    # Everything about the input stands before the first SCF.
    stop = data.find(b"iter ", start)
    head = data[start : stop if stop > 0 else start + 32_768]
    facts.program_call = _after(head, b"program call")
    facts.input_file = _after(head, b"coordinate file")
    call = b" " + (facts.program_call or "").encode()
    for pattern, form in _METHODS:
        found = pattern.search(head)
        if found:
            facts.method = found[1].decode() if form is None else form.format(*(g.decode() for g in found.groups()))
            break
    solvation = _SOLVATION.search(head)
    if solvation:
        facts.solvation, facts.solvent = solvation[1].decode(), solvation[2].decode().lower()
    else:
        asked = _CALL_SOLVENT.search(call)
        if asked and asked[2].lower() != b"none":
            facts.solvation, facts.solvent = _MODELS[asked[1]], asked[2].decode().lower()
    header = {found[1]: _number(found[2]) for found in _HEADER.finditer(head)}
    charge = header.get(b"charge", header.get(b"net charge"))
    asked_charge = _CALL_CHARGE.search(call)
    facts.total_charge = charge if charge is not None else float(asked_charge[1]) if asked_charge else None
    unpaired = header.get(b"unpaired electrons")
    spin = header.get(b"spin")
    asked_unpaired = _CALL_UNPAIRED.search(call)
    if unpaired is not None:
        facts.unpaired_electrons = round(unpaired)
    elif spin is not None:
        facts.unpaired_electrons = round(2 * spin)
    elif asked_unpaired:
        facts.unpaired_electrons = int(asked_unpaired[1])
    facts.ionised = _IONISED.search(call) is not None


def _read_end(data: bytes, facts: LogFacts) -> None:
    """How it ended."""
    facts.finished = b"finished run on" in data[-16_384:]
    satisfied = data.rfind(b"convergence criteria satisfied")
    facts.scf_failed = data.rfind(b"convergence criteria cannot be satisfied") > satisfied or (
        data.rfind(b"SCC is not converged") > satisfied
    )
    facts.optimized = b"GEOMETRY OPTIMIZATION CONVERGED" in data
    facts.optimization_failed = not facts.optimized and b"FAILED TO CONVERGE GEOMETRY OPTIMIZATION" in data
    facts.optimized |= facts.optimization_failed
    error = data.rfind(b"[ERROR]")
    if error >= 0:
        lines = [line.strip().decode("utf-8", "replace") for line in data[error : error + 2000].split(b"\n")]
        facts.fatal = "; ".join(_until(lines[1:], "####")) or lines[0]
    structure = data.rfind(b"final structure:\n")
    if structure >= 0:
        facts.final_structure = data[structure:].partition(b"================\n")[2].partition(b"Bond Distances")[0]
    total = data.rfind(b"finished run on")
    wall = _WALL.search(data, total) if total >= 0 else None
    if wall:
        days, hours, minutes = (int(wall[n]) for n in (1, 2, 3))
        facts.wall_time = 86_400 * days + 3600 * hours + 60 * minutes + float(wall[4])


def _read_numbers(data: bytes, facts: LogFacts) -> None:
    facts.energy = _last(data, facts, "energy", b"| TOTAL ENERGY", b":: total energy", b"\ntotal E       :")
    if facts.ionised:
        summary = _last(data[: data.find(b"Property Printout")], facts, "energy", b":: total energy")
        found = {"log": facts.energy, "log, before the ions": summary}
        facts.doubts.append(Doubt("ionised", "the run computed ions as well; its last numbers are of one", found))
    facts.gap = _last(data, facts, "gap", b"| HOMO-LUMO GAP", b":: HOMO-LUMO gap", b"H-L gap (eV)  :")
    facts.homo = _before(data, facts, "homo", b"(HOMO)")
    facts.lumo = _before(data, facts, "lumo", b"(LUMO)")
    if facts.homo is None:
        _read_old_orbitals(data, facts)
    dipole = data.rfind(b"molecular dipole:")
    if dipole >= 0:
        # The quadrupole below it has a line "full:" too.
        block = data[dipole : dipole + 600].partition(b"molecular quadrupole")[0]
        full = block.partition(b"full:")[2].partition(b"\n")[0].split()
        if len(full) >= 4:
            facts.dipole = _read_number(full[3], facts, "dipole")
    modes = data.rfind(b"# imaginary freq.")
    if modes >= 0:
        number = _read_number(data[modes + 17 : modes + 80].split()[0], facts, "imaginary modes")
        facts.imaginary_modes = None if number is None else round(number)
    if facts.total_charge is None:
        printed = _last(data, facts, "total charge", b":: total charge")
        facts.total_charge = None if printed is None else float(round(printed))


def _read_old_orbitals(data: bytes, facts: LogFacts) -> None:
    """Version 6.1 prints rows of occupations and energies."""
    start = data.rfind(b"eigenvalues")
    if start < 0:
        return
    stop = data.find(b"SCC energy", start)
    occupied: list[float] = []
    energies: list[float] = []
    for found in _OCCUPATIONS.finditer(data, start, stop if stop > 0 else len(data)):
        occupied += [value for word in found[1].split() if (value := _number(word)) is not None]
        energies += [value for word in found[2].split() if (value := _number(word)) is not None]
    if len(occupied) != len(energies):
        return
    filled = sum(value > 0.5 for value in occupied)
    if 0 < filled < len(energies):
        facts.homo, facts.lumo = energies[filled - 1], energies[filled]


def _last(data: bytes, facts: LogFacts, name: str, *labels: bytes) -> float | None:
    """The number after the last of the first label that occurs."""
    for label in labels:
        at = data.rfind(label)
        if at >= 0:
            words = data[at + len(label) : at + len(label) + 60].split(None, 1)
            return _read_number(words[0], facts, name) if words else None
    return None


def _before(data: bytes, facts: LogFacts, name: str, label: bytes) -> float | None:
    """The number before the last occurrence of a label."""
    at = data.rfind(label)
    if at < 0:
        return None
    words = data[max(at - 80, 0) : at].rpartition(b"\n")[2].split()
    return _read_number(words[-1], facts, name) if words else None


def _read_number(word: bytes, facts: LogFacts, name: str) -> float | None:
    value = _number(word)
    if value is None:
        shown = word.decode("utf-8", "replace")
        facts.doubts.append(Doubt("bad_field", f"the log's {name} is no number: {shown!r}", {"log": shown}))
    return value


def _number(word: bytes) -> float | None:
    """A finite number as Fortran writes it, 1.0D-03 included."""
    try:
        value = float(word.replace(b"D", b"E").replace(b"d", b"e"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _after(head: bytes, label: bytes) -> str | None:
    at = head.find(label)
    if at < 0:
        return None
    line = head[at : head.find(b"\n", at)]
    return line.partition(b":")[2].strip().decode("utf-8", "replace") or None


def _until(lines: list[str], mark: str) -> list[str]:
    taken = []
    for line in lines:
        if line.startswith(mark):
            break
        if line:
            taken.append(line)
    return taken
