"""What the widget of batches shows, read from the database: no widget here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pandas as pd

from qforge_sdk.accessors import Batches
from qforge_sdk.accessors.watch import Pace
from qforge_sdk.fields import BATCH_ITEMS
from qforge_sdk.frames import arrow_schema, to_frame
from qforge_sdk.schemas import BatchJobResponse, BatchProgress, Page

BATCHES_ON_A_PAGE: Final = 8
ITEMS_ON_A_PAGE: Final = 10
FAILURES_LOOKED_AT: Final = 10_000
"""With more failed items than this only the first are grouped: a batch of a million opens as fast as a small one."""


@dataclass(frozen=True, slots=True)
class View:
    """What a user looks at.

    Parameters
    ----------
    sort
        Of the batches.
    opened
        Key of the batch whose items are shown.
    status
        Only items with this status, empty for all.
    item_sort
        Of the items.
    item_way
        Option ``after`` or ``before`` of the page of items.
    way
        That of the page of batches.
    """

    sort: str = "-id"
    opened: int | None = None
    status: str = ""
    item_sort: str = "id"
    item_way: Mapping[str, str] = field(default_factory=dict)
    way: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """A batch with what goes on in it.

    Parameters
    ----------
    id
        Its key.
    progress
        Its counts, rate and time left.
    pending, processing
        Items that wait and that were begun.
    is_computed
        Whether a run works on it now.
    is_moving
        Whether it is being computed, or has gone on since it was last looked at.
    started_at, completed_at
        When; None where it has not.
    """

    id: int
    progress: BatchProgress
    pending: int
    processing: int
    is_computed: bool
    is_moving: bool
    started_at: pd.Timestamp | None
    completed_at: pd.Timestamp | None

    @property
    def n_items(self) -> int:
        """Items that it has, or that are announced."""
        ended = self.progress.n_completed + self.progress.n_failed + self.progress.n_skipped
        return max(self.progress.n_items, ended + self.pending + self.processing)


@dataclass(frozen=True, slots=True)
class Opened:
    """The batch whose items are shown.

    Parameters
    ----------
    record
        As it is stored.
    line
        What goes on in it.
    may_change
        Whether its items may be retried and cancelled.
    call
        How it is named in a call, such as ``"screen"``.
    failures
        As ``client.batches.failures`` groups them.
    items
        The page that is shown.
    view
        What was asked for; with the first page of items where the one that was asked for is empty now.
    """

    record: BatchJobResponse
    line: Line
    may_change: bool
    call: str
    failures: pd.DataFrame
    items: Page
    view: View

    def is_as(self, record: BatchJobResponse, line: Line, view: View) -> bool:
        """Whether the same was asked for and nothing has happened since."""
        same = (self.line.pending, self.line.processing) == (line.pending, line.processing)
        return same and self.record == record and self.view == view


class Paces:
    """How fast batches go, from one look at them after another."""

    def __init__(self) -> None:
        self._paces: dict[int, Pace] = {}
        self._counts: dict[int, tuple[int, ...]] = {}

    def line(self, batch: Any, activity: Any, seconds: float) -> Line:
        """What goes on in a batch.

        Parameters
        ----------
        batch
            A record, or a row of ``client.batches.page``.
        activity
            Its row of ``client.batches.activity``.
        seconds
            When it was read, on a clock that does not go back, s.
        """
        progress = self._paces.setdefault(batch.id, Pace()).progress(batch, seconds)
        counts = (progress.n_completed, progress.n_failed, progress.n_skipped, int(activity.processing))
        has_gone_on = self._counts.get(batch.id, counts) != counts
        self._counts[batch.id] = counts
        return Line(
            id=int(batch.id),
            progress=progress,
            pending=int(activity.pending),
            processing=int(activity.processing),
            is_computed=bool(activity.is_computed),
            is_moving=bool(activity.is_computed) or (progress.status == "in_progress" and has_gone_on),
            started_at=_known(batch.started_at),
            completed_at=_known(batch.completed_at),
        )


def read_batches(batches: Batches, view: View, paces: Paces, seconds: float) -> tuple[Page, list[Line]]:
    """One page of batches.

    Parameters
    ----------
    batches
        The client's.
    view
        Which page.
    paces
        How fast they went until now.
    seconds
        Now, on a clock that does not go back, s.

    Returns
    -------
    tuple of Page and list of Line
        Batches that were deleted in between are left out of the list.

    Raises
    ------
    QForgeError
        What the server reported.
    """
    options: dict[str, Any] = {"order_by": view.sort, "limit": BATCHES_ON_A_PAGE, **view.way}
    page = batches.page(**options)
    going_on = {row.batch_id: row for row in rows_of(batches.activity(page.frame["id"].tolist()))}
    rows = [row for row in rows_of(page.frame) if row.id in going_on]
    return page, [paces.line(row, going_on[row.id], seconds) for row in rows]


def read_opened(
    batches: Batches, view: View, paces: Paces, seconds: float, *, before: Opened | None = None
) -> Opened:
    """The batch that is opened, with its failures and one page of its items.

    Parameters
    ----------
    batches, view, paces, seconds
        As for :func:`read_batches`.
    before
        What was read last: it is returned where nothing has happened since. None reads everything.

    Raises
    ------
    NotFound
        It was deleted.
    QForgeError
        What else the server reported.
    """
    assert view.opened is not None
    record = batches.get(view.opened)
    activity = next(rows_of(batches.activity([record.id])))
    line = paces.line(record, activity, seconds)
    if before is not None and before.is_as(record, line, view):
        return replace(before, line=line)
    items = _items(batches, view)
    if items.frame.empty and view.item_way:
        # Retried items leave the pages of those that failed.
        view = replace(view, item_way={})
        items = _items(batches, view)
    namesakes = len(batches.page(batch_name=record.batch_name, limit=2, count=False).frame)
    return Opened(
        record=record,
        line=line,
        may_change=batches.may_change(record),
        call=json.dumps(record.batch_name, ensure_ascii=False) if namesakes == 1 else str(record.id),
        failures=batches.failures(record, among=FAILURES_LOOKED_AT),
        items=items,
        view=view,
    )


def _items(batches: Batches, view: View) -> Page:
    assert view.opened is not None
    options: dict[str, Any] = {"order_by": view.item_sort, "limit": ITEMS_ON_A_PAGE, **view.item_way}
    if view.status:
        options["status"] = view.status
    return batches.items_page(view.opened, **options)


def chosen_items(batches: Batches, view: View, keys: Sequence[int]) -> pd.DataFrame:
    """Items by key, as they are now.

    Parameters
    ----------
    batches
        The client's.
    view
        Whose ``opened`` batch they are of.
    keys
        Theirs.

    Returns
    -------
    pandas.DataFrame
        All usual columns of ``client.batches.items``, empty where nothing is chosen.

    Raises
    ------
    QForgeError
        What the server reported.
    """
    if view.opened is None or not keys:
        kinds = {name: BATCH_ITEMS[name].kind for name in BATCH_ITEMS.default_columns()}
        return to_frame(arrow_schema(kinds).empty_table(), kinds)
    return batches.items(view.opened, id=list(keys))


def facts(opened: Opened) -> str:
    """How a batch is computed, and its description, in one line."""
    record = opened.record
    given = [f"{name} {_value(value)}" for name, value in record.parameters.items()]
    said = [record.description] if record.description else []
    return cut(" · ".join([*said, *(given or ["usual parameters"])]), 400)


def advice(opened: Opened) -> list[str]:
    """What there is to know and to do about a batch as it is."""
    line, call = opened.line, opened.call
    waiting = line.pending + line.processing
    said = []
    if not opened.may_change:
        said.append("This batch is public: only its owner can run, retry or cancel it.")
    elif waiting and not line.is_computed:
        wait = "1 item waits" if waiting == 1 else f"{waiting:,} items wait"
        said.append(f"{wait} and nobody computes: client.batches.run({call}) does.")
    if line.progress.n_skipped and opened.may_change:
        skipped = line.progress.n_skipped
        were = "1 item was skipped" if skipped == 1 else f"{skipped:,} items were skipped"
        said.append(f'{were}: client.batches.retry({call}, "cancelled") lets those wait again that were cancelled.')
    if line.n_items == 0:
        said.append("It has no items.")
    return said


def failures_heading(opened: Opened) -> str:
    """Words above the failures; what a retry does is said there."""
    failed = opened.line.progress.n_failed
    if not failed:
        return ""
    of = f" (of the first {FAILURES_LOOKED_AT:,})" if failed > FAILURES_LOOKED_AT else ""
    what = f"{failed:,} failed{of}."
    if not opened.may_change:
        return what
    return f"{what} A retry lets items wait again; client.batches.run({opened.call}) computes them."


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """Rows of a frame with their columns as attributes."""
    return iter(frame.itertuples())


def cut(words: str, length: int) -> str:
    """Text of at most so many letters."""
    return words if len(words) <= length else f"{words[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _known(when: Any) -> pd.Timestamp | None:
    return None if pd.isna(when) else pd.Timestamp(when)
