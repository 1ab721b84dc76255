"""Loading calculations: ours against the server's own COPY and the peers, the same rows into the same tables.

``python -m benchmarks.load --rows 1000000``
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import numpy as np
import pandas as pd
import pyarrow as pa
from sqlalchemy import insert, text

import qforge_sdk as qf
from benchmarks.database import TENANT, filled
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


class Bench:
    """The contestants: each loads the same rows and commits; :meth:`reset` takes them away again.

    Parameters
    ----------
    client
        The service, which owns the tables.
    tenant
        The same database as a tenant.
    rows
        What is loaded.
    folder
        For the binary file.
    """

    def __init__(self, client: qf.Client, tenant: qf.Client, rows: pa.Table, folder: Path) -> None:
        self.client, self.tenant, self.rows = client, tenant, rows
        self.frame = rows.to_pandas()
        self.binary = folder / "calculations.bin"
        self.last_id = int(client.sql("SELECT coalesce(max(id), 0) AS id FROM calculations").id[0])
        self._write_binary_file()

    def server_copy(self) -> None:
        with self.client.engine.begin() as connection, self.binary.open("rb") as file:
            connection.connection.cursor().copy_expert(
                f"COPY public.calculations ({', '.join(_COLUMNS)}) FROM STDIN (FORMAT binary)", file
            )

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
        def method(_table: object, connection: Any, keys: list[str], data: Any) -> None:
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

    def reset(self) -> None:
        """Leave the table as it was found, indexes without dead entries."""
        with self.client.engine.begin() as connection:
            if self.last_id:
                connection.execute(text("ALTER TABLE public.calculations DISABLE TRIGGER audit_delete"))
                connection.execute(text("DELETE FROM public.calculations WHERE id > :last"), {"last": self.last_id})
                connection.execute(text("ALTER TABLE public.calculations ENABLE TRIGGER audit_delete"))
            else:
                connection.execute(text("TRUNCATE public.calculations CASCADE"))
            connection.execute(text("ALTER TABLE public.event_logs DISABLE TRIGGER guard"))
            connection.execute(text("TRUNCATE public.event_logs"))
            connection.execute(text("ALTER TABLE public.event_logs ENABLE TRIGGER guard"))
        with self.client.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (ANALYZE) public.calculations"))

    def _write_binary_file(self) -> None:
        """The rows in COPY's binary format, as the server itself writes them."""
        self.ours()
        with self.client.engine.connect() as connection, self.binary.open("wb") as file:
            connection.connection.cursor().copy_expert(
                f"COPY (SELECT {', '.join(_COLUMNS)} FROM public.calculations WHERE id > {self.last_id}) "
                "TO STDOUT (FORMAT binary)",
                file,
            )
        self.reset()


def main() -> None:
    """Fill a server and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    for title, stored in (("indexed tables that hold as many", options.rows), ("empty tables", 0)):
        with (
            filled(stored, molecules=options.rows // 10) as data_dir,
            tempfile.TemporaryDirectory() as folder,
            qf.connect(data_dir=data_dir) as client,
            qf.connect(data_dir=data_dir, user_id=TENANT) as tenant,
        ):
            molecules = tenant.molecules.query(user_id=str(TENANT), columns=["id"])["id"].to_numpy(np.int64)
            bench = Bench(client, tenant, make_rows(options.rows, molecules), Path(folder))
            contestants = {
                "server's own COPY, binary file": bench.server_copy,
                "bulk_load as the service": bench.ours,
            }
            if stored:
                contestants["bulk_load as a tenant, with audit"] = bench.ours_as_tenant
            seconds = interleaved(contestants, repeats=options.repeats, warm_up=False, afterwards=bench.reset)
            if stored and not options.no_peers:
                peers = {"adbc_ingest": bench.adbc_ingest, "pandas.to_sql, COPY method": bench.pandas_copy}
                peers["SQLAlchemy insert"] = bench.sqlalchemy_insert
                seconds |= interleaved(peers, repeats=1, warm_up=False, afterwards=bench.reset)
            print_table(
                f"load {options.rows:,} calculations into {title}",
                seconds,
                base="server's own COPY, binary file",
                rows=options.rows,
            )


if __name__ == "__main__":
    main()
