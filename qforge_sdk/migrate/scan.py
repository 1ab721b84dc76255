"""Every run below a folder, found ahead of who reads them."""

from __future__ import annotations

import os
import pickle
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qforge_sdk.chem.run_folder import Run, runs_in

# Few at first, so that reading begins at once; those that wait lie packed, some 10 bytes each.
_FEWEST_TOGETHER, _MOST_TOGETHER = 16, 512


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
        Where to begin. Links to folders elsewhere are followed, each once; those that lead back into what is searched
        anyway are not.

    Yields
    ------
    Run or Unreadable
        Nothing but names is read, and the beginning of what may be a log.
    """
    searched = {os.path.realpath(root)}
    waiting: list[tuple[str, Iterator[str]]] = [("", iter([str(root)]))]
    while waiting:
        parent, names = waiting[-1]
        name = next(names, None)
        if name is None:
            waiting.pop()
            continue
        folder = os.path.join(parent, name)  # noqa: PTH118 - as text, for a tree may have millions
        try:
            files, folders = _listed(folder, searched)
        except OSError as exc:
            yield Unreadable(Path(folder), exc.strerror or str(exc))
            continue
        if files:
            yield from runs_in(Path(folder), files)
        waiting.append((folder, iter(folders)))


def _listed(folder: str, searched: set[str]) -> tuple[list[str], list[str]]:
    """Names of files and of folders to go into."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            kind = folders if _is_folder(entry) else files
            if kind is files or not entry.is_symlink() or _leads_elsewhere(entry.path, searched):
                kind.append(entry.name)
    return sorted(files), sorted(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself.
        return False


def _leads_elsewhere(link: str, searched: set[str]) -> bool:
    target = os.path.realpath(link)
    above = target
    while above not in searched:
        below, above = above, os.path.dirname(above)  # noqa: PTH120
        if below == above:
            searched.add(target)
            return True
    return False


class Ahead:
    """Items of an iterator that a thread takes ahead of who iterates over this, in little memory.

    Parameters
    ----------
    items
        What can be pickled.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)
        self._packed: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._stopped = False
        self.count = 0
        self.is_complete = False
        self._thread = threading.Thread(target=self._run, name="qforge-scan", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped = True
        # It may be deep in a tree without runs, and holds nothing that needs to be closed.
        self._thread.join(timeout=1)

    def __iter__(self) -> Iterator[Any]:
        while (packed := self._next()) is not None:
            yield from pickle.loads(zlib.decompress(packed))  # noqa: S301 - our own
        if self._error is not None:
            raise self._error

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._packed or self.is_complete)
            return self._packed.popleft() if self._packed else None

    def _run(self) -> None:
        size = _FEWEST_TOGETHER
        try:
            while not self._stopped and (group := list(islice(self._items, size))):
                size = min(2 * size, _MOST_TOGETHER)
                packed = zlib.compress(pickle.dumps(group, protocol=pickle.HIGHEST_PROTOCOL), 1)
                with self._changed:
                    self._packed.append(packed)
                    self.count += len(group)
                    self._changed.notify()
        except BaseException as exc:  # noqa: BLE001 - raised again where it is iterated
            self._error = exc
        finally:
            with self._changed:
                self.is_complete = True
                self._changed.notify()
