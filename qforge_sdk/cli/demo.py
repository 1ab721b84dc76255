"""``qforge demo``: the main job on the shipped sample data."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated

import pandas as pd
import pyarrow.dataset as ds
import typer

from qforge_sdk.cli import app, console, opened
from qforge_sdk.cli.data import print_report
from qforge_sdk.cli.tables import facts_table, frame_table
from qforge_sdk.client import Client
from qforge_sdk.data import load_sample

_COLUMNS = ("name", "formula", "energy", "gap", "dipole")


@app.command()
def demo(
    data_dir: Annotated[Path, typer.Option(help="Folder of the embedded server; made if it is not there.")] = Path(
        "qforge-demo"
    ),
) -> None:
    """Run the main job: load xTB results of 3,231 molecules, look at them, export them and read them back."""
    started = perf_counter()
    with opened(None, data_dir, None) as client:
        console.print(f"[bold]1.[/] embedded PostgreSQL is up after {perf_counter() - started:.1f} s: {data_dir}\n")
        _load(client)
        _look(client)
        _export(client)
    console.print(
        "[bold]Next:[/] open a notebook and try\n\n"
        "  import qforge_sdk as qf\n"
        f"  client = qf.connect(data_dir={str(data_dir)!r})\n"
        "  df = client.calculations.query(gap=(2, 4), order_by='-dipole', limit=20)\n",
        highlight=False,
    )


def _load(client: Client) -> None:
    sample = load_sample()
    console.print("[bold]2.[/] RDKit validates every SMILES, COPY loads the results\n")
    print_report(client.molecules.bulk_load(sample.molecules.select(["smiles", "name"])), "molecules")
    print_report(client.calculations.bulk_load(sample.calculations), "calculations")
    print_report(client.atoms.bulk_load(sample.atoms), "atoms")


def _look(client: Client) -> None:
    stats = client.stats()
    facts = {
        "molecules": stats.total_molecules,
        "calculations": stats.total_calculations,
        "average energy (hartree)": stats.average_energy,
        "median gap (eV)": stats.median_gap,
        "converged (%)": stats.success_rate,
    }
    console.print("\n[bold]3.[/] statistics, computed in SQL\n")
    console.print(facts_table(facts, "database"))
    console.print("\n[bold]4.[/] queries come back as DataFrames\n")
    named = client.calculations.where(convergence_status="converged").where(energy=(-25, -20))
    console.print(
        frame_table(named.order_by("energy").limit(5).select(_COLUMNS).df(), "energy between -25 and -20 hartree")
    )
    narrow = client.calculations.by_gap_range(0.1, 2.0, limit=8, columns=_COLUMNS)
    console.print(frame_table(narrow, "HOMO-LUMO gap between 0.1 and 2 eV, smallest first"))


def _export(client: Client) -> None:
    folder = Path(tempfile.mkdtemp(prefix="qforge-demo-"))
    try:
        report = client.export(folder / "export")
        table = ds.dataset(folder / "export" / "calculations").to_table(columns=["energy", "gap"])
        gap: pd.Series[float] = table.column("gap").to_pandas()
        console.print("\n[bold]5.[/] a Parquet export, read back by pyarrow\n")
        facts = {
            **{f"{name} (rows)": rows for name, rows in report.rows.items()},
            "calculations read back": table.num_rows,
            "their median gap (eV)": float(gap.median()),
        }
        console.print(facts_table(facts, "export"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
