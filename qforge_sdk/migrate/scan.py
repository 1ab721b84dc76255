"""Every run below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qforge_sdk.chem.run_folder import Run, runs_in


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A folder that could not be listed.

    Parameters
    ----------
    folder
        Where.
    reason
        What the system said.
    """

    folder: Path
    reason: str


def scan(root: Path) -> Iterator[Run | Unreadable]:
    """Runs below ``root``, itself included, in the order of their paths.

    Parameters
    ----------
    root
        Where to begin. Links to folders are followed; a folder that is reached twice, as by a loop, counts once.

    Yields
    ------
    Run or Unreadable
        Nothing but names is read.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            found = folder.stat()
            if (found.st_dev, found.st_ino) in visited:
                continue
            visited.add((found.st_dev, found.st_ino))
            names, folders = _listed(folder)
        except OSError as exc:
            yield Unreadable(folder, exc.strerror or str(exc))
            continue
        yield from runs_in(folder, names)
        waiting += [folder / name for name in reversed(folders)]


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    names: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            (folders if entry.is_dir() else names).append(entry.name)
    return sorted(names), sorted(folders)
