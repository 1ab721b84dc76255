"""What a bulk call says of its rows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd

from qforge_sdk import display
from qforge_sdk.errors import RowsRejected

_RATE_UNITS: Final = (("a second", 1), ("a minute", 60), ("an hour", 3600))

REJECTED_COLUMNS: Final = ("row", "column", "value", "code", "reason")
DOUBT_COLUMNS: Final = ("table", "id", "column", "value", "code", "reason")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """An account of every row of a bulk load: ``n_rows == n_inserted + n_existing + n_rejected``.

    Parameters
    ----------
    entity
        Table that was loaded.
    n_rows
        Rows of the input.
    n_inserted
        Rows that are new in the table.
    n_existing
        Rows that were there already, or stand in the input for a second time; those that were updated included.
    n_rejected
        Rows that were refused. With ``on_error="raise"`` that is all of them, since nothing is loaded then.
    ids
        Int64 key of each row on the input's index, null where it was refused; empty for tables without a key.
    seconds
        Wall time, s.
    n_updated
        Those of ``n_existing`` that ``on_conflict="update"`` changed.
    n_molecules_created
        Molecules that a load of calculations registered on the way.
    rejected_path
        Parquet file with the refused rows, when there are too many to hold.
    """

    entity: str
    n_rows: int
    n_inserted: int
    n_existing: int
    n_rejected: int
    ids: pd.Series[int]
    seconds: float
    n_updated: int = 0
    n_molecules_created: int = 0
    rejected_path: Path | None = None
    _rejected: pd.DataFrame | None = field(default=None, repr=False)
    _complaint: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.n_rows != self.n_inserted + self.n_existing + self.n_rejected:
            raise AssertionError(f"rows are not accounted for: {self!r}")

    @property
    def rejected(self) -> pd.DataFrame:
        """Refused rows: row (0-based in the input), column, value as text, code, reason."""
        if self._rejected is not None:
            return self._rejected
        if self.rejected_path is not None:
            return pd.read_parquet(self.rejected_path).sort_values("row", kind="stable", ignore_index=True)
        return pd.DataFrame(
            {"row": pd.Series(dtype="int64")} | {name: pd.Series(dtype="str") for name in REJECTED_COLUMNS[1:]}
        )

    @property
    def rows_per_second(self) -> float:
        """Rows of the input by wall time."""
        return self.n_rows / self.seconds if self.seconds > 0 else 0.0

    def raise_for_rejected(self) -> None:
        """Raise when a row was refused; what was loaded stays loaded.

        Raises
        ------
        RowsRejected
            With this report.
        """
        if self.n_rejected:
            raise RowsRejected(self.complaint(), report=self)

    def complaint(self) -> str:
        """One sentence about the refused rows and the first of them."""
        return self._complaint or f"{self.entity}: {self.n_rejected:,} of {self.n_rows:,} rows refused"

    def __repr__(self) -> str:
        return (
            f"LoadReport({self.entity}: {self.n_rows:,} rows = {self.n_inserted:,} inserted + "
            f"{self.n_existing:,} existing + {self.n_rejected:,} rejected, {self.seconds:.2f} s)"
        )

    def _repr_html_(self) -> str:
        facts = {
            "rows": self.n_rows,
            "inserted": self.n_inserted,
            "existing": self.n_existing,
            "rejected": self.n_rejected,
        }
        shown = display.counts_table(facts, caption=f"{self.entity}: {self.seconds:.2f} s")
        if not self.n_rejected:
            return shown
        return display.together(shown, display.frame_table(self.rejected, caption="rejected", rows=10))


@dataclass(frozen=True, slots=True)
class AdoptionReport:
    """What became of the old module's tables, and every value that is not stored as it was.

    Parameters
    ----------
    tables
        One line a table: table, found = adopted + set_aside, and added (molecules made for rows whose molecule was
        missing or another owner's).
    summary
        Number of doubts by table and code.
    revision
        Schema revision that the database has then.
    seconds
        Wall time, s.
    dry_run
        Whether everything was rolled back.
    doubts_path
        Parquet file with the doubts, when there are too many to hold.
    """

    tables: pd.DataFrame
    summary: pd.DataFrame
    revision: str
    seconds: float
    dry_run: bool
    doubts_path: Path | None = None
    _doubts: pd.DataFrame | None = field(default=None, repr=False)

    @property
    def doubts(self) -> pd.DataFrame:
        """One line a doubt: table, id, column, value (as text), code, reason.

        An atom's id is its calculation's. Lines without an id are about a whole column, with the number of rows as
        value, or about an object that went with the old tables, with its definition.
        """
        if self._doubts is not None:
            return self._doubts
        assert self.doubts_path is not None
        return pd.read_parquet(self.doubts_path)

    def to_parquet(self, path: str | Path) -> Path:
        """Write the doubts to a Parquet file.

        Parameters
        ----------
        path
            File to write.

        Returns
        -------
        pathlib.Path
            The file.
        """
        target = Path(path).expanduser()
        if self.doubts_path is None:
            self.doubts.to_parquet(target, index=False)
        else:
            shutil.copyfile(self.doubts_path, target)
        return target

    def __repr__(self) -> str:
        found, adopted = (int(self.tables[name].sum()) for name in ("found", "adopted"))
        how = "dry run, " if self.dry_run else ""
        return (
            f"AdoptionReport({adopted:,} of {found:,} rows, {self.summary.doubts.sum():,} doubts, "
            f"revision {self.revision}, {how}{self.seconds:.1f} s)"
        )

    def _repr_html_(self) -> str:
        parts = {"tables": self.tables, "doubts by code": self.summary, "doubts": self.doubts}
        tables = (display.frame_table(part, caption=name, rows=10) for name, part in parts.items())
        return display.together(display.paragraph(repr(self)), *tables)


@dataclass(frozen=True, slots=True)
class BatchReport:
    """An account of every item of a batch: ``n_items == n_completed + n_failed + n_skipped + n_left``.

    Parameters
    ----------
    batch_id, batch_name
        Which batch.
    n_items
        How many it has.
    n_completed
        Items with a result, those of other runs and of other runners included.
    failed
        Items that failed, by code of :data:`qforge_sdk.errors.COMPUTATION_CODES`, the most frequent first.
    n_skipped
        Items that were skipped or cancelled.
    n_left
        Items that wait still, or that somebody else works on.
    n_run
        Items that ended in this run, by its own workers.
    seconds
        Wall time of this run, s.
    interrupted
        Whether it was stopped before nothing was left; what its workers had begun waits again.
    """

    batch_id: int
    batch_name: str
    n_items: int
    n_completed: int
    failed: Mapping[str, int]
    n_skipped: int
    n_left: int
    n_run: int
    seconds: float
    interrupted: bool = False

    def __post_init__(self) -> None:
        if self.n_items != self.n_completed + self.n_failed + self.n_skipped + self.n_left:
            raise AssertionError(f"items are not accounted for: {self!r}")

    @property
    def n_failed(self) -> int:
        """Items that failed."""
        return sum(self.failed.values())

    @property
    def items_per_second(self) -> float:
        """Items that ended in this run by its wall time."""
        return self.n_run / self.seconds if self.seconds > 0 else 0.0

    def __repr__(self) -> str:
        codes = f" ({', '.join(f'{code}: {n:,}' for code, n in self.failed.items())})" if self.failed else ""
        return (
            f"BatchReport({self.batch_name}{', interrupted' if self.interrupted else ''}: {self.n_items:,} items = "
            f"{self.n_completed:,} completed + {self.n_failed:,} failed{codes} + {self.n_skipped:,} skipped + "
            f"{self.n_left:,} left; {self.n_run:,} in {self.seconds:.1f} s, {self.items_per_second:.1f} a second)"
        )

    def _repr_html_(self) -> str:
        facts = {
            "items": self.n_items,
            "completed": self.n_completed,
            "failed": self.n_failed,
            **{f"\N{NO-BREAK SPACE} {code}": n for code, n in self.failed.items()},
            "skipped": self.n_skipped,
            "left": self.n_left,
        }
        how = "interrupted after" if self.interrupted else "in"
        pace = f"{self.seconds:.1f} s, {self.items_per_second:.1f} a second"
        return display.counts_table(facts, caption=f"{self.batch_name}: {self.n_run:,} items {how} {pace}")


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is.

    Parameters
    ----------
    batch_name, status
        Which batch, and its status.
    n_items, n_completed, n_failed, n_skipped
        Its counts.
    items_per_second
        How fast it went lately, None until that is known; see :class:`qforge_sdk.accessors.watch.Pace`.
    """

    batch_name: str
    status: str
    n_items: int
    n_completed: int
    n_failed: int
    n_skipped: int
    items_per_second: float | None = None

    @property
    def n_left(self) -> int:
        """Items that have not ended."""
        return max(self.n_items - self.n_completed - self.n_failed - self.n_skipped, 0)

    @property
    def seconds_left(self) -> float | None:
        """Time that the rest takes at this rate, s; None while there is no rate."""
        if not self.n_left:
            return 0.0
        return self.n_left / self.items_per_second if self.items_per_second else None

    def __str__(self) -> str:
        ended = self.n_items - self.n_left
        percent = 100 * ended / self.n_items if self.n_items else 100.0
        failed = f", {self.n_failed:,} failed" if self.n_failed else ""
        rate = f", {rate_words(self.items_per_second)}" if self.items_per_second else ""
        left = f", {duration_words(self.seconds_left)} left" if self.n_left and self.seconds_left is not None else ""
        return f"{self.batch_name}: {ended:,} of {self.n_items:,} ({percent:.0f} %){failed}{rate}{left}"

    def _repr_html_(self) -> str:
        ended = self.n_items - self.n_left
        return display.together(display.element("progress", value=ended, max=max(self.n_items, 1)), " ", self)


def duration_words(seconds: float) -> str:
    """A time in words, such as ``3 min 20 s``.

    Parameters
    ----------
    seconds
        The time, s.
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days:,} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rate_words(items_per_second: float) -> str:
    """A rate in words, such as ``2.4 a second`` or ``12 an hour``.

    Parameters
    ----------
    items_per_second
        The rate, 1/s.
    """
    rates = [(items_per_second * seconds, unit) for unit, seconds in _RATE_UNITS]
    number, unit = next((rate for rate in rates if rate[0] >= 1), rates[-1])
    return f"{number:,.0f} {unit}" if number >= 1000 else f"{number:.3g} {unit}"
