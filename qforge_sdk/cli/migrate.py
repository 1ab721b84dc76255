"""``qforge migrate``: finished runs on disk become rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qforge_sdk.cli import DataDirOption, UrlOption, UserOption, app, console, opened
from qforge_sdk.cli.tables import facts_table
from qforge_sdk.migrate import MigrationReport


@app.command()
def migrate(
    root: Annotated[
        Path, typer.Argument(help="Folder with job folders or xtb directories, at any depth; or a file.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only read and plan.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many runs.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that read; one a processor by default.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write one line a run to this Parquet file.")] = None,
    method: Annotated[str | None, typer.Option(help="Method of a file's records that name none.")] = None,
    url: UrlOption = None,
    data_dir: DataDirOption = None,
    user_id: UserOption = None,
) -> None:
    """Read finished xTB runs and store them once; run it again after an interruption."""
    if report is not None and not report.expanduser().absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {report.parent}", param_hint="--report")
    with opened(url, data_dir, user_id) as client:
        done = client.migrate(root, dry_run=dry_run, limit=limit, jobs=jobs, method=method)
        if report is not None:
            done.to_parquet(report)
    print_migration(done)
    if report is not None:
        console.print(f"report written to {report}", highlight=False, markup=False, soft_wrap=True)


def print_migration(done: MigrationReport) -> None:
    """Print what became of every run, and the first ones that need a look."""
    console.print(repr(done), highlight=False, markup=False, soft_wrap=True)
    console.print(facts_table(done.counts, "planned" if done.dry_run else "runs"))
    for line in done.rows[done.rows.outcome.isin(["unreadable", "doubtful"])].head(20).itertuples():
        why = line.reason if line.outcome == "unreadable" else line.doubts
        console.print(f"{line.outcome!s}: {line.path!s}: {why!s}", highlight=False, markup=False, soft_wrap=True)
