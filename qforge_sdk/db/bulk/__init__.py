"""Bulk loads: validate everything, write once, account for every row."""

from qforge_sdk.db.bulk.atoms import load_atoms
from qforge_sdk.db.bulk.calculations import load_calculations
from qforge_sdk.db.bulk.molecules import load_molecules

__all__ = ["load_atoms", "load_calculations", "load_molecules"]
