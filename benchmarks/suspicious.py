"""Judging every calculation with its atoms, against reading the same columns and doing nothing; and the peak memory.

``python -m benchmarks.suspicious --rows 1000000`` (23 atoms a calculation: copies of the sample data)
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

import qforge_sdk as qf
from benchmarks.timing import interleaved, print_table
from qforge_sdk.data import load_sample

_CALCULATIONS = ("id", "smiles", "formula", "method", "solvation", "energy", "gap", "total_charge", "metadata")
_ATOMS = ("calculation_id", "atomic_number", "position_x", "position_y", "position_z", "partial_charge")


def fill(data_dir: Path, copies: int) -> None:
    """Load the sample data so many times."""
    with qf.connect(data_dir=data_dir) as client:
        _fill(client, copies)


def _fill(client: qf.Client, copies: int) -> None:
    sample = load_sample()

    def copied(rows: pa.Table) -> Iterator[pa.Table]:
        place = rows.schema.get_field_index("source_id")
        for copy in range(copies):
            names = pc.binary_join_element_wise(rows["source_id"], str(copy), ":")
            yield rows.set_column(place, "source_id", names)

    client.calculations.bulk_load(copied(sample.calculations))
    client.atoms.bulk_load(copied(sample.atoms))
    with client.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE)")


def read(client: qf.Client) -> None:
    """Stream the same columns in the same order."""
    for query in (
        client.calculations.where().select(_CALCULATIONS).order_by("id"),
        client.atoms.where().select(_ATOMS).order_by("calculation_id", "atom_index"),
    ):
        for _ in query.iter_batches():
            pass


def main() -> None:
    """Fill a throw-away server in another process, and compare in this one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    copies = max(1, options.rows // load_sample().calculations.num_rows)
    folder = Path(tempfile.mkdtemp(prefix="qforge-bench-"))
    try:
        filler = get_context("spawn").Process(target=fill, args=(folder / "data", copies))
        filler.start()
        filler.join()
        with qf.connect(data_dir=folder / "data") as client:
            rows = client.calculations.count()
            before = _peak()
            seconds = interleaved(
                {"reading alone": lambda: read(client), "calculations.suspicious()": client.calculations.suspicious},
                repeats=options.repeats,
            )
        print_table("judge every calculation", seconds, base="reading alone", rows=rows)
        print(f"peak memory {_peak():.0f} MB, {before:.0f} MB before")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _peak() -> float:
    """MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
