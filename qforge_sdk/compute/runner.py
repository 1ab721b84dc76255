"""``client.batches.run()``: a batch on this machine's processors or on a cluster, and the account of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final

from sqlalchemy import Engine as DatabaseEngine

from qforge_sdk.compute import get_engine
from qforge_sdk.compute.cluster import Cluster
from qforge_sdk.compute.engine import Engine
from qforge_sdk.compute.job import Job
from qforge_sdk.compute.parameters import read_parameters
from qforge_sdk.compute.supervisor import Supervisor
from qforge_sdk.db.batches import BatchItems
from qforge_sdk.db.scope import Scope
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.db.work import Outlook, Work
from qforge_sdk.errors import InvalidInput
from qforge_sdk.progress import ProgressBar, progress_bar
from qforge_sdk.schemas import BatchReport

# Thirty years; longer ones are beyond the clocks of processes and of PostgreSQL.
_LONGEST_SECONDS: Final = 1_000_000_000
# RDKit's seeds, PostgreSQL's integers.
_LARGEST_NUMBER: Final = 2**31 - 1


def make_job(
    database: DatabaseEngine,
    scope: Scope,
    work: Work,
    given: Mapping[str, Any],
    *,
    engine: str | Engine,
    optimize: bool,
    seed: int,
    n_conformers: int,
    timeout: float | None,
    max_retries: int,
    lease_seconds: float,
    reconnect_seconds: float,
) -> Job:
    """Everything that a worker is told, checked.

    Parameters
    ----------
    database, scope
        Where the batch is, and as whom to connect.
    work
        The batch.
    given
        Its parameters.
    engine
        What computes: a name or an engine.
    optimize
        Relax geometries even if the parameters do not say so.
    seed, n_conformers, timeout, max_retries, lease_seconds, reconnect_seconds
        As in :class:`~qforge_sdk.compute.job.Job`.

    Returns
    -------
    Job
        It pickles.

    Raises
    ------
    InvalidInput
        An argument or a parameter cannot be taken.
    """
    for name, value, least in (
        ("max_retries", max_retries, 0),
        ("seed", seed, 0),
        ("n_conformers", n_conformers, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidInput(f"{name} is a whole number from {least} on, not {value!r}", field=name, value=value)
        if value > _LARGEST_NUMBER:
            raise InvalidInput(f"{name} is at most {_LARGEST_NUMBER:,}, not {value!r}", field=name, value=value)
    if not isinstance(optimize, bool):
        raise InvalidInput(f"optimize is True or False, not {optimize!r}", field="optimize", value=optimize)
    if not isinstance(engine, str) and not callable(getattr(engine, "run", None)):
        raise InvalidInput(f"engine is a name or an engine, not {engine!r}", field="engine", value=engine)
    for name, limit in (
        ("timeout", timeout), ("lease_seconds", lease_seconds), ("reconnect_seconds", reconnect_seconds)
    ):  # fmt: skip
        if limit is None and name == "timeout":
            continue
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit <= _LONGEST_SECONDS:
            raise InvalidInput(
                f"{name} is a number of seconds above 0, at most {_LONGEST_SECONDS:,}, not {limit!r}",
                field=name,
                value=limit,
            )
    parameters = read_parameters(given)
    return Job(
        url=database.url,
        scope=scope,
        work=work,
        engine=get_engine(engine) if isinstance(engine, str) else engine,
        parameters=dataclasses.replace(parameters, optimize=parameters.optimize or optimize),
        seed=seed,
        n_conformers=n_conformers,
        timeout=timeout,
        max_retries=max_retries,
        lease_seconds=lease_seconds,
        reconnect_seconds=reconnect_seconds,
    )


def run(
    job: Job, name: str, database: DatabaseEngine, *, workers: Any = None, progress: bool | None = None
) -> BatchReport:
    """Work on a batch until nothing of it is left, or until interrupted.

    Parameters
    ----------
    job
        What every worker is told.
    name
        Of the batch.
    database
        In the job's scope.
    workers
        Processes; None for as many as there are processors; a ``distributed.Client`` for its cluster's.
    progress
        Show a bar; None shows one where somebody looks.

    Returns
    -------
    BatchReport
        Accounts for each item.

    Raises
    ------
    InvalidInput
        ``workers`` is neither a number nor a client, or the engine does not take the parameters.
    ConfigurationError
        The engine is not installed.
    NotFound
        The batch was deleted meanwhile.
    QForgeError
        What else the server reported.
    """
    started = perf_counter()
    with progress_bar(progress, name, unit=" molecules") as bar:
        tally = _works(job, database, workers, _shown_on(bar)).run()
    with translated(), database.begin() as connection:
        found = BatchItems(connection, job.work).account()
    by_status = found.by_status
    return BatchReport(
        batch_id=job.work.batch_id,
        batch_name=name,
        n_items=sum(by_status.values()),
        n_completed=by_status["completed"],
        failed=found.by_code,
        n_skipped=by_status["skipped"],
        n_left=by_status["pending"] + by_status["processing"],
        n_run=tally.ended.total(),
        seconds=perf_counter() - started,
        interrupted=tally.interrupted,
    )


def _works(job: Job, database: DatabaseEngine, workers: Any, look: Callable[[Outlook], None]) -> Supervisor | Cluster:
    if hasattr(workers, "submit") and hasattr(workers, "nthreads") and not getattr(workers, "asynchronous", False):
        return Cluster(job, database, workers, look=look)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InvalidInput(
            f"workers is a number of processes from 1 on, None or a (synchronous) dask client, not {workers!r}",
            field="workers",
            value=workers,
        )
    return Supervisor(job, database, workers=workers, look=look)


def _shown_on(bar: ProgressBar) -> Callable[[Outlook], None]:
    """Shows all items of a batch, whoever works on them."""

    def show(found: Outlook) -> None:
        failed = f"{found.failed:,} failed" if found.failed else ""
        bar.reach(found.ended, total=found.total, text=failed)

    return show
