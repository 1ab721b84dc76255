"""Plan and apply: folders to rows, in chunks that are one transaction each.

A run is known by its content. Loaded twice it changes nothing, wherever it lies; a folder whose content changed since
it was loaded updates its row. So a migration that was killed is simply run again.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, cast

import pandas as pd
import pyarrow as pa
from sqlalchemy import Connection, Engine
from tqdm.auto import tqdm

from qforge_sdk.chem.isolation import Death, Worker
from qforge_sdk.chem.run_folder import Run
from qforge_sdk.db import runs as stored_runs
from qforge_sdk.db.bulk import load_atoms, load_calculations
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import InvalidInput
from qforge_sdk.migrate.read import TASK, Found
from qforge_sdk.migrate.read import unreadable as unreadable_run
from qforge_sdk.migrate.report import COLUMNS, MigrationReport
from qforge_sdk.migrate.scan import Unreadable, scan

CHUNK_RUNS: Final = 500
_READ_AT_ONCE: Final = 50
#: Processor time that one folder may take, a log of any length and the perception of two geometries included.
CPU_SECONDS: Final = 30.0

_TYPES: Final[dict[str, pa.DataType]] = {
    **dict.fromkeys(
        ("energy", "homo", "lumo", "gap", "dipole", "total_charge", "execution_time_seconds"), pa.float64()
    ),
    "unpaired_electrons": pa.int32(),
    "optimized": pa.bool_(),
    **dict.fromkeys(
        ("xtb_version", "solvation", "solvent", "method", "convergence_status", "xyz_file_hash", "output_json_path",
         "source_id", "metadata"),
        pa.string(),
    ),
}  # fmt: skip
_ATOM_TYPES: Final = {"atom_index": pa.int32(), "element": pa.string(), "partial_charge": pa.float64()} | {
    f"{kind}_{axis}": pa.float64() for kind in ("position", "force") for axis in "xyz"
}


def migrate(
    engine: Engine,
    root: str | Path,
    *,
    owner: uuid.UUID | None,
    dry_run: bool = True,
    limit: int | None = None,
    jobs: int | None = None,
    progress: bool | None = None,
) -> MigrationReport:
    """Bring the finished runs below a folder into the database.

    Parameters
    ----------
    engine
        In the scope of ``owner``.
    root
        Where the runs lie.
    owner
        Whose they become.
    dry_run
        Only read and plan.
    limit
        At most so many runs.
    jobs
        Processes that read, None for one a processor.
    progress
        Show a bar; None shows one after 2 s where somebody looks.

    Returns
    -------
    MigrationReport
        One line a run, in the order of the paths.

    Raises
    ------
    InvalidInput
        ``root`` is no folder, or ``limit`` or ``jobs`` is no positive number.
    QForgeError
        What the server reported; chunks that were applied before stay.
    """
    started = time.perf_counter()
    folder = Path(root).expanduser().resolve()
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder", field="root", value=str(root))
    for name, value in (("limit", limit), ("jobs", jobs)):
        if value is not None and value < 1:
            raise InvalidInput(f"{name} must be 1 or more, not {value!r}", field=name, value=value)
    with tqdm(desc="scanning", unit=" runs", delay=2, disable=_hidden(progress), leave=False) as bar:
        runs = [_counted(bar, one) for one in islice(scan(folder), limit)]
    found = read_all(runs, jobs or processors(), task=TASK, lost=unreadable_run)
    report = bring(engine, found, folder, owner=owner, dry_run=dry_run, total=len(runs), progress=progress)
    return replace(report, seconds=time.perf_counter() - started)


def bring(
    engine: Engine,
    found: Iterator[Found],
    root: Path,
    *,
    owner: uuid.UUID | None,
    dry_run: bool,
    total: int | None = None,
    progress: bool | None = None,
) -> MigrationReport:
    """Plan or store what was found, in chunks that are one transaction each.

    Parameters
    ----------
    engine
        In the scope of ``owner``.
    found
        Read as it is taken.
    root
        Where all of it lies.
    owner
        Whose it becomes.
    dry_run
        Only plan.
    total
        How many there will be, where that is known.
    progress
        Show a bar; None shows one after 2 s where somebody looks.

    Returns
    -------
    MigrationReport
        One line for each, in the same order.

    Raises
    ------
    QForgeError
        What the server reported; chunks that were applied before stay.
    """
    started = time.perf_counter()
    with translated():
        plan = _Plan.of(engine, owner)
        lines: list[tuple[Any, ...]] = []
        with tqdm(
            total=total, desc="migrating", unit=" runs", delay=2, disable=_hidden(progress), leave=False
        ) as bar:
            for chunk in _chunks(found):
                lines += plan.lines(chunk) if dry_run else plan.apply(chunk, root)
                bar.update(len(chunk))
    rows = pd.DataFrame(lines, columns=list(COLUMNS)).astype(
        {"calculation_id": "Int64"} | {name: "str" for name in COLUMNS if name != "calculation_id"}
    )
    return MigrationReport(rows=rows, seconds=time.perf_counter() - started, dry_run=dry_run)


class _Plan:
    """What is in the database, kept up to date while chunks are applied.

    Parameters
    ----------
    engine
        In the scope of the owner.
    owner
        Whose.
    """

    def __init__(self, engine: Engine, owner: uuid.UUID | None) -> None:
        self.engine = engine
        self.owner = owner
        self._by_content: dict[bytes, int] = {}
        self._by_source: dict[str, int] = {}

    @classmethod
    def of(cls, engine: Engine, owner: uuid.UUID | None) -> _Plan:
        plan = cls(engine, owner)
        with engine.begin() as connection:
            for key, source_id, content_hash in stored_runs.known_runs(connection, owner):
                plan._by_content[_digest(content_hash)] = key
                plan._by_source[source_id] = key
        return plan

    def lines(self, chunk: Sequence[Found]) -> list[tuple[Any, ...]]:
        """What would be done; a second copy in the same migration counts as there."""
        lines = []
        for found in chunk:
            action, key = self._action(found)
            if action != "none":
                self._by_content[_digest(found.content_hash)] = key or 0
            lines.append(_line(found, action, key))
        return lines

    def apply(self, chunk: Sequence[Found], root: Path) -> list[tuple[Any, ...]]:
        """Store a chunk in one transaction."""
        actions = {}
        wanted: dict[str, Found] = {}
        for place, found in enumerate(chunk):
            action, key = self._action(found)
            if action != "none" and found.source_id in wanted:
                # Two folders with one job_id: the second is told, not stored over the first.
                found.unreadable = (
                    f"another folder of this migration has the same job_id: {wanted[found.source_id].path}"
                )
                action, key = "none", None
            elif action != "none":
                wanted[found.source_id] = found
                self._by_content[_digest(found.content_hash)] = key or 0
            actions[place] = (action, key)
        keys: dict[str, int] = {}
        if wanted:
            with self.engine.begin() as connection:
                keys = self._store(connection, list(wanted.values()), root)
        for source_id, found in wanted.items():
            key = keys.get(source_id, 0)
            if key:
                self._by_content[_digest(found.content_hash)] = self._by_source[source_id] = key
            else:
                self._by_content.pop(_digest(found.content_hash), None)
        lines = []
        for place, found in enumerate(chunk):
            action, key = actions[place]
            key = keys.get(found.source_id, key) if action != "none" else key
            lines.append(_line(found, "none" if found.unreadable else action, key or None))
        return lines

    def _action(self, found: Found) -> tuple[str, int | None]:
        if found.unreadable is not None:
            return "none", None
        key = self._by_content.get(_digest(found.content_hash))
        if key is not None:
            return "none", key or None
        key = self._by_source.get(found.source_id)
        return ("insert", None) if key is None else ("update", key)

    def _store(self, connection: Connection, chunk: list[Found], root: Path) -> dict[str, int]:
        """Keys by source_id; a run that the loader refuses is told why."""
        graphs = stored_runs.register_graphs(connection, self.owner, [one.graph for one in chunk if one.graph])
        changed = [self._by_source[one.source_id] for one in chunk if one.source_id in self._by_source]
        stored_runs.delete_atoms(connection, changed)
        table = pa.table(
            {name: pa.array([one.row[name] for one in chunk], kind) for name, kind in _TYPES.items()}
            | {
                "smiles": pa.array([one.smiles for one in chunk], pa.string()),
                "name": pa.array([one.name for one in chunk], pa.string()),
                "molecule_id": pa.array(
                    [graphs[one.graph["graph_hash"]] if one.graph else None for one in chunk], pa.int64()
                ),
            }
        )
        report = load_calculations(
            connection, table, owner=self.owner, on_conflict="update", workers=0, progress=False
        )
        for line in cast("Any", report.rejected.itertuples()):
            chunk[line.row].unreadable = f"{line.column}: {line.reason}"
        kept = [one for one in chunk if one.unreadable is None]
        self._store_atoms(connection, [one for one in kept if one.atoms])
        counts = {"runs": len(kept), "changed": len(changed), "root": str(root)}
        stored_runs.record_migration(connection, self.owner, json.dumps(counts))
        keys = [None if pd.isna(key) else int(key) for key in report.ids]
        return {one.source_id: key for one, key in zip(chunk, keys, strict=True) if key is not None}

    def _store_atoms(self, connection: Connection, chunk: list[Found]) -> None:
        if not chunk:
            return
        columns = {
            name: pa.array([value for one in chunk for value in one.atoms[name]], kind)
            for name, kind in _ATOM_TYPES.items()
        }
        source_ids = [one.source_id for one in chunk for _ in one.atoms["atom_index"]]
        load_atoms(
            connection,
            pa.table({"source_id": pa.array(source_ids, pa.string()), **columns}),
            owner=self.owner,
            on_error="raise",
        )


def read_all(items: Iterable[Any], jobs: int, *, task: str, lost: Callable[[Any, str], Found]) -> Iterator[Found]:
    """Everything in order, read by several processes, a few groups ahead of who takes it.

    Parameters
    ----------
    items
        What the task takes, taken as it is read; what is :class:`~qforge_sdk.migrate.scan.Unreadable` is passed on.
    jobs
        Processes.
    task
        As :class:`~qforge_sdk.chem.isolation.Worker` takes it.
    lost
        What is reported of an item that ended its process, and why.

    Yields
    ------
    Found
        One an item.
    """
    idle: SimpleQueue[Worker] = SimpleQueue()

    def work(group: list[Any]) -> list[Found]:
        worker = idle.get()
        try:
            results = iter(worker.run([one for one in group if not isinstance(one, Unreadable)]))
        finally:
            idle.put(worker)
        return [_settled(one, None if isinstance(one, Unreadable) else next(results), lost) for one in group]

    with ExitStack() as stack:
        for _ in range(jobs):
            idle.put(stack.enter_context(Worker(cpu_seconds=CPU_SECONDS, task=task)))
        threads = ThreadPoolExecutor(jobs)
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        ahead: deque[Future[list[Found]]] = deque()
        source = iter(items)
        while group := list(islice(source, _READ_AT_ONCE)):
            ahead.append(threads.submit(work, group))
            if len(ahead) > 2 * jobs:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _settled(one: Any, result: Found | Death | None, lost: Callable[[Any, str], Found]) -> Found:
    if isinstance(one, Unreadable):
        return Found(path=str(one.folder), source_id=f"path:{one.folder}", unreadable=one.reason)
    if isinstance(result, Death):
        return lost(one, f"reading it ended the process: {result.reason}")
    assert result is not None
    return result


def _line(found: Found, action: str, key: int | None) -> tuple[Any, ...]:
    if found.unreadable is not None:
        outcome, reason = "unreadable", found.unreadable
    elif action == "none":
        outcome, reason = "already_there", "the same content is stored"
    else:
        outcome = "doubtful" if found.doubts else {"insert": "new", "update": "changed"}[action]
        reason = json.loads(found.row["metadata"])["run"].get("reason")
    status = found.row.get("convergence_status")
    doubts = ", ".join(dict.fromkeys(found.doubts)) or None
    return found.path, outcome, action, reason, key, found.source_id, found.smiles, status, doubts


def _chunks(found: Iterator[Found]) -> Iterator[list[Found]]:
    while chunk := list(islice(found, CHUNK_RUNS)):
        yield chunk


def _counted(bar: Any, one: Run | Unreadable) -> Run | Unreadable:
    bar.update()
    return one


def _digest(content_hash: str) -> bytes:
    return bytes.fromhex(content_hash)[:16]


def _hidden(progress: bool | None) -> bool | None:
    return None if progress is None else not progress


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
