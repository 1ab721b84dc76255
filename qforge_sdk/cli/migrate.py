"""``qforge migrate``: finished runs on disk become rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qforge_sdk.cli import DataDirOption, UrlOption, UserOption, app, console, opened
from qforge_sdk.cli.tables import facts_table


@app.command()
def migrate(
    root: Annotated[Path, typer.Argument(help="Folder with job folders or xtb directories, at any depth.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only read and plan.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many runs.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that read; one a processor by default.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write one line a run to this Parquet file.")] = None,
    url: UrlOption = None,
    data_dir: DataDirOption = None,
    user_id: UserOption = None,
) -> None:
    """Read finished xTB runs and store them once; run it again after an interruption."""
    if report is not None and not report.expanduser().absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {report.parent}", param_hint="--report")
    with opened(url, data_dir, user_id) as client:
        done = client.migrate(root, dry_run=dry_run, limit=limit, jobs=jobs)
        if report is not None:
            done.to_parquet(report)
    console.print(repr(done), highlight=False, markup=False, soft_wrap=True)
    console.print(facts_table(done.counts, "planned" if dry_run else "runs"))
    for line in done.rows[done.rows.outcome.isin(["unreadable", "doubtful"])].head(20).itertuples():
        why = line.reason if line.outcome == "unreadable" else line.doubts
        console.print(f"{line.outcome!s}: {line.path!s}: {why!s}", highlight=False, markup=False, soft_wrap=True)
    if report is not None:
        console.print(f"report written to {report}", highlight=False, markup=False, soft_wrap=True)
