"""How numbers are written in widgets: as many digits as mean something, with their unit."""

from __future__ import annotations

import math
from typing import Any, Final

from qforge_sdk.quantities import QUANTITIES

NOTHING: Final = "\N{EN DASH}"
_DECIMALS: Final = {"energy": 4, "homo": 3, "lumo": 3, "gap": 3, "dipole": 2, "total_charge": 0}
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


def heading(name: str) -> str:
    """Name of a column with its unit, such as ``gap (eV)``."""
    words = name.replace("_", " ")
    return f"{words} ({QUANTITIES[name].unit})" if name in QUANTITIES else words
