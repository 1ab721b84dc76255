"""``qforge db``: the schema of a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from sqlalchemy import Engine

from qforge_sdk.cli import DataDirOption, UrlOption, app, console, reported
from qforge_sdk.cli.tables import frame_table
from qforge_sdk.config import Settings, normalise_url
from qforge_sdk.db import embedded, schema
from qforge_sdk.db.adopt import adopt as adopt_database
from qforge_sdk.db.engines import make_engine
from qforge_sdk.db.sqlstate import translated

db_app = typer.Typer(help="Create, upgrade and inspect the schema.", no_args_is_help=True)
app.add_typer(db_app, name="db")


@db_app.command()
def upgrade(url: UrlOption = None, data_dir: DataDirOption = None) -> None:
    """Create or upgrade the tables, in one transaction."""
    with reported(), embedded_or_remote(url, data_dir) as engine:
        before = schema.upgrade(engine)
    if before.is_current:
        console.print(f"already at revision {before.expected}")
    else:
        console.print(f"upgraded from {before.found or 'an empty database'} to revision {before.expected}")


@db_app.command()
def status(url: UrlOption = None, data_dir: DataDirOption = None) -> None:
    """Compare the database's revision with this package's; exit code 1 when they differ."""
    with reported(), embedded_or_remote(url, data_dir) as engine, translated(), engine.connect() as connection:
        found = schema.status(connection)
    there = found.found or ("tables of the old database module" if found.old_module else "no qforge tables")
    console.print(f"database: {there}; this package: {found.expected}")
    if not found.is_current:
        console.print(found.cure)
        raise typer.Exit(1)


@db_app.command()
def adopt(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything, report, and roll it back.")] = False,
    unowned: Annotated[
        str, typer.Option(help="Whose rows without an owner become: 'service' or 'public' (every tenant reads them).")
    ] = "service",
    report: Annotated[Path | None, typer.Option(help="Write one line a doubt to this Parquet file.")] = None,
    url: UrlOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Bring the tables of the old database module to this revision, in one transaction; stop the backend first."""
    with reported(), embedded_or_remote(url, data_dir) as engine:
        done = adopt_database(engine, dry_run=dry_run, unowned=unowned)
        if report is not None:
            done.to_parquet(report)
    console.print(repr(done), highlight=False, markup=False)
    console.print(frame_table(done.tables, "planned" if dry_run else "adopted"))
    if not done.summary.empty:
        console.print(frame_table(done.summary, "doubts"))
    doubts = done.doubts
    for line in cast("Any", doubts[doubts.id.notna()].head(20).itertuples()):
        place = f"{line.table} {line.id}" + (f", {line.column}" if isinstance(line.column, str) else "")
        console.print(f"{place}: {line.reason} ({line.code})", highlight=False, markup=False, soft_wrap=True)
    if report is not None:
        console.print(f"report written to {report}", highlight=False, markup=False)


@db_app.command()
def sql() -> None:
    """Print the whole schema as SQL, for the Supabase editor or psql."""
    typer.echo(schema.upgrade_sql())


@contextmanager
def embedded_or_remote(url: str | None, data_dir: Path | None) -> Iterator[Engine]:
    """Engine of the login itself, on the server that the options or the settings name."""
    settings = Settings()
    target = normalise_url(url) if url is not None else None if data_dir is not None else settings.url()
    # A traceback shows the variables of its frames: a URL object hides its password there.
    url = server = None
    if target is None:
        server = embedded.start(data_dir or settings.qforge_data_dir)
        target = normalise_url(server.url)
    engine = make_engine(target, pool_size=1)
    try:
        yield engine
    finally:
        engine.dispose()
        if server is not None:
            server.stop()
