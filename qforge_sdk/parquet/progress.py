"""A progress bar for long transfers."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm


def progress_bar(progress: bool | None, description: str, total: int | None = None) -> Any:
    """A bar that counts rows and shows itself after 2 s.

    Parameters
    ----------
    progress
        Whether to show it; None where standard error is a terminal.
    description
        What is going on.
    total
        Rows expected, None when nobody knows.

    Returns
    -------
    tqdm.tqdm
        A context manager with ``update(n)``.
    """
    shown = sys.stderr.isatty() if progress is None else progress
    return tqdm(total=total, desc=description, unit=" rows", unit_scale=True, delay=2, disable=not shown)
