"""Molecular formulas."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

_ELEMENT: Final = re.compile(r"([A-Z][a-z]?)(\d{0,9})")
_FORMULA: Final = re.compile(r"((?:[A-Z][a-z]?\d{0,9})+)(?:[+-]\d*)?")


def composition(formula: str) -> Counter[str] | None:
    """Atoms of each element, so that NH3 is H3N; a charge at the end is left out.

    Parameters
    ----------
    formula
        Such as ``C2H6O`` or ``H4N+``.

    Returns
    -------
    collections.Counter or None
        None when it cannot be read.
    """
    found = _FORMULA.fullmatch(formula.strip())
    if found is None:
        return None
    counts: Counter[str] = Counter()
    for element, number in _ELEMENT.findall(found[1]):
        counts[element] += int(number or 1)
    return counts
