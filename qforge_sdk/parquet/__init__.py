"""Parquet files: metadata that every file of ours carries."""

from __future__ import annotations

import qforge_sdk._version as version
from qforge_sdk.db.schema import head_revision


def file_metadata(table: str) -> dict[str, str]:
    """Key-value metadata of a file that holds rows of ``table``."""
    return {
        "qforge.table": table,
        "qforge.schema_revision": head_revision(),
        "qforge.version": version.__version__,
    }
