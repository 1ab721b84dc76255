"""How numbers are written in widgets: as many digits as mean something, with their unit."""

from __future__ import annotations

import math
from typing import Any, Final

from qforge_sdk.quantities import QUANTITIES

NOTHING: Final = "\N{EN DASH}"
_POSITION: Final = ("position_x", "position_y", "position_z")
_DECIMALS: Final = {
    "energy": 4,
    "homo": 3,
    "lumo": 3,
    "gap": 3,
    "dipole": 2,
    "total_charge": 0,
    "unpaired_electrons": 0,
    "execution_time_seconds": 2,
    "partial_charge": 4,
    "force_norm": 5,
    **dict.fromkeys(_POSITION, 4),
}
_LABELS: Final = {
    "partial_charge": "charge",
    "execution_time_seconds": "time",
    "convergence_status": "status",
    **dict(zip(_POSITION, "xyz", strict=True)),
}
_LARGEST: Final = 1e9


def is_missing(value: Any) -> bool:
    """Whether it is None, NA or not a number."""
    return value is None or value != value or str(value) == "<NA>"  # noqa: PLR0124


def number(name: str, value: Any) -> str:
    """A quantity without its unit.

    Parameters
    ----------
    name
        Its column, which decides on the decimals.
    value
        In the unit of :data:`qforge_sdk.quantities.QUANTITIES`; None, NA and NaN become a dash.

    Returns
    -------
    str
        With thousands separators and a true minus sign, in powers of ten where it is huge.
    """
    if is_missing(value):
        return NOTHING
    decimals = _DECIMALS.get(name, 3)
    is_readable = math.isfinite(value) and abs(value) < _LARGEST
    written = f"{value:,.{decimals}f}" if is_readable else f"{value:.4g}"
    return written.replace("-", "\N{MINUS SIGN}")


def measured(name: str, value: Any) -> str:
    """The same with its unit, such as ``9.100 eV``."""
    unit = QUANTITIES[name].unit if name in QUANTITIES else ""
    written = number(name, value)
    return written if written == NOTHING else f"{written} {unit}".strip()


def label(name: str) -> str:
    """What a column is called where people read it."""
    return _LABELS.get(name, name.replace("_", " "))


def heading(name: str) -> str:
    """Name of a column with its unit, such as ``gap (eV)``."""
    return f"{label(name)} ({QUANTITIES[name].unit})" if name in QUANTITIES else label(name)


def words(value: Any) -> str:
    """Text of a column, a dash where there is none."""
    return NOTHING if is_missing(value) else str(value)


def moment(value: Any) -> str:
    """A time, to the second."""
    return NOTHING if is_missing(value) else f"{value:%Y-%m-%d %H:%M:%S}"
