"""Which of several sources is believed, and what is noted of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from qforge_sdk.chem.result import Doubt

#: Where each quantity comes from, the most trusted first. The log is right where it is whole: it prints 12 decimals
#: and the last of several values is the final one; xtbout.json rounds to 8; results.json of a job often holds the
#: energy of the first single point. What was asked for (the call, .CHRG, .UHF) counts where nothing says what was
#: done.
TRUST: Final[Mapping[str, tuple[str, ...]]] = {
    "energy": ("log", "xtbopt.xyz", "xtblast.xyz", "xtbout.json", "gradient", "results.json"),
    "gap": ("log", "xtbout.json", "results.json"),
    "homo": ("log", "xtbout.json"),
    "lumo": ("log", "xtbout.json"),
    "dipole": ("log", "xtbout.json"),
    "total_charge": ("log", "call", ".CHRG", "metadata.json", "charges"),
    "unpaired_electrons": ("log", "xtbout.json", "call", ".UHF"),
    "method": ("log", "xtbout.json", "metadata.json", "call"),
    "xtb_version": ("log", "xtbout.json", "xtbopt.xyz", "xtblast.xyz", "metadata.json"),
    "charges": ("charges", "xtbout.json", "gfnff_charges"),
}
#: How far apart two sources may print the same number; where it is missing, numbers are not compared.
TOLERANCE: Final[Mapping[str, float]] = {
    "energy": 2e-7, "gap": 2e-4, "homo": 2e-4, "lumo": 2e-4, "dipole": 1e-3, "total_charge": 0.01,
    "unpaired_electrons": 0.5,
}  # fmt: skip
_CODES: Final = {
    "energy": "energy_differs", "gap": "gap_differs", "homo": "gap_differs", "lumo": "gap_differs",
    "dipole": "dipole_differs", "total_charge": "charge_differs", "unpaired_electrons": "spin_differs",
    "method": "method_differs",
}  # fmt: skip
#: The log prints these with 3 or 4 decimals, xtbout.json with 8: where they agree, the longer number is taken.
_FINER: Final = frozenset({"homo", "lumo", "dipole"})


class Sources:
    """What each source says of each quantity.

    Parameters
    ----------
    doubts
        Where disagreements are noted.
    """

    def __init__(self, doubts: list[Doubt]) -> None:
        self.doubts = doubts
        self.taken: dict[str, str] = {}
        self._said: dict[str, dict[str, Any]] = {name: {} for name in TRUST}

    def say(self, quantity: str, source: str, value: Any) -> None:
        """A source's value; None says nothing."""
        if value is not None:
            self._said[quantity].setdefault(source, value)

    def said(self, quantity: str, source: str) -> Any:
        """What a source says."""
        return self._said[quantity].get(source)

    def choose(self, quantity: str) -> Any:
        """The most trusted value, None where there is none; others that disagree with it are a doubt."""
        found = self._said[quantity]
        if not found:
            return None
        said = {source: found[source] for source in TRUST[quantity] if source in found} if len(found) > 1 else found
        source, value = next(iter(said.items()))
        if len(said) > 1 and quantity in _CODES:
            if any(apart(quantity, value, other) for other in said.values()):
                message = f"{quantity}: {source} was taken of sources that disagree"
                self.doubts.append(Doubt(_CODES[quantity], message, said))
            elif quantity in _FINER:
                source, value = "xtbout.json", said["xtbout.json"]
        self.taken[quantity] = source
        return value


def apart(quantity: str, one: Any, other: Any) -> bool:
    """Whether two values of a quantity disagree by more than the digits that are printed."""
    if isinstance(one, str):
        return bool(one.lower() != str(other).lower())
    return bool(abs(one - other) > TOLERANCE[quantity])
