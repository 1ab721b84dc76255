"""A process that works through lists of molecules and may die of one.

It reads pickled lists from standard input and answers each with what its task makes of it. Before each item it writes
the item's index into a shared file, so that whoever finds it dead knows which one it was; a timer on its own CPU time
ends it when an item takes too long.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import resource
import signal
import struct
import sys
from importlib import import_module
from typing import Any, BinaryIO, Final

from qforge_sdk.chem.smiles import ValidatedMolecule, validate_here
from qforge_sdk.errors import InvalidSmiles

COLUMNS: Final = tuple(ValidatedMolecule.__slots__)
FAULTS: Final = ("code", "reason", "position")

Columns = dict[str, list[Any]]


def validate_column(texts: list[Any], before_each: Any = None) -> Columns:
    """Columns of results, one entry a text.

    Parameters
    ----------
    texts
        What is to be validated.
    before_each
        Called with the index of each text.

    Returns
    -------
    dict
        Lists by name: fields of ValidatedMolecule (None for a refused text), then code, reason, position.
    """
    columns: Columns = {name: [] for name in (*COLUMNS, *FAULTS)}
    for index, text in enumerate(texts):
        if before_each is not None:
            before_each(index)
        try:
            found = validate_here(text)
        except InvalidSmiles as exc:
            _append(columns, None, (exc.code, str(exc), exc.position))
        except MemoryError:
            _append(columns, None, ("memory", "RDKit took too much memory", None))
        except RuntimeError as exc:
            # RDKit's own exceptions arrive as this.
            first_line = str(exc).partition("\n")[0]
            _append(columns, None, ("sanitization", f"RDKit failed: {first_line}", None))
        else:
            _append(columns, found, (None, None, None))
    return columns


def _append(columns: Columns, found: ValidatedMolecule | None, fault: tuple[Any, ...]) -> None:
    for name in COLUMNS:
        columns[name].append(getattr(found, name) if found is not None else None)
    for name, value in zip(FAULTS, fault, strict=True):
        columns[name].append(value)


def main(task: str, progress_path: str, cpu_seconds: float, memory_bytes: int) -> None:
    """Serve until standard input ends.

    Parameters
    ----------
    task
        ``module:function``; called with a list and with a function that it calls with the index of each item before
        it begins it.
    progress_path
        The shared file.
    cpu_seconds, memory_bytes
        Processor time of an item, and address space.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # InChI prints; nothing of it may come between the answers.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(progress_path, "r+b") as file, mmap.mmap(file.fileno(), 8) as progress:  # noqa: PTH123

        def note(index: int) -> None:
            progress[:] = struct.pack("q", index)
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)

        module, _, name = task.partition(":")
        _serve(getattr(import_module(module), name), requests, answers, note)


def _serve(work: Any, requests: BinaryIO, answers: BinaryIO, note: Any) -> None:
    while True:
        try:
            items = pickle.load(requests)  # noqa: S301 - from our own parent
        except EOFError:
            return
        answer = work(items, note)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
