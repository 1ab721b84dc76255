"""What a migration did, or would do, one line a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from qforge_sdk import display

COLUMNS: Final = ("path", "outcome", "action", "reason", "calculation_id", "source_id", "smiles", "status", "doubts")
OUTCOMES: Final = ("new", "changed", "doubtful", "already_there", "unreadable")

_SCHEMA: Final = pa.schema([(name, pa.int64() if name == "calculation_id" else pa.string()) for name in COLUMNS])

Line = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """An account of every run that was found.

    Parameters
    ----------
    rows
        One line a run: path; outcome (new, changed since it was loaded, doubtful: one of these with doubts,
        already_there, unreadable); action (insert, update, none); reason; calculation_id; source_id; smiles; status;
        doubts (codes, comma-separated).
    seconds
        Wall time, s.
    dry_run
        Whether nothing was written.
    """

    rows: pd.DataFrame
    seconds: float
    dry_run: bool

    @property
    def counts(self) -> dict[str, int]:
        """Number of runs by outcome."""
        found = self.rows.outcome.value_counts()
        return {outcome: int(found.get(outcome, 0)) for outcome in OUTCOMES}

    def to_parquet(self, path: str | Path) -> Path:
        """Write the lines to a Parquet file.

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
        self.rows.to_parquet(target, index=False)
        return target

    def __repr__(self) -> str:
        parts = " + ".join(f"{count:,} {outcome}" for outcome, count in self.counts.items())
        how = "dry run, " if self.dry_run else ""
        return f"MigrationReport({len(self.rows):,} runs = {parts}, {how}{self.seconds:.1f} s)"

    def _repr_html_(self) -> str:
        how = ", dry run: nothing was written" if self.dry_run else ""
        counts = display.counts_table(self.counts, caption=f"{len(self.rows):,} runs in {self.seconds:.1f} s{how}")
        odd = self.rows[self.rows.outcome.isin(("doubtful", "unreadable"))]
        if odd.empty:
            return counts
        shown = odd[["path", "outcome", "reason", "doubts"]].reset_index(drop=True)
        return display.together(counts, display.frame_table(shown, caption="doubtful and unreadable", rows=10))


class Lines:
    """The lines of a report while they come: as columns, a few hundred bytes a line."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def add(self, lines: list[Line]) -> None:
        """Add some.

        Parameters
        ----------
        lines
            Values in the order of :data:`COLUMNS`.
        """
        columns = [list(column) for column in zip(*lines, strict=True)] or [[] for _ in COLUMNS]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        self._batches.append(pa.record_batch(arrays, schema=_SCHEMA))
        self._ends.append(len(self) + len(lines))

    def path(self, number: int) -> str:
        """Path of the line of that number, from 0."""
        place = next(place for place, end in enumerate(self._ends) if number < end)
        start = self._ends[place] - len(self._batches[place])
        return str(self._batches[place]["path"][number - start])

    def frame(self) -> pd.DataFrame:
        """All of them."""
        table = pa.Table.from_batches(self._batches, schema=_SCHEMA)
        frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
        return frame
