"""Chemistry without a database: SMILES, geometries, RDKit.

Modules load on first use, so that a worker process imports RDKit and nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qforge_sdk.chem.conformer import Conformer, geometry_from_smiles
    from qforge_sdk.chem.geometry import Geometry, geometry_to_ase, read_xyz, write_sdf
    from qforge_sdk.chem.isolation import validate_smiles
    from qforge_sdk.chem.pool import validate, validate_many
    from qforge_sdk.chem.smiles import SMILES_CODES, ValidatedMolecule

_HOME = {
    "SMILES_CODES": "smiles",
    "ValidatedMolecule": "smiles",
    "validate_smiles": "isolation",
    "validate": "pool",
    "validate_many": "pool",
    "Conformer": "conformer",
    "geometry_from_smiles": "conformer",
    "Geometry": "geometry",
    "geometry_to_ase": "geometry",
    "read_xyz": "geometry",
    "write_sdf": "geometry",
}

__all__ = [
    "SMILES_CODES",
    "Conformer",
    "Geometry",
    "ValidatedMolecule",
    "geometry_from_smiles",
    "geometry_to_ase",
    "read_xyz",
    "validate",
    "validate_many",
    "validate_smiles",
    "write_sdf",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
