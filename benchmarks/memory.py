"""Peak memory of loading and of exporting many rows, each in a process of its own.

``python -m benchmarks.memory --rows 10000000``
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

import qforge_sdk as qf
from benchmarks.load import make_rows

_BATCH = 50_000


def _batches(rows: int) -> Iterator[pa.RecordBatch]:
    molecules = np.arange(1, 1001)
    for _ in range(rows // _BATCH):
        yield from make_rows(_BATCH, molecules).to_batches()


def load(data_dir: Path, rows: int) -> None:
    """Load from an iterator of batches."""
    with qf.connect(data_dir=data_dir) as client:
        client.molecules.bulk_load({"smiles": ["C" * n + "O" for n in range(1, 1001)]})
        report = client.calculations.bulk_load(_batches(rows))
        assert report.n_inserted == rows


def export(data_dir: Path, rows: int) -> None:
    """Export the same rows to Parquet."""
    with qf.connect(data_dir=data_dir) as client:
        report = client.export(data_dir.parent / "export", tables=["calculations"])
        assert report.rows["calculations"] == rows


def main() -> None:
    """Run both and print their peaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--only", choices=["load", "export"], help=argparse.SUPPRESS)
    parser.add_argument("--data-dir", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        {"load": load, "export": export}[options.only](options.data_dir, options.rows)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{options.only} {options.rows:,} calculations: peak {peak:.0f} MB")
        return
    folder = Path(tempfile.mkdtemp(prefix="qforge-bench-"))
    try:
        for step in ("load", "export"):
            options_of_step = ["--only", step, "--data-dir", str(folder / "db"), "--rows", str(options.rows)]
            subprocess.run([sys.executable, "-m", "benchmarks.memory", *options_of_step], check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
