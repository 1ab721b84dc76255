"""How a result came about, as its row keeps it in ``metadata["run"]``."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from qforge_sdk.chem.conformer import Conformer
from qforge_sdk.chem.geometry import Geometry
from qforge_sdk.chem.result import XtbResult
from qforge_sdk.compute.engine import Engine, Parameters


def provenance(
    engine: Engine, parameters: Parameters, result: XtbResult, *, conformer: Conformer | None = None
) -> dict[str, Any]:
    """What it takes to repeat a calculation, for ``metadata["run"]``.

    Parameters
    ----------
    engine
        That computed it.
    parameters
        As it was asked for.
    result
        What came out.
    conformer
        Where the geometry was made of a SMILES.

    Returns
    -------
    dict
        JSON, what is not known left out. ``engine``: its name. ``options``: its fields, without a program's path.
        ``program``: with its version. ``parameters``: fields of Parameters. ``conformer``: its provenance.
        ``input_geometry``: of an optimisation, as :meth:`Geometry.as_json` gives it; a single point's is the stored
        one. ``imaginary_modes``, ``program_call``, ``doubts``: as in the result.
    """
    start = result.input_geometry if result.optimized else None
    facts = {
        "engine": engine.name,
        "options": _options(engine),
        "program": program_of(result.xtb_version),
        "parameters": _plain(dataclasses.asdict(parameters)),
        "conformer": None if conformer is None else dict(conformer.provenance),
        "input_geometry": None if start is None else start.as_json(),
        "imaginary_modes": result.imaginary_modes,
        "program_call": result.program_call,
        "doubts": [doubt.as_json() for doubt in result.doubts],
    }
    return {name: fact for name, fact in facts.items() if fact not in (None, {}, [])}


def program_of(version: str | None) -> str | None:
    """Program and version from the column ``xtb_version``, which names the program only where it is not xtb."""
    return version if version is None or " " in version else f"xtb {version}"


def xyz_hash(geometry: Geometry) -> str:
    """sha256 of a geometry's XYZ text, for the column ``xyz_file_hash``."""
    return hashlib.sha256(geometry.to_xyz().encode()).hexdigest()


def _options(engine: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(engine):
        return {}
    values = {field.name: getattr(engine, field.name) for field in dataclasses.fields(engine)}
    # Where a program lies says nothing on another machine.
    return _plain({name: value for name, value in values.items() if value is not None and name != "program"})


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers of numpy as those that JSON knows."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
