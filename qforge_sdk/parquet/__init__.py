"""Tables to Parquet files and back.

An export is a folder::

    manifest.json
    molecules/part-00000.parquet
    calculations/part-00000.parquet  part-00001.parquet ...
    ...

Each table's folder is a data set for pandas, Polars, DuckDB, dask and Spark: all its files have one schema, with
units in the fields' metadata, and a table without rows has a file without rows. The manifest names every file with
its SHA-256 and number of rows, and for every table a hash of its content (:mod:`qforge_sdk.parquet.content`), by
which a restore is verified.
"""

from qforge_sdk.parquet.export import ExportReport, export_tables
from qforge_sdk.parquet.manifest import file_metadata
from qforge_sdk.parquet.restore import RestoreReport, restore_tables

__all__ = ["ExportReport", "RestoreReport", "export_tables", "file_metadata", "restore_tables"]
