"""A PostgreSQL database of xTB quantum-chemistry results, driven from a notebook."""
