"""Worker processes that hold RDKit, and what to do when one of them dies."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from qforge_sdk.chem.smiles import ValidatedMolecule, check_text, looks_heavy, validate_here
from qforge_sdk.chem.worker import COLUMNS, FAULTS, Columns, validate_column
from qforge_sdk.errors import InvalidSmiles, QForgeError

CPU_SECONDS: Final = 5.0
"""Processor time that one molecule may take."""

MEMORY_BYTES: Final = 4 * 2**30
"""Address space of a worker, RDKit's own libraries included."""

_MOST_IDLE_DEATHS: Final = 3

_BY_SIGNAL: Final = {
    signal.SIGPROF: ("timeout", "RDKit took more than {seconds:g} s of processor time"),
    signal.SIGKILL: ("memory", "the process was killed, probably for lack of memory"),
    signal.SIGABRT: ("memory", "RDKit ran out of memory"),
}


class Death(NamedTuple):
    """Why an item has no result: it ended the process."""

    code: str
    reason: str


class Worker:
    """One process, started again whenever an item of its work ends it.

    Parameters
    ----------
    cpu_seconds
        Processor time that one item may take.
    task
        What it does, as :func:`qforge_sdk.chem.worker.main` takes it.
    """

    def __init__(
        self, *, cpu_seconds: float = CPU_SECONDS, task: str = "qforge_sdk.chem.worker:validate_column"
    ) -> None:
        self._cpu_seconds = cpu_seconds
        self._task = task
        self._progress = tempfile.NamedTemporaryFile(prefix="qforge-smiles-")  # noqa: SIM115 - closed by close()
        self._note_none()
        self._process: subprocess.Popen[bytes] | None = None

    def validate(self, texts: list[Any]) -> Columns:
        """Columns of results, one entry a text; a text that ended the process is refused with the reason.

        Parameters
        ----------
        texts
            What is to be validated.

        Returns
        -------
        dict
            As from :func:`qforge_sdk.chem.worker.validate_column`.

        Raises
        ------
        QForgeError
            No process lives long enough to begin.
        """
        # Not every value that is no text can be pickled.
        columns = self._validate_texts([str(text) if isinstance(text, str) else None for text in texts])
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                columns["reason"][index] = validate_column([text])["reason"][0]
        return columns

    def close(self) -> None:
        """End the process."""
        # First the file: a thread that waits for an answer fails on it instead of starting another process.
        self._progress.close()
        process = self._process
        if process is not None:
            process.kill()
            self._reap(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(self, items: list[Any]) -> list[Any]:
        """What the task makes of each item; for one that ended the process a :class:`Death`.

        Parameters
        ----------
        items
            What can be pickled.

        Returns
        -------
        list
            One entry an item.

        Raises
        ------
        QForgeError
            No process lives long enough to begin.
        """
        results: list[Any] = []
        for done in self._answers(items):
            results += [Death(*done)] if isinstance(done, tuple) else done
        return results

    def _validate_texts(self, texts: list[str | None]) -> Columns:
        columns: Columns = {name: [] for name in (*COLUMNS, *FAULTS)}
        for done in self._answers(texts):
            _extend(columns, _refused(done) if isinstance(done, tuple) else done)
        return columns

    def _answers(self, items: list[Any]) -> Iterator[Any]:
        """Answers for the items between those that ended the process, and for each of these (code, reason)."""
        idle_deaths = 0
        while items:
            done = self._ask(items)
            if done is not None:
                yield done
                return
            culprit, fault = self._autopsy()
            if culprit < 0:
                idle_deaths += 1
                if idle_deaths == _MOST_IDLE_DEATHS:
                    raise QForgeError(f"a process that works on molecules ends before its work: {fault[1]}")
                continue
            if culprit:
                yield from self._answers(items[:culprit])
            yield fault
            items = items[culprit + 1 :]

    def _ask(self, items: list[Any]) -> Any:
        """The answer, or None when the process died over it."""
        self._note_none()
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(items, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            return pickle.load(process.stdout)  # noqa: S301 - from our own child
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            return None

    def _start(self) -> subprocess.Popen[bytes]:
        # A module run by path would not find its package; -c keeps the caller's __main__ out of it.
        code = (
            "import sys; from qforge_sdk.chem.worker import main; "
            "main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))"
        )
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", code, self._task, self._progress.name, str(self._cpu_seconds), str(MEMORY_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )

    def _note_none(self) -> None:
        self._progress.seek(0)
        self._progress.write(struct.pack("q", -1))
        self._progress.flush()

    def _autopsy(self) -> tuple[int, tuple[str, str]]:
        """Index of the text that ended the process (-1: it had begun none), and the refusal for it."""
        process = self._process
        assert process is not None
        returncode = process.wait()
        self._reap(process)
        self._progress.seek(0)
        (culprit,) = struct.unpack("q", self._progress.read(8))
        fault = _BY_SIGNAL.get(-returncode, ("crashed", f"RDKit crashed (exit code {returncode})"))  # type: ignore[call-overload]
        return culprit, (fault[0], fault[1].format(seconds=self._cpu_seconds))

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process = None


def validate_apart(texts: list[Any], cpu_seconds: float = CPU_SECONDS) -> Columns:
    """Validate many SMILES in a process of their own.

    Parameters
    ----------
    texts
        What is to be validated.
    cpu_seconds
        Processor time that one may take.

    Returns
    -------
    dict
        As from :meth:`Worker.validate`.

    Raises
    ------
    QForgeError
        No process lives long enough to begin.
    """
    with Worker(cpu_seconds=cpu_seconds) as worker:
        return worker.validate(texts)


def validate_smiles(smiles: object) -> ValidatedMolecule:
    """Validate one SMILES; one that might crash or hang RDKit goes to a process of its own.

    Parameters
    ----------
    smiles
        One molecule or several joined by dots, in any spelling.

    Returns
    -------
    ValidatedMolecule
        In its canonical form.

    Raises
    ------
    InvalidSmiles
        With a code of :data:`qforge_sdk.chem.SMILES_CODES` and, where it is known, the position.
    """
    text = check_text(smiles)
    if not looks_heavy(text):
        return validate_here(text)
    with Worker() as worker:
        columns = worker.validate([text])
    if columns["code"][0] is not None:
        raise InvalidSmiles(
            columns["reason"][0], smiles=smiles, code=columns["code"][0], position=columns["position"][0]
        )
    return ValidatedMolecule(**{name: columns[name][0] for name in COLUMNS})


def _extend(columns: Columns, more: Columns) -> None:
    for name, values in more.items():
        columns[name].extend(values)


def _refused(fault: tuple[str, str]) -> Columns:
    columns: Columns = {name: [None] for name in (*COLUMNS, *FAULTS)}
    columns["code"], columns["reason"] = [fault[0]], [fault[1]]
    return columns
