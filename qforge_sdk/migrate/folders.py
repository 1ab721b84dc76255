"""Folders to rows, in chunks that are one transaction each.

A run is known by its content. Loaded twice it changes nothing, wherever it lies; a folder whose content changed since
it was loaded updates its row. So a migration that was killed is simply run again.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from sqlalchemy import Engine

from qforge_sdk.chem.isolation import Death, Worker
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.errors import InvalidInput
from qforge_sdk.migrate.plan import Plan
from qforge_sdk.migrate.read import TASK, TASK_WITHOUT_BONDS, Found
from qforge_sdk.migrate.read import unreadable as unreadable_run
from qforge_sdk.migrate.report import MigrationReport
from qforge_sdk.migrate.scan import Ahead, Unreadable, scan
from qforge_sdk.migrate.storable import path_text
from qforge_sdk.progress import ProgressBar, progress_bar

CHUNK_RUNS: Final = 500
_READ_AT_ONCE: Final = 50
#: Processor time that one folder may take, a log of any length and the perception of two geometries included.
CPU_SECONDS: Final = 30.0


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
    folder = Path(root).expanduser().resolve()
    if not folder.is_dir():
        raise InvalidInput(f"{path_text(folder)} is no folder", field="root", value=str(root))
    for name, value in (("limit", limit), ("jobs", jobs)):
        if value is not None and value < 1:
            raise InvalidInput(f"{name} must be 1 or more, not {value!r}", field=name, value=value)
    with (
        Ahead(islice(scan(folder), limit)) as runs,
        # Closed here, for an error's traceback would keep the processes.
        closing(
            read_all(runs, jobs or processors(), task=TASK, again=TASK_WITHOUT_BONDS, lost=unreadable_run)
        ) as found,
    ):
        return bring(engine, found, folder, owner=owner, dry_run=dry_run, total=runs, progress=progress)


def bring(
    engine: Engine,
    found: Iterator[Found],
    root: Path,
    *,
    owner: uuid.UUID | None,
    dry_run: bool,
    total: int | Ahead | None = None,
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
        How many there will be, where that is known, or what counts them while they are searched for.
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
        plan = Plan.of(engine, owner)
        with progress_bar(progress, "migrating", unit=" runs") as bar:
            for chunk in _chunks(found):
                _count(bar, total)
                plan.settle(chunk, root, dry_run=dry_run)
                bar.update(len(chunk))
    return MigrationReport(rows=plan.lines.frame(), seconds=time.perf_counter() - started, dry_run=dry_run)


def read_all(
    items: Iterable[Any],
    jobs: int,
    *,
    task: str,
    lost: Callable[[Any, str], Found],
    again: str | None = None,
) -> Generator[Found, None, None]:
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
    again
        A task that asks for less, for items that ended their process; None where there is none.

    Yields
    ------
    Found
        One an item.
    """
    idle: SimpleQueue[Worker] = SimpleQueue()

    def work(group: list[Any]) -> list[Found]:
        readable = [one for one in group if not isinstance(one, Unreadable)]
        worker = idle.get()
        try:
            results = iter(worker.run(readable))
        finally:
            idle.put(worker)
        return [_refused(one) if isinstance(one, Unreadable) else _settled(one, next(results)) for one in group]

    def _settled(item: Any, result: Found | Death) -> Found:
        if isinstance(result, Death) and again is not None:
            with Worker(cpu_seconds=CPU_SECONDS, task=again) as worker:
                (result,) = worker.run([item])
        return lost(item, f"reading it ended the process: {result.reason}") if isinstance(result, Death) else result

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


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _refused(one: Unreadable) -> Found:
    path = path_text(one.folder)
    return Found(path=path, source_id=f"path:{path}", unreadable=one.reason)


def _chunks(found: Iterator[Found]) -> Iterator[list[Found]]:
    while chunk := list(islice(found, CHUNK_RUNS)):
        yield chunk


def _count(bar: ProgressBar, total: int | Ahead | None) -> None:
    """The end of the bar is what was found so far, and says so until all is found."""
    bar.total = total.count if isinstance(total, Ahead) else total
    if isinstance(total, Ahead):
        bar.text = "" if total.is_complete else "still searching"
