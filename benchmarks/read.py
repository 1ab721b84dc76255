"""Reading a whole table into a DataFrame, and the queries that must take milliseconds.

``python -m benchmarks.read --rows 1000000``
"""

from __future__ import annotations

import argparse
import io
from urllib.parse import quote

import adbc_driver_postgresql.dbapi as adbc
import connectorx
import pandas as pd

import qforge_sdk as qf
from benchmarks.database import TENANT, filled
from benchmarks.timing import interleaved, print_table
from qforge_sdk.config import libpq_url


class _Nowhere(io.RawIOBase):
    """Counts what is written and forgets it."""

    def write(self, data: object) -> int:
        return len(data)  # type: ignore[arg-type]


def whole_table(client: qf.Client, rows: int, repeats: int) -> None:
    """Read everything: ours against pandas.read_sql, connectorx, ADBC to pandas, and COPY to nowhere."""
    query = client.calculations.where().sql()
    uri = libpq_url(client.engine.url)
    socket = quote(str(client.engine.url.query["host"]), safe="")
    connectorx_uri = f"postgresql://{client.engine.url.username}@{socket}/{client.engine.url.database}"

    def copy_to_nowhere() -> None:
        with client.engine.connect() as connection, connection.connection.cursor() as cursor:
            cursor.copy_expert(f"COPY ({query}) TO STDOUT (FORMAT binary)", _Nowhere())

    def adbc_to_pandas() -> pd.DataFrame:
        with adbc.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetch_arrow_table().to_pandas()

    seconds = interleaved(
        {
            "raw COPY to nowhere": copy_to_nowhere,
            "client.calculations.query()": client.calculations.query,
            "client.calculations.where().arrow()": lambda: client.calculations.where().arrow(),
            "ADBC to pandas": adbc_to_pandas,
            "connectorx": lambda: connectorx.read_sql(connectorx_uri, query),
            "pandas.read_sql": lambda: pd.read_sql(query.replace("%", "%%"), client.engine),
        },
        repeats=repeats,
    )
    print_table(f"read {rows:,} calculations with their molecules", seconds, base="raw COPY to nowhere", rows=rows)


def small_queries(client: qf.Client, title: str) -> None:
    """The everyday queries, each with the index that serves it."""
    row = client.calculations.query(limit=1).iloc[0]
    queries = {
        "get": client.calculations.where(id=int(row.id)),
        "by SMILES": client.molecules.where(
            qf.Molecule.identity_hash == client.sql("SELECT identity_hash FROM molecules LIMIT 1").identity_hash[0]
        ),
        "for a molecule": client.calculations.where(molecule_id=int(row.molecule_id)),
        "energy range, limit 1000": client.calculations.where(energy=(-40, -30)).order_by("energy").limit(1000),
        "gap range, limit 1000": client.calculations.where(gap=(2, 3)).order_by("gap").limit(1000),
        "newest-first page of 50": client.calculations.where().order_by("-created_at", "-id").limit(50),
    }
    seconds = interleaved({name: query.df for name, query in queries.items()}, repeats=9)
    print(f"\n{title}\n{'':44} {'ms':>9}  index")
    for name, query in queries.items():
        plan = query.explain()
        index = next((line.split(" using ")[1].split()[0] for line in plan.splitlines() if " using " in line), "none")
        print(f"{name:44} {1000 * seconds[name]:9.1f}  {index}")


def main() -> None:
    """Fill a server and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with filled(options.rows) as data_dir:
        with qf.connect(data_dir=data_dir) as client:
            whole_table(client, options.rows, options.repeats)
        with qf.connect(data_dir=data_dir, user_id=TENANT) as client:
            small_queries(client, f"queries as a tenant among {options.rows:,} calculations")


if __name__ == "__main__":
    main()
