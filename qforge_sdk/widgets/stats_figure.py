"""The charts of the statistics."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from qforge_sdk.accessors.counts import FloatArray
from qforge_sdk.display import chart_text
from qforge_sdk.widgets.figure import Chart
from qforge_sdk.widgets.numbers import heading
from qforge_sdk.widgets.stats_state import Histogram, IntArray, Overview, Timeline

# Told apart by the colour-blind too, on white and on black.
_COLOURS: Final = (
    *("#1f83d6", "#e69f00", "#2e8b57", "#cc79a7", "#8a6fd1"),
    *("#d55e00", "#56b4e9", "#a0863b", "#d1495b", "#5f9ea0"),
)
_OF_STATUS: Final = {"converged": "#2e8b57", "not_converged": "#e69f00", "error": "#d1495b"}
_OF_OTHERS: Final = "#9aa5b1"
_DATE: Final = {"day": "%d %b %Y", "week": "week from %d %b %Y", "month": "%B %Y", "year": "%Y"}
_CLEAR: Final = "rgba(0,0,0,0)"
_HEIGHT: Final = 520
_FEW_BINS: Final = 12
_PLACES: Final = {"gap": (2, 1), "energy": (2, 2)}
_LEGEND: Final = {"orientation": "h", "x": 0, "yanchor": "bottom", "traceorder": "normal", "bgcolor": _CLEAR}
_Placed = tuple[Any, tuple[int, int]]
"""Bars, and the row and column of their chart."""

_LAYOUT: Final = {
    "barmode": "stack",
    "bargap": 0.15,
    "height": _HEIGHT,
    "margin": {"l": 60, "r": 15, "t": 45, "b": 50},
    "paper_bgcolor": _CLEAR,
    "plot_bgcolor": _CLEAR,
    "hoverlabel": {"namelength": -1},
    "legend": _LEGEND | {"y": 1.02},
    "legend2": _LEGEND | {"y": 0.49},
}


def charts(shown: Overview, by: str, *, dark: bool = False, hidden: Collection[str] = ()) -> Chart:
    """The charts, fit to the width that they get.

    They are made anew for each change: of several changes that follow each other closely a browser loses some.

    Parameters
    ----------
    shown
        What there is to show.
    by
        What its calculations by time are told apart by.
    dark
        Whether the page is.
    hidden
        Legend groups that are not shown, from :func:`hidden_groups`.
    """
    figure = make_subplots(
        rows=2, cols=2, specs=[[{"colspan": 2}, None], [{}, {}]], row_heights=[0.42, 0.58], vertical_spacing=0.19
    )
    of_method = dict(zip(shown.methods, _COLOURS, strict=False))
    bars = [] if shown.timeline is None else _days(shown.timeline, by, of_method if by == "method" else _OF_STATUS)
    for histogram in shown.histograms:
        bars += _bins(histogram, of_method, is_told=by != "method")
        _mark_bins(figure, histogram)
    if shown.timeline is not None:
        _mark_days(figure, shown.timeline)
    for trace, (row, col) in bars:
        trace.visible = "legendonly" if trace.legendgroup in hidden else True
        figure.add_trace(trace, row=row, col=col)
    figure.update_layout(_LAYOUT, template="plotly_dark" if dark else "plotly_white")
    return Chart(figure)


def hidden_groups(figure: Any) -> set[str]:
    """Legend groups that somebody has hidden by a click."""
    return {trace.legendgroup for trace in figure.data if trace.visible == "legendonly"}


def _days(timeline: Timeline, by: str, colours: Mapping[str, str]) -> list[_Placed]:
    days = timeline.starts.strftime("%Y-%m-%d").tolist()
    return [
        (
            go.Bar(
                x=days,
                y=counts,
                hovertemplate=f"%{{x|{_DATE[timeline.period]}}}<br>%{{y:,}} calculations",
                legend="legend",
                showlegend=True,
                **_style(by, name, colours),
            ),
            (1, 1),
        )
        for name, counts in timeline.counts.items()
    ]


def _mark_days(figure: Any, timeline: Timeline) -> None:
    first, last = timeline.starts[0], timeline.starts[-1]
    half = (last - first) / (len(timeline.starts) - 1) / 2
    figure.update_xaxes(range=[str(first - half), str(last + half)], row=1, col=1)
    figure.update_yaxes(title_text=f"calculations per {timeline.period}", row=1, col=1, **_ticks(timeline.counts))


def _bins(histogram: Histogram, colours: Mapping[str, str], *, is_told: bool) -> list[_Placed]:
    edges = histogram.edges
    ends = [f"{_edge(low)} to {_edge(high)}" for low, high in pairwise(edges.tolist())]
    return [
        (
            go.Bar(
                x=(edges[:-1] + edges[1:]) / 2,
                y=counts,
                width=np.diff(edges),
                customdata=ends,
                hovertemplate="%{customdata}<br>%{y:,} calculations",
                legend="legend2" if is_told else "legend",
                showlegend=is_told and histogram.quantity == "gap",
                **_style("method", name, colours),
            ),
            _PLACES[histogram.quantity],
        )
        for name, counts in histogram.counts.items()
    ]


def _mark_bins(figure: Any, histogram: Histogram) -> None:
    row, col = _PLACES[histogram.quantity]
    figure.update_xaxes(title_text=_title(histogram), range=_span(histogram.edges), row=row, col=col)
    figure.update_yaxes(title_text="calculations", row=row, col=col, **_ticks(histogram.counts))


def _style(by: str, name: str, colours: Mapping[str, str]) -> dict[str, Any]:
    """What the bars of a group have in common; a click on one legend shows or hides all of them."""
    return {
        "name": chart_text(name),
        "legendgroup": f"{by} {name}",
        "marker": {"color": colours.get(name, _OF_OTHERS), "line": {"width": 0}},
    }


def _title(histogram: Histogram) -> str:
    title = heading(histogram.quantity)
    if not len(histogram.edges):
        return f"{title}: none stored"
    if histogram.sample is not None:
        title += f", estimated from {histogram.sample:,}"
    return f"{title}, {histogram.outside:,} lie outside" if histogram.outside else title


def _span(edges: FloatArray) -> list[float] | None:
    """Where the axis begins and ends; a few bins do not fill it."""
    if not len(edges):
        return None
    missing = max(_FEW_BINS - (len(edges) - 1), 1) / 2 * (edges[1] - edges[0])
    return [float(edges[0] - missing), float(edges[-1] + missing)]


def _ticks(counts: Mapping[str, IntArray]) -> dict[str, Any]:
    """Whole numbers at the ticks, short where they are large."""
    most = int(np.sum(list(counts.values()), axis=0).max()) if counts else 0
    return {"rangemode": "tozero", "tickformat": "~s" if most >= 10_000 else ",d", "dtick": 1 if most <= 5 else None}


def _edge(value: float) -> str:
    return f"{value:,.6g}".replace("-", "\N{MINUS SIGN}")
