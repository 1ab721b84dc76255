"""What the statistics show, apart from how: totals, calculations by time, histograms; the server counts all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from qforge_sdk.accessors import Calculations
from qforge_sdk.accessors.counts import FloatArray, round_edges
from qforge_sdk.db.statistics import GRIDS
from qforge_sdk.schemas import DatabaseStatsResponse
from qforge_sdk.widgets.elements import Fact
from qforge_sdk.widgets.numbers import NOTHING, measured
from qforge_sdk.widgets.sources import Sources

IntArray = npt.NDArray[np.int64]

GROUPS: Final = {"method": "method", "status": "convergence_status"}
"""What calculations by time are told apart by: what it is called, and its column."""

QUANTITIES_SHOWN: Final = ("gap", "energy")
EMPTY: Final = (
    "No calculations yet. client.calculations.bulk_load(df) loads results, client.batches.create(...) and "
    "client.batches.run(...) compute them."
)

_BINS: Final = 60
# Where rows have to be counted, as many as that; it takes milliseconds.
_SAMPLE: Final = 100_000
_MOST_NAMES: Final = 10
_OTHERS: Final = "others"
# A tail holds so large a part of all; it is left out if the rest is squeezed into a quarter of the bins or less.
_TAIL: Final = 0.005
_SQUEEZED: Final = 4
_MOST_ZOOMS: Final = 4
# So many bars can be told apart.
_PERIODS: Final = (("day", "D", 370), ("week", "W-SUN", 370 * 7), ("month", "M", 370 * 30), ("year", "Y", 10**9))
_LEAST_PERIODS: Final = 14


@dataclass(frozen=True, slots=True)
class Timeline:
    """Calculations by the time at which they were stored.

    Parameters
    ----------
    period
        ``day``, or ``week``, ``month``, ``year`` where the days are too many to be told apart.
    starts
        First day of each period, UTC; none is left out.
    counts
        Group to its number of calculations in each.
    """

    period: str
    starts: pd.DatetimeIndex
    counts: Mapping[str, IntArray]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Calculations by a number.

    Parameters
    ----------
    quantity
        Its column.
    edges
        Shape (n + 1,), in its unit; a bin holds its lower edge and not its upper one. Empty without numbers.
    counts
        Method to its number of calculations in each bin, shape (n,).
    outside
        How many lie beyond the edges.
    sample
        How many were looked at, None for all.
    """

    quantity: str
    edges: FloatArray
    counts: Mapping[str, IntArray]
    outside: int = 0
    sample: int | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it.

    Parameters
    ----------
    facts
        Totals.
    methods
        Those that are told apart, the most used first.
    timeline
        None without calculations.
    histograms
        Of the gap and the energy.
    """

    facts: Sequence[Fact]
    methods: Sequence[str]
    timeline: Timeline | None
    histograms: Sequence[Histogram]


def overview(sources: Sources, by: str = "method") -> Overview:
    """Read all of it.

    Parameters
    ----------
    sources
        Where to read.
    by
        What the calculations by time are told apart by, a key of :data:`GROUPS`.
    """
    days = sources.calculations.per_day(by="method")
    methods = _foremost(days, "method")
    shown = days if by == "method" else sources.calculations.per_day(by=GROUPS[by])
    return Overview(
        facts(sources.stats()),
        methods,
        timeline(shown, GROUPS[by]),
        [histogram(sources.calculations, name, methods) for name in QUANTITIES_SHOWN] if methods else [],
    )


def facts(stats: DatabaseStatsResponse) -> list[Fact]:
    """Totals as they are shown."""
    latest = stats.latest_calculation_at
    return [
        Fact("molecules", f"{stats.total_molecules:,}"),
        Fact("calculations", f"{stats.total_calculations:,}"),
        Fact("batches", f"{stats.total_batches:,}"),
        Fact("converged", _percent(stats) if stats.total_calculations else NOTHING, "share of all calculations"),
        Fact("median gap", measured("gap", stats.median_gap), "of converged calculations"),
        Fact("average energy", measured("energy", stats.average_energy), "of converged calculations"),
        Fact("latest", f"{latest:%Y-%m-%d %H:%M}" if latest else NOTHING, "newest calculation, UTC"),
    ]


def timeline(days: pd.DataFrame, by: str) -> Timeline | None:
    """Calculations by time.

    Parameters
    ----------
    days
        From :meth:`Calculations.per_day`.
    by
        Its column of groups.

    Returns
    -------
    Timeline or None
        None without calculations.
    """
    if days.empty:
        return None
    dates = pd.DatetimeIndex(days["day"].dt.tz_localize(None))
    span = (dates.max() - dates.min()).days
    period, frequency, _ = next(one for one in _PERIODS if span < one[2])
    periods = pd.PeriodIndex(dates, freq=frequency)
    last = periods.max()
    every = pd.period_range(min(periods.min(), last - (_LEAST_PERIODS - 1)), last, freq=frequency)
    places = every.get_indexer(periods)
    names = _foremost(days, by)
    labels = _labels(days[by], names)
    counts = {name: np.zeros(len(every), np.int64) for name in dict.fromkeys([*names, *labels])}
    for name, place, n in zip(labels, places, days["count"].to_numpy(np.int64), strict=True):
        counts[name][place] += n
    return Timeline(period, pd.DatetimeIndex(every.start_time), counts)


def histogram(calculations: Calculations, quantity: str, methods: Sequence[str]) -> Histogram:
    """Counts of a number by method, where most of them lie.

    Parameters
    ----------
    calculations
        What is counted.
    quantity
        One of the columns whose counts the database keeps.
    methods
        Those that are told apart; all others are counted together.
    """
    every = calculations.histogram(quantity, bins=_BINS, sample=_SAMPLE)
    total = int(every["count"].sum())
    for _ in range(_MOST_ZOOMS):
        edges = _narrower(every, 1 / GRIDS[quantity].per_unit)
        if edges is None:
            break
        every = calculations.histogram(quantity, bins=edges.tolist(), sample=_SAMPLE)
    if not total:
        return Histogram(quantity, np.empty(0), {})
    edges = _edges(every)
    named = calculations.histogram(quantity, by="method", bins=edges.tolist(), sample=_SAMPLE, method=list(methods))
    counts = {
        method: named.loc[named["method"] == method, "count"].to_numpy(np.int64)
        for method in methods
        if (named["method"] == method).any()
    }
    others = every["count"].to_numpy(np.int64) - sum(counts.values())
    if others.any():
        counts[_OTHERS] = others.clip(0)
    return Histogram(quantity, edges, counts, total - int(every["count"].sum()), every.attrs["sample"])


def _percent(stats: DatabaseStatsResponse) -> str:
    """A share that says 100 % only where it is."""
    rate = stats.success_rate
    if 99.99 < rate < 100:
        return "> 99.99 %"
    return f"{rate:.4g} %"


def _foremost(days: pd.DataFrame, by: str) -> list[str]:
    """The groups with the most calculations, at most ten."""
    totals = days.groupby(by, sort=True)["count"].sum().sort_values(ascending=False, kind="stable")
    return [str(name) for name in totals.index[:_MOST_NAMES]]


def _labels(groups: pd.Series[str], names: Sequence[str]) -> list[str]:
    return [group if group in names else _OTHERS for group in groups.astype(str)]


def _edges(counted: pd.DataFrame) -> FloatArray:
    return np.append(counted["low"].to_numpy(float), counted["high"].iloc[-1])


def _narrower(counted: pd.DataFrame, least: float) -> FloatArray | None:
    """Edges around the numbers without their tails; None where these do not squeeze the rest."""
    counts = counted["count"].to_numpy(np.int64)
    if not counts.sum():
        return None
    tail = _TAIL * counts.sum()
    first = int(np.argmax(np.cumsum(counts) > tail))
    last = len(counts) - 1 - int(np.argmax(np.cumsum(counts[::-1]) > tail))
    if _SQUEEZED * (last - first + 1) > len(counts):
        return None
    low, high = float(counted["low"].iloc[first]), float(counted["high"].iloc[last])
    return round_edges(low, high, _BINS, least=least)
