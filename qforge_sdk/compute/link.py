"""A worker's way to the database: transactions that outlive its restarts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine

from qforge_sdk import program_events
from qforge_sdk.compute.item import failed
from qforge_sdk.compute.job import Job
from qforge_sdk.db.results import Ended, Finished, LeaseLost, finish, insert_events
from qforge_sdk.db.sqlstate import translated
from qforge_sdk.db.work import Item, claim
from qforge_sdk.errors import ConnectionFailed, QForgeError

_T = TypeVar("_T")

_TAKEN_BACK: Final = frozenset({"40001", "40P01"})
# Time limits of statements and locks, a standby after a failover, no disk, no memory.
_OF_THE_MOMENT: Final = frozenset({"57014", "55P03", "25006", "53100", "53200"})
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
_MOST_ATTEMPTS: Final = 10


class Link:
    """Transactions of one worker.

    Parameters
    ----------
    engine
        In the job's scope.
    reconnect_seconds
        How long to wait for a database that is gone.
    """

    def __init__(self, engine: Engine, *, reconnect_seconds: float) -> None:
        self._engine = engine
        self._reconnect_seconds = reconnect_seconds

    def run(self, work: Callable[[Connection], _T]) -> _T:
        """What ``work`` makes of a transaction, which is begun again when the server goes or takes it back.

        Parameters
        ----------
        work
            Called with a connection; harmless when called twice, since the answer to a commit may be lost.

        Raises
        ------
        ConnectionFailed
            The server did not come back in time.
        QForgeError
            What else it reported.
        """
        gone_since: float | None = None
        pause, attempts = _FIRST_PAUSE_SECONDS, 0
        while True:
            attempts += 1
            try:
                with translated(), self._engine.begin() as connection:
                    return work(connection)
            except QForgeError as exc:
                if passes(exc):
                    gone_since = gone_since or time.monotonic()
                    if time.monotonic() - gone_since > self._reconnect_seconds:
                        raise
                    time.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                elif _sqlstate_of(exc) not in _TAKEN_BACK or attempts > _MOST_ATTEMPTS:
                    raise
            except LeaseLost:
                if attempts > _MOST_ATTEMPTS:
                    raise


def passes(exc: BaseException) -> bool:
    """Whether an error is the server's trouble of the moment, which has nothing to do with what is written.

    Parameters
    ----------
    exc
        Of a transaction.
    """
    return isinstance(exc, ConnectionFailed) or _sqlstate_of(exc) in _OF_THE_MOMENT


def _sqlstate_of(exc: BaseException) -> str | None:
    state: str | None = getattr(getattr(exc.__cause__, "orig", None), "pgcode", None)
    return state


def claim_items(
    connection: Connection, job: Job, *, token: uuid.UUID, holder: str, limit: int, after: int
) -> tuple[Item, ...]:
    """Items to compute, and the events of a batch that begins; items that ran out of retries are failed.

    Parameters
    ----------
    connection
        In a transaction.
    job
        Which batch.
    token, holder, limit, after
        As for :func:`qforge_sdk.db.work.claim`.

    Returns
    -------
    tuple of Item
        Perhaps none.

    Raises
    ------
    QForgeError
        What the server reported.
    """
    got = claim(
        connection,
        job.work,
        token=token,
        holder=holder,
        limit=limit,
        lease_seconds=job.lease_seconds,
        max_retries=job.max_retries,
        timeout=job.timeout,
        after=after,
    )
    if got.began is not None:
        name, total = got.began
        _log(connection, job, program_events.batch_started(name, molecule_count=total))
    if got.given_up:
        store(connection, job, token, [failed(item, job, "killed", _given_up(item)) for item in got.given_up])
    return got.items


def store(connection: Connection, job: Job, token: uuid.UUID, ended: Sequence[Ended]) -> Finished:
    """Store what became of items, and the event of a batch that ends with them.

    Parameters
    ----------
    connection
        In a transaction.
    job
        Which batch.
    token, ended
        As for :func:`qforge_sdk.db.results.finish`.

    Returns
    -------
    Finished
        What was written.

    Raises
    ------
    LeaseLost
        Call it again in a new transaction.
    QForgeError
        What the server reported.
    """
    done = finish(connection, job.work, token, ended)
    if done.batch is not None:
        _log(connection, job, program_events.batch_completed(**done.batch._asdict()))
    return done


def _log(connection: Connection, job: Job, event: Mapping[str, Any]) -> None:
    insert_events(connection, job.work, [{**event, "entity_id": job.work.batch_id}])


def _given_up(item: Item) -> str:
    return f"its worker was not heard of any more, {item.retry_count} times"
