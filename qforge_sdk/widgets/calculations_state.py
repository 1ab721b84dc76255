"""What a chart of many calculations shows: points, or a density where there are too many of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qforge_sdk.errors import InvalidInput
from qforge_sdk.fields import CALCULATIONS
from qforge_sdk.query import Query
from qforge_sdk.schemas import Page
from qforge_sdk.widgets.numbers import label, number
from qforge_sdk.widgets.sources import Sources

#: Calculations that are drawn one by one.
MOST_POINTS: Final = 20_000
#: Calculations that ``selected`` reads.
MOST_SELECTED: Final = 100_000
QUANTITIES_SHOWN: Final = [
    name for name, one in CALCULATIONS.fields.items() if one.default and one.kind in {"float64", "int64"}
]
COLORS: Final = {"nothing": None, "method": "method", "charge": "total_charge"}
_BINS: Final = (80, 60)
_SAMPLE: Final = 30_000
# Fewer rows of a sample say too little of where the others lie.
_LEAST_SAMPLED: Final = 5_000
_MOST_GROUPS: Final = 8
_OTHERS: Final = "others"
_NUMBER: Final = re.compile(r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")

Array = NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the chart, its edges included.

    Parameters
    ----------
    x, y
        Lower and upper end, in the units of the axes.
    """

    x: Range
    y: Range

    def within(self, outer: Box | None) -> Box:
        """What of it lies in another one."""
        if outer is None:
            return self
        return Box(_overlap(self.x, outer.x), _overlap(self.y, outer.y))


@dataclass(frozen=True, slots=True)
class Choice:
    """What is drawn.

    Parameters
    ----------
    x, y
        Columns of the axes.
    color
        Column that colours the points, None for none.
    method, status
        Only calculations of these, None for all.
    region
        Only those whose point lies here, None for all.
    """

    x: str = "gap"
    y: str = "energy"
    color: str | None = None
    method: str | None = None
    status: str | None = None
    region: Box | None = None

    @property
    def filters(self) -> dict[str, Any]:
        """What the table below is filtered by."""
        chosen = {"method": self.method, "convergence_status": self.status}
        named = {name: value for name, value in chosen.items() if value is not None}
        return named if self.region is None else named | self.ranges(self.region)

    @property
    def drawn(self) -> dict[str, Any]:
        """Filters of what has a place in the chart."""
        return {self.x: (None, None), self.y: (None, None)} | self.filters

    def ranges(self, box: Box) -> dict[str, Any]:
        """A box as filters."""
        return {self.x: box.x, self.y: box.y}


@dataclass(frozen=True, slots=True)
class Selection:
    """What of it is selected.

    Parameters
    ----------
    keys
        Of single calculations, None where a box says which.
    box
        The box that was drawn over a density.
    """

    keys: tuple[int, ...] | None = field(default=None, repr=False)
    box: Box | None = None

    def filters(self, choice: Choice) -> dict[str, Any]:
        """The selected calculations of a chart."""
        if self.keys is not None:
            return choice.filters | {"id": list(self.keys)}
        return choice.filters | ({} if self.box is None else choice.ranges(self.box.within(choice.region)))


@dataclass(frozen=True, slots=True)
class Points:
    """Calculations drawn one by one.

    Parameters
    ----------
    keys, x, y
        One entry a calculation.
    group
        Place of its colour in ``groups``; all 0 without one.
    groups
        Names of the colours.
    """

    keys: NDArray[np.int64]
    x: Array
    y: Array
    group: NDArray[np.int64]
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Density:
    """How many calculations lie where.

    Parameters
    ----------
    x_edges, y_edges
        Ascending.
    counts
        Shape (y, x) of the cells between them.
    sample
        Rows of the sample that was counted, None where all rows were.
    """

    x_edges: Array
    y_edges: Array
    counts: NDArray[np.int64]
    sample: int | None

    @property
    def total(self) -> int:
        """How many there are."""
        return int(self.counts.sum())


def read_drawing(sources: Sources, choice: Choice) -> Points | Density:
    """Read what is to be drawn: the columns of the points, or counts where they would be too many.

    Raises
    ------
    QForgeError
        What the server reported.
    """
    names = list(dict.fromkeys(name for name in ("id", choice.x, choice.y, choice.color) if name))
    rows = sources.calculations.where(**choice.drawn).select(names)
    if rows.count(most=MOST_POINTS + 1) > MOST_POINTS:
        return _density(sources, choice)
    frame = rows.df()
    group, groups = _groups(None if choice.color is None else frame[choice.color], choice.color)
    x, y = (frame[name].to_numpy(float) for name in (choice.x, choice.y))
    return Points(frame["id"].to_numpy(np.int64), x, y, group, groups)


def _density(sources: Sources, choice: Choice) -> Density:
    bins: Any = _BINS
    if choice.region is not None:
        bins = tuple(_edges(ends, n) for ends, n in zip((choice.region.x, choice.region.y), _BINS, strict=True))
    sampled = sources.calculations.density(choice.x, choice.y, bins=bins, sample=_SAMPLE, **choice.drawn)
    size = sampled.attrs["sample"]
    if size is not None:
        everything = sources.stats().total_calculations
        if sampled["count"].sum() * size < _LEAST_SAMPLED * everything:
            sampled = sources.calculations.density(choice.x, choice.y, bins=bins, **choice.drawn)
    return _matrix(sampled, choice)


def _matrix(frame: pd.DataFrame, choice: Choice) -> Density:
    table = frame.pivot(index=f"{choice.y}_low", columns=f"{choice.x}_low", values="count")
    x_edges, y_edges = (
        np.append(low.to_numpy(float), frame[f"{name}_high"].max())
        for low, name in ((table.columns, choice.x), (table.index, choice.y))
    )
    return Density(x_edges, y_edges, table.to_numpy(np.int64), frame.attrs["sample"])


def _edges(ends: Range, n: int) -> list[float]:
    edges = np.linspace(*ends, n + 1)
    # A bin does not hold its upper edge, but a box does.
    edges[-1] = np.nextafter(edges[-1], np.inf)
    return [float(one) for one in edges]


def _groups(values: pd.Series[Any] | None, name: str | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Which colour each point has; the most frequent values have one of their own."""
    if values is None or name is None or values.empty:
        return np.zeros(0 if values is None else len(values), np.int64), ()
    counts = values.value_counts()
    most = counts.index[:_MOST_GROUPS] if len(counts) > _MOST_GROUPS + 1 else counts.index
    own = sorted(most)
    places = pd.Index(own).get_indexer(pd.Index(values))
    names = [str(one) if isinstance(one, str) else number(name, one) for one in own]
    if len(own) < len(counts):
        names.append(_OTHERS)
    return np.where(places < 0, len(own), places).astype(np.int64), tuple(names)


def selected_keys(points: Points, shapes: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Keys of the points in any of some boxes and lassos.

    Parameters
    ----------
    points
        What is drawn.
    shapes
        As plotly describes them: ``rect`` with x0, x1, y0, y1, or ``path``.
    """
    inside = np.zeros(len(points.keys), bool)
    for shape in shapes:
        if shape.get("type") == "rect":
            box = box_of(shape)
            inside |= _between(points.x, box.x) & _between(points.y, box.y)
        else:
            inside |= _inside_lasso(points, str(shape.get("path", "")))
    return tuple(points.keys[inside].tolist())


def box_of(shape: Mapping[str, Any]) -> Box:
    """A rectangle of plotly's."""
    x, y = (sorted(float(shape[f"{axis}{end}"]) for end in "01") for axis in "xy")
    return Box((x[0], x[1]), (y[0], y[1]))


def typed_box(texts: Sequence[str], choice: Choice, drawing: Points | Density) -> Box:
    """A box from what was typed; what is empty reaches to the end of the chart.

    Parameters
    ----------
    texts
        Lower and upper end of x, then of y.
    choice, drawing
        The chart.

    Raises
    ------
    InvalidInput
        A text is no number, or a range is upside down.
    """
    ends = _extent(drawing)
    numbers = [end if not text.strip() else _typed(text) for text, end in zip(texts, ends, strict=True)]
    box = Box((numbers[0], numbers[1]), (numbers[2], numbers[3]))
    for name, (low, high) in ((choice.x, box.x), (choice.y, box.y)):
        if low > high:
            raise InvalidInput(f"{label(name)}: the range from {low:g} to {high:g} is upside down", field=name)
    return box


def _typed(text: str) -> float:
    try:
        value = float(text.strip().replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InvalidInput(f"an edge of a box is a number, not {text!r}", field="box", value=text)
    return value


def _extent(drawing: Points | Density) -> list[float]:
    xs, ys = (drawing.x_edges, drawing.y_edges) if isinstance(drawing, Density) else (drawing.x, drawing.y)
    if not len(xs):
        return [0.0, 0.0, 0.0, 0.0]
    return [float(end) for values in (xs, ys) for end in (values.min(), values.max())]


def _between(values: Array, ends: Range) -> NDArray[np.bool_]:
    return (values >= ends[0]) & (values <= ends[1])


def _overlap(one: Range, other: Range) -> Range:
    low, high = max(one[0], other[0]), min(one[1], other[1])
    return (low, max(low, high))


def _inside_lasso(points: Points, path: str) -> NDArray[np.bool_]:
    """Even-odd rule: a ray from an inner point crosses the line an odd number of times."""
    corners = np.array([float(one) for one in _NUMBER.findall(path)], float).reshape(-1, 2)
    inside = np.zeros(len(points.keys), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (points.y < y0) != (points.y < y1)
        inside ^= crosses & (points.x < x0 + (points.y - y0) / (y1 - y0) * (x1 - x0))
    return inside


def count_up_to(sources: Sources, filters: Mapping[str, Any], most: int) -> int | None:
    """Number of calculations, None where there are more than ``most``."""
    n = sources.calculations.where(**filters).count(most=most + 1)
    return None if n > most else n


def read_selected(sources: Sources, filters: Mapping[str, Any]) -> pd.DataFrame:
    """The selected calculations, all or none of them.

    Raises
    ------
    InvalidInput
        They are more than :data:`MOST_SELECTED`.
    """
    frame = sources.calculations.where(**filters).limit(MOST_SELECTED + 1).df()
    if len(frame) > MOST_SELECTED:
        raise InvalidInput(
            f"more than {MOST_SELECTED:,} calculations are selected, too many for .selected: draw a smaller box, or "
            "take .query, which is lazy: .query.count(), .query.to_parquet(path), .query.iter_batches()",
            field="selected",
        )
    return frame


def selected_query(sources: Sources, filters: Mapping[str, Any]) -> Query:
    """The same, lazy."""
    return sources.calculations.where(**filters)


def methods_of(sources: Sources) -> list[str]:
    """Methods that there are."""
    return sorted(sources.calculations.per_day(by="method")["method"].unique())


def statuses_of(sources: Sources) -> list[str]:
    """Statuses that there are."""
    return sorted(sources.calculations.per_day(by="convergence_status")["convergence_status"].unique())


def read_places(sources: Sources, choice: Choice, keys: Sequence[int]) -> tuple[Array, Array]:
    """Where some calculations lie in the chart; those without a place are left out."""
    if not keys:
        return np.empty(0), np.empty(0)
    placed: dict[str, Any] = {choice.x: (None, None), choice.y: (None, None)}
    frame = sources.calculations.query(columns=[choice.x, choice.y], id=list(keys), **placed)
    return frame[choice.x].to_numpy(float), frame[choice.y].to_numpy(float)


def drawing_words(drawing: Points | Density, choice: Choice, page: Page) -> str:
    """What the chart shows, in words."""
    place = f"{label(choice.x)} and {label(choice.y)}"
    if choice.region is not None:
        place = " and ".join(_range_words(*one) for one in ((choice.x, choice.region.x), (choice.y, choice.region.y)))
    if isinstance(drawing, Points):
        missing = (page.count or 0) - len(drawing.keys) if page.is_exact else 0
        have = "has" if missing == 1 else "have"
        lost = f"; {missing:,} more {have} no {label(choice.x)} or no {label(choice.y)}" if missing > 0 else ""
        n = len(drawing.keys)
        return f"{n:,} calculation{'' if n == 1 else 's'} by {place}, a point each{lost}."
    how = "" if drawing.sample is None else f", estimated from a fair sample of {drawing.sample:,}"
    about = "" if drawing.sample is None else "about "
    color = " Colours need points." if choice.color else ""
    return (
        f"A density of {about}{drawing.total:,} calculations by {place}{how}: more than {MOST_POINTS:,} are not "
        f"drawn one by one. Zoom in, or draw a box, to see points.{color}"
    )


def _range_words(name: str, ends: Range) -> str:
    low, high = (f"{end:.6g}".replace("-", "\N{MINUS SIGN}") for end in ends)
    return f"{label(name)} from {low} to {high}"


def selection_words(selection: Selection | None, n: int | None) -> str:
    """What is selected, in words.

    Parameters
    ----------
    selection
        None for nothing.
    n
        How many, None for more than are drawn as points.
    """
    if selection is None:
        return "Drag a box or a lasso to select; the table and .selected follow."
    if selection.box is None:
        return f"{n or 0:,} selected."
    many = f"more than {MOST_POINTS:,}" if n is None else f"{n:,}"
    limit = f" .selected reads up to {MOST_SELECTED:,}, .query all of them." if n is None else ""
    return f"The box holds {many} calculations.{limit}"
