"""Batches that run: engines that compute, and the runner that lets nothing be lost or done twice.

Modules load on first use: an engine whose program is missing does not hinder the others.
"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from qforge_sdk.compute.engine import Engine, Parameters
from qforge_sdk.errors import InvalidInput
from qforge_sdk.quantities import did_you_mean

if TYPE_CHECKING:
    from qforge_sdk.compute.origin import provenance, xyz_hash
    from qforge_sdk.compute.tblite import TbliteEngine
    from qforge_sdk.compute.xtb import XtbEngine

_HOME: Final = {
    "TbliteEngine": "tblite",
    "XtbEngine": "xtb",
    "provenance": "origin",
    "xyz_hash": "origin",
}

ENGINES: Final = {"tblite": "TbliteEngine", "xtb": "XtbEngine"}
"""Class of each engine."""

__all__ = ["ENGINES", "Engine", "Parameters", "TbliteEngine", "XtbEngine", "get_engine", "provenance", "xyz_hash"]


def get_engine(name: str, **options: Any) -> Engine:
    """An engine by its name.

    Parameters
    ----------
    name
        ``tblite`` or ``xtb``.
    **options
        Fields of the engine's class, such as ``max_steps``.

    Returns
    -------
    Engine
        Whether its program is installed shows when it computes.

    Raises
    ------
    InvalidInput
        There is no such engine, or it has no such option.
    """
    if name not in ENGINES:
        raise InvalidInput(f"no engine {name!r}{did_you_mean(str(name), list(ENGINES))}", field="engine", value=name)
    kind = __getattr__(ENGINES[name])
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in known:
            raise InvalidInput(
                f"the {name} engine has no option {option!r}{did_you_mean(option, known)}", field=option
            )
    engine: Engine = kind(**options)
    return engine


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
