"""The command line, ``qforge``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from qforge_sdk._version import __version__
from qforge_sdk.client import Client, connect
from qforge_sdk.errors import QForgeError
from qforge_sdk.logger import setup_logging

app = typer.Typer(
    name="qforge",
    help="A PostgreSQL database of xTB results. Without DATABASE_URL it runs an embedded server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

UrlOption = Annotated[
    str | None, typer.Option("--url", help="postgresql://login:password@host/database; else DATABASE_URL.")
]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Folder of an embedded server.")]
UserOption = Annotated[str | None, typer.Option("--user-id", help="Act as this tenant.")]


@contextmanager
def reported() -> Iterator[None]:
    """Print this package's errors, and those of files, as one line and leave with code 1."""
    try:
        yield
    except (QForgeError, OSError) as exc:
        Console(stderr=True).print(f"[bold red]{type(exc).__name__}[/]:", end=" ")
        print(exc, file=sys.stderr)  # noqa: T201 - rich would read brackets in it as markup
        raise typer.Exit(1) from exc


@contextmanager
def opened(url: str | None, data_dir: Path | None, user_id: str | None) -> Iterator[Client]:
    """A client for the options that every command has."""
    with reported(), connect(url, data_dir=data_dir, user_id=user_id) as client:
        yield client


def _print_version(value: bool) -> None:
    if value:
        console.print(f"qforge_sdk {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Set up logging from LOG_LEVEL and LOG_FILE."""
    with reported():
        setup_logging()


def register(*modules: Any) -> None:
    """Commands live in modules of their own; importing one adds its commands."""


from qforge_sdk.cli import data, demo, doctor, migrate, run, schema  # noqa: E402

register(data, demo, doctor, migrate, run, schema)
