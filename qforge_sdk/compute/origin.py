"""How a result came about, as its row keeps it in ``metadata["run"]``."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
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
        JSON: ``engine`` (name), ``options`` (fields of the engine), ``program`` (with its version), ``parameters``
        (fields of Parameters), ``conformer`` (its provenance), ``input_geometry`` (of an optimisation, see
        :func:`pack_geometry`; a single point's is the stored one), ``imaginary_modes``, ``program_call``, ``doubts``.
        What is not known is left out.
    """
    start = result.input_geometry if result.optimized else None
    facts = {
        "engine": engine.name,
        "options": _options(engine),
        "program": result.xtb_version,
        "parameters": dataclasses.asdict(parameters),
        "conformer": None if conformer is None else dict(conformer.provenance),
        "input_geometry": None if start is None else pack_geometry(start),
        "imaginary_modes": result.imaginary_modes,
        "program_call": result.program_call,
        "doubts": [doubt.as_json() for doubt in result.doubts],
    }
    return {name: fact for name, fact in facts.items() if fact not in (None, {}, [])}


def pack_geometry(geometry: Geometry) -> dict[str, Any]:
    """A geometry as JSON.

    Parameters
    ----------
    geometry
        Angstrom.

    Returns
    -------
    dict
        ``symbols``, a list, and ``positions``, x, y, z of one atom after the other in angstrom; the numbers give the
        same doubles back.
    """
    return {"symbols": list(geometry.symbols), "positions": geometry.positions.ravel().tolist()}


def unpack_geometry(packed: Mapping[str, Any], comment: str = "") -> Geometry:
    """The geometry that :func:`pack_geometry` packed.

    Parameters
    ----------
    packed
        With ``symbols`` and ``positions``.
    comment
        One line of text.

    Returns
    -------
    Geometry
        Angstrom.

    Raises
    ------
    InvalidInput
        The numbers do not fit the symbols.
    """
    symbols = tuple(packed["symbols"])
    return Geometry(symbols, np.array(packed["positions"], dtype=np.float64).reshape(-1, 3), comment)


def xyz_hash(geometry: Geometry) -> str:
    """sha256 of a geometry's XYZ text, for the column ``xyz_file_hash``."""
    return hashlib.sha256(geometry.to_xyz().encode()).hexdigest()


def _options(engine: Engine) -> dict[str, Any]:
    if not dataclasses.is_dataclass(engine):
        return {}
    return {name: value for name, value in dataclasses.asdict(engine).items() if value is not None}
