"""Files that others keep results in become rows: JSON of xtb and QCSchema, ASE databases, extended XYZ.

Their records take the path of runs from folders. They are named by their content, since a frame has no name and files
are overwritten: nothing that is stored is replaced by what lies in its place today. Rows of ASE databases have names
of their own, so one that changed updates its row.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import Engine

from qforge_sdk.chem import xtb_files
from qforge_sdk.chem.ase_files import ase_database, read_frame, read_row, require_ase, row_keys, split_frames
from qforge_sdk.chem.geometry import Geometry
from qforge_sdk.chem.peer import PeerResult
from qforge_sdk.chem.qcschema import is_qcschema, read_qcschema
from qforge_sdk.chem.result import Doubt
from qforge_sdk.chem.run_folder import Run, RunRecord, runs_in
from qforge_sdk.chem.xtb_json import input_files, is_xtb_json, read_xtb_result
from qforge_sdk.db.sqlite_files import sqlite_tables
from qforge_sdk.errors import InvalidInput
from qforge_sdk.migrate.folders import bring, processors, read_all
from qforge_sdk.migrate.read import Found, identified, path_of, read_found
from qforge_sdk.migrate.report import MigrationReport
from qforge_sdk.migrate.scan import Unreadable

#: What :class:`qforge_sdk.chem.isolation.Worker` runs.
TASK: Final = "qforge_sdk.migrate.files:read_records"

_LONGEST_METHOD: Final = 50
_XTB_JSON: Final = "xtbout.json"
_OPTIMISED: Final = "xtbopt.xyz"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, to be read in a process of its own.

    Parameters
    ----------
    file
        Where it is.
    kind
        Key of the table of readers.
    place
        Frame or entry of a list, from 0, or key of a database's row; None for the only one.
    data
        Its bytes, where these are known.
    method, smiles
        As the caller gives them for what names none.
    """

    file: Path
    kind: str
    place: int | None = None
    data: bytes = b""
    method: str | None = None
    smiles: str | None = None

    @property
    def path(self) -> str:
        """Where it lies, for people."""
        return str(self.file) if self.place is None else f"{self.file}#{self.place}"


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
    MissingExtra
        ase is not installed and the file is one of its kinds.
    QForgeError
        What the server reported; chunks that were applied before stay.
    """
    started = time.perf_counter()
    file = Path(path).expanduser().resolve()
    if not is_result_file(file):
        raise InvalidInput(
            f"{file.name}: results are read from {', '.join(FILES)} files", field="path", value=str(path)
        )
    if not file.is_file():
        raise InvalidInput(f"there is no file {file}", field="path", value=str(path))
    if smiles is not None and file.suffix.lower() != ".json":
        raise InvalidInput("smiles is for a file with one result; here each record names its own", field="smiles")
    for name, value in (("limit", limit), ("jobs", jobs)):
        if value is not None and value < 1:
            raise InvalidInput(f"{name} must be 1 or more, not {value!r}", field=name, value=value)
    if file.suffix.lower() != ".json":
        require_ase()
    records = FILES[file.suffix.lower()](file, method, smiles)
    found = read_all(islice(records, limit), jobs or processors(), task=TASK, lost=_lost)
    report = bring(engine, found, file, owner=owner, dry_run=dry_run, progress=progress)
    return replace(report, seconds=time.perf_counter() - started)


def is_result_file(path: Path) -> bool:
    """Whether a file has a suffix of those that hold results."""
    return path.suffix.lower() in FILES


def read_records(records: list[Record | Run], before_each: Callable[[int], None] | None = None) -> list[Found]:
    """Read records and find out which molecules they are of.

    Parameters
    ----------
    records
        What to read.
    before_each
        Called with the index of each record.

    Returns
    -------
    list of Found
        One a record; what could not be read says why.
    """
    results = []
    with ExitStack() as stack:
        databases: dict[Path, Any] = {}
        for index, record in enumerate(records):
            if before_each is not None:
                before_each(index)
            if isinstance(record, Run):
                results += read_found([record])
                continue
            if record.kind == "row" and record.file not in databases:
                databases[record.file] = stack.enter_context(ase_database(record.file))
            try:
                results.append(_found(record, databases.get(record.file)))
            except (xtb_files.Unreadable, InvalidInput) as exc:
                results.append(_lost(record, str(exc)))
            except Exception as exc:  # noqa: BLE001 - one record, whatever it holds, must not end the others' reading
                results.append(_lost(record, f"{type(exc).__name__}: {exc}"))
    return results


def _found(record: Record, database: Any) -> Found:
    peer, name, content = _READERS[record.kind](record, database)
    result = peer.result
    method, smiles = result.method or record.method, peer.smiles or record.smiles
    if method is None:
        raise xtb_files.Unreadable("nothing names the method; give it: method=..., or --method")
    if len(method) > _LONGEST_METHOD:
        raise xtb_files.Unreadable(f"a method of more than {_LONGEST_METHOD} characters: {method[:60]!r}")
    doubts = list(result.doubts)
    if record.method is not None and record.method != method:
        apart = {"file": method, "given": record.method}
        doubts.append(Doubt("method_differs", "the file's method was taken, not the given one", apart))
    digest = hashlib.sha256(hashlib.sha256(content).digest() + json.dumps([method, smiles]).encode())
    run = RunRecord(
        run=Run(record.file.parent),
        result=replace(result, method=method, doubts=tuple(doubts)),
        name=peer.name,
        smiles=smiles,
        job=peer.facts,
        content_hash=digest.hexdigest(),
        output_json=record.file if peer.output_file else None,
        sources=peer.sources,
    )
    return identified(run, path=record.path, source_id=name)


def _lost(record: Record | Run, reason: str) -> Found:
    path = path_of(record) if isinstance(record, Run) else record.path
    return Found(path=path, source_id=f"path:{path}", unreadable=reason)


# From a record to what it says, what names it, and the content by which it is known ---------------------------------


def _read_frame(record: Record, _database: Any) -> tuple[PeerResult, str, bytes]:
    content = b"\n".join(line.rstrip() for line in record.data.strip().split(b"\n"))
    return read_frame(record.data), _named("frame", content), content


def _read_row(record: Record, database: Any) -> tuple[PeerResult, str, bytes]:
    row = database.get(id=record.place)
    kept = {name: row[name] for name in row if name not in {"id", "unique_id", "ctime", "mtime", "user"}}
    content = json.dumps(kept, sort_keys=True, default=_as_list).encode()
    return read_row(row), f"ase:{row.unique_id}", content


def _read_json(record: Record, _database: Any) -> tuple[PeerResult, str, bytes]:
    data = record.data
    if not data.strip():
        raise xtb_files.Unreadable("empty")
    # xtb does not escape its program call, so what is no JSON may still be its file.
    content = xtb_files.load_json(data, otherwise=lambda: _keys_of_xtb(data))
    if is_qcschema(content):
        return read_qcschema(content), _named("result", data), data
    if not is_xtb_json(content):
        keys = ", ".join(sorted(content)[:8]) or "none"
        raise xtb_files.Unreadable(f"neither a QCSchema result nor what xtb --json writes; its keys: {keys}")
    start, beside = _geometry_beside(record.file, input_files(data))
    final, optimised = _geometry_beside(record.file, [_OPTIMISED])
    if start is None and record.smiles is None:
        raise xtb_files.Unreadable(
            "xtb --json names no atoms: put the file that its program call names beside it, migrate the run's whole "
            "folder, or give smiles=..., --smiles"
        )
    return read_xtb_result(data, start, final), _named("xtb", data), data + beside + optimised


_READERS: Final[Mapping[str, Callable[[Record, Any], tuple[PeerResult, str, bytes]]]] = {
    "frame": _read_frame,
    "row": _read_row,
    "json": _read_json,
}


def _keys_of_xtb(data: bytes) -> dict[str, Any]:
    facts = xtb_files.read_xtb_json(data)
    return {"total energy": facts.energy, "partial charges": facts.charges}


def _geometry_beside(file: Path, names: list[str]) -> tuple[Geometry | None, bytes]:
    for name in names:
        try:
            content = file.with_name(name).read_bytes()
        except OSError:
            continue
        reader = xtb_files.read_coord if b"$coord" in content[:200] else xtb_files.read_first_xyz
        try:
            return reader(content), content
        except xtb_files.Unreadable as exc:
            raise xtb_files.Unreadable(f"{name}: {exc}") from exc
    return None, b""


def _named(kind: str, content: bytes) -> str:
    return f"{kind}:{hashlib.sha256(content).hexdigest()}"


def _as_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else type(value).__name__


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
        yield Unreadable(file, exc.strerror or str(exc))
        return
    try:
        several = json.loads(data)
    except (ValueError, RecursionError):
        several = None
    if not isinstance(several, list):
        yield Record(file, "json", data=data, method=method, smiles=smiles)
        return
    if not several:
        yield Unreadable(file, "an empty list")
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
        yield Unreadable(file, str(exc))
        return
    if "systems" not in tables:
        yield Unreadable(file, "an SQLite database, but none of ASE's: it has no table systems")
        return
    try:
        with ase_database(file) as database:
            for key in row_keys(database):
                yield Record(file, "row", key, method=method)
    except Exception as exc:  # noqa: BLE001 - ASE and SQLite have many; what was read before it stays
        yield Unreadable(file, f"its rows cannot be listed to the end: {exc}")


def _frames(file: Path, method: str | None, _smiles: None) -> Iterator[Record | Unreadable]:
    try:
        with file.open("rb") as opened:
            place = -1
            for place, frame in enumerate(split_frames(opened)):
                if isinstance(frame, str):
                    yield Unreadable(Path(f"{file}#{place}"), frame)
                else:
                    yield Record(file, "frame", place, frame, method)
            if place < 0:
                yield Unreadable(file, "empty")
    except OSError as exc:
        yield Unreadable(file, exc.strerror or str(exc))


#: Suffixes of files that hold results, and what lists their records.
FILES: Final[Mapping[str, Callable[..., Iterator[Any]]]] = {
    ".json": _results,
    ".db": _rows,
    ".xyz": _frames,
    ".extxyz": _frames,
}
