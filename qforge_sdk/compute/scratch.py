"""A folder for each run of a program, and an end of those that killed processes left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

_PREFIX: Final = "qforge-xtb-"


@contextmanager
def scratch_folder() -> Iterator[tuple[Path, int]]:
    """A new folder under TMPDIR, held by a lock that ends with the processes that hold it.

    Yields
    ------
    tuple of pathlib.Path and int
        The folder, and a file descriptor for the programs that work in it: as long as one of them lives, nobody
        sweeps it.
    """
    _sweep_once(tempfile.gettempdir())
    while True:
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
            lock = _hold(folder)
            # Somebody swept it before it was held.
            if lock is None:
                continue
            try:
                yield Path(folder), lock
            finally:
                os.close(lock)
            return


def sweep(folder: str) -> None:
    """Remove this user's scratch folders that no process holds any more.

    Parameters
    ----------
    folder
        Where they lie.
    """
    with os.scandir(folder) as found:
        ours = [
            entry.path
            for entry in found
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False) and _is_mine(entry)
        ]
    for path in ours:
        _remove_unless_held(path)


# A process that is killed is followed by another, which sweeps.
_sweep_once = cache(sweep)


def _is_mine(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_uid == os.getuid()
    except FileNotFoundError:
        return False


def _remove_unless_held(folder: str) -> None:
    try:
        handle = _open(folder)
    except OSError:  # gone, or somebody put a link in its place
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _hold(folder: str) -> int | None:
    """A handle that holds the folder; None if it was swept before."""
    try:
        handle = _open(folder)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        is_there = False
    except OSError:  # a file system without locks: nothing of it is swept
        is_there = True
    else:
        is_there = Path(folder).exists()
    if is_there:
        return handle
    os.close(handle)
    return None


def _open(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
