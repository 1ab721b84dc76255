"""One record of a file to what will be stored of it; runs in a process of its own, as for runs from folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from qforge_sdk.chem import xtb_files
from qforge_sdk.chem.ase_files import ase_database, read_frame, read_row
from qforge_sdk.chem.geometry import Geometry, read_xyz
from qforge_sdk.chem.peer import PeerResult
from qforge_sdk.chem.qcschema import is_qcschema, read_qcschema
from qforge_sdk.chem.result import Doubt
from qforge_sdk.chem.run_folder import Run, RunRecord
from qforge_sdk.chem.xtb_json import input_files, is_xtb_json, read_xtb_result
from qforge_sdk.errors import InvalidInput
from qforge_sdk.migrate.read import Found, identified, path_of, read_found
from qforge_sdk.migrate.storable import path_text

#: What :class:`qforge_sdk.chem.isolation.Worker` runs.
TASK: Final = "qforge_sdk.migrate.records:read_records"

LONGEST_METHOD: Final = 50
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
        file = path_text(self.file)
        return file if self.place is None else f"{file}#{self.place}"


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
                results.append(lost(record, str(exc)))
            except Exception as exc:  # noqa: BLE001 - one record, whatever it holds, must not end the others' reading
                results.append(lost(record, f"{type(exc).__name__}: {exc}"))
    return results


def _found(record: Record, database: Any) -> Found:
    peer, name, content = _READERS[record.kind](record, database)
    result = peer.result
    method, smiles = _printable(result.method) or record.method, _printable(peer.smiles) or record.smiles
    if method is None:
        raise xtb_files.Unreadable("nothing names the method; give it: method=..., or --method")
    if len(method) > LONGEST_METHOD:
        raise xtb_files.Unreadable(f"a method of more than {LONGEST_METHOD} characters: {method[:60]!r}")
    doubts = list(result.doubts)
    if record.method is not None and record.method != method:
        apart = {"file": method, "given": record.method}
        doubts.append(Doubt("method_differs", "the file's method was taken, not the given one", apart))
    digest = hashlib.sha256(hashlib.sha256(content).digest() + json.dumps([method, smiles]).encode())
    run = RunRecord(
        run=Run(record.file.parent),
        result=replace(result, method=method, doubts=tuple(doubts)),
        name=_printable(peer.name),
        smiles=smiles,
        job=peer.facts,
        content_hash=digest.hexdigest(),
        output_json=Path(path_text(record.file)) if peer.output_file else None,
        sources=peer.sources,
    )
    return identified(run, path=record.path, source_id=name)


def lost(record: Record | Run, reason: str) -> Found:
    """What is reported of a record that cannot be stored."""
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
    final, optimised = _optimised_beside(record.file)
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
        beside = file.with_name(name)
        try:
            return read_xyz(beside), beside.read_bytes()
        except FileNotFoundError:
            continue
        except (InvalidInput, OSError) as exc:
            raise xtb_files.Unreadable(f"{name}: {exc}") from exc
    return None, b""


def _optimised_beside(file: Path) -> tuple[Geometry | None, bytes]:
    """What may be the end of the run; what cannot be read is nobody's."""
    try:
        return _geometry_beside(file, [_OPTIMISED])
    except xtb_files.Unreadable:
        return None, b""


def _printable(text: str | None) -> str | None:
    return text if text is not None and text.isprintable() else None


def _named(kind: str, content: bytes) -> str:
    return f"{kind}:{hashlib.sha256(content).hexdigest()}"


def _as_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else type(value).__name__
