"""A batch watched while somebody runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from qforge_sdk.schemas import BatchJobResponse, BatchProgress

_ENDED = ("completed", "failed")


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
        """Progress now and after each interval; the last one is of the batch that has ended."""
        first, began = self._read(), time.monotonic()
        now = first
        while True:
            yield _progress(first, now, time.monotonic() - began)
            if now.status in _ENDED:
                return
            time.sleep(self._interval)
            now = self._read()

    def _ipython_display_(self) -> None:
        shell: Any = import_module("IPython.display")
        handle = shell.display("", display_id=True)
        for progress in self:
            handle.update(progress)

    def __repr__(self) -> str:
        return f"<watch batch {self._read().batch_name}: loop over it>"


def _progress(first: BatchJobResponse, now: BatchJobResponse, seconds: float) -> BatchProgress:
    ended = _ended(now) - _ended(first)
    return BatchProgress(
        batch_name=now.batch_name,
        status=now.status,
        n_items=now.total_molecules,
        n_completed=now.successful_count,
        n_failed=now.failed_count,
        n_skipped=now.skipped_count,
        items_per_second=ended / seconds if ended > 0 and seconds > 0 else None,
    )


def _ended(batch: BatchJobResponse) -> int:
    return batch.successful_count + batch.failed_count + batch.skipped_count
