"""Numbers as a chemist reads them: headings with units, no more digits than they have."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from qforge_sdk.quantities import QUANTITIES

NOTHING: Final = "\N{EN DASH}"

_LABELS: Final = {
    "homo": "HOMO",
    "lumo": "LUMO",
    "total_charge": "charge",
    "partial_charge": "charge",
    "execution_time_seconds": "time",
    "convergence_status": "status",
    "unpaired_electrons": "unpaired electrons",
    "fingerprint_popcount": "fingerprint bits",
    "position_x": "x",
    "position_y": "y",
    "position_z": "z",
    "created_at": "stored",
}
_DECIMALS: Final = {
    "energy": 6,
    "homo": 3,
    "lumo": 3,
    "gap": 3,
    "dipole": 3,
    "execution_time_seconds": 2,
    "partial_charge": 4,
    "position_x": 4,
    "position_y": 4,
    "position_z": 4,
    "force_norm": 5,
}


def label(name: str) -> str:
    """What a column is called where people read it."""
    return _LABELS.get(name, name.replace("_", " "))


def heading(name: str) -> str:
    """The same, with its unit where it has one."""
    return f"{label(name)} ({QUANTITIES[name].unit})" if name in QUANTITIES else label(name)


def number(name: str, value: Any) -> str:
    """A value of a column, without its unit.

    Parameters
    ----------
    name
        The column.
    value
        As a frame holds it; null is shown as a dash.
    """
    if pd.isna(value):
        return NOTHING
    if name == "total_charge":
        return f"{value:+g}" if value else "0"
    digits = _DECIMALS.get(name)
    return f"{value:,}" if digits is None else f"{value:,.{digits}f}"


def measure(name: str, value: Any) -> str:
    """A value of a column with its unit."""
    text = number(name, value)
    return text if text == NOTHING or name not in QUANTITIES else f"{text} {QUANTITIES[name].unit}"


def words(value: Any) -> str:
    """Text of a column, a dash for null."""
    return NOTHING if pd.isna(value) else str(value)


def moment(value: Any) -> str:
    """A time, to the second."""
    return NOTHING if pd.isna(value) else f"{value:%Y-%m-%d %H:%M:%S}"
