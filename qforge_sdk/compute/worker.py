"""A process that claims items of a batch, computes them and stores the results, until there is none left.

Its settings come through a socket, so that a password stands neither in its arguments nor in its environment. It says
before each item which one it begins; whoever watches it may kill it at any moment.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import socket
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Final

from sqlalchemy import Connection as DatabaseConnection

from qforge_sdk.compute.item import compute, failed
from qforge_sdk.compute.job import Job
from qforge_sdk.compute.link import Link, claim_items, passes, store
from qforge_sdk.compute.messages import Begun, Broken, Claimed, Claiming, Idle, Message, Stored, Storing
from qforge_sdk.db.engines import make_engine
from qforge_sdk.db.results import Ended, Finished
from qforge_sdk.db.work import Item, release
from qforge_sdk.errors import AccessDenied, ConfigurationError, QForgeError

APPLICATION: Final = "qforge_worker"

# Results that a dying worker loses, against the share of a claim and a commit in the time.
_SECONDS_AT_ONCE: Final = 1.0
_MOST_AT_ONCE: Final = 64


def main(handle: int) -> None:
    """Work for whoever holds the other end of a socket.

    Parameters
    ----------
    handle
        File descriptor of this end; a pickled :class:`~qforge_sdk.compute.job.Job` arrives through it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection[Message, bytes] = Connection(handle)
    try:
        job: Job = pickle.loads(connection.recv_bytes())  # noqa: S301 - from our own parent
    except EOFError:
        return
    except (ImportError, AttributeError) as exc:
        cause = ConfigurationError(
            f"a worker cannot load the engine: {exc}; define it in a module that can be imported"
        )
        connection.send(Broken(cause))
        return
    worker = Worker(job, connection)
    threading.Thread(target=worker.listen, args=(connection,), daemon=True).start()
    try:
        worker.run()
    except QForgeError as exc:
        connection.send(Broken(exc))


class Worker:
    """One process' work on a batch.

    Parameters
    ----------
    job
        What to do.
    connection
        Whom to tell.
    """

    def __init__(self, job: Job, connection: Connection[Message, bytes]) -> None:
        self._job = job
        self._connection = connection
        engine = make_engine(job.url, scope=job.scope, pool_size=1, max_overflow=0, application_name=APPLICATION)
        self._link = Link(engine, reconnect_seconds=job.reconnect_seconds)
        self._holder = f"{socket.gethostname()[:200]} {os.getpid()}"
        self._pace = Pace()
        self._token = uuid.uuid4()
        self._unstored: list[tuple[Item, Ended]] = []
        self._relieved: uuid.UUID | None = None
        # Of the socket and of what is not stored: both threads use them.
        self._lock = threading.RLock()

    def listen(self, connection: Connection[Message, bytes]) -> None:
        """Be relieved of a claim whose item takes long, until nobody is there any more: then everything ends."""
        try:
            while True:
                self._relieve(uuid.UUID(bytes=connection.recv_bytes()))
        except (EOFError, OSError):
            # With whatever program it started.
            os.killpg(0, signal.SIGKILL)

    def run(self) -> None:
        """Work until nothing can be claimed.

        Raises
        ------
        QForgeError
            No item can be computed, or the database is not there.
        """
        check = getattr(self._job.engine, "check", None)
        if check is not None:
            check(self._job.parameters)
        after = 0
        while True:
            items = self._claim(after)
            if items:
                self._work(items)
            elif not after:
                break
            # Behind the last item that was its own, and once more from the first.
            after = items[-1].id if items and self._relieved != self._token else 0
        self._say(Idle())

    def _relieve(self, token: uuid.UUID) -> None:
        self._relieved = token
        # Word of an earlier claim comes too late.
        if token == self._token:
            try:
                self._flush()
            except QForgeError as exc:
                self._say(Broken(exc))

    def _say(self, message: Message) -> None:
        with self._lock:
            self._connection.send(message)

    def _claim(self, after: int) -> tuple[Item, ...]:
        token = self._token = uuid.uuid4()
        self._say(Claiming(token))
        attempts = itertools.count()

        def attempt(connection: DatabaseConnection) -> tuple[Item, ...]:
            if next(attempts):
                # The answer to an earlier commit was lost, perhaps not the claim.
                release(connection, self._job.work, token)
            return claim_items(
                connection, self._job, token=token, holder=self._holder, limit=self._pace.items, after=after
            )

        items = self._link.run(attempt)
        self._say(Claimed(items))
        return items

    def _work(self, items: Sequence[Item]) -> None:
        since = perf_counter()
        for item in items:
            if self._relieved == self._token:
                break
            self._say(Begun(item.id))
            ended = compute(item, self._job)
            if ended.code == "killed" and item.retry_count < self._job.max_retries:
                self._let_wait(item)
                continue
            with self._lock:
                self._unstored.append((item, ended))
            if perf_counter() - since > _SECONDS_AT_ONCE:
                self._store(since)
                since = perf_counter()
        self._store(since)

    def _let_wait(self, item: Item) -> None:
        """Its program died, as a worker may die with an engine that runs in it: it is tried again, alone."""
        token, only = self._token, [item.id]
        self._say(Storing())
        with self._lock:
            self._link.run(lambda connection: release(connection, self._job.work, token, blamed=item.id, only=only))
            self._say(Stored(frozenset(only), Counter()))

    def _store(self, since: float) -> None:
        seconds = perf_counter() - since
        self._say(Storing())
        stored = self._flush()
        if stored:
            self._pace.measured(stored, seconds)

    def _flush(self) -> int:
        """Store what has been computed; how many items."""
        with self._lock:
            ended, self._unstored = self._unstored, []
            if ended:
                self._write(ended)
            return len(ended)

    def _write(self, ended: Sequence[tuple[Item, Ended]]) -> None:
        by_id = {one.item_id: one for _, one in ended}
        done: set[int] = set()
        for finished, refused in self._written(self._token, ended):
            by_id |= refused
            done |= finished.item_ids
        self._say(Stored(frozenset(done), Counter(by_id[key].code for key in done)))

    def _written(
        self, token: uuid.UUID, ended: Sequence[tuple[Item, Ended]]
    ) -> list[tuple[Finished, dict[int, Ended]]]:
        """What was written; of several items that the database refuses together, each by itself."""
        lines = [one for _, one in ended]
        try:
            return [(self._link.run(lambda connection: store(connection, self._job, token, lines)), {})]
        except Exception as exc:
            if passes(exc) or isinstance(exc, AccessDenied):
                raise
            # One result, whatever an engine made it of, must not end the others'.
            if len(ended) > 1:
                return [done for pair in ended for done in self._written(token, [pair])]
            ((item, one),) = ended
            if one.row is None and one.code == "engine_error":
                raise
            refused = failed(item, self._job, "engine_error", f"the result cannot be stored: {exc}")
            return [
                (
                    self._link.run(lambda connection: store(connection, self._job, token, [refused])),
                    {item.id: refused},
                )
            ]


class Pace:
    """How many items to claim at once: one at first, then as many as take a second."""

    def __init__(self) -> None:
        self._average: float | None = None

    @property
    def items(self) -> int:
        """Number of items."""
        if self._average is None:
            return 1
        return max(1, min(_MOST_AT_ONCE, int(_SECONDS_AT_ONCE / max(self._average, 1e-6))))

    def measured(self, items: int, seconds: float) -> None:
        """Take note of how long some items took."""
        latest = seconds / items
        self._average = latest if self._average is None else (self._average + latest) / 2


if __name__ == "__main__":
    main(int(sys.argv[1]))
