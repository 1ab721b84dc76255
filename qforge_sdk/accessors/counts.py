"""Counts by bins as they come from kept statistics or from the rows, and the frames that show them. No SQL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from qforge_sdk.db.statistics import BEYOND, Grid
from qforge_sdk.errors import InvalidInput
from qforge_sdk.frames import PANDAS_TYPES
from qforge_sdk.quantities import QUANTITIES

FloatArray = npt.NDArray[np.float64]
Bins = int | FloatArray
"""The largest number of bins, or their edges."""

MOST_GROUPS: Final = 100
_MOST_BINS: Final = 10_000
# With fewer steps of the grid than this a histogram shows too little, unless it is asked for no more.
_FEW_STEPS: Final = 8


def checked_bins(bins: int | Sequence[float] | FloatArray) -> Bins:
    """A number of bins, or edges.

    Raises
    ------
    InvalidInput
        It is neither a whole number from 1 to 10,000 nor as many finite numbers in ascending order.
    """
    if isinstance(bins, (int, np.integer)) and not isinstance(bins, bool) and 1 <= bins <= _MOST_BINS:
        return int(bins)
    try:
        edges = np.asarray(bins, dtype=float)
    except (TypeError, ValueError):
        edges = np.empty(0)
    is_list = edges.ndim == 1 and 2 <= len(edges) <= _MOST_BINS + 1
    if not is_list or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise InvalidInput(
            f"bins is a whole number from 1 to {_MOST_BINS:,}, or that many finite edges in ascending order; it "
            f"cannot be {bins!r}",
            field="bins",
            value=bins,
        )
    return edges


def round_edges(low: float, high: float, bins: int, *, least: float = 0.0) -> FloatArray:
    """Edges of equal bins whose width is a power of two and that hold both numbers.

    Parameters
    ----------
    low, high
        Least and greatest number.
    bins
        Largest number of bins.
    least
        Smallest width, a power of two; 0 for any.

    Returns
    -------
    FloatArray
        Shape (n + 1,), n at most ``bins``; the last edge is greater than ``high``.

    Raises
    ------
    InvalidInput
        The numbers are too large to be divided.
    """
    size = max(abs(low), abs(high))
    if size > 1e300:
        raise InvalidInput(f"numbers from {low:g} to {high:g} fit into no equal bins: narrow them by a filter")
    # No width is lost in the numbers' own precision; equal numbers get one bin of a readable width.
    smallest = max((high - low) / bins, size * 2**-40) if high > low else max(size, 1.0) / 1024
    step = max(least, 2.0 ** math.ceil(math.log2(smallest)))
    while math.floor(high / step) + 1 - math.floor(low / step) > bins:
        step *= 2
    return np.arange(math.floor(low / step), math.floor(high / step) + 2, dtype=float) * step


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by bins.

    Parameters
    ----------
    edges
        Column name to the edges of its bins; no edges where there are no rows.
    bins
        For each column of ``edges`` the bin of each entry, from 0.
    n
        Rows of each entry.
    groups
        Group of each entry, None where none are told apart.
    sample
        Rows that were looked at, None for all.
    """

    edges: Mapping[str, FloatArray]
    bins: Sequence[npt.NDArray[np.int64]]
    n: npt.NDArray[np.int64]
    groups: npt.NDArray[np.object_] | None = None
    sample: int | None = None

    def histogram(self, by: str | None, kind: str) -> pd.DataFrame:
        """One line a bin, or a bin and group.

        Parameters
        ----------
        by
            Heading of the groups.
        kind
            Their kind of column.
        """
        ((name, edges),) = self.edges.items()
        groups = np.full(len(self.n) or 1, None, object) if self.groups is None else self.groups
        codes, names = pd.factorize(groups, use_na_sentinel=False)
        codes = codes[: len(self.n)]
        _require_few(by, len(names))
        order = sorted(range(len(names)), key=lambda code: (pd.isna(names[code]), str(names[code])))
        table = np.zeros((len(names), max(len(edges) - 1, 0)), np.int64)
        np.add.at(table, (codes, self.bins[0]), self.n)
        columns: dict[str, Any] = {"low": np.tile(edges[:-1], len(names)), "high": np.tile(edges[1:], len(names))}
        if by is not None:
            values = pd.Series([names[code] for code in order], dtype="object").astype(PANDAS_TYPES[kind])
            columns[by] = values.repeat(table.shape[1]).reset_index(drop=True)
        columns["count"] = table[order].ravel()
        return self._frame(columns, dict.fromkeys(("low", "high"), name))

    def density(self) -> pd.DataFrame:
        """One line for each pair of a bin of the first column and one of the second."""
        (x, x_edges), (y, y_edges) = self.edges.items()
        table = np.zeros((max(len(x_edges) - 1, 0), max(len(y_edges) - 1, 0)), np.int64)
        np.add.at(table, tuple(self.bins), self.n)
        columns = {
            f"{x}_low": np.repeat(x_edges[:-1], table.shape[1]),
            f"{x}_high": np.repeat(x_edges[1:], table.shape[1]),
            f"{y}_low": np.tile(y_edges[:-1], table.shape[0]),
            f"{y}_high": np.tile(y_edges[1:], table.shape[0]),
            "count": table.ravel(),
        }
        return self._frame(columns, {f"{name}_{end}": name for name in (x, y) for end in ("low", "high")})

    def _frame(self, columns: dict[str, Any], quantities: Mapping[str, str]) -> pd.DataFrame:
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = {
            column: QUANTITIES[name].unit for column, name in quantities.items() if name in QUANTITIES
        }
        frame.attrs["sample"] = self.sample
        return frame


@dataclass(frozen=True, slots=True)
class Cells:
    """Kept counts of one column.

    Parameters
    ----------
    quantity
        Its name.
    grid
        How it is divided.
    cells
        ``cell``, ``method`` and ``n``, one line for each pair that has rows.
    """

    quantity: str
    grid: Grid
    cells: pd.DataFrame = field(repr=False)

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Number of the step of the grid of each line."""
        cells = self.cells["cell"].to_numpy(np.int64)
        return cells >> 1 if self.grid.points else cells

    @property
    def reaches_all(self) -> bool:
        """Whether every number lies on the grid."""
        return bool((self.cells["cell"].abs() < BEYOND).all())

    def is_too_coarse(self, bins: Bins) -> bool:
        """Whether so few steps have rows that finer bins would show more."""
        if not isinstance(bins, int) or self.grid.points or self.cells.empty:
            return False
        return int(np.ptp(self.steps)) + 1 < min(bins, _FEW_STEPS)

    def edges(self, bins: Bins) -> FloatArray | None:
        """Edges that the cells add up to; None if they cannot."""
        if not isinstance(bins, int):
            scaled = bins * self.grid.per_unit
            return bins if (scaled == np.floor(scaled)).all() else None
        if self.cells.empty:
            return np.empty(0)
        low, high = (int(end) / self.grid.per_unit for end in (self.steps.min(), self.steps.max()))
        return round_edges(low, high, bins, least=1 / self.grid.per_unit)

    def counts(self, edges: FloatArray, by: str | None) -> Counts:
        """The cells added up between edges that lie on the grid."""
        places = np.searchsorted(edges * self.grid.per_unit, self.steps, side="right") - 1
        inside = (places >= 0) & (places < len(edges) - 1)
        groups = self.cells["method"].to_numpy(object)[inside] if by else None
        return Counts({self.quantity: edges}, [places[inside]], self.cells["n"].to_numpy(np.int64)[inside], groups)


def _require_few(by: str | None, groups: int) -> None:
    if groups > MOST_GROUPS:
        raise InvalidInput(
            f"by={by!r} tells more than {MOST_GROUPS} groups apart: narrow them by a filter", field="by", value=by
        )
