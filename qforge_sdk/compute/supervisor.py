"""Watches worker processes: starts them, holds their leases, ends those that hang, tells why one died."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Final

from sqlalchemy import Connection, Engine

from qforge_sdk.compute.item import failed
from qforge_sdk.compute.job import Job
from qforge_sdk.compute.link import Link, store
from qforge_sdk.compute.messages import Broken, Idle, Message, Stored
from qforge_sdk.compute.process import Process
from qforge_sdk.db.results import Ended
from qforge_sdk.db.work import Outlook, outlook, release, renew
from qforge_sdk.errors import ConfigurationError, ConnectionFailed, InvalidInput, QForgeError

_TICK_SECONDS: Final = 0.2
_LOOK_SECONDS: Final = 1.0
# In a row, of processes that computed nothing: before their first word, and after it.
_MOST_DEATHS: Final = (3, 10)
# Of a lease; two renewals may be late.
_RENEWALS: Final = 4
_CLOSING_SECONDS: Final = 5.0


@dataclass
class Tally:
    """What the workers of one supervisor did.

    Parameters
    ----------
    ended
        Items by code, those without a fault under None.
    interrupted
        Whether it was stopped before nothing was left.
    """

    ended: Counter[str | None] = field(default_factory=Counter)
    interrupted: bool = False

    def add(self, other: Tally) -> None:
        """Count another's in."""
        self.ended.update(other.ended)


class Supervisor:
    """Worker processes of this machine on one batch.

    Parameters
    ----------
    job
        What they do.
    engine
        In the job's scope; it needs one connection now and then.
    workers
        Processes at once.
    stay
        Whether to wait for items that others hold: they may come back.
    stop
        Asked about once a second whether to end.
    look
        Told about once a second how the batch stands.
    """

    def __init__(
        self,
        job: Job,
        engine: Engine,
        *,
        workers: int,
        stay: bool = True,
        stop: Callable[[], bool] = lambda: False,
        look: Callable[[Outlook], object] | None = None,
    ) -> None:
        self._job = job
        self._workers = workers
        self._stay = stay
        self._stop = stop
        self._look = look
        self._link = Link(engine, reconnect_seconds=job.reconnect_seconds)
        self._closing = Link(engine, reconnect_seconds=_CLOSING_SECONDS)
        self._processes: list[Process] = []
        self._tally = Tally()
        self._looked = self._renewed = 0.0
        self._unheld: set[uuid.UUID] = set()
        self._idle_deaths = 0

    def run(self) -> Tally:
        """Work until nothing can be claimed, or until interrupted: then what was not finished waits again.

        Returns
        -------
        Tally
            What was done.

        Raises
        ------
        QForgeError
            No worker can compute, or the database did not come back.
        """
        try:
            while self._step():
                pass
        except KeyboardInterrupt:
            self._tally.interrupted = True
        finally:
            self._close()
        return self._tally

    def _step(self) -> bool:
        """Listen, look after the processes; whether there is more to do."""
        for process in self._heard():
            self._listen(process)
        for process in [one for one in self._processes if one.overdue()]:
            self._end_overdue(process)
        for process in [one for one in self._processes if one.is_laden()]:
            self._relieve(process)
        self._renew()
        if time.monotonic() - self._looked < _LOOK_SECONDS and self._looked:
            return True
        self._looked = time.monotonic()
        if self._stop():
            self._tally.interrupted = True
            return False
        return self._staff()

    def _heard(self) -> list[Process]:
        by_connection = {one.connection: one for one in self._processes}
        if not by_connection:
            # Nothing to listen to before the next look.
            time.sleep(_TICK_SECONDS if self._looked else 0)
            return []
        return [by_connection[one] for one in wait(list(by_connection), timeout=_TICK_SECONDS)]  # type: ignore[index]

    def _listen(self, process: Process) -> None:
        try:
            message = process.connection.recv()
        except (EOFError, OSError):
            self._bury(process)
            return
        process.note(message)
        self._take(process, message)

    def _take(self, process: Process, message: Message) -> None:
        if isinstance(message, Stored):
            self._idle_deaths = 0
            self._tally.ended.update(message.ended)
        elif isinstance(message, Idle):
            self._dismiss(process)
            self._looked = 0.0
        elif isinstance(message, Broken):
            self._break(process, message.cause)

    def _break(self, process: Process, cause: QForgeError) -> None:
        """One worker cannot go on: the run's end where no other could, or nobody else works."""
        others = [one for one in self._processes if one is not process and one.current is not None]
        if isinstance(cause, (ConfigurationError, InvalidInput)) or not others:
            raise cause
        self._let_go(process)

    def _staff(self) -> bool:
        """Start as many processes as find work; whether there is, or will be, any."""
        free = self._workers - len(self._processes)
        if not free and self._look is None:
            return True
        found = self._link.run(
            lambda connection: outlook(connection, self._job.work, limit=max(free, 1), timeout=self._job.timeout)
        )
        if self._look is not None:
            self._look(found)
        for _ in range(min(free, found.claimable)):
            self._processes.append(Process(self._job))
        return bool(self._processes) or (self._stay and found.leased)

    def _dismiss(self, process: Process) -> None:
        self._processes.remove(process)
        process.close()

    def _bury(self, process: Process) -> None:
        """A process died: its item is tried again or failed, the others it held wait again."""
        process.kill()
        ending, printed = process.last_words()
        self._idle_deaths = self._idle_deaths + 1 if process.current is None else 0
        self._give_back(process, "killed", f"the process that computed it {ending}", printed)
        self._dismiss(process)
        self._looked = 0.0
        if self._idle_deaths >= _MOST_DEATHS[process.spoke]:
            raise QForgeError(f"worker processes end before they compute anything: the last one {ending}\n{printed}")

    def _end_overdue(self, process: Process) -> None:
        late = process.current
        self._kill(process)
        if late is None and not process.spoke:
            self._bury(process)
        elif process.current != late or late is None:
            # It ended in the last moment, or claims or stores without an end.
            self._let_go(process)
        else:
            _, printed = process.last_words()
            self._give_back(process, "timeout", f"it took longer than {self._job.timeout:g} s", printed)
            self._dismiss(process)
        self._looked = 0.0

    def _kill(self, process: Process) -> None:
        """End it, and hear what it had said before: what it holds may be another claim's by now."""
        process.kill()
        for message in process.rest():
            process.note(message)
            if isinstance(message, Stored):
                self._tally.ended.update(message.ended)

    def _let_go(self, process: Process) -> None:
        """End it; what it holds waits again."""
        self._kill(process)
        token = process.token
        if token is not None:
            self._link.run(lambda connection: release(connection, self._job.work, token))
        self._dismiss(process)

    def _give_back(self, process: Process, code: str, message: str, printed: str) -> None:
        token, item = process.token, process.current
        if token is None:
            return
        over = item is not None and (code == "timeout" or item.retry_count >= self._job.max_retries)
        lost: list[Ended] = [failed(item, self._job, code, message, printed)] if item is not None and over else []
        blamed = item.id if item is not None and not over else None

        def give_back(connection: Connection) -> int:
            done = store(connection, self._job, token, lost) if lost else None
            release(connection, self._job.work, token, blamed=blamed)
            return 0 if done is None else len(done.item_ids)

        if self._link.run(give_back):
            self._tally.ended[code] += 1

    def _relieve(self, process: Process) -> None:
        """Let others have what waits behind an item that takes long."""
        token, behind = process.token, process.relieve()
        if token is not None:
            self._link.run(lambda connection: release(connection, self._job.work, token, only=behind))
            self._looked = 0.0

    def _renew(self) -> None:
        if time.monotonic() - self._renewed < self._job.lease_seconds / _RENEWALS:
            return
        self._renewed = time.monotonic()
        held = {one.token: list(one.items) for one in self._processes if one.token is not None and one.items}
        kept = self._link.run(lambda connection: renew(connection, held, lease_seconds=self._job.lease_seconds))
        lost = held.keys() - kept
        # What it has just stored is not lost: its word may be on the way.
        for process in [one for one in self._processes if one.token in lost & self._unheld]:
            self._let_go(process)
            self._looked = 0.0
        self._unheld = lost

    def _close(self) -> None:
        """End all processes; what they had not stored waits again, if the database is there to be told."""
        processes, self._processes = self._processes, []
        for process in processes:
            self._kill(process)
        tokens = [process.token for process in processes if process.token is not None]
        for process in processes:
            process.close()
        # Where the database is not there, leases run out by themselves.
        with contextlib.suppress(ConnectionFailed):
            self._closing.run(lambda connection: [release(connection, self._job.work, token) for token in tokens])
