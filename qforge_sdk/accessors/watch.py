"""A batch watched while somebody runs it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Final, NamedTuple

from qforge_sdk.schemas import BatchJobResponse, BatchProgress

_ENDED: Final = ("completed", "failed")
# Of fewer, the moment of a look would make the rate.
_FEWEST: Final = 10


class _Look(NamedTuple):
    seconds: float
    computed: int


class Pace:
    """How fast a batch goes, from one look at it after another.

    The rate is that of the last ``window``, or of a longer time while few items end; a batch that stands still slows
    down. Whoever shows a batch keeps one of these and asks it at each look.

    Parameters
    ----------
    window
        Time over which the rate is taken, s.
    """

    def __init__(self, *, window: float = 60.0) -> None:
        self._window = window
        # The first look at each number of computed items: that is when the last of them ended.
        self._looks: deque[_Look] = deque()

    def progress(self, batch: BatchJobResponse, seconds: float) -> BatchProgress:
        """How far the batch is now, how fast it goes and how long the rest takes.

        Parameters
        ----------
        batch
            As it was read.
        seconds
            When, on any clock that does not go back, s; ``time.monotonic()`` is one.

        Returns
        -------
        BatchProgress
            Without a rate until an item was computed between two looks. Cancelled items are not computed; items that
            wait again begin another measurement.
        """
        return BatchProgress(
            batch_name=batch.batch_name,
            status=batch.status,
            n_items=batch.total_molecules,
            n_completed=batch.successful_count,
            n_failed=batch.failed_count,
            n_skipped=batch.skipped_count,
            items_per_second=self._rate(_Look(seconds, batch.successful_count + batch.failed_count)),
        )

    def _rate(self, now: _Look) -> float | None:
        looks = self._looks
        if looks and looks[-1].computed > now.computed:
            looks.clear()
        if not looks or looks[-1].computed < now.computed:
            looks.append(now)
        while len(looks) > 1 and self._is_enough(looks[1], now):
            looks.popleft()
        ended, seconds = now.computed - looks[0].computed, now.seconds - looks[0].seconds
        return ended / seconds if ended > 0 and seconds > 0 else None

    def _is_enough(self, since: _Look, now: _Look) -> bool:
        return now.seconds - since.seconds >= self._window and now.computed - since.computed >= _FEWEST


class Watch:
    """How far a batch is, again and again until it has ended: a loop over it, or the last line of a notebook's cell.

    Parameters
    ----------
    read
        The batch as it is now.
    interval
        Seconds between two looks.
    """

    def __init__(self, read: Callable[[], BatchJobResponse], *, interval: float) -> None:
        self._read = read
        self._interval = interval

    def __iter__(self) -> Iterator[BatchProgress]:
        """Progress now and after each interval; the last one is of the batch that has ended, or has nothing to do."""
        pace = Pace()
        while True:
            batch = self._read()
            now = pace.progress(batch, time.monotonic())
            yield now
            if now.status in _ENDED or not batch.waiting_count:
                return
            time.sleep(self._interval)

    def _ipython_display_(self) -> None:
        shell: Any = import_module("IPython.display")
        handle = shell.display("", display_id=True)
        for progress in self:
            handle.update(progress)

    def __repr__(self) -> str:
        return f"<watch batch {self._read().batch_name}: loop over it>"
