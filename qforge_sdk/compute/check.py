"""What is refused before an engine starts: parameters that are not its own, molecules beyond its methods."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Final

import numpy as np

from qforge_sdk.chem.electrons import HEAVIEST, count_electrons
from qforge_sdk.chem.geometry import Geometry
from qforge_sdk.compute.engine import Parameters
from qforge_sdk.errors import ComputationFailed, InvalidInput
from qforge_sdk.quantities import did_you_mean

DEFAULTS: Final = Parameters()
"""A single point of GFN2-xTB in the gas phase."""

_POSITIVE: Final = {"accuracy": False, "electronic_temperature": False, "max_iterations": True}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9,-]*")


def check_parameters(
    parameters: Parameters, *, engine: str, methods: tuple[str, ...], solvations: Mapping[str, str]
) -> None:
    """Refuse what an engine cannot do.

    Parameters
    ----------
    parameters
        What is asked for.
    engine
        Its name, for the message.
    methods, solvations
        What it has.

    Raises
    ------
    InvalidInput
        ``field`` names the parameter.
    """
    if parameters.method not in methods:
        raise _refusal("method", parameters.method, f"the {engine} engine has no method", methods)
    if (parameters.solvation is None) != (parameters.solvent is None):
        raise InvalidInput(
            f"solvation and solvent go together, not solvation={parameters.solvation!r} with "
            f"solvent={parameters.solvent!r}",
            field="solvent",
            value=parameters.solvent,
        )
    if parameters.solvation is not None and parameters.solvation not in solvations:
        raise _refusal("solvation", parameters.solvation, f"the {engine} engine has no solvation model", solvations)
    solvent = parameters.solvent
    if solvent is not None and (not _NAME.fullmatch(str(solvent)) or solvent.lower() == "none"):
        raise InvalidInput(
            f"{parameters.solvent!r} is no name of a solvent", field="solvent", value=parameters.solvent
        )
    for name, whole in _POSITIVE.items():
        check_positive(name, getattr(parameters, name), whole=whole)


def check_positive(name: str, value: object, *, whole: bool = False) -> None:
    """Refuse what is no finite number above zero.

    Parameters
    ----------
    name
        Of the field.
    value
        As it was given.
    whole
        Whether it must be whole.

    Raises
    ------
    InvalidInput
        It is not.
    """
    kind = Integral if whole else Real
    # The programs keep whole numbers in 32 bits.
    if (
        isinstance(value, bool)
        or not isinstance(value, kind)
        or not 0 < float(value) < (2**31 if whole else math.inf)
    ):
        what = "a whole number" if whole else "a number"
        raise InvalidInput(f"{name} is {what} above 0, not {value!r}", field=name, value=value)


def check_whole(name: str, value: object) -> int:
    """A whole number as an int, whichever library it comes from.

    Parameters
    ----------
    name
        Of the argument.
    value
        As it was given.

    Raises
    ------
    InvalidInput
        It is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidInput(f"{name} is a whole number, not {value!r}", field=name, value=value)
    return int(value)


def check_molecule(geometry: Geometry, charge: int, unpaired_electrons: int) -> int:
    """Refuse a molecule that the methods have no parameters for, or whose electrons do not fit.

    Parameters
    ----------
    geometry
        Its atoms.
    charge
        e.
    unpaired_electrons
        Number.

    Returns
    -------
    int
        Its valence electrons.

    Raises
    ------
    ComputationFailed
        ``unknown_element`` or ``spin_mismatch``.
    InvalidInput
        There is no atom, or a number is not whole.
    """
    if not geometry.symbols:
        raise InvalidInput("there is no atom to compute", field="geometry")
    charge, unpaired_electrons = check_whole("charge", charge), check_whole("unpaired_electrons", unpaired_electrons)
    unknown = sorted({s for s, n in zip(geometry.symbols, geometry.numbers, strict=True) if n > HEAVIEST})
    if unknown:
        raise ComputationFailed(
            f"no parameters for {', '.join(unknown)}: the GFN methods end at radon", code="unknown_element"
        )
    electrons = count_electrons(geometry.numbers, charge)
    if electrons < 0:
        raise ComputationFailed(
            f"charge {charge:+d} takes {-electrons} electrons more than {geometry.formula} has", code="spin_mismatch"
        )
    if not 0 <= unpaired_electrons <= electrons or (electrons - unpaired_electrons) % 2:
        raise ComputationFailed(
            f"{geometry.formula} of charge {charge:+d} has {electrons} valence electrons, of which "
            f"{unpaired_electrons} cannot be unpaired; {_nearest(electrons, unpaired_electrons)} can",
            code="spin_mismatch",
        )
    return electrons


def hydrogen() -> Geometry:
    """The smallest molecule, to try parameters on."""
    return Geometry(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]))


def _nearest(electrons: int, unpaired: int) -> int:
    within = min(max(unpaired, 0), electrons)
    if (electrons - within) % 2 == 0:
        return within
    return within + 1 if within < electrons else within - 1


def _refusal(field: str, value: object, what: str, known: Mapping[str, str] | tuple[str, ...]) -> InvalidInput:
    return InvalidInput(f"{what} {value!r}{did_you_mean(str(value), list(known))}", field=field, value=value)
