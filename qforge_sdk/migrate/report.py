"""What a migration did, or would do, one line a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

COLUMNS: Final = ("path", "outcome", "action", "reason", "calculation_id", "source_id", "smiles", "status", "doubts")
OUTCOMES: Final = ("new", "changed", "doubtful", "already_there", "unreadable")


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
