"""Batches, their failures and their items as rows of tables."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import pandas as pd

from qforge_sdk.display import structure_uri
from qforge_sdk.schemas import duration_words, rate_words
from qforge_sdk.widgets.batches_state import Line, Opened, cut, rows_of
from qforge_sdk.widgets.elements import Cell, Column, Row

BATCH_COLUMNS: Final = (
    Column("id", "No.", is_number=True, can_sort=True),
    Column("batch_name", "Batch", can_sort=True),
    Column("status", "Status", is_word=True),
    Column("progress", "Progress", is_word=True),
    Column("completed", "Completed", is_number=True),
    Column("failed", "Failed", is_number=True),
    Column("skipped", "Skipped", is_number=True),
    Column("processing", "Processing", is_number=True),
    Column("pending", "Pending", is_number=True),
    Column("pace", "Pace"),
    Column("times", "Started, finished"),
)
ITEM_COLUMNS: Final = (
    Column("id", "Item", is_number=True, can_sort=True),
    Column("structure", "Structure"),
    Column("name", "Name"),
    Column("smiles", "SMILES"),
    Column("status", "Status", can_sort=True, is_word=True),
    Column("error", "Why"),
    Column("retry_count", "Retries", is_number=True),
    Column("calculation_id", "Calculation", is_number=True),
)
FAILURE_COLUMNS: Final = (
    Column("code", "Failed with", is_word=True),
    Column("items", "Items", is_number=True),
    Column("example", "Example"),
    Column("message", "What it says"),
    Column("retry", ""),
)

_TONES: Final = {"completed": "good", "failed": "bad", "in_progress": "busy", "processing": "busy"}
_THUMBNAIL: Final = (176, 132)
_NOTHING: Final = "\N{EN DASH}"


def batch_row(line: Line) -> Row:
    """A batch as a row of :data:`BATCH_COLUMNS`."""
    now = line.progress
    return Row(
        line.id,
        (
            str(line.id),
            _short(now.batch_name, 60),
            _status(line),
            progress_cell(line),
            *(
                _count(n, tone)
                for n, tone in (
                    (now.n_completed, "plain"),
                    (now.n_failed, "bad"),
                    (now.n_skipped, "plain"),
                    (line.processing, "busy"),
                    (line.pending, "plain"),
                )
            ),
            _pace(line),
            _times(line),
        ),
    )


def progress_cell(line: Line) -> Cell:
    """The shares of a batch that completed, failed, were skipped and are processed, as a bar, and its percent."""
    now, n = line.progress, max(line.n_items, 1)
    parts = (
        (now.n_completed, "good"),
        (now.n_failed, "bad"),
        (now.n_skipped, "waiting"),
        (line.processing, "busy"),
    )
    ended = now.n_completed + now.n_failed + now.n_skipped
    # 100 % is for what has ended altogether.
    percent = 100 if ended >= line.n_items else min(round(100 * ended / n), 99)
    return {
        "bar": [(count / n, tone) for count, tone in parts if count],
        "text": f"{percent} %" if line.n_items else _NOTHING,
        "title": f"{ended:,} of {line.n_items:,} items have ended",
    }


def failure_rows(opened: Opened) -> list[Row]:
    """The failures of a batch as rows of :data:`FAILURE_COLUMNS`."""
    return [
        Row(
            row.code,
            (
                {"text": row.code, "tone": "bad"},
                f"{row.items:,}",
                {**_picture(row.smiles, None), **_short(row.smiles, 40)},
                _short(row.message, 200),
                {"button": "Retry these", "action": "retry"} if opened.may_change else "",
            ),
        )
        for row in rows_of(opened.failures)
    ]


def item_rows(items: pd.DataFrame) -> list[Row]:
    """Items as rows of :data:`ITEM_COLUMNS`."""
    return [
        Row(
            int(row.id),
            (
                str(row.id),
                _picture(row.smiles, row.formula),
                _short(row.name, 40),
                _short(row.smiles, 60),
                {"text": row.status, "tone": _TONES.get(row.status, "quiet")},
                _why(row),
                str(row.retry_count) if row.retry_count else _NOTHING,
                _NOTHING if pd.isna(row.calculation_id) else str(row.calculation_id),
            ),
        )
        for row in rows_of(items)
    ]


def _status(line: Line) -> Cell:
    status = line.progress.status
    tone = _TONES.get(status, "quiet")
    if status == "in_progress" and not line.is_moving:
        return {"text": "in progress", "tone": "quiet", "title": "nobody computes it now"}
    return {"text": status.replace("_", " "), "tone": tone}


def _count(n: int, tone: str) -> Cell:
    return {"text": f"{n:,}", "tone": tone if n else "quiet"}


def _pace(line: Line) -> str:
    """How fast it goes and how long the rest takes, while it goes on."""
    now = line.progress
    if not line.is_moving or now.items_per_second is None:
        return _NOTHING
    left = now.seconds_left
    return rate_words(now.items_per_second) + (f", {duration_words(left)} left" if left else "")


def _times(line: Line) -> Cell:
    """When it started and finished; the hint has dates, zones and how long it took."""
    if line.started_at is None:
        return _NOTHING
    whole = line.started_at.isoformat(sep=" ", timespec="seconds")
    if line.completed_at is None:
        return {"text": _local(line.started_at), "title": whole}
    took = duration_words((line.completed_at - line.started_at).total_seconds())
    return {
        "text": f"{_local(line.started_at)}, {_local(line.completed_at)}",
        "title": f"{whole} to {line.completed_at.isoformat(sep=' ', timespec='seconds')}, {took}",
    }


def _local(when: pd.Timestamp) -> str:
    """In the time zone of the kernel: the time of today's, the day of others."""
    local = when.to_pydatetime().astimezone()
    is_today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M" if is_today else "%Y-%m-%d")


def _why(item: Any) -> Cell:
    code = None if pd.isna(item.error_code) else item.error_code
    message = None if pd.isna(item.error_message) else item.error_message
    if code is None and message is None:
        return ""
    whole = ": ".join(part for part in (code, message) if part)
    return {"text": cut(whole, 160), "title": whole, "tone": "bad" if item.status == "failed" else "quiet"}


def _short(value: Any, length: int) -> dict[str, str]:
    whole = "" if pd.isna(value) else str(value)
    return {"text": cut(whole, length), "title": whole}


def _picture(smiles: Any, formula: Any) -> dict[str, str]:
    known = [None if pd.isna(value) else str(value) for value in (smiles, formula)]
    return {"image": _drawn(*known), "alt": known[0] or known[1] or "no structure"}


@lru_cache(maxsize=512)
def _drawn(smiles: str | None, formula: str | None) -> str:
    return structure_uri(smiles, size=_THUMBNAIL, formula=formula)
