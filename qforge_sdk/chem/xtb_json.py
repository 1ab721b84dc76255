"""The file that ``xtb --json`` leaves, on its own.

It names neither the elements nor the positions: those come from the file that its program call names, where it lies
beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

from qforge_sdk.chem import xtb_files, xtb_log
from qforge_sdk.chem.geometry import Geometry
from qforge_sdk.chem.peer import PeerResult, charge_and_spin, scalars
from qforge_sdk.chem.result import Doubt, XtbResult
from qforge_sdk.chem.xtb_files import Unreadable

#: The JSON has 8 decimals.
_SAME_ENERGY: Final = 2e-8
_OPTIMISES: Final = re.compile(r"\s--?(?:opt|ohess|bhess|metaopt)\b")
_CALL: Final = re.compile(rb'^\s*"program call"\s*:\s*"(.*)",?\s*$', re.M)
_INPUT: Final = re.compile(r"""(?:^|[\s"'/\\])([^\s"'/\\]+\.xyz)\b""")


def is_xtb_json(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is one of xtb's: these two keys have stood in it since 6.1."""
    return "total energy" in content and "partial charges" in content


def input_files(data: bytes) -> list[str]:
    """Names of XYZ files that may hold the geometry, from the program call.

    Parameters
    ----------
    data
        The file.

    Returns
    -------
    list of str
        Without folders.
    """
    return [PurePath(name).name for name in _INPUT.findall(_call(data))]


def read_xtb_result(data: bytes, start: Geometry | None, final: Geometry | None = None) -> PeerResult:
    """Read the file.

    Parameters
    ----------
    data
        Its content.
    start
        Geometry that the run began with, where it was found.
    final
        What lies beside as the optimised one; taken where its comment names the same energy.

    Returns
    -------
    PeerResult
        After an optimisation whose end is not known without a geometry of the atoms, but with the one before it.

    Raises
    ------
    Unreadable
        It is no JSON object, or has no energy.
    """
    facts = xtb_files.read_xtb_json(data)
    if facts.energy is None:
        raise Unreadable("no energy: the JSON has no number for 'total energy'")
    call = _call(data)
    # The call is read as it is where a log prints it.
    asked = xtb_log.read_log(f"program call : {call}\n".encode())
    doubts: list[Doubt] = []
    if asked.ionised:
        doubts.append(Doubt("ionised", "the run computed ions as well, and its last numbers are of one of them"))
    optimized = _OPTIMISES.search(f" {call}") is not None
    charges, charge, unpaired = facts.charges, asked.total_charge, facts.unpaired_electrons
    sources: dict[str, str] = {}
    if start is not None:
        charges = scalars("partial charges", charges, len(start.symbols), doubts)
    if charges is not None:
        total = float(charges.sum())
        charge = float(round(total)) if charge is None else charge
    if start is not None:
        charge, unpaired, sources = charge_and_spin(start, charges, charge=charge, unpaired=unpaired, doubts=doubts)
    if optimized and facts.dipole is not None:
        doubts.append(
            Doubt("dipole_differs", "the JSON keeps the dipole of the geometry before the optimisation, so none was "
                  "taken", {"xtb --json": facts.dipole})
        )  # fmt: skip
    result = XtbResult(
        status="converged",
        energy=facts.energy,
        homo=facts.homo,
        lumo=facts.lumo,
        gap=facts.gap,
        dipole=None if optimized else facts.dipole,
        total_charge=charge or 0.0,
        unpaired_electrons=unpaired or 0,
        method=facts.method,
        solvation=asked.solvation,
        solvent=asked.solvent,
        xtb_version=facts.version,
        optimized=optimized,
        geometry=_end(final, facts.energy) if optimized else start,
        input_geometry=start,
        charges=charges,
        program_call=call or None,
        doubts=tuple(doubts),
    )
    return PeerResult(result, sources=sources, output_file=True)


def _call(data: bytes) -> str:
    """The program call as it stands there: xtb does not escape it."""
    found = _CALL.search(data)
    return found[1].decode("utf-8", "replace") if found else ""


def _end(final: Geometry | None, energy: float) -> Geometry | None:
    """The optimised geometry, if it is this run's."""
    said = xtb_files.read_comment(final.comment)[0] if final is not None else None
    return final if said is not None and abs(said - energy) < _SAME_ENERGY else None
