"""Programs that take short turns on the processors until each has ended.

What takes a minute cannot be compared by whole runs where other programs share the machine: its speed changes within
the minute. In turns each contestant meets the same minutes.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

import psutil

Make = Callable[..., Callable[[], object]]
Contestant = tuple[Make, tuple[Any, ...]]
"""A function and its arguments, which pickle; what it returns is called and timed."""


def in_turns(contestants: Mapping[str, Contestant], *, turn_seconds: float) -> dict[str, float]:
    """Seconds that each contestant had until it ended.

    Each runs in a process of its own, which is stopped, with every process that it started, while others have their
    turn. Database servers are nobody's and go on.

    Parameters
    ----------
    contestants
        By name.
    turn_seconds
        Length of a turn.

    Returns
    -------
    dict[str, float]
        Name to seconds.
    """
    runners = {name: _Runner(*contestant) for name, contestant in contestants.items()}
    try:
        for runner in runners.values():
            runner.get_ready()
        while any(runner.is_running for runner in runners.values()):
            for runner in runners.values():
                if runner.is_running:
                    runner.take_turn(turn_seconds)
    finally:
        for runner in runners.values():
            runner.kill()
    return {name: runner.seconds for name, runner in runners.items()}


class _Runner:
    """One contestant's processes."""

    def __init__(self, make: Make, arguments: tuple[Any, ...]) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_contest, args=(theirs, make, arguments))
        self._process.start()
        theirs.close()
        self._tree = psutil.Process(self._process.pid)
        self.is_running = True
        self.seconds = 0.0

    def get_ready(self) -> None:
        """Wait until it has loaded what it needs."""
        self._connection.recv()
        self._stop()
        self._connection.send("go")

    def take_turn(self, turn_seconds: float) -> None:
        """Let it run."""
        started = perf_counter()
        _tell(signal.SIGCONT, self._processes())
        ended = self._connection.poll(turn_seconds)
        self.seconds += perf_counter() - started
        if ended:
            self.is_running = False
            self._connection.recv()
            self._process.join()
        else:
            self._stop()

    def kill(self) -> None:
        """End all of it."""
        if self._process.is_alive():
            _tell(signal.SIGKILL, self._processes())

    def _stop(self) -> None:
        # A process that is stopped starts no other.
        stopped: set[int] = set()
        while running := [one for one in self._processes() if one.pid not in stopped]:
            _tell(signal.SIGSTOP, running)
            stopped.update(one.pid for one in running)

    def _processes(self) -> list[psutil.Process]:
        return [self._tree, *self._tree.children(recursive=True)]


def _tell(number: signal.Signals, processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _contest(connection: Connection, make: Make, arguments: tuple[Any, ...]) -> None:
    run = make(*arguments)
    connection.send("ready")
    connection.recv()
    run()
    connection.send("done")
