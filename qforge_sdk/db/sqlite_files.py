"""SQLite files of others, which are looked at before another library opens them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from qforge_sdk.errors import InvalidInput


def sqlite_tables(path: Path) -> set[str]:
    """Names of the tables in an SQLite file, which is opened for reading only.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    set of str
        None of them may be there.

    Raises
    ------
    InvalidInput
        It is no SQLite database, or cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as exc:
        raise InvalidInput(f"no SQLite database: {exc}", field="path", value=str(path)) from exc
