"""``qforge load``, ``export``, ``restore`` and ``stats``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qforge_sdk.cli import DataDirOption, UrlOption, UserOption, app, console, opened
from qforge_sdk.cli.migrate import print_migration
from qforge_sdk.cli.tables import facts_table, frame_table
from qforge_sdk.migrate import MigrationReport, is_result_file
from qforge_sdk.schemas import LoadReport

_LOADABLE = ("calculations", "molecules", "atoms")


@app.command()
def load(
    path: Annotated[
        Path,
        typer.Argument(
            help="Parquet or CSV file, or a folder of Parquet files; or results: xtb --json or QCSchema (.json), "
            "ASE database (.db), extended XYZ (.xyz, .extxyz)."
        ),
    ],
    into: Annotated[str, typer.Option(help=f"One of: {', '.join(_LOADABLE)}.")] = "calculations",
    on_error: Annotated[str, typer.Option(help="collect (load the good rows) or raise (load nothing).")] = "collect",
    on_conflict: Annotated[str, typer.Option(help="For a stored source_id: skip, update or error.")] = "skip",
    rejects: Annotated[Path | None, typer.Option(help="Write the rejected rows to this CSV file.")] = None,
    shared: Annotated[bool, typer.Option(help="Everybody shall read these rows (service login only).")] = False,
    method: Annotated[str | None, typer.Option(help="Of results that name none.")] = None,
    smiles: Annotated[str | None, typer.Option(help="Molecule of a JSON file's result that names none.")] = None,
    url: UrlOption = None,
    data_dir: DataDirOption = None,
    user_id: UserOption = None,
) -> None:
    """Validate and load a file through COPY; every row is accounted for."""
    if is_result_file(path) and not path.is_dir():
        if (into, on_error, on_conflict) != ("calculations", "collect", "skip"):
            raise typer.BadParameter("--into, --on-error and --on-conflict are for tables; this is a file of results")
        with opened(url, data_dir, user_id) as client:
            done = client.migrate(path, dry_run=False, method=method, smiles=smiles, shared=shared)
        _end_results(done, rejects)
        return
    if method is not None or smiles is not None:
        raise typer.BadParameter("--method and --smiles are for files of results; a table has columns for them")
    if into not in _LOADABLE:
        raise typer.BadParameter(f"{into!r}; write one of: {', '.join(_LOADABLE)}", param_hint="--into")
    with opened(url, data_dir, user_id) as client:
        accessor = getattr(client, into)
        options = {"on_conflict": on_conflict} if into == "calculations" else {}
        report: LoadReport = accessor.bulk_load(path, on_error=on_error, shared=shared, **options)
    print_report(report, f"{path} -> {into}")
    if rejects is not None and report.n_rejected:
        report.rejected.to_csv(rejects, index=False)
        console.print(f"rejected rows written to {rejects}")
    if report.n_rejected:
        raise typer.Exit(2)


def _end_results(done: MigrationReport, rejects: Path | None) -> None:
    """Print what became of a file's records; exit code 2 when one was not stored."""
    print_migration(done)
    refused = done.rows[done.rows.outcome == "unreadable"]
    if rejects is not None and len(refused):
        refused[["path", "reason"]].to_csv(rejects, index=False)
        console.print(f"rejected records written to {rejects}")
    if len(refused):
        raise typer.Exit(2)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="New or empty folder.")],
    table: Annotated[list[str] | None, typer.Option(help="Only this table; repeat for more.")] = None,
    since: Annotated[str | None, typer.Option(help="Only rows changed since, such as 2026-05-01.")] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Files a table, written in parallel.")] = 1,
    url: UrlOption = None,
    data_dir: DataDirOption = None,
    user_id: UserOption = None,
) -> None:
    """Write tables to Parquet with a manifest, from one consistent snapshot."""
    with opened(url, data_dir, user_id) as client:
        report = client.export(folder, tables=table, since=since, partitions=partitions)
    console.print(facts_table(dict(report.rows), f"exported to {folder}"))


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="Folder that qforge export wrote.")],
    url: UrlOption = None,
    data_dir: DataDirOption = None,
    user_id: UserOption = None,
) -> None:
    """Load an export back, verified against its manifest."""
    with opened(url, data_dir, user_id) as client:
        report = client.restore(folder)
    console.print(facts_table(dict(report.rows), f"restored from {folder}"))


@app.command()
def stats(url: UrlOption = None, data_dir: DataDirOption = None, user_id: UserOption = None) -> None:
    """Totals, average energy, median gap, success rate."""
    with opened(url, data_dir, user_id) as client:
        found = client.stats()
    console.print(facts_table(found.model_dump(), "statistics"))


def print_report(report: LoadReport, title: str) -> None:
    """Print what became of every row, and the first rejected ones."""
    facts = {
        "rows": report.n_rows,
        "inserted": report.n_inserted,
        "there already": report.n_existing,
        "rejected": report.n_rejected,
        "rows per second": round(report.rows_per_second),
    }
    console.print(facts_table(facts, title))
    if report.n_rejected:
        console.print(frame_table(report.rejected.head(10), "rejected (the first ten)"))
