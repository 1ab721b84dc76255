"""Files that others keep results in become rows: JSON of xtb and QCSchema, ASE databases, extended XYZ.

Their records take the path of runs from folders. They are named by their content, since a frame has no name and files
are overwritten: nothing that is stored is replaced by what lies in its place today. Rows of ASE databases have names
of their own, so one that changed updates its row.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine

from qforge_sdk.chem.ase_files import ase_database, require_ase, row_keys, split_frames
from qforge_sdk.chem.isolation import validate_smiles
from qforge_sdk.chem.run_folder import Run, runs_in
from qforge_sdk.db.sqlite_files import sqlite_tables
from qforge_sdk.errors import InvalidInput
from qforge_sdk.migrate.folders import bring, processors, read_all
from qforge_sdk.migrate.records import LONGEST_METHOD, TASK, Record, lost
from qforge_sdk.migrate.report import MigrationReport
from qforge_sdk.migrate.scan import Unreadable
from qforge_sdk.migrate.storable import path_text

_XTB_JSON: Final = "xtbout.json"


def migrate_file(
    engine: Engine,
    path: str | Path,
    *,
    owner: uuid.UUID | None,
    dry_run: bool = True,
    limit: int | None = None,
    jobs: int | None = None,
    progress: bool | None = None,
    method: str | None = None,
    smiles: str | None = None,
) -> MigrationReport:
    """Bring the results in one file into the database.

    Parameters
    ----------
    engine
        In the scope of ``owner``.
    path
        With one of the suffixes of :data:`FILES`.
    owner
        Whose they become.
    dry_run, limit, jobs, progress
        As for :func:`qforge_sdk.migrate.migrate`.
    method
        Of the records that name none.
    smiles
        The molecule of a JSON file's result, where it names none.

    Returns
    -------
    MigrationReport
        One line a record, in the order of the file.

    Raises
    ------
    InvalidInput
        There is no such file, its suffix is unknown, or an option does not fit.
    InvalidSmiles
        RDKit refuses ``smiles``.
    MissingExtra
        ase is not installed and the file is one of its kinds.
    QForgeError
        What the server reported; chunks that were applied before stay.
    """
    started = time.perf_counter()
    file = Path(path).expanduser().resolve()
    _check(file, method=method, smiles=smiles)
    for name, value in (("limit", limit), ("jobs", jobs)):
        if value is not None and value < 1:
            raise InvalidInput(f"{name} must be 1 or more, not {value!r}", field=name, value=value)
    if file.suffix.lower() != ".json":
        require_ase()
    records = FILES[file.suffix.lower()](file, method, smiles)
    found = read_all(islice(records, limit), jobs or processors(), task=TASK, lost=lost)
    report = bring(engine, found, Path(path_text(file)), owner=owner, dry_run=dry_run, progress=progress)
    return replace(report, seconds=time.perf_counter() - started)


def is_result_file(path: Path) -> bool:
    """Whether a file has a suffix of those that hold results."""
    return path.suffix.lower() in FILES


def _check(file: Path, *, method: str | None, smiles: str | None) -> None:
    if not is_result_file(file):
        raise InvalidInput(
            f"{file.name}: results are read from {', '.join(FILES)} files", field="path", value=str(file)
        )
    if not file.is_file():
        raise InvalidInput(f"there is no file {file}", field="path", value=str(file))
    if smiles is not None and file.suffix.lower() != ".json":
        raise InvalidInput("smiles is for a file with one result; here each record names its own", field="smiles")
    if smiles is not None:
        validate_smiles(smiles)
    if method is not None and not (method.strip() and method.isprintable() and len(method) <= LONGEST_METHOD):
        raise InvalidInput(
            f"a method is text of 1 to {LONGEST_METHOD} characters, not {method!r}", field="method", value=method
        )


# From a file to its records -----------------------------------------------------------------------------------------


def _results(file: Path, method: str | None, smiles: str | None) -> Iterator[Record | Run | Unreadable]:
    """One result, or a list of them; the file of a run that lies in its folder is read with all of it."""
    run = _run_of(file) if method is None and smiles is None else None
    if run is not None:
        yield run
        return
    try:
        data = file.read_bytes()
    except OSError as exc:
        yield Unreadable(Path(path_text(file)), exc.strerror or str(exc))
        return
    try:
        several = json.loads(data)
    except (ValueError, RecursionError):
        several = None
    if not isinstance(several, list):
        yield Record(file, "json", data=data, method=method, smiles=smiles)
        return
    if not several:
        yield Unreadable(Path(path_text(file)), "an empty list")
    for place, one in enumerate(several):
        yield Record(file, "json", place, json.dumps(one, sort_keys=True).encode(), method, smiles)


def _run_of(file: Path) -> Run | None:
    """The run whose folder a file lies in, where a log or a job's metadata say more than the file."""
    if file.name != _XTB_JSON:
        return None
    names = sorted(one.name for one in file.parent.iterdir() if one.is_file())
    runs = runs_in(file.parent, names)
    told = len(runs) == 1 and runs[0].alone and (runs[0].log or any(n.endswith("metadata.json") for n in names))
    return runs[0] if told else None


def _rows(file: Path, method: str | None, _smiles: None) -> Iterator[Record | Unreadable]:
    try:
        tables = sqlite_tables(file)
    except InvalidInput as exc:
        yield Unreadable(Path(path_text(file)), str(exc))
        return
    if "systems" not in tables:
        yield Unreadable(Path(path_text(file)), "an SQLite database, but none of ASE's: it has no table systems")
        return
    try:
        with ase_database(file) as database:
            for key in row_keys(database):
                yield Record(file, "row", key, method=method)
    except Exception as exc:  # noqa: BLE001 - ASE and SQLite have many; what was read before it stays
        yield Unreadable(Path(path_text(file)), f"its rows cannot be listed to the end: {exc}")


def _frames(file: Path, method: str | None, _smiles: None) -> Iterator[Record | Unreadable]:
    try:
        with file.open("rb") as opened:
            place = -1
            for place, frame in enumerate(split_frames(opened)):
                if isinstance(frame, str):
                    yield Unreadable(Path(f"{path_text(file)}#{place}"), frame)
                else:
                    yield Record(file, "frame", place, frame, method)
            if place < 0:
                yield Unreadable(Path(path_text(file)), "empty")
    except OSError as exc:
        yield Unreadable(Path(path_text(file)), exc.strerror or str(exc))


#: Suffixes of files that hold results, and what lists their records.
FILES: Final[Mapping[str, Callable[..., Iterator[Any]]]] = {
    ".json": _results,
    ".db": _rows,
    ".xyz": _frames,
    ".extxyz": _frames,
}
