"""Loading calculations: ours against the server's own COPY and the peers, the same rows into the same tables.

``python -m benchmarks.load --rows 1000000``
"""

from __future__ import annotations

import argparse
import io
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from sqlalchemy import insert, text

import qforge_sdk as qf
from benchmarks.database import OTHER, TENANT, filled
from benchmarks.timing import interleaved, print_table
from qforge_sdk.config import libpq_url

_COLUMNS = (
    "molecule_id", "energy", "homo", "lumo", "gap", "dipole", "total_charge", "unpaired_electrons",
    "execution_time_seconds", "xtb_version", "method", "optimized", "convergence_status", "xyz_file_hash",
)  # fmt: skip


def make_rows(rows: int, molecules: np.ndarray) -> pa.Table:
    """Calculations whose numbers spread as those of real molecules do."""
    random = np.random.default_rng(7)
    homo, lumo = random.normal(-11, 1, rows), random.normal(-7, 2, rows)
    return pa.table(
        {
            "molecule_id": random.choice(molecules, rows),
            "energy": random.normal(-40, 15, rows),
            "homo": homo,
            "lumo": lumo,
            "gap": lumo - homo,
            "dipole": random.gamma(2, 1.2, rows),
            "total_charge": np.zeros(rows),
            "unpaired_electrons": np.zeros(rows, np.int32),
            "execution_time_seconds": random.gamma(2, 0.1, rows),
            "xtb_version": pa.array(["tblite 0.8.0"] * rows),
            "method": pa.array(["GFN2-xTB"] * rows),
            "optimized": np.zeros(rows, bool),
            "convergence_status": pa.array(["converged"] * rows),
            "xyz_file_hash": pa.array([f"{value:064x}" for value in random.integers(0, 2**62, rows)]),
        }
    ).select(_COLUMNS)


class _Bench:
    """The contestants, each in a transaction that is rolled back or emptied again."""

    def __init__(self, client: qf.Client, tenant: qf.Client, rows: pa.Table, folder: Path) -> None:
        self.client, self.tenant, self.rows, self.folder = client, tenant, rows, folder
        self.frame = rows.to_pandas()
        self.binary = folder / "calculations.bin"
        listed = ", ".join(_COLUMNS)
        self.copy = f"COPY public.calculations ({listed}) FROM STDIN (FORMAT binary)"

    def write_binary_file(self) -> None:
        """The same rows as a file of COPY's binary format, made by the server itself."""
        self.client.calculations.bulk_load(self.rows)
        with self.client.engine.connect() as connection, self.binary.open("wb") as file:
            connection.connection.cursor().copy_expert(
                f"COPY (SELECT {', '.join(_COLUMNS)} FROM public.calculations ORDER BY id DESC LIMIT {len(self.rows)}) "
                "TO STDOUT (FORMAT binary)",
                file,
            )
        self.remove()

    def remove(self) -> None:
        """Take the loaded rows away, events included, and leave the tables as they were."""
        with self.client.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = DEFAULT"))
            connection.execute(text("ALTER TABLE public.calculations DISABLE TRIGGER audit_delete"))
            connection.execute(text("DELETE FROM public.calculations WHERE source_id IS NULL"))
            connection.execute(text("ALTER TABLE public.calculations ENABLE TRIGGER audit_delete"))
        with self.client.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM public.calculations"))
            connection.execute(text("CHECKPOINT")) if False else None

    def server_copy(self) -> None:
        with self.client.engine.begin() as connection, self.binary.open("rb") as file:
            connection.connection.cursor().copy_expert(self.copy, file)

    def ours(self) -> None:
        self.client.calculations.bulk_load(self.rows)

    def ours_as_tenant(self) -> None:
        self.tenant.calculations.bulk_load(self.rows)

    def adbc_ingest(self) -> None:
        with adbc.connect(libpq_url(self.client.engine.url)) as connection:
            with connection.cursor() as cursor:
                cursor.adbc_ingest("calculations", self.rows, mode="append", db_schema_name="public")
            connection.commit()

    def pandas_copy(self) -> None:
        def method(table: object, connection: object, keys: list[str], data: object) -> None:  # noqa: ARG001
            buffer = io.StringIO()
            pd.DataFrame(list(data)).to_csv(buffer, header=False, index=False)
            buffer.seek(0)
            connection.connection.cursor().copy_expert(
                f"COPY public.calculations ({', '.join(keys)}) FROM STDIN (FORMAT csv)", buffer
            )

        self.frame.to_sql(
            "calculations", self.client.engine, schema="public", if_exists="append", index=False, method=method
        )

    def sqlalchemy_insert(self) -> None:
        with self.client.engine.begin() as connection:
            connection.execute(insert(qf.Calculation.__table__), self.frame.to_dict("records"))
