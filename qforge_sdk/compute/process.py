"""A worker process as whoever watches it sees it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import IO, Final

from qforge_sdk.compute.job import Job
from qforge_sdk.compute.messages import Begun, Claimed, Claiming, Message, Stored, Storing
from qforge_sdk.db.work import Item
from qforge_sdk.errors import ConfigurationError

_ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
# What the settings of the parent hold and a worker gets by its socket.
_SECRET: Final = ("DATABASE_URL", "DB_PASSWORD", "SUPABASE_KEY")
_START: Final = "import sys; from qforge_sdk.compute.worker import main; main(int(sys.argv[1]))"
_STDERR_BYTES: Final = 4000
# A worker claims at once what it expects to take it a second.
_SLOW_SECONDS: Final = 3.0

#: Until it says its first word, its imports included.
START_SECONDS: Final = 120.0
#: An engine that keeps the time limit itself says more about it.
GRACE_SECONDS: Final = 1.0


class Process:
    """One worker process: started, listened to, and killed with all that it started.

    Parameters
    ----------
    job
        What it is to do.
    """

    def __init__(self, job: Job) -> None:
        self._timeout = job.timeout
        self._silence = job.reconnect_seconds + job.lease_seconds
        pickled = _pickled(job)
        self._stderr = _temporary_file()
        ours, theirs = socket.socketpair()
        self.connection: Connection[bytes, Message] = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", _START, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=_environment(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        # It may die before it reads.
        with contextlib.suppress(OSError):
            self.connection.send_bytes(pickled)
        self._started = self._said = time.monotonic()
        self._heard = False
        self.token: uuid.UUID | None = None
        self.items: dict[int, Item] = {}
        self._current: int | None = None
        self._since = 0.0
        self._relieved: uuid.UUID | None = None

    @property
    def pid(self) -> int:
        """Of the process, and of its process group."""
        return self._process.pid

    @property
    def current(self) -> Item | None:
        """The item that it computes."""
        return self.items.get(self._current or 0)

    @property
    def spoke(self) -> bool:
        """Whether it ever said a word."""
        return self._heard

    def note(self, message: Message) -> None:
        """Take note of what it says it does."""
        self._heard = True
        self._said = time.monotonic()
        if isinstance(message, Claiming):
            self.token, self.items, self._current = message.token, {}, None
        elif isinstance(message, Claimed):
            self.items = {item.id: item for item in message.items}
        elif isinstance(message, Begun):
            self._current, self._since = message.item_id, time.monotonic()
        elif isinstance(message, Storing):
            self._current = None
        elif isinstance(message, Stored):
            self.items = {key: item for key, item in self.items.items() if key not in message.item_ids}
            if self._current in message.item_ids:
                self._current = None

    def overdue(self) -> bool:
        """Whether the item that it computes, or its start, takes too long."""
        if not self._heard:
            return time.monotonic() - self._started > START_SECONDS
        if self._current is None:
            # It claims or stores, and gives up by itself where the database is gone.
            return time.monotonic() - self._said > self._silence + GRACE_SECONDS
        if self._timeout is None:
            return False
        return time.monotonic() - self._since > self._timeout + GRACE_SECONDS

    def is_laden(self) -> bool:
        """Whether it holds more than the item that it computes and that takes long; true once of a claim."""
        slow = self._current is not None and time.monotonic() - self._since > _SLOW_SECONDS
        return slow and len(self.items) > 1 and self._relieved != self.token

    def relieve(self) -> list[int]:
        """Tell it to store what it has and to leave what it has not begun to others; the keys of these."""
        assert self.token is not None
        behind = [key for key in self.items if self._current is not None and key > self._current]
        self.items = {key: item for key, item in self.items.items() if key not in behind}
        self._relieved = self.token
        with contextlib.suppress(OSError):
            self.connection.send_bytes(self.token.bytes)
        return behind

    def kill(self) -> None:
        """End it, and whatever it started, now."""
        # Once it was waited for, another group may have its number.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def rest(self) -> Iterator[Message]:
        """What it said before it ended and nobody has heard; it is dead."""
        # The last message may be cut off. Nobody waits for an end that a program of its own might keep open.
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                yield self.connection.recv()

    def last_words(self) -> tuple[str, str]:
        """How it ended, and the end of what it printed; it is dead."""
        code = self._process.wait()
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - _STDERR_BYTES))
        return _ending(code), self._stderr.read().decode("utf-8", "replace")

    def close(self) -> None:
        """End it and let go of it."""
        self.kill()
        self.connection.close()
        self._stderr.close()


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="qforge-worker-")
    except OSError as exc:
        raise ConfigurationError(
            f"nothing can be written to the folder for temporary files: {exc}; set TMPDIR"
        ) from exc


def _pickled(job: Job) -> bytes:
    try:
        return pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as exc:
        raise ConfigurationError(
            f"the engine cannot go to a worker: {exc}; define it in a module that can be imported"
        ) from exc


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _SECRET}
    return kept | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}{', probably for lack of memory' if name == 'SIGKILL' else ''}"
