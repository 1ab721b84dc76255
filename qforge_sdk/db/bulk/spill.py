"""Lines of a report: in memory while they are few, in a Parquet file when they are many."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

MOST_IN_MEMORY: Final = 10_000


class Spill:
    """Collects Arrow tables of one schema.

    Parameters
    ----------
    schema
        Of the lines.
    prefix
        Beginning of the file's name.
    """

    def __init__(self, schema: pa.Schema, prefix: str) -> None:
        self._schema = schema
        self._prefix = prefix
        self._tables: list[pa.Table] = []
        self._held = 0
        self._writer: pq.ParquetWriter | None = None
        self._path: Path | None = None

    def add(self, table: pa.Table) -> None:
        """Take some lines."""
        self._tables.append(table)
        self._held += table.num_rows
        if self._held > MOST_IN_MEMORY:
            self._write()

    def close(self) -> pa.Table | Path:
        """All lines in the order in which they came, or the file that holds them; the file is the caller's then."""
        if self._writer is None:
            return pa.concat_tables(self._tables) if self._tables else self._schema.empty_table()
        self._write()
        self._writer.close()
        self._discard.detach()
        assert self._path is not None
        return self._path

    def _write(self) -> None:
        if self._writer is None:
            with tempfile.NamedTemporaryFile(prefix=self._prefix, suffix=".parquet", delete=False) as file:
                self._path = Path(file.name)
            self._discard = weakref.finalize(self, self._path.unlink, missing_ok=True)
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables))
        self._tables, self._held = [], 0
