"""Reading finished runs against reading their bytes, and migrating them: time for a run, and memory for many.

``python -m benchmarks.migrate --rows 100000``; the folders are copies of runs that xtb makes for it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import qforge_sdk as qf
from benchmarks.timing import interleaved, print_table
from qforge_sdk.chem.run_folder import Run, read_run, runs_in
from qforge_sdk.migrate.read import read_found

_MAKE_RUNS = Path(__file__).parents[1] / "examples" / "make_runs.py"
_TOGETHER = 1000


def replicate(runs: Path, root: Path, rows: int) -> None:
    """Copy runs until there are so many folders, each of a content and a job_id of its own."""
    templates = [Path(folder) for folder, _, files in os.walk(runs) if files]
    for number in range(rows):
        source = templates[number % len(templates)]
        target = root / f"{number // _TOGETHER:04d}" / f"{source.name}_{number:07d}"
        shutil.copytree(source, target)
        for path in (*target.glob("*_stdout.log"), *target.glob("xtb.out")):
            with path.open("ab") as file:
                file.write(b"run %d\n" % number)
        metadata = target / "metadata.json"
        if metadata.exists():
            content = json.loads(metadata.read_bytes().decode("utf-8", "replace")) | {"job_id": target.name}
            metadata.write_text(json.dumps(content))


def plain(folders: list[str]) -> None:
    """Open and read every file."""
    for folder in folders:
        for name in os.listdir(folder):  # noqa: PTH208 - what is compared with is to be fast
            with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123
                file.read()


def read(runs: list[Run]) -> None:
    """Read and parse."""
    for run in runs:
        read_run(run)


def measure_reading(root: Path, repeats: int) -> None:
    """Time on one core, from the cache."""
    folders = [folder for folder, _, files in os.walk(root) if files]
    runs = [run for folder in folders for run in runs_in(Path(folder), os.listdir(folder))]  # noqa: PTH208
    base = "opening and reading every file"
    seconds = interleaved(
        {
            base: lambda: plain(folders),
            "read_run": lambda: read(runs),
            "read_run, molecules perceived": lambda: read_found(runs),
        },
        repeats=repeats,
    )
    print_table(f"read {len(runs):,} runs on one core, from the cache", seconds, base=base, rows=len(runs))


def migrate(root: Path, *, limit: int | None, dry_run: bool) -> None:
    """Migrate into a new embedded database, and print the peaks of memory."""
    with (
        tempfile.TemporaryDirectory(prefix="qforge-bench-") as data,
        qf.connect(data_dir=Path(data) / "db") as client,
    ):
        report = client.migrate(root, dry_run=dry_run, limit=limit, progress=False)
        rate = len(report.rows) / report.seconds
        again = client.migrate(root, dry_run=False, limit=limit, progress=False) if not dry_run else report
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    how = "planned at" if dry_run else f"found again at {len(again.rows) / again.seconds:,.0f} runs/s, stored at"
    print(f"{len(report.rows):9,} runs {how} {rate:,.0f} runs/s, peak of memory {peak:.0f} MB")


def main() -> None:
    """Make the folders, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the folders are made (some 40 kB each)")
    parser.add_argument("--only", choices=["stored", "planned"], help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        migrate(options.folder, limit=options.limit, dry_run=options.only == "planned")
        return
    root = Path(tempfile.mkdtemp(prefix="qforge-bench-", dir=options.folder))
    try:
        subprocess.run([sys.executable, _MAKE_RUNS, root / "runs", "--all"], check=True)
        replicate(root / "runs", root / "few", min(options.rows, 1000))
        measure_reading(root / "few", options.repeats)
        replicate(root / "runs", root / "many", options.rows)
        print()
        for kind in ("planned", "stored"):
            for limit in (options.rows // 10, options.rows):
                command = [sys.executable, "-m", "benchmarks.migrate", "--only", kind, "--limit", str(limit)]
                subprocess.run([*command, "--folder", str(root / "many")], check=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
