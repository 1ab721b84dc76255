"""What becomes of each row while a load runs."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from qforge_sdk.db.bulk.source import Source
from qforge_sdk.db.bulk.spill import Spill
from qforge_sdk.db.bulk.values import BoolArray
from qforge_sdk.errors import LoadWarning, RowsRejected
from qforge_sdk.schemas.reports import LoadReport

_LONGEST_VALUE: Final = 200
_SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()),
        ("column", pa.string()),
        ("value", pa.string()),
        ("code", pa.string()),
        ("reason", pa.string()),
    ]
)


class Account:
    """Keys of the rows that are stored and faults of those that are not.

    Parameters
    ----------
    entity
        Table.
    source
        The input.
    keyed
        Whether rows get a key that the report names.
    """

    def __init__(self, entity: str, source: Source, *, keyed: bool = True) -> None:
        self.entity = entity
        self.source = source
        self.keyed = keyed
        self.ids: npt.NDArray[np.int64] = np.zeros(source.n_rows if keyed else 0, np.int64)
        self.n_inserted = self.n_existing = self.n_updated = self.n_molecules_created = self.n_rejected = 0
        self._started = time.perf_counter()
        self._faults = Spill(_SCHEMA, "qforge-rejected-")
        self._first = (-1, "")

    def reject(
        self,
        rows: npt.NDArray[np.int64],
        column: str,
        values: list[Any],
        code: str | list[str],
        reason: str | list[str],
    ) -> None:
        """Refuse rows, each for one fault.

        Parameters
        ----------
        rows
            0-based numbers in the input; none of them refused before.
        column, code, reason
            What is wrong; one for all of them or one each.
        values
            The values at fault.
        """
        count = len(rows)
        if not count:
            return
        self.n_rejected += count
        codes, reasons = ([word] * count if isinstance(word, str) else word for word in (code, reason))
        at = int(rows.argmin())
        row = int(rows[at])
        if row < self._first[0] or not self._first[1]:
            self._first = (row, f"row {row}, {column}: {reasons[at]} ({codes[at]})")
        shown = [_shown(value) for value in values]
        columns = [pa.array(rows), [column] * count, shown, codes, reasons]
        self._faults.add(
            pa.table([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)
        )

    def reject_where(
        self, mask: BoolArray, first_row: int, column: str, values: pa.Array, code: str, reason: str
    ) -> None:
        """Refuse the rows of a chunk where the mask is true."""
        places = np.flatnonzero(mask)
        if len(places):
            shown = values.take(pa.array(places)).to_pylist()
            self.reject(places + first_row, column, shown, code, reason)

    def report(self, *, on_error: str) -> LoadReport:
        """Close the account.

        Parameters
        ----------
        on_error
            ``"raise"`` makes a refused row an error.

        Returns
        -------
        LoadReport
            With a LoadWarning when rows were refused.

        Raises
        ------
        RowsRejected
            ``on_error`` is ``"raise"`` and a row was refused; whoever opened the transaction rolls it back.
        """
        failed = on_error == "raise" and self.n_rejected > 0
        if failed:
            self.ids[:] = 0
        n_rows = self.source.n_rows
        report = LoadReport(
            entity=self.entity,
            n_rows=n_rows,
            n_inserted=0 if failed else self.n_inserted,
            n_existing=0 if failed else self.n_existing,
            n_rejected=n_rows if failed else self.n_rejected,
            n_updated=0 if failed else self.n_updated,
            n_molecules_created=0 if failed else self.n_molecules_created,
            ids=self._id_series(),
            seconds=time.perf_counter() - self._started,
            _complaint=self._complaint(),
            **self._close_faults(),
        )
        if failed:
            raise RowsRejected(f"nothing was loaded: {report.complaint()}", report=report)
        if self.n_rejected:
            warnings.warn(report.complaint(), LoadWarning, stacklevel=4)
        return report

    def _complaint(self) -> str:
        """One sentence about the refused rows and the first of them."""
        counts = f"{self.entity}: {self.n_rejected:,} of {self.source.n_rows:,} rows refused"
        return f"{counts}; {self._first[1]}; see report.rejected"

    def _id_series(self) -> pd.Series[int]:
        if not self.keyed:
            return pd.Series(dtype="Int64", name="id")
        index = self.source.index if self.source.index is not None else pd.RangeIndex(len(self.ids))
        values = pd.arrays.IntegerArray(self.ids, self.ids == 0)
        return pd.Series(values, index=index, name="id")

    def _close_faults(self) -> dict[str, Any]:
        held = self._faults.close()
        if isinstance(held, Path):
            return {"rejected_path": held}
        frame = held.to_pandas().astype(dict.fromkeys(_SCHEMA.names[1:], "str"))
        return {"_rejected": frame.sort_values("row", kind="stable", ignore_index=True)}


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    text = str(value).encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
