"""What xtb prints, versions 6.1 to 6.7.

Numbers that are printed several times count where they are printed last, which is where they are looked for: from the
end, as bytes, most of which are never decoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from qforge_sdk.chem.result import Doubt
from qforge_sdk.chem.xtb_files import count, number

_VERSION: Final = re.compile(rb"(?:xtb version|\bVersion)\s+([0-9][\w.]*)")
# An option and the word behind it, which may be the next option.
_OPTION: Final = re.compile(r"(?<!\S)(--?([a-z]+)([012]?))(?=[\s=]|$)(?:[\s=]+(?=(\S+)))?")
_MEANINGS: Final = {
    **dict.fromkeys(("chrg", "charge", "c"), "charge"),
    **dict.fromkeys(("uhf", "u"), "unpaired"),
    **dict.fromkeys(("gfn", "gfnff", "gff", "ptb"), "method"),
    **dict.fromkeys(("alpb", "gbsa", "g", "cosmo", "tmcosmo", "cpcmx"), "solvation"),
    **dict.fromkeys(("vip", "vea", "vipea", "vomega", "vfukui"), "ions"),
    "namespace": "namespace",
}  # fmt: skip
_METHODS: Final = {"gfnff": "GFN-FF", "gff": "GFN-FF", "ptb": "PTB"}
_WALL: Final = re.compile(rb"wall-time:\s*(\d{1,6}) d,\s*(\d{1,2}) h,\s*(\d{1,2}) min,\s*(\d{1,2}\.\d{1,6}) sec")
_OCCUPATIONS: Final = re.compile(rb"occ\. :([^\n]*)\n\s*eps\s+:([^\n]*)\n")
_MODELS: Final = {
    "g": "GBSA", "gbsa": "GBSA", "alpb": "ALPB", "cosmo": "COSMO", "tmcosmo": "COSMO", "cpcmx": "CPCM-X"
}  # fmt: skip
_ENERGY: Final = (b"TOTAL ENERGY  ", b":: total energy", b"\ntotal E       :")
_GAP: Final = (b"| HOMO-LUMO GAP", b":: HOMO-LUMO gap", b"H-L gap (eV)  :")
# Longer than any that is printed for an input.
_SETUP_BYTES: Final = 32_768
_MOST_CHARGE: Final = 1000


@dataclass(slots=True)
class LogFacts:
    """What a log says, units as in :class:`~qforge_sdk.chem.result.XtbResult`; None where it says nothing.

    What was asked for on the command line stands apart from what the program printed that it did.
    """

    version: str | None = None
    program_call: str | None = None
    input_file: str | None = None
    namespace: str | None = None
    method: str | None = None
    solvation: str | None = None
    solvent: str | None = None
    printed_charge: float | None = None
    asked_charge: float | None = None
    printed_unpaired: int | None = None
    asked_unpaired: int | None = None
    asked_method: str | None = None
    electrons: int | None = None
    energy: float | None = None
    homo: float | None = None
    lumo: float | None = None
    gap: float | None = None
    dipole: float | None = None
    wall_time: float | None = None
    imaginary_modes: int | None = None
    moved: bool = False
    optimized: bool = False
    optimization_failed: bool = False
    scf_failed: bool = False
    finished: bool = False
    ionised: bool = False
    fatal: str | None = None
    doubts: list[Doubt] = field(default_factory=list)

    @property
    def total_charge(self) -> float | None:
        """As printed, else as asked for."""
        return self.asked_charge if self.printed_charge is None else self.printed_charge

    @property
    def unpaired_electrons(self) -> int | None:
        """As printed, else as asked for."""
        return self.asked_unpaired if self.printed_unpaired is None else self.printed_unpaired


def looks_like_log(data: bytes) -> bool:
    """Whether the beginning of a file is xtb's banner."""
    head = data[:4096]
    return b"x T B" in head or (b"xtb version" in head and not head.lstrip().startswith(b"{"))


def last_run(data: bytes) -> tuple[bytes, bool]:
    """The last of the runs that were appended to one log, with line ends as Unix has them.

    Parameters
    ----------
    data
        A log.

    Returns
    -------
    tuple
        The run, and whether there were others before it.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    banner = data.rfind(b" x T B                           |")
    start = data.rfind(b"\n", 0, banner) + 1 if banner > 1000 else 0
    return data[start:], start > 0 and b"Calculation Setup" in data[:start]


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
    facts = LogFacts()
    data, has_others = last_run(data)
    if has_others:
        facts.doubts.append(Doubt("several_runs", "several runs were appended to the log; the last one was read"))
    setup = max(data.find(b"Calculation Setup"), 0)
    _read_head(data, setup, facts)
    tail = data[max(data.rfind(b"Property Printout"), 0) :]
    _read_end(data, tail, facts)
    ions = _first_ion(data) if facts.ionised else -1
    if ions > 0:
        _read_before_ions(data[setup:ions], tail, facts)
    elif facts.finished:
        _read_numbers(data, tail, facts)
    if facts.printed_charge is None:
        printed = _last(data[:ions] if ions > 0 else data, facts, "total charge", b":: total charge")
        facts.printed_charge = _charge(printed)
    return facts


def final_structure(data: bytes) -> bytes | None:
    """The geometry that a log prints after an optimisation, in the form of the input's.

    Parameters
    ----------
    data
        A log.
    """
    data, _ = last_run(data)
    at = data.rfind(b"final structure:\n")
    if at < 0:
        return None
    return data[at:].partition(b"================\n")[2].partition(b"Bond Distances")[0]


# The beginning: what was asked for ----------------------------------------------------------------------------------


def _read_head(data: bytes, setup: int, facts: LogFacts) -> None:
    version = _VERSION.search(data, max(data.find(b"ersion", 0, setup or 8192) - 8, 0), setup or 8192)
    facts.version = version[1].decode() if version else None
    # Everything about the input stands before the first SCF.
    stop = data.find(b"iter ", setup, setup + _SETUP_BYTES)
    head = data[setup : stop if stop > 0 else setup + _SETUP_BYTES]
    lines = _labelled(head)
    facts.program_call = _text(lines.get(b"program call", b"")) or None
    facts.input_file = _text(lines.get(b"coordinate file", b"")) or None
    facts.method = _method(head)
    # 6.1 to 6.3 print these among what was asked for, others in the box of the setup.
    spin = number(lines.get(b"spin"))
    unpaired = lines.get(b"unpaired electrons") if spin is None else 2 * spin
    facts.printed_charge = _charge(number(lines.get(b"net charge", lines.get(b"charge"))))
    facts.printed_unpaired = count(unpaired)
    facts.electrons = count(lines.get(b"# electrons", lines.get(b"number of electrons")))
    found = _OPTION.finditer(facts.program_call or "")
    options = {meaning: one for one in found if (meaning := _MEANINGS.get(one[2]))}
    if facts.program_call is not None:
        _read_options(options, facts)
    if not lines.get(b"GBSA solvation", b"").startswith(b"false"):
        _read_solvation(head, options.get("solvation"), facts)


def _read_options(options: Mapping[str, re.Match[str]], facts: LogFacts) -> None:
    """What was asked for on the command line."""
    charge, unpaired = (number(options[name][4]) if name in options else None for name in ("charge", "unpaired"))
    facts.asked_charge = _charge(charge)
    facts.asked_unpaired = count(unpaired)
    method = options.get("method")
    # Without an option the program takes GFN2-xTB.
    level = (method[3] or method[4] or "") if method else "2"
    facts.asked_method = _METHODS.get(method[2] if method else "") or (f"GFN{level}-xTB" if level in "012" else None)
    facts.namespace = options["namespace"][4] if "namespace" in options else None
    facts.ionised = "ions" in options


def _read_solvation(head: bytes, asked: re.Match[str] | None, facts: LogFacts) -> None:
    """As printed; an option that the program did not know is none."""
    at = head.find(b"Solvation model:")
    if at >= 0:
        words = head[at + 16 : at + 400].split(None, 3)
        if len(words) > 2 and words[1] == b"Solvent":
            facts.solvation, facts.solvent = _text(words[0]), _text(words[2]).lower()
    if asked is None or not asked[4] or asked[4].startswith("-") or asked[4].lower() == "none":
        return
    if asked[2] == "cpcmx" and facts.solvation:
        facts.solvation, facts.solvent = "CPCM-X", asked[4].lower()
    elif facts.solvation is None and f"Unknown option '{asked[1]}'".encode() not in head:
        facts.solvation, facts.solvent = _MODELS[asked[2]], asked[4].lower()


def _method(head: bytes) -> str | None:
    """From the title, since the table below it names IPEA-xTB after the Hamiltonian that it starts from."""
    for family in (b" - x T B", b" - F F"):
        at = head.find(family)
        if at >= 0:
            title = head[head.rfind(b"|", 0, at) + 1 : at + len(family)]
            return _text(title.replace(b" ", b""))
    at = head.find(b"Hamiltonian      ")
    words = head[at + 11 : at + 60].split(None, 1) if at >= 0 else []
    return _text(words[0]) if words and words[0].startswith((b"GFN", b"IPEA")) else None


def _labelled(head: bytes) -> dict[bytes, bytes]:
    """The lines ``charge  : 1`` below the program call and ``:  # electrons   8   :`` in the box of the setup."""
    call = head.find(b"program call")
    asked = head[call : head.find(b"\n\n", call)].split(b"\n") if call >= 0 else []
    lines = {label.strip(): value.strip() for label, _, value in (line.partition(b":") for line in asked)}
    box = head.find(b"  SETUP  ")
    setup = head[box : head.find(b"...\n", box)] if box >= 0 else b""
    for label in (b"# electrons", b"GBSA solvation", b"net charge", b"unpaired electrons"):
        at = setup.find(label)
        if at >= 0:
            lines[label] = setup[at + len(label) : setup.find(b":\n", at)].strip()
    return lines


# The end: what became of it -----------------------------------------------------------------------------------------


def _read_end(data: bytes, tail: bytes, facts: LogFacts) -> None:
    """How it ended."""
    finish = data.rfind(b"finished run on")
    facts.finished = finish >= max(len(data) - 65_536, 0)
    last_scf = data.rfind(b"convergence criteria ")
    facts.scf_failed = data.startswith(b"cannot", last_scf + 21) if last_scf >= 0 else (
        data.rfind(b"SCC is not converged") >= 0
    )  # fmt: skip
    outcome = data.rfind(b"GEOMETRY OPTIMIZATION")
    facts.optimized = outcome >= 0
    facts.optimization_failed = outcome >= 0 and data.endswith(b"FAILED TO CONVERGE ", 0, outcome)
    facts.moved = facts.optimized or tail.rfind(b"optimized geometry written to") >= 0
    if not facts.finished:
        facts.fatal = _fatal(data)
        return
    wall = data.find(b"wall-time:", finish)
    total = _WALL.match(data, wall) if wall >= 0 else None
    if total:
        days, hours, minutes = (int(total[n]) for n in (1, 2, 3))
        facts.wall_time = 86_400 * days + 3600 * hours + 60 * minutes + float(total[4])


def _fatal(data: bytes) -> str | None:
    error = max(data.rfind(b"[ERROR]"), data.rfind(b"#ERROR!"))
    if error < 0:
        return None
    lines = [_text(line).strip() for line in data[error : error + 2000].split(b"\n")]
    causes = [line for line in _until(lines[1:], ("####", "ERROR STOP")) if line]
    return "; ".join(causes) or lines[0]


def _first_ion(data: bytes) -> int:
    places = [data.find(mark) for mark in (b"vertical delta SCC", b"Fukui index")]
    return min((place for place in places if place > 0), default=-1)


def _read_before_ions(before: bytes, tail: bytes, facts: LogFacts) -> None:
    """The numbers of the molecule that was asked for; what is printed at the end belongs to the last ion."""
    facts.energy = _last(before, facts, "energy", *_ENERGY)
    facts.gap = _last(before, facts, "gap", *_GAP)
    facts.homo = _before(before, facts, "homo", b"(HOMO)")
    facts.lumo = _before(before, facts, "lumo", b"(LUMO)")
    found = {"log": facts.energy, "log, at its end": _last(tail, facts, "energy", *_ENERGY)}
    facts.doubts.append(
        Doubt("ionised", "the run computed ions as well; the numbers are those printed before them", found)
    )


def _read_numbers(data: bytes, tail: bytes, facts: LogFacts) -> None:
    # 6.1 prints them before the properties only.
    energies, gaps = (tail if tail.rfind(labels[0]) >= 0 else data for labels in (_ENERGY, _GAP))
    facts.energy = _last(energies, facts, "energy", *_ENERGY)
    facts.gap = _last(gaps, facts, "gap", *_GAP)
    facts.homo = _before(tail, facts, "homo", b"(HOMO)")
    facts.lumo = _before(tail, facts, "lumo", b"(LUMO)")
    if facts.homo is None and facts.lumo is None:
        _read_old_orbitals(data, facts)
    facts.dipole = _dipole(tail, facts)
    modes = tail.rfind(b"# imaginary freq.")
    if modes >= 0:
        words = tail[modes + 17 : modes + 80].split(None, 1)
        found = _read_number(words[0], facts, "imaginary modes") if words else None
        facts.imaginary_modes = count(found)


def _dipole(tail: bytes, facts: LogFacts) -> float | None:
    at = tail.rfind(b"molecular dipole:")
    if at >= 0:
        # The quadrupole below it has a line "full:" too.
        block = tail[at : at + 600].partition(b"molecular quadrupole")[0]
        full = block.partition(b"full:")[2].partition(b"\n")[0].split()
        return _moment(full[3], facts) if len(full) > 3 else None
    # GFN1-xTB and GFN0-xTB print atomic units, and the norm in debye behind them.
    at = tail.rfind(b"dipole moment from electron density")
    words = tail[at : at + 400].partition(b"total (Debye):")[2].split(None, 1) if at >= 0 else []
    return _moment(words[0], facts) if words else None


def _moment(word: bytes, facts: LogFacts) -> float | None:
    value = _read_number(word, facts, "dipole")
    return value if value is None or value >= 0 else None


def _read_old_orbitals(data: bytes, facts: LogFacts) -> None:
    """Version 6.1 prints rows of occupations and energies."""
    start = data.rfind(b"eigenvalues\n")
    if start < 0:
        return
    stop = data.find(b"SCC energy", start)
    occupied: list[float] = []
    energies: list[float] = []
    for found in _OCCUPATIONS.finditer(data, start, stop if stop > 0 else len(data)):
        occupied += [value for word in found[1].split() if (value := number(word)) is not None]
        energies += [value for word in found[2].split() if (value := number(word)) is not None]
    if len(occupied) != len(energies):
        return
    filled = sum(value > 0.5 for value in occupied)
    if 0 < filled < len(energies):
        facts.homo, facts.lumo = energies[filled - 1], energies[filled]


# Words and numbers --------------------------------------------------------------------------------------------------


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
    words = data[max(data.rfind(b"\n", 0, at) + 1, at - 200) : at].rsplit(None, 1)
    return _read_number(words[-1], facts, name) if words else None


def _read_number(word: bytes, facts: LogFacts, name: str) -> float | None:
    value = number(word)
    if value is None:
        shown = _text(word[:60])
        facts.doubts.append(Doubt("bad_field", f"the log's {name} is no number: {shown!r}", {"log": shown}))
    return value


def _charge(printed: float | None) -> float | None:
    """Whole, since it is printed with the error of the charges that it is the sum of."""
    return None if printed is None or abs(printed) > _MOST_CHARGE else float(round(printed))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _until(lines: list[str], marks: tuple[str, ...]) -> list[str]:
    taken = []
    for line in lines:
        if line.startswith(marks):
            break
        taken.append(line)
    return taken
