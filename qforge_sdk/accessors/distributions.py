"""How the numbers of many calculations are distributed, counted by the server: no row is fetched for it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from sqlalchemy import Select

from qforge_sdk.accessors.counts import MOST_GROUPS, Bins, Cells, Counts, FloatArray, checked_bins, round_edges
from qforge_sdk.accessors.paging import Paged
from qforge_sdk.db import distributions, statistics
from qforge_sdk.db.statistics import BEYOND, GRIDS
from qforge_sdk.errors import InvalidInput
from qforge_sdk.frames import PANDAS_TYPES
from qforge_sdk.quantities import QUANTITIES
from qforge_sdk.query import Query

_NUMBERS: Final = frozenset({"float64", "int64", "Int64"})
_GROUPS: Final = frozenset({"str", "boolean", "int64", "Int64"})
_KEPT_FILTERS: Final = statistics.FILTERS["calculations"]
# A sample has to save something.
_WORTH_SAMPLING: Final = 4


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows that are counted.

    Parameters
    ----------
    query
        Which.
    is_all
        Whether that is every calculation.
    sample
        Number of rows of the sample that it reads, None without one.
    weight
        Rows that each one of them stands for.
    """

    query: Query
    is_all: bool
    sample: int | None = None
    weight: float = 1.0

    def rows(self, *names: str | None) -> Select[Any]:
        """The rows with these columns."""
        return self.query.select(list(dict.fromkeys(name for name in names if name is not None))).statement()


class Distributions(Paged):
    """Histograms, densities, limits and samples."""

    def histogram(
        self,
        quantity: str,
        *,
        by: str | None = None,
        bins: int | Sequence[float] = 60,
        sample: int | None = None,
        **filters: Any,
    ) -> pd.DataFrame:
        """How many calculations have which value.

        The gap, energy, dipole and total_charge are kept counted by the database: for all calculations, or those of
        some methods, the answer is exact and comes in milliseconds however many there are. For other columns and
        filters, and for finer bins, the server counts the rows.

        Parameters
        ----------
        quantity
            A column of numbers.
        by
            Column to tell apart, of at most 100 values.
        bins
            Largest number of bins, whose edges then are round binary numbers; or their edges in ascending order.
        sample
            Where rows have to be counted, do so in a fair sample of at most so many. It is the same each time.
        **filters
            As in :meth:`query`.

        Returns
        -------
        pandas.DataFrame
            ``low`` and ``high`` (a bin holds its lower edge and not its upper one), the column of ``by``, ``count``;
            empty bins included. ``attrs["sample"]`` is the size of the sample, None where all rows were counted;
            counts of a sample are scaled to all rows.

        Raises
        ------
        UnknownField
            No such column.
        InvalidInput
            ``quantity`` is no number, ``by`` has too many values, or an option cannot be used.
        """
        self._require(quantity, _NUMBERS, "quantity", "numbers")
        kind = "str" if by is None else self._require(by, _GROUPS, "by", "words or whole numbers")
        wanted = checked_bins(bins)
        counts = self._kept(quantity, by, wanted, filters)
        if counts is None:
            counts = self._counted({quantity: wanted}, self._source(filters, sample), by)
        return counts.histogram(by, kind)

    def density(
        self,
        x: str,
        y: str,
        *,
        bins: int | tuple[int | Sequence[float], int | Sequence[float]] = (60, 60),
        sample: int | None = None,
        **filters: Any,
    ) -> pd.DataFrame:
        """How many calculations have which pair of values: what a scatter plot of too many points shows.

        Parameters
        ----------
        x, y
            Two columns of numbers.
        bins
            For both axes, or for each, as in :meth:`histogram`.
        sample
            Count in a fair sample of at most so many rows, which takes milliseconds however many there are; it is
            the same each time. None counts every row.
        **filters
            As in :meth:`query`.

        Returns
        -------
        pandas.DataFrame
            ``x_low``, ``x_high``, ``y_low``, ``y_high`` under the columns' own names, ``count``; empty pairs
            included, so that ``frame.pivot(index="energy_low", columns="gap_low", values="count")`` is a full matrix.
            ``attrs["sample"]`` as in :meth:`histogram`.

        Raises
        ------
        UnknownField
            No such column.
        InvalidInput
            A column is no number, both are the same, or an option cannot be used.
        """
        for name, option in ((x, "x"), (y, "y")):
            self._require(name, _NUMBERS, option, "numbers")
        if x == y:
            raise InvalidInput(f"density needs two different columns, not {x!r} twice", field="y", value=y)
        each = bins if isinstance(bins, tuple) and len(bins) == 2 else (bins, bins)
        wanted = dict(zip((x, y), map(checked_bins, each), strict=True))
        return self._counted(wanted, self._source(filters, sample)).density()

    def per_day(self, *, by: str | None = None, **filters: Any) -> pd.DataFrame:
        """How many calculations were stored on which day, in UTC.

        By ``method`` or ``convergence_status``, and filtered by these alone, the answer is kept by the database and
        comes in milliseconds.

        Parameters
        ----------
        by
            Column to tell apart.
        **filters
            As in :meth:`query`.

        Returns
        -------
        pandas.DataFrame
            ``day`` (its start, UTC), the column of ``by``, ``count``; sorted by day. Days without any are left out.

        Raises
        ------
        UnknownField
            No such column.
        InvalidInput
            ``by`` is no column of words or whole numbers, or a filter cannot be used.
        """
        kind = "str" if by is None else self._require(by, _GROUPS, "by", "words or whole numbers")
        frame = self._kept_days(by, filters)
        if frame is None:
            rows = self.where(**filters).select(list({"created_at": 0, by or "created_at": 0})).statement()
            frame = self._context.reader.read(distributions.by_day(rows, by)).to_pandas()
        days = pd.to_datetime(frame["day"].to_numpy(float), unit="D", utc=True).as_unit("us")
        groups = {} if by is None else {by: frame[by].astype("object").astype(PANDAS_TYPES[kind]).to_numpy()}
        return pd.DataFrame({"day": days, **groups, "count": frame["n"].to_numpy(np.int64)})

    def limits(self, *quantities: str, **filters: Any) -> pd.DataFrame:
        """Least and greatest numbers: where sliders begin and end.

        Those of gap, energy, dipole and total_charge of all calculations come in milliseconds: of gap and energy
        exactly, of the others rounded outwards (to 1/16 debye and to whole charges).

        Parameters
        ----------
        *quantities
            Columns of numbers; by default those four.
        **filters
            As in :meth:`query`; the limits are exact then.

        Returns
        -------
        pandas.DataFrame
            Indexed by quantity: ``low``, ``high`` (null without any number), ``unit``.

        Raises
        ------
        UnknownField
            No such column.
        InvalidInput
            A column is no number.
        """
        names = list(dict.fromkeys(quantities or GRIDS))
        for name in names:
            self._require(name, _NUMBERS, "quantities", "numbers")
        ends = self._ends(names, self._source(filters, None))
        units = [QUANTITIES[name].unit if name in QUANTITIES else "" for name in names]
        lows, highs = zip(*(ends[name] for name in names), strict=True)
        columns = {"low": np.array(lows, float), "high": np.array(highs, float), "unit": pd.array(units, dtype="str")}
        return pd.DataFrame(columns, index=pd.Index(names, name="quantity", dtype="str"))

    def sample(
        self, n: int, *, columns: Sequence[str] | None = None, units: Mapping[str, str] | None = None, **filters: Any
    ) -> pd.DataFrame:
        """A fair sample of calculations: each one is as likely to be in it. It is the same each time.

        Parameters
        ----------
        n
            Rows that are looked at, at most; where there are no more than four times as many, it is all of them.
        columns, units
            As in :meth:`query`.
        **filters
            Those of them that are returned.

        Returns
        -------
        pandas.DataFrame
            As from :meth:`query`; ``attrs["sample"]`` is the number of rows looked at, None for all.

        Raises
        ------
        UnknownField
            No such column.
        InvalidInput
            ``n`` is no whole number above 0, or a filter cannot be used.
        """
        source = self._source(filters, n)
        frame = (source.query if columns is None else source.query.select(columns)).df(units=units)
        frame.attrs["sample"] = source.sample
        return frame

    def _require(self, name: str, kinds: frozenset[str], option: str, wanted: str) -> str:
        """Kind of a column, which must be one of these."""
        kind = self._table[name].kind
        if kind not in kinds:
            raise InvalidInput(f"{option} is a column of {wanted}, which {name} is not", field=option, value=name)
        return kind

    def _source(self, filters: Mapping[str, Any], sample: int | None) -> _Source:
        """The rows to count: all that fulfil the filters, or those of a sample."""
        query = self.where(**filters)
        if sample is None:
            return _Source(query, not filters)
        if isinstance(sample, bool) or not isinstance(sample, (int, np.integer)) or sample < 1:
            raise InvalidInput(f"a sample is of a whole number of rows above 0, not {sample!r}", field="sample")
        owners = self._owners()
        total = sum(owners.values())
        if total <= _WORTH_SAMPLING * sample:
            return _Source(query, not filters)
        fraction = min(sample / total, distributions.LARGEST_FRACTION)
        within = distributions.sample(owners, fraction)
        return _Source(replace(query, within=within), not filters, round(total * fraction), 1 / fraction)

    def _owners(self) -> dict[uuid.UUID | None, int]:
        """Whose calculations are readable, and how many of each."""
        found = self._context.reader.read(statistics.OWNERS, {"kind": "calculations"}).to_pylist()
        return {None if row["user_id"] is None else uuid.UUID(row["user_id"]): row["n"] for row in found}

    def _counted(self, wanted: Mapping[str, Bins], source: _Source, by: str | None = None) -> Counts:
        """Rows counted by the server."""
        open_ended = [name for name, bins in wanted.items() if isinstance(bins, int)]
        ends = self._ends(open_ended, source) if open_ended else {}
        edges = {name: _edges(bins, ends.get(name)) for name, bins in wanted.items()}
        if not all(map(len, edges.values())):
            return _nothing(edges, by)
        lists = {name: one.tolist() for name, one in edges.items()}
        statement = distributions.counted(source.rows(*wanted, by), lists, by)
        limit = MOST_GROUPS * int(np.prod([len(one) for one in edges.values()])) + 1
        found = self._context.reader.read(statement.limit(limit)).to_pandas()
        return Counts(
            edges,
            [found[f"bin_{n}"].to_numpy(np.int64) - 1 for n in range(len(edges))],
            np.rint(found["n"].to_numpy(float) * source.weight).astype(np.int64),
            found[by].to_numpy(object) if by else None,
            source.sample,
        )

    def _ends(self, names: Sequence[str], source: _Source) -> dict[str, tuple[float, float]]:
        """Least and greatest number of columns, NaN where there is none."""
        if source.is_all and set(names) <= GRIDS.keys():
            kept = self._kept_ends()
            if all(name in kept for name in names):
                return kept
        found = self._context.reader.read(distributions.extremes(source.rows(*names), names))
        ends = [np.nan if column[0].as_py() is None else float(column[0].as_py()) for column in found.columns]
        return {name: (ends[2 * n], ends[2 * n + 1]) for n, name in enumerate(names)}

    def _kept_ends(self) -> dict[str, tuple[float, float]]:
        """The same of all calculations, as far as it is kept."""
        (row,) = self._context.reader.read(statistics.LIMITS).to_pylist()
        ends: dict[str, tuple[float, float]] = {}
        for name, grid in GRIDS.items():
            low, high = row[f"{name}_min"], row[f"{name}_max"]
            if low is None:
                ends[name] = (np.nan, np.nan)
            elif name in statistics.INDEXED:
                ends[name] = (low, high)
            elif max(abs(low), abs(high)) < BEYOND:
                ends[name] = (grid.low(low), grid.high(high))
        return ends

    def _kept(self, quantity: str, by: str | None, bins: Bins, filters: Mapping[str, Any]) -> Counts | None:
        """Kept counts, None where they do not hold the answer."""
        chosen = self._followed(filters, ("method",))
        if quantity not in GRIDS or by not in {None, "method"} or chosen is None:
            return None
        cells = Cells(quantity, GRIDS[quantity], self._cells(quantity, chosen))
        if not cells.reaches_all or cells.is_too_coarse(bins):
            return None
        edges = cells.edges(bins)
        return None if edges is None else cells.counts(edges, by)

    def _kept_days(self, by: str | None, filters: Mapping[str, Any]) -> pd.DataFrame | None:
        chosen = self._followed(filters, tuple(_KEPT_FILTERS))
        if chosen is None or (by is not None and by not in _KEPT_FILTERS):
            return None
        cells = self._cells("calculations", chosen)
        cells = cells[cells["cell"].abs() < BEYOND].rename(columns={"cell": "day", "status": "convergence_status"})
        groups = ["day"] if by is None else ["day", by]
        summed: pd.DataFrame = cells.groupby(groups, sort=True)[["n"]].sum().reset_index()
        return summed

    def _followed(self, filters: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, list[str]] | None:
        """Filters as kept counts follow them: column to values; None where they cannot."""
        self.where(**filters)
        chosen = {name: [value] if isinstance(value, str) else value for name, value in filters.items()}
        for name, values in chosen.items():
            if name not in known or not isinstance(values, list) or not all(isinstance(one, str) for one in values):
                return None
        return chosen

    def _cells(self, kind: str, chosen: Mapping[str, list[str]]) -> pd.DataFrame:
        cells: pd.DataFrame = self._context.reader.read(statistics.CELLS, {"kinds": [kind]}).to_pandas()
        for name, values in chosen.items():
            cells = cells[cells[_KEPT_FILTERS[name]].isin(values)]
        return cells


def _edges(bins: Bins, ends: tuple[float, float] | None) -> FloatArray:
    if not isinstance(bins, int):
        return bins
    if ends is None or np.isnan(ends[0]):
        return np.empty(0)
    return round_edges(*ends, bins)


def _nothing(edges: Mapping[str, FloatArray], by: str | None) -> Counts:
    none = np.empty(0, np.int64)
    return Counts(edges, [none for _ in edges], none, None if by is None else np.empty(0, object))
