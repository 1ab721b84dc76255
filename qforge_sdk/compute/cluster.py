"""The same work on a dask cluster: a few tasks that claim and compute until nothing is left, on whichever workers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from sqlalchemy import Engine, NullPool

from qforge_sdk.compute.job import Job
from qforge_sdk.compute.link import Link
from qforge_sdk.compute.supervisor import Supervisor, Tally
from qforge_sdk.compute.worker import APPLICATION
from qforge_sdk.db.engines import make_engine
from qforge_sdk.db.work import Outlook, outlook
from qforge_sdk.errors import ConfigurationError, MissingExtra, QForgeError

_LOOK_SECONDS: Final = 1.0
# A thousand tasks ask the scheduler two hundred times a second.
_STOP_SECONDS: Final = 5.0
_ENDING_SECONDS: Final = 30.0


def work_until_empty(job: Job, stop: str) -> Tally:
    """What one task of the cluster does: watch one worker process beside it.

    Parameters
    ----------
    job
        Keys and settings; the process opens its own connection.
    stop
        Name of the event that ends it.

    Returns
    -------
    Tally
        What it did.

    Raises
    ------
    QForgeError
        No worker can compute, or the database did not come back.
    """
    engine = make_engine(job.url, scope=job.scope, poolclass=NullPool, application_name=APPLICATION)
    try:
        return Supervisor(job, engine, workers=1, stay=False, stop=_Stop(stop)).run()
    finally:
        engine.dispose()


class _Stop:
    """Whether an event of the cluster is set, asked now and then."""

    def __init__(self, name: str) -> None:
        self._event = _event(name)
        self._asked = time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self._asked < _STOP_SECONDS:
            return False
        self._asked = time.monotonic()
        return bool(self._event.is_set())


class Cluster:
    """A batch on a dask cluster.

    Parameters
    ----------
    job
        What its tasks are told.
    engine
        In the job's scope, for a look at the batch now and then.
    client
        A ``distributed.Client``.
    look
        Told about once a second how the batch stands.
    """

    def __init__(self, job: Job, engine: Engine, client: Any, *, look: Callable[[Outlook], object]) -> None:
        self._job = job
        self._link = Link(engine, reconnect_seconds=job.reconnect_seconds)
        self._client = client
        self._look = look
        self._name = f"qforge-batch-{job.work.batch_id}-{uuid.uuid4().hex}"
        self._tasks: list[Any] = []
        self._tally = Tally()

    def run(self) -> Tally:
        """Keep as many tasks as find work and a worker until nothing is left, or until interrupted.

        Returns
        -------
        Tally
            What they did.

        Raises
        ------
        QForgeError
            No worker can compute, or the database did not come back.
        """
        stop = _event(self._name, self._client)
        try:
            while self._step():
                time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:
            self._tally.interrupted = True
        finally:
            stop.set()
            self._end()
        return self._tally

    def _step(self) -> bool:
        self._collect()
        found = self._link.run(
            lambda connection: outlook(connection, self._job.work, limit=self._slots(), timeout=self._job.timeout)
        )
        self._look(found)
        for _ in range(min(found.claimable, self._slots() - len(self._tasks))):
            self._tasks.append(
                self._client.submit(
                    work_until_empty, self._job, self._name, key=f"{self._name}-{uuid.uuid4().hex}", pure=False
                )
            )
        return bool(self._tasks) or found.leased

    def _slots(self) -> int:
        """Threads of the cluster and some more, which tell an adaptive one that there is work."""
        threads: int = sum(self._client.nthreads().values())
        return max(2, threads + threads // 2)

    def _collect(self) -> None:
        """Count what ended tasks did. One whose worker died is done again by dask, or by another task."""
        ended = [task for task in self._tasks if task.done()]
        self._tasks = [task for task in self._tasks if not task.done()]
        faults = []
        for task in ended:
            if task.status == "finished":
                self._tally.add(task.result())
            elif task.status == "error":
                faults.append(task.exception())
            # Also where another's fault is raised, or the scheduler would keep it for as long as that is held.
            task.release()
        for fault in faults:
            _raise_unless_killed(fault)

    def _end(self) -> None:
        """Let the tasks end what they do; one that does not is left to its lease."""
        deadline = time.monotonic() + _ENDING_SECONDS
        running = {key for keys in self._client.processing().values() for key in keys}
        waiting = [task for task in self._tasks if task.key not in running]
        self._client.cancel(waiting)
        self._tasks = [task for task in self._tasks if task.key in running]
        try:
            while self._tasks and time.monotonic() < deadline:
                self._collect()
                time.sleep(0.1)
        finally:
            self._client.cancel(self._tasks)


def _event(name: str, client: Any = None) -> Any:
    try:
        distributed: Any = import_module("distributed")
    except ImportError as exc:
        raise MissingExtra("distributed", "dask") from exc
    return distributed.Event(name, client=client)


def _raise_unless_killed(exc: BaseException) -> None:
    from distributed.scheduler import KilledWorker

    if isinstance(exc, QForgeError):
        raise exc
    if not isinstance(exc, KilledWorker):
        raise ConfigurationError(
            f"a worker of the cluster cannot work: {type(exc).__name__}: {exc}; it needs this package, the engine "
            "and a way to the database"
        ) from exc
